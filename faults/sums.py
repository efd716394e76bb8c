"""Owns the check of the sums: every column of all six tables against what the rows add up to.

Adds up on its own: how usage/rollup.py and usage/rebuild.py do it is what is on trial. Pure.
"""

import datetime as dt
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from faults.rows import Row

# What each row of them is about.
TABLES = {
    "usage_hours": ("user_id", "hour", "proxy_key_id", "provider", "model"),
    "usage_days": ("user_id", "day", "proxy_key_id", "provider", "model"),
    "usage_user_hours": ("user_id", "hour"),
    "usage_user_days": ("user_id", "day"),
    "usage_total_hours": ("hour", "provider", "model"),
    "usage_total_days": ("day", "provider", "model"),
}
BOUNDS = (100, 250, 500, 1000, 2000, 4000, 8000, 15000, 30000, 60000, 120000)  # of latencies, milliseconds

Stored = Mapping[str, Sequence[Mapping[str, Any]]]


def judge_sums(rows: Sequence[Row], stored: Stored) -> list[str]:
    violations = []
    for table, names in TABLES.items():
        counted = add_up(rows, names)
        said = {tuple(sums[name] for name in names): sums for sums in stored[table]}
        if len(said) != len(stored[table]):
            violations.append(f"{table} has two rows about the same")
        for key in counted.keys() | said.keys():
            sums, counts = said.get(key, {}), counted.get(key, Counter())
            columns = (sums.keys() | counts.keys()) - {"id", *names}
            if wrong := sorted(name for name in columns if sums.get(name, 0) != counts[name]):
                told = ", ".join(f"{name} {sums.get(name, 0)}, the rows {counts[name]}" for name in wrong)
                violations.append(f"{table} has of {' '.join(map(str, key))}: {told}")
    return violations


def add_up(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], Counter[str]]:
    """By what the rows of a table are about."""
    sums: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in rows:
        sums[_key(row, names)].update(_counts(row))
    return sums


def _key(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    hour = row.created_at.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    about = {**row._asdict(), "hour": hour, "day": hour.replace(hour=0)}
    return tuple(about[name] for name in names)


def _counts(row: Row) -> dict[str, Any]:
    counts = {name: value for name, value in row._asdict().items() if name.startswith("tokens_")}
    counts |= {"requests": 1, "cost": row.cost or 0, "unpriced": int(row.cost is None)}
    if row.outcome == "ok":
        bucket = f"latency_{(*BOUNDS, 'more')[bisect_left(BOUNDS, row.latency_ms)]}"
        counts |= {"latency_ms_sum": row.latency_ms, bucket: 1}
    elif row.outcome != "client_gone":
        counts |= {"errors": 1, f"errors_{row.outcome}": 1}
    return counts
