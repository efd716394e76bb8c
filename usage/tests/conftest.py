"""What usage tests share: a journal on disk, records to put into it, and what the database made of them."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db.models import Sum

from accounts.ids import uuid7
from usage.journal import Begin, End, Journal
from usage.models import ProxyRequest
from usage.rollup import BUCKETS, SUMS, TABLES, fold
from usage.sums import Sums

USER, PROXY_KEY, API_KEY = uuid7(), uuid7(), uuid7()


def a_begin(id: UUID | None = None, **fields: Any) -> Begin:
    known = {"user_id": USER, "proxy_key_id": PROXY_KEY, "endpoint": "/v1/chat/completions", "model": "gpt-4o-mini"}
    known |= {"provider": "openai", "api_key_id": API_KEY, "streamed": False}
    return Begin(id=id or uuid7(), **(known | fields))


def an_end(id: UUID | None = None, **fields: Any) -> End:
    known = {"user_id": USER, "proxy_key_id": PROXY_KEY, "endpoint": "/v1/chat/completions", "model": "gpt-4o-mini"}
    known |= {"provider": "openai", "api_key_id": API_KEY, "streamed": False, "outcome": "ok", "status_code": 200}
    known |= {"tokens_input": 12, "tokens_output": 30, "tokens_total": 42, "usage_source": "provider"}
    known |= {"latency_ms": 640, "ttft_ms": 210, "overhead_ms": 0.4, "provider_request_id": "req_" + "0" * 32}
    return End(id=id or uuid7(), **(known | fields))


def exchange(journal: Journal, **fields: Any) -> UUID:
    """A whole one; a test is faster than any client, and waits for the next segment."""
    id = uuid7()
    wait_until(journal.room)
    journal.begin(a_begin(id))
    journal.end(an_end(id, **fields))
    return id


def rows() -> dict[UUID, ProxyRequest]:
    return {row.id: row for row in ProxyRequest.objects.all()}


def sums_match_rows() -> bool:
    """Whether all six tables of sums say what the rows add up to."""
    counted: dict[str, Any] = dict.fromkeys(SUMS, 0)
    for sums in fold(ProxyRequest.objects.all()).values():
        counted = {name: counted[name] + sums[name] for name in SUMS}
    return all(counted == summed(table) for table in TABLES) and len(BUCKETS) == 12


def summed(table: type[Sums]) -> dict[str, Any]:
    stored = table._default_manager.aggregate(**{f"sum_{name}": Sum(name, default=0) for name in SUMS})
    return {name: stored[f"sum_{name}"] for name in SUMS}


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in 20 s"
        os.sched_yield()


def seal(journal: Journal) -> None:
    """Ends the present segment, as its age would, and waits until the writer has sealed it."""
    with journal._lock:
        journal._retired.append(journal._current)
        journal._current = None
    journal._wake.set()
    wait_until(lambda: not journal._retired)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(directory: Path) -> Iterator[Journal]:
    journal = Journal(directory, segment_bytes=256 << 10)
    journal.open()
    yield journal
    journal.close()


@pytest.fixture
def new_journal(directory: Path) -> Iterator[Callable[..., Journal]]:
    """A further writer of the same directory."""
    opened: list[Journal] = []

    def make(segment_bytes: int = 256 << 10, **options: Any) -> Journal:
        journal = Journal(directory, segment_bytes=segment_bytes, **options)
        journal.open()
        opened.append(journal)
        return journal

    yield make
    for journal in opened:
        journal.close()
