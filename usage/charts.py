"""Owns the geometry of charts that are drawn on the server, as SVG without script or style. Knows no row, no page.

A chart is stretched to its place, so there is no text in it: its axes are HTML around it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MOST_SERIES: Final = 8  # as many colours as the style sheet has; the last is for the others
HEIGHT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Bar:
    series: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """One moment; `x` is where it begins, each is 1 wide. `values` are those of the chart's series, in their order;
    `parts` are those of them that are not nothing, by name."""

    label: str
    url: str
    x: int
    bars: list[Bar]
    values: list[float]
    parts: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    columns: list[Column]
    names: list[str]
    totals: list[float]
    top: float  # what the full height stands for

    @property
    def view_box(self) -> str:
        return f"0 0 {max(1, len(self.columns))} {HEIGHT:g}"

    @property
    def legend(self) -> list[tuple[str, float]]:
        return list(zip(self.names, self.totals, strict=True))

    @property
    def is_empty(self) -> bool:
        return not any(self.totals)


@dataclass(frozen=True, slots=True)
class Moment:
    label: str
    url: str
    values: Mapping[str, float]


def stacked(moments: Sequence[Moment]) -> Chart:
    """Bars one upon the other, the largest series at the bottom; beyond eight series the smallest are added up."""
    totals: dict[str, float] = {}
    for moment in moments:
        for name, value in moment.values.items():
            totals[name] = totals.get(name, 0) + value
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    names = ranked if len(ranked) <= MOST_SERIES else [*ranked[: MOST_SERIES - 1], "others"]
    shown = set(names)
    table = []
    for moment in moments:
        values = [moment.values.get(name, 0.0) for name in names]
        if len(ranked) > MOST_SERIES:
            values[-1] = sum(value for name, value in moment.values.items() if name not in shown)
        table.append(values)
    top = ceiling(max((sum(values) for values in table), default=0))
    columns = [
        Column(
            moment.label,
            moment.url,
            x,
            _bars(values, top),
            values,
            [part for part in zip(names, values, strict=True) if part[1]],
        )
        for x, (moment, values) in enumerate(zip(moments, table, strict=True))
    ]
    return Chart(columns, names, [sum(row[n] for row in table) for n in range(len(names))], top)


def _bars(values: Sequence[float], top: float) -> list[Bar]:
    bars, y = [], HEIGHT
    for series, value in enumerate(values):
        if value > 0:
            height = HEIGHT * value / top
            y -= height
            bars.append(Bar(series, round(y, 3), round(height, 3)))
    return bars


def ceiling(value: float) -> float:
    """The next number that reads well on an axis and leaves little room above."""
    if value <= 0:
        return 1.0
    power = 10.0 ** len(str(int(value)))
    while power / 10 >= value:
        power /= 10
    return next(
        power * share for share in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if power * share >= value
    )


def sparkline(values: Sequence[float]) -> str:
    """The points of a polyline in a view box of 100 by 24, as SVG wants them."""
    top = max(values, default=0) or 1
    step = 100 / max(1, len(values) - 1)
    return " ".join(f"{n * step:.1f},{23 - 22 * value / top:.1f}" for n, value in enumerate(values))
