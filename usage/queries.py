"""Owns sums over a period. Reads `usage_hours` only, so that they cost the same however long the log is."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Case, F, QuerySet, Sum, When
from django.db.models.expressions import Combinable
from django.db.models.functions import TruncDay

from usage.models import UsageHour
from usage.rollup import BUCKETS, BUCKETS_MS, SUMS

GROUPS: dict[str, Combinable] = {
    "model": F("model"),
    "provider": F("provider"),
    "key": F("proxy_key_id"),
    "day": TruncDay("hour", tzinfo=dt.UTC),
    "hour": F("hour"),
}
BY_TIME = ("day", "hour")
BY_NAME = tuple(name for name in GROUPS if name not in BY_TIME)
# By what groups are ranked.
RANKS = ("requests", "errors", "tokens_total", "cost")
_COLUMNS = {"model": "model", "provider": "provider", "key": "proxy_key_id"}
_SUMS = {f"sum_{name}": Sum(name) for name in SUMS}
_PERCENTILES = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}


@dataclass(frozen=True, slots=True)
class Summary:
    """`groups` holds the sums of each group under its name, times in order, else the most used first."""

    since: dt.datetime
    until: dt.datetime
    group_by: str
    totals: dict[str, Any]
    groups: list[dict[str, Any]]


def summary(
    user_id: UUID | None, since: dt.datetime, until: dt.datetime, group_by: str, *, rank: str = "requests"
) -> Summary:
    """The sums of one user, or of all with None, from the hour that `since` is in until before `until`.

    Each has: requests, errors, tokens, `cost` (dollars; None: no cost is known), `unpriced` (requests whose cost is not
    known), mean and percentiles of the latency of complete requests (milliseconds; None: there were none).
    """
    since = _whole(since, "hour")
    # "group" and "sum_…": a name of a column would be taken for the column itself
    rows = list(_hours(user_id, since, until).values(group=GROUPS[group_by]).annotate(**_SUMS))
    rows.sort(key=_earliest if group_by in BY_TIME else _most(rank))
    totals = {name: sum(row[f"sum_{name}"] for row in rows) for name in SUMS}
    groups = [{group_by: row["group"], **_present(_sums(row))} for row in rows]
    return Summary(since, until, group_by, _present(totals), groups)


def _hours(user_id: UUID | None, since: dt.datetime, until: dt.datetime) -> QuerySet[UsageHour]:
    hours = UsageHour.objects.filter(hour__gte=since, hour__lt=until).order_by()
    return hours if user_id is None else hours.filter(user_id=user_id)


def _sums(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[f"sum_{name}"] for name in SUMS}


def _earliest(row: Mapping[str, Any]) -> Any:
    return row["group"]


def _most(rank: str) -> Callable[[Mapping[str, Any]], Any]:
    """The largest first; at equal sums the most used, then by name."""
    return lambda row: (-row[f"sum_{rank}"], -row["sum_requests"], str(row["group"]))


def _present(sums: Mapping[str, Any]) -> dict[str, Any]:
    buckets = [sums[name] for name in BUCKETS]
    complete = sum(buckets)
    shown = {name: sums[name] for name in SUMS if name not in BUCKETS and name != "latency_ms_sum"}
    cost = Decimal(sums["cost"])
    shown["cost"] = None if sums["unpriced"] and not cost else cost
    shown["latency_mean_ms"] = round(sums["latency_ms_sum"] / complete) if complete else None
    return shown | {name: percentile(buckets, share) for name, share in _PERCENTILES.items()}


def percentile(buckets: list[int], share: float) -> int | None:
    """The latency, in milliseconds, that this share did not exceed: linear within its bucket.

    Of the last bucket only the lower bound is known, and that is what is returned.
    """
    rank = share * sum(buckets)
    if not rank:
        return None
    below = 0
    for count, low, high in zip(buckets, (0, *BUCKETS_MS), BUCKETS_MS, strict=False):
        if below + count >= rank:
            return round(low + (high - low) * (rank - below) / count)
        below += count
    return BUCKETS_MS[-1]


def times(since: dt.datetime, until: dt.datetime, step: str) -> Iterator[dt.datetime]:
    """The start of every `hour` or `day` that a period touches, in order, whether anything happened in it or not."""
    first, one = _whole(since, step), dt.timedelta(**{f"{step}s": 1})
    for number in range(-((first - until) // one)):
        yield first + number * one


def _whole(moment: dt.datetime, step: str) -> dt.datetime:
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour.replace(hour=0) if step == "day" else hour


@dataclass(frozen=True, slots=True)
class Line:
    """The sums of one group over time: a point for each of `times`. `name` is None for all other groups together."""

    name: Any
    points: list[dict[str, Any]]


def lines(user_id: UUID, since: dt.datetime, until: dt.datetime, step: str) -> list[Line]:
    """One user's traffic by `hour` or `day`: one line."""
    rows = _hours(user_id, _whole(since, "hour"), until).values(time=GROUPS[step]).annotate(**_SUMS)
    return [_line(None, {row["time"]: row for row in rows}, times(since, until, step))]


def grouped_lines(
    user_id: UUID, since: dt.datetime, until: dt.datetime, step: str, *, group_by: str, rank: str, most: int
) -> list[Line]:
    """A line for each of the `most` first groups, in order, and then one of all others, if there are any.

    The database folds the others: what it answers is bounded, however many models there are.
    """
    hours, group = _hours(user_id, _whole(since, "hour"), until), GROUPS[group_by]
    ranked = hours.values(group=group).annotate(**{name: _SUMS[name] for name in (f"sum_{rank}", "sum_requests")})
    top = [row["group"] for row in ranked.order_by(f"-sum_{rank}", "-sum_requests", "group")[:most]]
    own = Case(When(**{f"{_COLUMNS[group_by]}__in": top}, then=group), default=None)
    found: dict[Any, dict[dt.datetime, Mapping[str, Any]]] = {name: {} for name in top}
    for row in hours.values(time=GROUPS[step], group=own).annotate(**_SUMS):
        found.setdefault(row["group"], {})[row["time"]] = row
    return [_line(name, rows, times(since, until, step)) for name, rows in found.items()]


def _line(name: Any, rows: Mapping[dt.datetime, Mapping[str, Any]], times: Iterator[dt.datetime]) -> Line:
    nothing = _present(dict.fromkeys(SUMS, 0))
    return Line(name, [{"time": time, **(_present(_sums(rows[time])) if time in rows else nothing)} for time in times])


class Point(NamedTuple):
    """What one model did in one hour or day."""

    time: dt.datetime
    provider: str
    model: str
    requests: int
    errors: int
    tokens_total: int
    cost: Decimal


def series(since: dt.datetime, until: dt.datetime, step: str) -> list[Point]:
    """All users' traffic by `hour` or `day`, provider and model; times in which there was nothing are left out."""
    hours = UsageHour.objects.filter(hour__gte=since, hour__lt=until).order_by()
    sums = {f"sum_{name}": Sum(name) for name in Point._fields[3:]}
    return [Point(*row) for row in hours.values_list(GROUPS[step], "provider", "model").annotate(**sums)]


class Spender(NamedTuple):
    user_id: UUID
    requests: int
    errors: int
    tokens_total: int
    cost: Decimal


def top_users(since: dt.datetime, until: dt.datetime, *, most: int = 8) -> list[Spender]:
    """Who costs most; at equal or unknown prices, who asks most."""
    hours = UsageHour.objects.filter(hour__gte=since, hour__lt=until).order_by()
    sums = {f"sum_{name}": Sum(name) for name in Spender._fields[1:]}
    rows = hours.values_list("user_id").annotate(**sums).order_by("-sum_cost", "-sum_requests")
    return [Spender(*row) for row in rows[:most]]


def active_users(since: dt.datetime, until: dt.datetime) -> int:
    hours = UsageHour.objects.filter(hour__gte=since, hour__lt=until).order_by()
    return hours.values("user_id").distinct().count()
