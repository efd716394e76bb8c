"""Owns getting rows into the database whatever happens to it: tries for ever, halves a batch that is refused, and lays
aside the one record that is to blame. Knows rows, not segments."""

import logging
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from django.db import DataError, Error, IntegrityError, close_old_connections, connection
from django.utils import timezone

from accounts.ids import made_at
from usage import metrics, partitions, rows
from usage.records import End, encode
from usage.rows import Row
from usage.telemetry import Tell

logger = logging.getLogger(__name__)

T = TypeVar("T")
BACKOFF = (0.05, 5.0)  # seconds: the first and the longest wait before the next try
# What a row itself can be to blame for; every other error is the database's, and is waited out.
ROWS_FAULT = (IntegrityError, DataError, ValueError, ArithmeticError)


class ShippingStopped(Exception):
    """Asked to stop while the database could not be written; what is left stays in the journal."""


class Delivery:
    """`step` is told how far a batch has come, `tell` of what was new; `waiting` is called at every failure."""

    def __init__(
        self, directory: Path, *, step: Callable[[str], None], waiting: Callable[[], None], tell: Tell
    ) -> None:
        self.stop = threading.Event()
        # Records that could not be laid aside, since the shipper last asked: their segments are all there is of them.
        self.kept = 0
        self._graveyard = directory / "dead"
        self._step = step
        self._waiting = waiting
        self._tell = tell
        self._months: set[object] = set()
        self._failures = 0
        self._reasons: set[str] = set()

    def ship(self, batch: Sequence[Row]) -> int:
        """How many of the rows were new. Raises ShippingStopped."""
        try:
            stored = self._until_done(batch)
        except ROWS_FAULT as error:
            if len(batch) == 1:
                self.lay_aside(encode(batch[0].end), batch[0].end.id.hex, _first_line(error))
                return 0
            middle = len(batch) // 2
            return self.ship(batch[:middle]) + self.ship(batch[middle:])
        metrics.SHIPPED.inc(stored.inserted)
        metrics.count_cost(stored.new)
        self._told(stored.new)
        metrics.REPLAYED.inc(len(batch) - stored.inserted - stored.replaced)
        return stored.inserted

    def _told(self, ends: Sequence[End]) -> None:
        """They are stored: whatever goes wrong here, they are not tried again."""
        try:
            self._tell(ends)
        except Exception:
            logger.exception("The collector was not told of %d rows", len(ends))

    def lay_aside(self, record: bytes, name: str, reason: str) -> None:
        """Keeps a record for an operator to look at. The file is a segment: moved back into the journal once the cause
        is gone, it is shipped."""
        # One file a record, named for it: laid aside again after a crash, it is the same file.
        path = self._graveyard / f"{name}-00000000.sealed"
        try:
            self._graveyard.mkdir(mode=0o700, exist_ok=True)
            _write(path, record)
        except OSError as error:
            self.kept += 1
            logger.error("A record cannot be laid aside in %s (%s); it stays in its segment", path.name, error)
            return
        metrics.DEAD.inc()
        logger.error("A record was laid aside in %s: %s", path.name, reason)

    def make_partitions(self) -> bool:
        """Those of the coming months; whether it worked."""
        try:
            made = partitions.ensure(connection, partitions.coming_months(timezone.now().date()))
        except Error as error:
            logger.warning("Partitions could not be made (%s); it is tried again", _first_line(error))
            return False
        if made:
            logger.info("Made the partitions %s", ", ".join(partitions.name_of(month) for month in made))
        return True

    def _until_done(self, batch: Sequence[Row]) -> rows.Stored:
        while True:
            try:
                stored = self._store(batch)
            except ROWS_FAULT as error:
                if not partitions.is_missing(error):
                    raise
                self._months.clear()  # dropped since we made it
                self._wait(batch, error)
            except Error as error:
                self._wait(batch, error)
            else:
                if self._failures:
                    logger.warning("The database takes rows again, after %d tries", self._failures)
                    self._failures = 0
                    self._reasons.clear()
                metrics.OLDEST_SECONDS.set(0)
                return stored

    def _store(self, batch: Sequence[Row]) -> rows.Stored:
        months = rows.months_of(batch)
        if not months <= self._months:
            partitions.ensure(connection, months)
            self._months |= months
        return rows.store(batch, self._step)

    def _wait(self, batch: Sequence[Row], error: Exception) -> None:
        """Until the next try, with a new connection: the old one may be dead without knowing it."""
        if not connection.in_atomic_block:
            connection.close()
        if (reason := _first_line(error)) not in self._reasons:  # each once: it may come back, and refuse still
            self._reasons.add(reason)
            logger.warning("The database does not take rows (%s); they wait in the journal", reason)
        first, longest = BACKOFF
        delay = min(longest, first * 2 ** min(self._failures, 10))
        self._failures += 1
        metrics.RETRIES.inc()
        metrics.OLDEST_SECONDS.set((timezone.now() - made_at(batch[0].end.id)).total_seconds())
        self._waiting()
        if self.stop.wait(delay * random.uniform(0.5, 1)):  # noqa: S311
            raise ShippingStopped


def release() -> None:
    """Gives the connection back between two pieces of work; a caller's own transaction keeps it."""
    if not connection.in_atomic_block:
        close_old_connections()


def _write(path: Path, record: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while record:
            record = record[os.write(fd, record) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
