"""Owns how the database gets back to what the migrations put there, after a test that has committed.

Django's own way truncates every table (half a second on PostgreSQL) and makes content types, permissions and our roles
anew through the ORM (another half): most of what such a test would cost.
"""

from importlib import import_module
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

guard = import_module("audit.migrations.0002_append_only")

Rows = list[tuple[Any, ...]]


class Emptying:
    """Remembers what is in the tables when it is made; a call deletes everything else."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._tables = sorted(connection.introspection.django_table_names(only_existing=True, include_views=False))
        with connection.cursor() as cursor:
            self._kept = {table: rows for table in self._tables if (rows := self._rows(cursor, table))}

    def __call__(self) -> None:
        with self._connection.constraint_checks_disabled(), transaction.atomic(), self._connection.cursor() as cursor:
            kept = {table for table, rows in self._kept.items() if self._rows(cursor, table) == rows}
            self._let_the_audit_log_forget(cursor, [table for table in self._tables if table not in kept])
            for table in self._kept.keys() - kept:
                marks = ", ".join(["%s"] * len(self._kept[table][0]))
                cursor.executemany(f"INSERT INTO {self._quoted(table)} VALUES ({marks})", self._kept[table])

    def _let_the_audit_log_forget(self, cursor: Any, tables: list[str]) -> None:
        """PostgreSQL's foreign keys are checked at the commit, SQLite's not at all here: the order is free."""
        deletes = [f"DELETE FROM {self._quoted(table)}" for table in tables]
        if self._connection.vendor == "postgresql":
            alter = "ALTER TABLE audit_events {} TRIGGER USER"
            cursor.execute(";".join((alter.format("DISABLE"), *deletes, alter.format("ENABLE"))))
        else:
            for statement in (*guard.SQLITE_UNDO, *deletes, *guard.SQLITE):
                cursor.execute(statement)

    def _rows(self, cursor: Any, table: str) -> Rows:
        cursor.execute(f"SELECT * FROM {self._quoted(table)} ORDER BY 1")  # the first column is the primary key
        return [tuple(row) for row in cursor.fetchall()]

    def _quoted(self, table: str) -> str:
        return self._connection.ops.quote_name(table)
