"""Owns sums over a period. Reads `usage_hours` only, so that they cost the same however long the log is."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import F, QuerySet, Sum
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
_BY_TIME = ("day", "hour")
_PERCENTILES = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}


@dataclass(frozen=True, slots=True)
class Summary:
    """`groups` holds the sums of each group under its name, times in order, else the most used first."""

    since: dt.datetime
    until: dt.datetime
    group_by: str
    totals: dict[str, Any]
    groups: list[dict[str, Any]]


def summary(user_id: UUID | None, since: dt.datetime, until: dt.datetime, group_by: str) -> Summary:
    """The sums of one user, or of all with None, from the hour that `since` is in until before `until`.

    Each has: requests, errors, tokens, `cost` (dollars; None: no cost is known), `unpriced` (requests whose cost is not
    known), mean and percentiles of the latency of complete requests (milliseconds; None: there were none).
    """
    since = since.replace(minute=0, second=0, microsecond=0)
    hours: QuerySet[UsageHour] = UsageHour.objects.filter(hour__gte=since, hour__lt=until)
    if user_id is not None:
        hours = hours.filter(user_id=user_id)
    # "group" and "sum_…": a name of a column would be taken for the column itself
    sums = {f"sum_{name}": Sum(name) for name in SUMS}
    rows = list(hours.order_by().values(group=GROUPS[group_by]).annotate(**sums))
    rows.sort(key=_earliest if group_by in _BY_TIME else _most_used)
    totals = {name: sum(row[f"sum_{name}"] for row in rows) for name in SUMS}
    groups = [{group_by: row["group"], **_present({name: row[f"sum_{name}"] for name in SUMS})} for row in rows]
    return Summary(since, until, group_by, _present(totals), groups)


def _earliest(row: Mapping[str, Any]) -> Any:
    return row["group"]


def _most_used(row: Mapping[str, Any]) -> tuple[int, str]:
    return -row["sum_requests"], str(row["group"])


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
