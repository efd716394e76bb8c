"""Owns how rows become sums by hour and day. Counts only what the database has taken; knows no journal."""

import datetime as dt
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from django.db.models import F

from accounts.ids import made_at
from usage import bulk
from usage.models import NOT_ERRORS, Outcome
from usage.periods import beginning
from usage.sums import Sums, TotalDay, TotalHour, UsageDay, UsageHour, UserDay, UserHour

# Upper bounds of the latency buckets, milliseconds; the last bucket takes the rest.
BUCKETS_MS = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 120_000)
BUCKETS = (*(f"latency_{bound}" for bound in BUCKETS_MS), "latency_more")
TOKENS = ("tokens_input", "tokens_output", "tokens_total", "tokens_cached", "tokens_reasoning")
ERRORS = {outcome.value: f"errors_{outcome}" for outcome in Outcome if outcome not in NOT_ERRORS}
SUMS = ("requests", "errors", *TOKENS, "cost", "unpriced", "latency_ms_sum", *BUCKETS, *ERRORS.values())

# What one row of each is about, in the order of its unique constraint. The last are those that all shippers write to:
# their rows are locked last, and for the shortest time.
TABLES: dict[type[Sums], tuple[str, ...]] = {
    UsageHour: ("user_id", "hour", "proxy_key_id", "provider", "model"),
    UsageDay: ("user_id", "day", "proxy_key_id", "provider", "model"),
    UserHour: ("user_id", "hour"),
    UserDay: ("user_id", "day"),
    TotalHour: ("hour", "provider", "model"),
    TotalDay: ("day", "provider", "model"),
}

DERIVED = [table for table in TABLES if table is not UsageHour]


class Key(NamedTuple):
    """What one row of hourly sums is about."""

    user_id: UUID
    hour: dt.datetime
    proxy_key_id: UUID
    provider: str
    model: str

    @property
    def day(self) -> dt.datetime:
        return self.hour.replace(hour=0)

    def of(self, table: type[Sums]) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in TABLES[table])


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


Counts = dict[str, int | Decimal]
_NOTHING: Counts = {**dict.fromkeys(SUMS, 0), "cost": Decimal(0)}


def key_of(row: Recorded) -> Key:
    hour = beginning(made_at(row.id), "hour")
    return Key(row.user_id, hour, row.proxy_key_id, row.provider, row.model)


def fold(rows: Iterable[Recorded]) -> dict[Key, Counts]:
    hours: dict[Key, Counts] = {}
    for row in rows:
        sums = hours.setdefault(key_of(row), _NOTHING.copy())
        sums["requests"] += 1
        for name in TOKENS:
            sums[name] += getattr(row, name)
        sums["cost"] += row.cost or 0
        sums["unpriced"] += row.cost is None
        if row.outcome == Outcome.OK:
            sums["latency_ms_sum"] += row.latency_ms
            sums[BUCKETS[bisect_left(BUCKETS_MS, row.latency_ms)]] += 1
        elif row.outcome not in NOT_ERRORS:
            sums["errors"] += 1
            if row.outcome in ERRORS:
                sums[ERRORS[row.outcome]] += 1
    return hours


def _gathered(hours: Mapping[Key, Counts], table: type[Sums]) -> dict[tuple[Any, ...], Counts]:
    found: dict[tuple[Any, ...], Counts] = {}
    for key, counts in hours.items():
        sums = found.setdefault(key.of(table), _NOTHING.copy())
        for name in SUMS:
            sums[name] += counts[name]
    return found


def add(rows: Iterable[Recorded]) -> None:
    """Adds rows to their sums, in the transaction that inserted them. In order: two shippers never deadlock."""
    hours = fold(rows)
    if not hours:
        return
    for table, key in TABLES.items():
        name = table._meta.db_table
        increments = ", ".join(f"{column} = {name}.{column} + excluded.{column}" for column in SUMS)
        found = _gathered(hours, table)
        bulk.insert(
            table,
            (*key, *SUMS),
            [(*of, *found[of].values()) for of in sorted(found)],
            f"({', '.join(key)}) DO UPDATE SET {increments}",
        )


def subtract(row: Recorded) -> None:
    """Takes back what a row had added; inside the transaction that replaces it."""
    for key, counts in fold([row]).items():
        changes = {name: F(name) - value for name, value in counts.items() if value}
        for table, names in TABLES.items():
            of = dict(zip(names, key.of(table), strict=True))
            table._default_manager.filter(**of).update(**changes)
