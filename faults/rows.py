"""Owns what a row of the record holds, which row is of which request, and what a row must cost. Pure."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from faults.clients import Sighting
from faults.provider import MODEL

# What a row says that ended before a provider was found for its model.
UNKNOWN = "(unknown)"
BOOK = Path(__file__).parents[1] / "usage" / "prices.json"

A = TypeVar("A")
B = TypeVar("B")


class Row(NamedTuple):
    id: UUID
    user_id: UUID
    proxy_key_id: UUID
    api_key_id: UUID | None
    provider: str
    model: str
    endpoint: str
    streamed: bool
    outcome: str
    status_code: int
    tokens_input: int
    tokens_output: int
    tokens_total: int
    tokens_cached: int
    tokens_reasoning: int
    usage_source: str
    cost: Decimal | None
    provider_request_id: str
    created_at: datetime
    latency_ms: int
    ttft_ms: int | None
    overhead_ms: float | None
    attempts: list[dict[str, object]] | None
    error_message: str
    writer: str


ROWS = f"SELECT {', '.join(Row._fields)} FROM proxy_requests"


class Claims:
    """Every row by what names a request: the id that its client was told, a model name of its own, and the id that
    its provider gave it."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)
        self._named: dict[str, list[Row]] = defaultdict(list)
        self._claimed: set[int] = set()
        for row in self._rows:
            names = {str(row.id), row.provider_request_id}
            for name in (names | {row.model}) - {"", MODEL, UNKNOWN}:
                self._named[name].append(row)

    def of(self, sighting: Sighting) -> list[Row]:
        """All rows that are of this request, first the one with the id that its client was told; claimed by it."""
        names = (sighting.request_id, sighting.model, request_id(sighting))
        found = list({id(row): row for name in names if name in self._named for row in self._named[name]}.values())
        self._claimed |= {id(row) for row in found}
        return found

    def rest(self) -> list[Row]:
        """Those that nothing names."""
        return [row for row in self._rows if id(row) not in self._claimed]


def request_id(sighting: Sighting) -> str:
    """Which the scripted provider gives in its answer."""
    return f"req_{sighting.script.nonce}"


def unpaired(some: Sequence[A], others: Sequence[B], fits: Callable[[A, B], bool]) -> list[A]:
    """Those that are left over when as many as can be have one of the others to themselves."""
    taken: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for at, other in enumerate(others):
            if at not in tried and fits(some[one], other):
                tried.add(at)
                if at not in taken or place(taken[at], tried):
                    taken[at] = one
                    return True
        return False

    return [item for one, item in enumerate(some) if not place(one, set())]


# --- What it costs -------------------------------------------------------------------------------------------------


def possible_costs(row: Row) -> set[Decimal | None]:
    """By the book's words, not by usage/pricing.py. Of an estimate a cost need not be known unless it is of a whole
    stream; nor that of a request of which nobody knows what it used."""
    known = row.usage_source == "provider" or (row.usage_source == "estimated" and row.streamed and row.outcome == "ok")
    return {_cost(row)} | (set() if known else {None})


def _cost(row: Row) -> Decimal | None:
    if not row.tokens_total:
        return Decimal(0)
    prices = _listed(row.model)
    if prices is None:
        return None
    dollars = (row.tokens_input * prices[0] + row.tokens_output * prices[1]) / 1_000_000
    return dollars.quantize(Decimal("1e-8"), ROUND_HALF_UP)


@cache
def _listed(model: str) -> tuple[Decimal, Decimal] | None:
    """Dollars a million tokens of input and output."""
    book = json.loads(BOOK.read_bytes(), parse_int=Decimal, parse_float=Decimal)
    for entry in book["models"]["openai"]:
        if re.fullmatch(entry["match"], model):
            ((price,),) = (dated["prices"] for dated in entry["dated"])
            return price["input"], price["output"]
    return None
