"""Owns rows of the log as a file: CSV or JSON lines, made while it is sent, however long it is.

What clients and providers wrote stands in it as text: no spreadsheet takes it for a formula.
"""

import csv
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db import close_old_connections
from django.db.models.sql import Query
from django.http import StreamingHttpResponse

from accounts.models import User
from usage import exporter
from usage.models import ProxyRequest, ProxyRequestQuerySet
from usage.tables import FORMULA

PAGE = 500
FIELDS = [field.attname for field in ProxyRequest._meta.concrete_fields]
OWN_FIELDS = [name for name in FIELDS if name not in {"user_id", "writer"}]  # for the user whose rows they are
_HEAD = ["email", *FIELDS]

Row = tuple[Any, ...]


class Download(StreamingHttpResponse):
    """What `make(*args)` yields, made in the exporter (usage/exporter.py).

    Under ASGI Django reads a plain iterator to its end before it sends anything; here each piece goes when it is.
    """

    def __init__(self, make: exporter.Make, *args: Any, **response: Any) -> None:
        self._left = threading.Event()
        self._pieces = exporter.pieces(make, *args, left=self._left)
        super().__init__(self._pieces, **response)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self)
        read = sync_to_async(lambda: next(pieces, b""))
        await sync_to_async(close_old_connections)()  # the view's would be held for as long as the client reads
        try:
            while piece := await read():
                yield piece
        finally:
            self._left.set()
            # At the end of a drain nobody closes the response, and the collector would close the descriptor twice.
            await sync_to_async(self._pieces.close)()


def as_csv(query: Query) -> Iterator[bytes]:
    yield _csv_lines([tuple(_HEAD)])
    yield from map(_csv_lines, _pages(query))


def as_own_csv(query: Query) -> Iterator[bytes]:
    yield _csv_lines([tuple(OWN_FIELDS)])
    yield from map(_csv_lines, pages(query, OWN_FIELDS))


def as_json_lines(query: Query) -> Iterator[bytes]:
    for page in _pages(query):
        yield b"".join(json_of(_HEAD, row) + b"\n" for row in page)


def json_of(fields: list[str], row: Row) -> bytes:
    return msgspec.json.encode(dict(zip(fields, row, strict=True)))


FORMATS: dict[str, tuple[str, Callable[[Query], Iterator[bytes]]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "jsonl": ("application/x-ndjson", as_json_lines),
}


def _pages(query: Query) -> Iterator[list[Row]]:
    user_at = FIELDS.index("user_id")
    for page in pages(query, FIELDS):
        emails = dict(User.objects.filter(pk__in={row[user_at] for row in page}).values_list("pk", "email"))
        yield [(emails.get(row[user_at], ""), *row) for row in page]


def pages(query: Query, fields: list[str]) -> Iterator[list[Row]]:
    """A page is a query of its own: none holds a transaction open for as long as a client reads."""
    id_at, time_at, cost_at = (fields.index(name) for name in ("id", "created_at", "cost"))
    following = rows = ProxyRequestQuerySet(ProxyRequest, query)
    while page := [_in_full(row, cost_at) for row in following.values_list(*fields)[:PAGE]]:
        yield page
        last = page[-1]
        following = rows.filter(id__lt=last[id_at], created_at__lte=last[time_at])


def _in_full(row: Row, cost_at: int) -> Row:
    """With its cost as the API writes it: a small one would be 1.5E-7, and nothing 0E-8."""
    cost = row[cost_at]
    return row if cost is None else (*row[:cost_at], f"{cost:f}", *row[cost_at + 1 :])


def _csv_lines(rows: list[Row]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_inert(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
