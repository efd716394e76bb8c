"""Owns sums over a period. Reads those by day, and at its ends by hour: never the log, however long that is.

Of each it reads the smallest table that knows: by user alone, over all users, or of each key and model.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Case, F, Q, QuerySet, Sum, When
from django.db.models.expressions import Combinable
from django.db.models.functions import TruncDay, TruncHour, TruncMonth

from usage import periods
from usage.models import Outcome
from usage.rollup import BUCKETS, BUCKETS_MS, ERRORS, SUMS
from usage.sums import TotalDay, TotalHour, UsageDay, UsageHour, UserDay, UserHour

BY_TIME = ("day", "hour", "month")
# What a request is of, and its column.
_COLUMNS = {"model": "model", "provider": "provider", "key": "proxy_key_id"}
BY_NAME = tuple(_COLUMNS)
GROUPS = (*BY_NAME, *BY_TIME)
# By what groups are ranked.
RANKS = ("requests", "errors", "tokens_total", "cost")

_TRUNC = {"hour": TruncHour, "day": TruncDay, "month": TruncMonth}
_SHOWN = [name for name in SUMS if name not in {*BUCKETS, *ERRORS.values(), "latency_ms_sum"}]
_PERCENTILES = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
Group = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """`groups` holds the sums of each group under its name, times in order, else the most used first."""

    since: dt.datetime
    until: dt.datetime
    group_by: str
    totals: dict[str, Any]
    groups: list[dict[str, Any]]


def summary(
    user_id: UUID | None, since: dt.datetime, until: dt.datetime, group_by: str, *, rank: str = "requests", **only: Any
) -> Summary:
    """The sums of one user, or of all with None, from the hour that `since` is in until before `until`. `only` narrows
    those of one user to a `model`, `provider` or `proxy_key_id`.

    Each has: requests, errors, tokens, `cost` (dollars; None: no cost is known), `unpriced` (requests whose cost is not
    known), mean and percentiles of the latency of complete requests (milliseconds; None: there were none).
    """
    since = periods.beginning(since, "hour")
    parts = _parts(user_id, since, until, [group_by], only)
    rows = [(group, sums) for (group,), sums in _added_up(parts, [group_by]).items()]
    rows.sort(key=_earliest if group_by in BY_TIME else _most(rank))
    totals = {name: sum(sums[name] for _, sums in rows) for name in SUMS}
    groups = [{group_by: group, **_present(sums)} for group, sums in rows]
    return Summary(since, until, group_by, _present(totals), groups)


def _parts(
    user_id: UUID | None,
    since: dt.datetime,
    until: dt.datetime,
    groups: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
) -> list[QuerySet[Any]]:
    """The rows of a period, from whole hours on: its whole days by the day, its ends by the hour."""
    asked = {_COLUMNS.get(name, name) for name in (*groups, *(only or ())) if name not in BY_TIME}
    hours, days = (table._default_manager for table in _tables(user_id, asked))
    of_user = {**(only or {}), **({} if user_id is None else {"user_id": user_id})}
    day, last = periods.beginning(since, "day"), periods.beginning(until, "day")
    if "hour" in groups or last <= day:
        return [hours.filter(hour__gte=since, hour__lt=until, **of_user).order_by()]
    first = day if day == since else day + dt.timedelta(days=1)
    ends = Q(hour__gte=since, hour__lt=first) | Q(hour__gte=last, hour__lt=until)
    return [
        days.filter(day__gte=first, day__lt=last, **of_user).order_by(),
        hours.filter(ends, **of_user).order_by(),
    ]


def _tables(user_id: UUID | None, columns: set[str]) -> tuple[type[Any], type[Any]]:
    """The smallest that have what is asked for."""
    if user_id is None and columns <= {"provider", "model"}:
        return TotalHour, TotalDay
    return (UserHour, UserDay) if columns <= {"user_id"} else (UsageHour, UsageDay)


def _group(name: str, rows: QuerySet[Any]) -> Combinable:
    if name not in BY_TIME:
        return F(_COLUMNS.get(name, name))
    return _TRUNC[name]("day" if hasattr(rows.model, "day") else "hour", tzinfo=dt.UTC)


def _added_up(
    parts: Sequence[QuerySet[Any]],
    groups: Sequence[str],
    names: Sequence[str] = SUMS,
    by: Mapping[str, Combinable] | None = None,
) -> dict[Group, dict[str, Any]]:
    """The sums of each group. `by` says what is grouped by in the place of a name."""
    found: dict[Group, dict[str, Any]] = {}
    for rows in parts:
        # "of_" and "sum_…": a name of a column would be taken for the column itself
        of = {f"of_{name}": (by or {}).get(name) or _group(name, rows) for name in groups}
        asked = rows.values(**of).annotate(**{f"sum_{name}": Sum(name) for name in names})
        for row in asked.values_list(*of, *(f"sum_{name}" for name in names)):
            group, values = row[: len(of)], row[len(of) :]
            sums = found.get(group)
            found[group] = dict(
                zip(names, values if sums is None else map(sum, zip(sums.values(), values, strict=True)), strict=True)
            )
    return found


def _earliest(row: tuple[Any, Any]) -> Any:
    return row[0]


def _most(rank: str) -> Callable[[tuple[Any, Mapping[str, Any]]], Any]:
    """The largest first; at equal sums the most used, then by name."""
    return lambda row: (-row[1][rank], -row[1]["requests"], str(row[0]))


def _present(sums: Mapping[str, Any]) -> dict[str, Any]:
    buckets = [sums[name] for name in BUCKETS]
    complete = sum(buckets)
    shown = {name: sums[name] for name in _SHOWN}
    shown["outcomes"] = _outcomes(sums, complete)
    cost = Decimal(sums["cost"])
    shown["cost"] = None if sums["unpriced"] and not cost else cost
    shown["latency_mean_ms"] = round(sums["latency_ms_sum"] / complete) if complete else None
    return shown | {name: percentile(buckets, share) for name, share in _PERCENTILES.items()}


def _outcomes(sums: Mapping[str, Any], complete: int) -> dict[str, int]:
    """How many ended how; what never happened is left out, and so are errors from before they were told apart."""
    counts = {outcome: sums[name] for outcome, name in ERRORS.items()}
    counts |= {Outcome.OK.value: complete, Outcome.CLIENT_GONE.value: sums["requests"] - sums["errors"] - complete}
    return {outcome: counts[outcome] for outcome in Outcome.values if counts[outcome]}


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
    """The start of every `hour`, `day` or `month` that a period touches, in order, whether anything happened or not."""
    start = periods.beginning(since, step)
    with suppress(ValueError, OverflowError):  # the calendar ends
        while start < until:
            yield start
            start = periods.following(start, step)


@dataclass(frozen=True, slots=True)
class Line:
    """The sums of one group over time: a point for each of `times`. `name` is None for all other groups together."""

    name: Any
    points: list[dict[str, Any]]


def lines(user_id: UUID, since: dt.datetime, until: dt.datetime, step: str) -> list[Line]:
    """One user's traffic by `hour`, `day` or `month`: one line."""
    found = _added_up(_parts(user_id, periods.beginning(since, "hour"), until, [step]), [step])
    return [_line(None, {time: sums for (time,), sums in found.items()}, times(since, until, step))]


def grouped_lines(
    user_id: UUID,
    since: dt.datetime,
    until: dt.datetime,
    step: str,
    *,
    group_by: str,
    rank: str,
    most: int,
    **only: Any,
) -> list[Line]:
    """A line for each of the `most` first groups, in order, and then one of all others, if there are any.

    The database folds the others: what it answers is bounded, however many models there are.
    """
    parts = _parts(user_id, periods.beginning(since, "hour"), until, [step, group_by], only)
    ranked = _added_up(parts, [group_by], [*{rank, "requests"}])
    top = sorted(((group, sums) for (group,), sums in ranked.items()), key=_most(rank))[:most]
    column = _COLUMNS[group_by]
    own = {group_by: Case(When(**{f"{column}__in": [name for name, _ in top]}, then=F(column)), default=None)}
    found: dict[Any, dict[dt.datetime, Mapping[str, Any]]] = {name: {} for name, _ in top}
    for (time, group), sums in _added_up(parts, [step, group_by], by=own).items():
        found.setdefault(group, {})[time] = sums
    return [_line(name, rows, times(since, until, step)) for name, rows in found.items()]


def _line(name: Any, rows: Mapping[dt.datetime, Mapping[str, Any]], times: Iterator[dt.datetime]) -> Line:
    none = nothing()
    return Line(name, [{"time": time, **(_present(rows[time]) if time in rows else none)} for time in times])


def nothing() -> dict[str, Any]:
    """The sums of no requests at all."""
    return _present(dict.fromkeys(SUMS, 0))


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
    groups = (step, "provider", "model")
    found = _added_up(_parts(None, since, until, groups), groups, Point._fields[3:])
    return [Point(*group, **sums) for group, sums in found.items()]


class Spender(NamedTuple):
    user_id: UUID
    requests: int
    errors: int
    tokens_total: int
    cost: Decimal


def top_users(since: dt.datetime, until: dt.datetime, *, most: int = 8) -> list[Spender]:
    """Who costs most; at equal or unknown prices, who asks most. The database adds up days and hours by itself, so
    that what it answers is bounded, however many users there are."""
    first, *more = (rows.values(*Spender._fields) for rows in _parts(None, since, until, ["user_id"]))
    sql, parameters = first.union(*more, all=True).query.sql_with_params()
    sums = ", ".join(f"sum({name})" for name in Spender._fields[1:])
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT user_id, {sums} FROM ({sql}) AS parts GROUP BY user_id"  # noqa: S608
            " ORDER BY sum(cost) DESC, sum(requests) DESC LIMIT %s",
            [*parameters, most],
        )
        return [
            Spender(UUID(str(user)), int(requests), int(errors), int(tokens), Decimal(str(cost)))
            for user, requests, errors, tokens, cost in cursor.fetchall()
        ]


def active_users(since: dt.datetime, until: dt.datetime) -> int:
    first, *more = (rows.values("user_id") for rows in _parts(None, since, until, ["user_id"]))
    return first.union(*more).count() if more else first.distinct().count()
