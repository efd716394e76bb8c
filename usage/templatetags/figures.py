"""Owns what shows numbers in templates: filters, and the bars and rows of a chart."""

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from usage import figures
from usage.charts import Chart, Column

register = template.Library()
for one in (figures.compact, figures.dollars, figures.milliseconds, figures.percent, figures.amount):
    register.filter(one.__name__, one)


# A week of hours twice over has thousands of bars and cells: a template takes a third of a second for them.
@register.simple_tag
def bars(chart: Chart, money: bool) -> SafeString:
    """What is inside of the picture: each moment with its words and bars."""
    drawn = []
    for column in chart.columns:
        words = "".join(f"\n{name}: {figures.amount(value, money)}" for name, value in column.parts)
        rects = "".join(
            f'<rect class="s{bar.series}" x="{column.x}.1" y="{bar.y}" width=".8" height="{bar.height}"/>'
            for bar in column.bars
        )
        drawn.append(
            f'<a{_href(column)} tabindex="-1"><title>{escape(column.label + words)}</title>'
            f'<rect class="hit" x="{column.x}" width="1" height="100"/>{rects}</a>'
        )
    return mark_safe("\n".join(drawn))  # noqa: S308  what others wrote is escaped above


@register.simple_tag
def cells(chart: Chart, money: bool) -> SafeString:
    """The same as rows of a table."""
    rows = []
    for column in chart.columns:
        label = escape(column.label)
        head = f"<a{_href(column)}>{label}</a>" if column.url else label
        values = "".join(f'<td class="n">{escape(figures.amount(value, money))}</td>' for value in column.values)
        rows.append(f'<tr><th scope="row">{head}</th>{values}</tr>')
    return mark_safe("".join(rows))  # noqa: S308


def _href(column: Column) -> str:
    return f' href="{escape(column.url)}"' if column.url else ""
