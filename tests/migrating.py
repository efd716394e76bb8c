"""Owns the way of a schema through the migrations, one by one: what each does to PostgreSQL, and to what was there."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import environ
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor

OURS = {"accounts", "audit", "proxy", "staff", "usage", "vault"}
COLUMNS = (
    "SELECT table_name, column_name, data_type || coalesce(character_maximum_length::text, ''), is_nullable = 'NO' AND"
    " column_default IS NULL AND is_identity = 'NO' FROM information_schema.columns WHERE table_schema = 'public'"
)


@dataclass(frozen=True)
class Column:
    type: str
    must_be_given: bool


# The table that a statement changes. An index ON ONLY the table of all months has nothing in it.
TOUCHED = re.compile(
    r"\s*(?:ALTER TABLE(?: ONLY)?|CREATE (?:UNIQUE )?INDEX .*? ON|DROP TABLE|UPDATE|DELETE FROM|TRUNCATE)"
    r'(?: IF EXISTS)? "?(\w+)',
    re.DOTALL,
)
Schema = dict[str, dict[str, Column]]


@dataclass
class Step:
    migration: Migration
    before: Schema
    after: Schema = field(default_factory=dict)
    sql: list[str] = field(default_factory=list)  # what it did to tables that were there

    def __str__(self) -> str:
        return f"{self.migration.app_label}.{self.migration.name}"

    @property
    def contracts(self) -> bool:
        """`contracts = True` in a migration: it removes what the release before no longer uses."""
        return getattr(self.migration, "contracts", False)

    def breaks(self) -> list[str]:
        """What a service of the release before, which knows `before` alone, can no longer do."""
        found = []
        for table, columns in self.before.items():
            now = self.after.get(table, {})
            needed = {name for name, column in now.items() if column.must_be_given}
            found += [f"{table}.{name} is gone" for name in columns.keys() - now.keys()]
            found += [
                f"{table}.{name} is another type"
                for name in columns.keys() & now.keys()
                if columns[name].type != now[name].type
            ]
            found += [
                f"{table}.{name} must be given: null=True, or db_default"
                for name in needed
                if name not in columns or not columns[name].must_be_given
            ]
        return found


def schema(connection: BaseDatabaseWrapper) -> Schema:
    found: Schema = {}
    with connection.cursor() as cursor:
        cursor.execute(COLUMNS)
        for table, name, type, must_be_given in cursor.fetchall():
            found.setdefault(table, {})[name] = Column(type, must_be_given)
    return found


@contextmanager
def database(url: str) -> Iterator[BaseDatabaseWrapper]:
    """Another database in the place of Django's own: migrations that move rows use that."""
    before, settings = connections["default"], connections.databases["default"]
    connections.databases["default"] = settings | environ.Env.db_url_config(url) | {"OPTIONS": {}}
    del connections["default"]
    try:
        yield connections["default"]
    finally:
        connections["default"].close()
        connections.databases["default"] = settings
        connections["default"] = before


def steps(connection: BaseDatabaseWrapper) -> list[Step]:
    """Applies every migration to an empty database; tells of ours."""
    found: list[Step] = []

    def progress(action: str, migration: Migration | None = None, fake: bool = False) -> None:
        if migration is None or migration.app_label not in OURS:
            return
        if action == "apply_start":
            found.append(Step(migration, schema(connection)))
        elif action == "apply_success":
            found[-1].after = schema(connection)

    executor = MigrationExecutor(connection, progress)
    with connection.execute_wrapper(_noting(found)):
        executor.migrate(executor.loader.graph.leaf_nodes())
    return found


def _noting(steps: list[Step]) -> Callable[..., Any]:
    def note(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if steps and not steps[-1].after:
            touched = TOUCHED.match(str(sql))
            if touched and touched[1] in steps[-1].before:
                steps[-1].sql.append(str(sql).replace("%s", "NULL").strip().rstrip(";") + ";")
        return execute(sql, params, many, context)

    return note
