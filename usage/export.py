"""Owns rows of the log as a file: CSV or JSON lines, made while it is sent, however long it is.

What clients and providers wrote stands in it as text: no spreadsheet takes it for a formula.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from accounts.models import User
from usage.models import ProxyRequest
from usage.tables import FORMULA

PAGE = 2_000
FIELDS = [field.attname for field in ProxyRequest._meta.concrete_fields]
_HEAD = ["email", *FIELDS]
OURS = {"user_id", "writer"}  # of no use to the user whose rows they are

Row = tuple[Any, ...]


class Download(StreamingHttpResponse):
    """Under ASGI Django reads a plain iterator to its end before it sends anything; here each piece goes when it is."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self)
        read = sync_to_async(lambda: next(pieces, b""))
        while piece := await read():
            yield piece


def as_csv(rows: QuerySet[ProxyRequest]) -> Iterator[str]:
    yield _csv_lines([tuple(_HEAD)])
    yield from map(_csv_lines, _pages(rows))


def as_own_csv(rows: QuerySet[ProxyRequest]) -> Iterator[str]:
    """For the user whose rows they are."""
    shown = [place for place, name in enumerate(FIELDS) if name not in OURS]
    yield _csv_lines([tuple(FIELDS[place] for place in shown)])
    for page in pages(rows):
        yield _csv_lines([tuple(row[place] for place in shown) for row in page])


def as_json_lines(rows: QuerySet[ProxyRequest]) -> Iterator[str]:
    for page in _pages(rows):
        yield "".join(json.dumps(dict(zip(_HEAD, row, strict=True)), cls=DjangoJSONEncoder) + "\n" for row in page)


FORMATS: dict[str, tuple[str, Callable[[QuerySet[ProxyRequest]], Iterator[str]]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "jsonl": ("application/x-ndjson", as_json_lines),
}


def _pages(rows: QuerySet[ProxyRequest]) -> Iterator[list[Row]]:
    user_at = FIELDS.index("user_id")
    for page in pages(rows):
        emails = dict(User.objects.filter(pk__in={row[user_at] for row in page}).values_list("pk", "email"))
        yield [(emails.get(row[user_at], ""), *row) for row in page]


def pages(rows: QuerySet[ProxyRequest]) -> Iterator[list[Row]]:
    """FIELDS of each row. A page is a query of its own: none holds a transaction open for as long as a client reads."""
    id_at, time_at = (FIELDS.index(name) for name in ("id", "created_at"))
    following = rows
    while page := list(following.values_list(*FIELDS)[:PAGE]):
        yield page
        last = page[-1]
        following = rows.filter(id__lt=last[id_at], created_at__lte=last[time_at])


def _csv_lines(rows: list[Row]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_inert(value) for value in row] for row in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
