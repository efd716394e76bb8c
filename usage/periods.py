"""Owns the stretches of time that usage is told by: the last hours or days, or a year, month, day or hour of the
calendar. All in UTC. Knows no rows.
"""

import datetime as dt
import re
from dataclasses import dataclass

LAST = {
    "1h": ("Last hour", dt.timedelta(hours=1)),
    "24h": ("Last 24 hours", dt.timedelta(days=1)),
    "7d": ("Last 7 days", dt.timedelta(days=7)),
    "30d": ("Last 30 days", dt.timedelta(days=30)),
}
DEFAULT = "24h"
ALL = "all"
_CALENDAR = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d))?)?)?", re.ASCII)
_FORMATS = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` until before `until`; None: no bound. `unit` is the calendar's, '' if it is none of the calendar."""

    since: dt.datetime | None
    until: dt.datetime | None
    unit: str = ""


def parse(text: str, now: dt.datetime) -> Period:
    """`24h`, `all`, `2026`, `2026-01`, `2026-01-31` or `2026-01-31T15`. Raises ValueError."""
    if text == ALL:
        return Period(None, None)
    if text in LAST:
        return Period(now - LAST[text][1], None)
    match = _CALENDAR.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no period: give one as in 24h, 2026-01 or 2026-01-31.")
    numbers = [int(group) for group in match.groups() if group is not None]
    unit = list(_FORMATS)[len(numbers) - 1]
    year, month, day, hour = [*numbers, *(1, 1, 0)[len(numbers) - 1 :]]
    since = dt.datetime(year, month, day, hour, tzinfo=dt.UTC)
    return Period(since, following(since, unit), unit)


def beginning(moment: dt.datetime, unit: str) -> dt.datetime:
    """The start of the month, day or hour that this moment is in."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if unit == "hour":
        return hour
    return hour.replace(hour=0) if unit == "day" else hour.replace(hour=0, day=1)


def following(moment: dt.datetime, unit: str) -> dt.datetime:
    """The start of the unit after the one that begins at `moment`. Raises ValueError in the year 9999."""
    if unit == "year":
        return moment.replace(year=moment.year + 1)
    if unit == "month":
        return moment.replace(year=moment.year + moment.month // 12, month=moment.month % 12 + 1)
    return moment + (dt.timedelta(days=1) if unit == "day" else dt.timedelta(hours=1))


def name(moment: dt.date, unit: str) -> str:
    """The word for the year, month, day or hour that this moment is in; what `parse` reads."""
    return moment.strftime(_FORMATS[unit])


def parts(period: Period) -> list[dt.datetime]:
    """The starts of what a period of the calendar divides into: a year's months, a month's days, a day's hours."""
    if period.since is None or period.until is None or period.unit == "hour":
        return []
    unit = {"year": "month", "month": "day", "day": "hour"}[period.unit]
    starts, start = [], period.since
    while start < period.until:
        starts.append(start)
        start = following(start, unit)
    return starts
