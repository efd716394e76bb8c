"""Owns putting ended exchanges into the database, each exactly once. Knows no files, and tries once."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction

from accounts.ids import made_at
from usage import anonymity, bulk, partitions, rollup
from usage.models import Outcome, ProxyRequest
from usage.pricing import COST_LIMIT
from usage.records import Attempt, Begin, End, fit

_COLUMNS = (
    "id",
    "user_id",
    "proxy_key_id",
    "endpoint",
    "model",
    "provider",
    "api_key_id",
    "streamed",
    "outcome",
    "status_code",
    "error_message",
    "tokens_input",
    "tokens_output",
    "tokens_total",
    "tokens_cached",
    "tokens_reasoning",
    "usage_source",
    "cost",
    "latency_ms",
    "ttft_ms",
    "overhead_ms",
    "provider_request_id",
)
_INSERTED = (*_COLUMNS, "attempts", "created_at", "writer")
_COST_STEP = Decimal("1e-8")
_COST_LIMIT = COST_LIMIT - _COST_STEP / 2  # from here on it is rounded up to what the column cannot hold


@dataclass(slots=True, frozen=True)
class Row:
    """An ended exchange, and the writer that recorded it."""

    end: End
    writer: str


@dataclass(slots=True)
class Stored:
    new: list[End] = field(default_factory=list)
    replaced: int = 0

    @property
    def inserted(self) -> int:
        return len(self.new)


def checked(end: End) -> End:
    """With numbers that fit their columns. Raises ValueError for an impossible cost."""
    fit(end)
    if end.cost is not None:
        # Also what one database would take and another not; a NaN would spoil the hour's sum for good.
        if not (end.cost.is_finite() and 0 <= end.cost < _COST_LIMIT):
            raise ValueError(f"a cost of {end.cost} dollars is out of range")
        end.cost = end.cost.quantize(_COST_STEP)
    return end


def interrupted(begin: Begin) -> End:
    """The end of an exchange whose worker died. What the client saw is unknown; 500 is what the answer amounts to."""
    return End(
        begin.id,
        begin.user_id,
        begin.proxy_key_id,
        begin.endpoint,
        begin.model,
        begin.provider,
        begin.api_key_id,
        begin.streamed,
        Outcome.INTERRUPTED.value,
        500,
        "The proxy's worker died before the exchange ended.",
    )


def store(batch: Sequence[Row], step: Callable[[str], None]) -> Stored:
    """One transaction: rows that are new are inserted and added to their hours, the others are left as they are.

    A real end replaces an `interrupted` row. `step` is told how far it has come.
    """
    by_id: dict[UUID, Row] = {}
    for row in batch:
        kept = by_id.setdefault(row.end.id, row)
        if kept.end.outcome == Outcome.INTERRUPTED:
            by_id[row.end.id] = row
    stored = Stored()
    with transaction.atomic():
        anonymity.forget_the_deleted([row.end for row in by_id.values()])
        new = _insert(list(by_id.values()))
        step("inserted")
        late = [row for id, row in by_id.items() if id not in new and row.end.outcome != Outcome.INTERRUPTED]
        replacing = _replace_interrupted(late) if late else []
        rollup.add([*(by_id[id].end for id in new), *(row.end for row in replacing)])
        step("added")
        stored.new, stored.replaced = [by_id[id].end for id in new], len(replacing)
    step("committed")
    return stored


def months_of(batch: Sequence[Row]) -> set[dt.date]:
    return {partitions.month_of(made_at(row.end.id)) for row in batch}


def _insert(rows: Sequence[Row]) -> set[UUID]:
    """The ids that were not there before."""
    found = bulk.insert(ProxyRequest, _INSERTED, [_values(row) for row in rows], "DO NOTHING RETURNING id")
    return {id if isinstance(id, UUID) else UUID(id) for (id,) in found}


def _values(row: Row) -> list[Any]:
    end = row.end
    attempts = [_named(attempt) for attempt in end.attempts] if end.attempts else None
    return [*(getattr(end, name) for name in _COLUMNS), attempts, made_at(end.id), row.writer]


def _named(attempt: Attempt) -> dict[str, Any]:
    key = attempt.api_key_id
    return {**msgspec.structs.asdict(attempt), "api_key_id": None if key is None else str(key)}


def _replace_interrupted(late: Sequence[Row]) -> list[Row]:
    """Rows whose end came after their writer was taken for dead. Their hours lose what they had added."""
    by_id = {row.end.id: row for row in late}
    times = [made_at(id) for id in by_id]
    wrong = ProxyRequest.objects.filter(
        id__in=list(by_id), created_at__range=(min(times), max(times)), outcome=Outcome.INTERRUPTED
    )
    replacing = []
    for old in wrong.select_for_update().order_by("id"):
        row = by_id[old.id]
        rollup.subtract(old)
        values = dict(zip(_INSERTED, _values(row), strict=True))
        ProxyRequest.objects.recorded(old.id).update(**values)
        replacing.append(row)
    return replacing
