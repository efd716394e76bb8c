"""Draws the chart of a run as SVG, without dependencies; legible on light and on dark pages."""

from html import escape
from typing import Any

ORDER = ("nginx", "aiproxy", "aiproxy_embedded", "litellm", "litellm_db", "portkey")
WIDTH, LABEL, BAR, GAP, PANEL = 820, 300, 20, 8, 46
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .note { fill: #59636e; font-size: 11px }
  .bar { fill: #8c959f } .ours { fill: #1f6feb }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .bar { fill: #6e7681 } .ours { fill: #58a6ff }
  }
"""
Result = dict[str, Any]


def chart(targets: dict[str, Result]) -> str:
    shown = {name: targets[name] for name in ORDER if name in targets}
    panels = [
        ("Requests per second on one core (longer is better)", "requests_per_second", "{:,.0f}"),
        ("Streams of 64 chunks per second on one core (longer is better)", "streams_per_second", "{:,.0f}"),
        ("CPU microseconds a request (shorter is better)", "cpu_us_per_request", "{:,.0f} µs"),
    ]
    parts, top = [], 0
    for title, name, form in panels:
        drawn, height = panel(shown, title, name, form, top)
        parts.append(drawn)
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img"'
        f' aria-label="Benchmark: aiproxy beside nginx and other gateways">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def panel(shown: dict[str, Result], title: str, name: str, form: str, top: int) -> tuple[str, int]:
    most = max((one.get(name) or 0 for one in shown.values()), default=0) or 1
    lines = [f'<text class="title" x="0" y="{top + 18}">{escape(title)}</text>']
    y = top + 30
    for key, one in shown.items():
        value = one.get(name)
        middle = y + BAR / 2 + 4
        lines.append(f'<text x="{LABEL - 10}" y="{middle}" text-anchor="end">{escape(one["title"])}</text>')
        if value:
            length = max(1.5, (WIDTH - LABEL - 90) * value / most)
            kind = "bar ours" if key.startswith("aiproxy") else "bar"
            lines.append(f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
            lines.append(f'<text x="{LABEL + length + 8:.1f}" y="{middle}">{form.format(value)}</text>')
        else:
            why = "could not be run here" if "unavailable" in one else "fails"
            lines.append(f'<text class="note" x="{LABEL}" y="{middle}">{why}</text>')
        y += BAR + GAP
    return "\n".join(lines), y - top + PANEL - 30
