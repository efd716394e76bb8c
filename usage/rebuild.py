"""Owns making sums anew, a day at a time: hours from the log, days and totals from the hours; and whether they agree.

Shippers wait meanwhile, with their rows in the journal: a day's sums are never seen half made, nor is a row lost.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Expression, Model, Q, Sum
from django.db.models.functions import TruncDay, TruncHour

from usage import bulk
from usage.models import NOT_ERRORS, Outcome, ProxyRequest, UsageHour
from usage.periods import beginning
from usage.rollup import BUCKETS, BUCKETS_MS, ERRORS, SUMS, TABLES, TOKENS

DAY = dt.timedelta(days=1)
_KEYS = ("user_id", "proxy_key_id", "provider", "model")
# What tells whether tables agree; where these do, the others do.
_TELLING = ("requests", "errors", "tokens_total", "cost")
_OK = Q(outcome=Outcome.OK)


class LogIncomplete(Exception):
    """The log has lost rows of a day that its sums still have."""


@contextmanager
def shippers_waiting() -> Iterator[None]:
    """A transaction. Who has begun to add to the hours ends first; who has not begins after it."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE usage_hours IN SHARE ROW EXCLUSIVE MODE")
        yield


def days(*tables: type[Model]) -> list[dt.datetime]:
    """All of which there are sums, in order: a row of a clock that was wrong once may be decades from the others."""
    found = (table._default_manager.datetimes(_time(table), "day", tzinfo=dt.UTC) for table in tables or TABLES)
    return sorted(set().union(*found))


def between(since: dt.datetime, until: dt.datetime) -> list[dt.datetime]:
    first = beginning(since, "day")
    return [first + number * DAY for number in range(-((first - until) // DAY))]


def from_hours(day: dt.datetime, hours: type[Model], tables: Iterable[type[Model]]) -> None:
    """One day of each of these tables; while shippers wait. The models may be a migration's."""
    for table in tables:
        names = [field.attname for field in table._meta.concrete_fields if not field.primary_key]
        time = _time(table)
        keys = [time, *(name for name in names if name in _KEYS)]
        sums = [name for name in names if name not in keys]
        table._default_manager.filter(**_of(day, time)).delete()
        start = {"of": TruncDay("hour", tzinfo=dt.UTC) if time == "day" else TruncHour("hour", tzinfo=dt.UTC)}
        groups = hours._default_manager.filter(**_of(day, "hour")).order_by().values(*keys[1:], **start)
        rows = groups.annotate(**{f"sum_{name}": Sum(name) for name in sums})
        bulk.insert_from(table, [*keys, *sums], rows.values_list("of", *keys[1:], *(f"sum_{name}" for name in sums)))


def from_log(day: dt.datetime) -> None:
    """One day of hours; while shippers wait. LogIncomplete when they say more than the log does."""
    rows, hours = ProxyRequest.objects.between(day, day + DAY).order_by(), UsageHour.objects.filter(**_of(day, "hour"))
    there, said = rows.count(), hours.aggregate(sum=Sum("requests", default=0))["sum"]
    if there < said:
        raise LogIncomplete(f"{day:%Y-%m-%d}: {there} requests in the log, {said} in the sums. Was it pruned?")
    hours.delete()
    sums = _sums_of_rows()
    groups = rows.values(*_KEYS, of=TruncHour("created_at", tzinfo=dt.UTC))
    found = groups.annotate(**{f"sum_{name}": sums[name] for name in SUMS})
    bulk.insert_from(
        UsageHour, ["hour", *_KEYS, *SUMS], found.values_list("of", *_KEYS, *(f"sum_{name}" for name in SUMS))
    )


def _sums_of_rows() -> dict[str, Expression]:
    """What usage/rollup.py counts of each row, in the database's words."""
    sums: dict[str, Expression] = {name: Sum(name) for name in TOKENS}
    sums["requests"] = Count("id")
    sums["errors"] = Count("id", filter=~Q(outcome__in=NOT_ERRORS))
    sums["cost"] = Sum("cost", default=0)
    sums["unpriced"] = Count("id", filter=Q(cost=None))
    sums["latency_ms_sum"] = Sum("latency_ms", filter=_OK, default=0)
    for name, (low, high) in zip(BUCKETS, pairwise((-1, *BUCKETS_MS, None)), strict=True):
        within = Q(latency_ms__gt=low) if high is None else Q(latency_ms__gt=low, latency_ms__lte=high)
        sums[name] = Count("id", filter=_OK & within)
    for outcome, name in ERRORS.items():
        sums[name] = Count("id", filter=Q(outcome=outcome))
    return sums


def differing(since: dt.datetime, until: dt.datetime) -> list[str]:
    """The tables that do not add up to what the hours do, in these whole days; between two batches of a shipper."""
    with shippers_waiting():
        found = {table._meta.db_table: _said(table, since, until) for table in TABLES}
    return [name for name, said in found.items() if said != found[UsageHour._meta.db_table]]


def _said(table: type[Model], since: dt.datetime, until: dt.datetime) -> dict[str, Any]:
    time = _time(table)
    rows = table._default_manager.filter(**{f"{time}__gte": since, f"{time}__lt": until})
    said = rows.aggregate(**{f"sum_{name}": Sum(name, default=0) for name in _TELLING})
    # SQLite adds up floats, whose last digits tell in which order: the eight of the column hold for sums of millions.
    return said | {"sum_cost": round(said["sum_cost"], 8)}


def _time(table: type[Model]) -> str:
    return "day" if any(field.name == "day" for field in table._meta.concrete_fields) else "hour"


def _of(day: dt.datetime, time: str) -> dict[str, dt.datetime]:
    return {f"{time}__gte": day, f"{time}__lt": day + DAY}
