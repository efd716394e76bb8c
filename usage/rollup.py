"""Owns how rows become hourly sums. Counts only what the database has taken; knows no journal."""

import datetime as dt
from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple, Protocol
from uuid import UUID

from django.db import connection
from django.db.models import F

from accounts.ids import made_at
from usage.models import NOT_ERRORS, Outcome, UsageHour

# Upper bounds of the latency buckets, milliseconds; the last bucket takes the rest.
BUCKETS_MS = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 120_000)
BUCKETS = (*(f"latency_{bound}" for bound in BUCKETS_MS), "latency_more")
TOKENS = ("tokens_input", "tokens_output", "tokens_total", "tokens_cached", "tokens_reasoning")
SUMS = ("requests", "errors", *TOKENS, "cost", "unpriced", "latency_ms_sum", *BUCKETS)


class Key(NamedTuple):
    """What one row of sums is about; in the order of its unique constraint."""

    user_id: UUID
    hour: dt.datetime
    proxy_key_id: UUID
    provider: str
    model: str


class Recorded(Protocol):
    """A request that ended: a row, or the journal record that it is made from."""

    id: UUID
    user_id: UUID
    proxy_key_id: UUID
    provider: str
    model: str
    outcome: str
    cost: Decimal | None
    latency_ms: int
    tokens_input: int
    tokens_output: int
    tokens_total: int
    tokens_cached: int
    tokens_reasoning: int


Sums = dict[str, int | Decimal]


def key_of(row: Recorded) -> Key:
    hour = made_at(row.id).replace(minute=0, second=0, microsecond=0)
    return Key(row.user_id, hour, row.proxy_key_id, row.provider, row.model)


def fold(rows: Iterable[Recorded]) -> dict[Key, Sums]:
    hours: dict[Key, Sums] = {}
    for row in rows:
        sums = hours.setdefault(key_of(row), dict.fromkeys(SUMS, 0))
        sums["requests"] += 1
        sums["errors"] += row.outcome not in NOT_ERRORS
        for name in TOKENS:
            sums[name] += getattr(row, name)
        sums["cost"] += row.cost or 0
        sums["unpriced"] += row.cost is None
        if row.outcome == Outcome.OK:
            sums["latency_ms_sum"] += row.latency_ms
            sums[BUCKETS[bisect_left(BUCKETS_MS, row.latency_ms)]] += 1
    return hours


def add(rows: Iterable[Recorded]) -> None:
    """Adds rows to their hours, in the transaction that inserted them. Keys in order: two shippers never deadlock."""
    hours = fold(rows)
    if not hours:
        return
    columns = (*Key._fields, *SUMS)
    fields = [UsageHour._meta.get_field(name) for name in columns]
    parameters = [
        field.get_db_prep_save(value, connection=connection)  # type: ignore[union-attr]
        for key in sorted(hours)
        for field, value in zip(fields, (*key, *hours[key].values()), strict=True)
    ]
    row = f"({', '.join(['%s'] * len(columns))})"
    increments = ", ".join(f"{name} = usage_hours.{name} + excluded.{name}" for name in SUMS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO usage_hours ({', '.join(columns)}) VALUES {', '.join([row] * len(hours))}"  # noqa: S608
            f" ON CONFLICT ({', '.join(Key._fields)}) DO UPDATE SET {increments}",
            parameters,
        )


def subtract(row: Recorded) -> None:
    """Takes back what a row had added; inside the transaction that replaces it."""
    for key, sums in fold([row]).items():
        changes = {name: F(name) - value for name, value in sums.items() if value}
        UsageHour.objects.filter(**key._asdict()).update(**changes)
