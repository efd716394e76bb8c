"""Owns the months of `proxy_requests` on PostgreSQL: making them ahead of time, and dropping them whole.

On other databases the table is a plain one and nothing here does anything. There is no DEFAULT partition: attaching a
month would have to scan it under a lock.
"""

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

TABLE = "proxy_requests"
AHEAD = 3
_OURS = rf"^{TABLE}_\d{{4}}_(0[1-9]|1[0-2])$"
# Any number that nobody else takes: makers of partitions wait for each other on it.
_ADVISORY_LOCK = 0x61697078
_LOCK_TIMEOUT = "3s"
_NO_PARTITION = "23514"  # check_violation


def month_of(moment: dt.datetime | dt.date) -> dt.date:
    return dt.date(moment.year, moment.month, 1)


def add_months(month: dt.date, months: int) -> dt.date:
    index = month.year * 12 + month.month - 1 + months
    return dt.date(index // 12, index % 12 + 1, 1)


def coming_months(today: dt.date) -> list[dt.date]:
    """The month of this day and those after it that should exist by then."""
    return [add_months(month_of(today), ahead) for ahead in range(AHEAD + 1)]


def name_of(month: dt.date) -> str:
    return f"{TABLE}_{month:%Y_%m}"


def is_missing(error: Exception) -> bool:
    """Whether an INSERT failed because no partition takes the row; told by codes, since texts are in the server's
    language. A row that breaks a CHECK has the same code, and names it."""
    told = getattr(error.__cause__, "diag", None)
    return told is not None and (told.sqlstate, told.table_name, told.constraint_name) == (_NO_PARTITION, TABLE, None)


def ensure(connection: BaseDatabaseWrapper, months: Iterable[dt.date]) -> list[dt.date]:
    """Makes the partitions that are missing, and says which. Raises OperationalError when a lock is not to be had.

    Attaching takes a weaker lock than CREATE TABLE … PARTITION OF: inserts go on meanwhile.
    """
    if connection.vendor != "postgresql":
        return []
    missing = sorted(set(months) - set(attached(connection)))
    if not missing:
        return []
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        state = dict(_inherited(connection))
        missing = [month for month in missing if state.get(month) is not False]
        for month in missing:
            name = name_of(month)
            if month in state:  # the prune was interrupted within its detaching, which can only be ended
                cursor.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {name} FINALIZE")
            # A leftover of an interrupted prune holds rows of this very month: it is attached again.
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {TABLE} INCLUDING ALL)")
            cursor.execute(
                f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)",
                [_start(month), _start(add_months(month, 1))],
            )
        # The time-out must not outlive this when the caller has a transaction of its own.
        cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    return missing


def add_index(connection: BaseDatabaseWrapper, name: str, definition: str) -> None:
    """An index of all months, made while rows are written: for migrations with `atomic = False`. May be repeated.

    `definition` is what follows the table's name in CREATE INDEX. PostgreSQL makes none of a partitioned table
    concurrently, so each month gets its own; the whole one is valid once all are attached.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {TABLE} {definition}")
        for month in attached(connection):
            part = f"{name}_{month:%Y_%m}"
            cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [part])
            if cursor.fetchone() == (False,):  # left by one that was interrupted
                cursor.execute(f"DROP INDEX CONCURRENTLY {part}")
            cursor.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {part} ON {name_of(month)} {definition}")
            cursor.execute(f"ALTER INDEX {name} ATTACH PARTITION {part}")


def attached(connection: BaseDatabaseWrapper) -> list[dt.date]:
    """The months that take rows, oldest first."""
    return [month for month, pending in _inherited(connection) if pending is False]


def droppable(connection: BaseDatabaseWrapper, before: dt.date) -> list[dt.date]:
    """The months before this one whose table exists, also when an interrupted prune has left it detached."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
            " (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(%s)) AND relname ~ %s ORDER BY relname",
            [TABLE, _OURS],
        )
        months = [_month_in(name) for (name,) in cursor.fetchall()]
    return [month for month in months if month < before]


def drop(connection: BaseDatabaseWrapper, month: dt.date) -> None:
    """Takes the month away with all its rows. Inserts into other months go on meanwhile."""
    name = name_of(month)
    state = dict(_inherited(connection))
    with connection.cursor() as cursor, _lock_timeout(connection):
        if month in state:
            # CONCURRENTLY does not run inside a transaction; what it left half done is finished first.
            how = "FINALIZE" if state[month] else "" if connection.in_atomic_block else "CONCURRENTLY"
            cursor.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {name} {how}")
        cursor.execute(f"DROP TABLE IF EXISTS {name}")


def _inherited(connection: BaseDatabaseWrapper) -> list[tuple[dt.date, bool]]:
    """Each partition's month, and whether a detach of it was interrupted. One of another name is somebody else's."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s) AND c.relname ~ %s ORDER BY c.relname",
            [TABLE, _OURS],
        )
        return [(_month_in(name), pending) for name, pending in cursor.fetchall()]


@contextlib.contextmanager
def _lock_timeout(connection: BaseDatabaseWrapper) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        try:
            yield
        finally:
            if not connection.needs_rollback:
                cursor.execute("SET lock_timeout TO DEFAULT")


def _month_in(name: str) -> dt.date:
    return dt.datetime.strptime(name, f"{TABLE}_%Y_%m").replace(tzinfo=dt.UTC).date()


def _start(month: dt.date) -> str:
    return f"{month:%Y-%m-%d} 00:00:00+00"
