"""Owns the one way in which many rows are written at once, on both databases. Knows no table."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from django.db import connection, models

from accounts.ids import text_of

_SQLITE_PARAMETERS = 32_766  # of one statement, unless SQLite was built for more, as Debian's is


def insert(
    model: type[models.Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], conflict: str
) -> list[tuple[Any, ...]]:
    """`conflict`: what follows ON CONFLICT. What it returns is as the database has it."""
    most = _SQLITE_PARAMETERS // len(columns)
    if connection.vendor != "postgresql" and len(rows) > most:
        return insert(model, columns, rows[:most], conflict) + insert(model, columns, rows[most:], conflict)
    fields: list[Any] = [model._meta.get_field(name) for name in columns]
    if connection.vendor == "postgresql":
        # Columns as arrays: psycopg takes 80 ms to bind 500 rows of 24 parameters each.
        source = _arrays(model, tuple(columns))
        by_column = zip(fields, zip(*rows, strict=True), strict=True)
        parameters: list[Any] = [_array(field, column) for field, column in by_column]
    else:
        row = f"({', '.join(['%s'] * len(columns))})"
        source = f"VALUES {', '.join([row] * len(rows))}"
        adapt = [_adapter(field) for field in fields]
        parameters = [a(v) if a else v for row in rows for a, v in zip(adapt, row, strict=True)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) {source} ON CONFLICT {conflict}", parameters
        )
        return cursor.fetchall() if cursor.description else []


@lru_cache
def _arrays(model: type[models.Model], columns: tuple[str, ...]) -> str:
    """Of each kind without its width: a cast to varchar(20) would cut in silence what the INSERT refuses."""
    fields: list[Any] = [model._meta.get_field(name) for name in columns]
    kinds = [field.db_type(connection).partition("(")[0] for field in fields]
    return f"SELECT * FROM unnest({', '.join(f'%s::{kind}[]' for kind in kinds)})"  # noqa: S608


def _array(field: Any, column: Sequence[Any]) -> str:
    """As PostgreSQL reads an array (its manual, 8.15.2). Through psycopg's dumpers it takes ten times as long."""
    if isinstance(field, models.JSONField):
        column = [_json(value) for value in column]
    if isinstance(field, models.CharField | models.TextField | models.JSONField):
        texts = ["NULL" if value is None else _quoted(value) for value in column]
    else:  # numbers, ids, times: nothing in them ends an element
        text: Callable[[Any], str] = text_of if isinstance(field, models.UUIDField) else str
        texts = ["NULL" if value is None else text(value) for value in column]
    return "{" + ",".join(texts) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def insert_from(model: type[models.Model], columns: Sequence[str], query: "models.QuerySet[Any, Any]") -> None:
    """What a query over other rows gives, `values_list` in the order of `columns`; it never leaves the database."""
    sql, parameters = query.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) {sql}", parameters)


def _adapter(field: Any) -> Callable[[Any], Any] | None:
    """What turns a value into one that SQLite takes."""
    if isinstance(field, models.JSONField):
        return _json
    if isinstance(field, models.UUIDField | models.DateTimeField | models.DecimalField):
        return lambda value: field.get_db_prep_save(value, connection=connection)
    return None


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
