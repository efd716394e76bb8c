"""Owns moving the journal into the database: reads segments, stores rows, removes what is stored.

Nothing is remembered on disk but the segments themselves: after a crash everything is read again, and rows that are
there already change nothing. A segment goes only when every row in it is committed and every exchange that began in it
has ended, or its writer is dead. Knows no HTTP and no policy.
"""

import contextlib
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from uuid import UUID

import msgspec
from django.db import Error, connection

from accounts.ids import made_at
from usage import events, metrics, notices, rows, segments
from usage.delivery import BACKOFF, ROWS_FAULT, Delivery, ShippingStopped, release
from usage.models import ProxyRequest
from usage.records import Begin, End, Refused, Resigned, decode, encode, frame
from usage.rows import Row
from usage.segments import Tail
from usage.telemetry import Tell

logger = logging.getLogger(__name__)

BATCH = 1000
INTERVAL = 0.2  # seconds between the starts of two passes
_DAY = 24 * 3600.0
_MAIL_PATIENCE = 5.0  # seconds for a mail that is being sent as we end
_FORGOTTEN_AFTER = 600.0  # seconds until an unresolved exchange is looked up in the database


class ShipperBusy(Exception):
    """Another shipper has this journal."""


class _Writer:
    def __init__(self, name: str) -> None:
        self.name = name
        self.tails: dict[int, Tail] = {}
        self.begins: dict[UUID, tuple[Begin, Tail]] = {}


class Shipper:
    """Ships one journal. One at a time has it: flock on `shipper.lock` sees to that.

    `step` is told of each step ("read", "inserted", "added", "committed", "deleted"); tests end the process there.
    `tell` is told of each row that is stored for the first time.
    """

    def __init__(
        self, journal_dir: Path, *, step: Callable[[str], None] = lambda name: None, tell: Tell = lambda ends: None
    ) -> None:
        self.directory = journal_dir
        self._step = step
        self._stop = threading.Event()
        self._writers: dict[str, _Writer] = {}
        self._batch: list[Row] = []
        self._resigned: list[Resigned] = []
        self._touched: set[Tail] = set()  # read since the last flush
        self._shipped = 0
        # Records of this pass that the disk did not take in another place: their segments stay.
        self._kept = 0
        # Whether a writer is ahead of us: its next segment is begun, and this one it has yet to seal.
        self._behind = False
        self._delivery = Delivery(journal_dir, step=step, waiting=self._measure, tell=tell)
        self._last_used = events.LastUsed()
        self._limits = notices.Watch()
        self._refused: queue.SimpleQueue[UUID | None] = queue.SimpleQueue()
        self._waiting: set[UUID] = set()
        self._looked_up = time.monotonic()

    def run_once(self) -> int:
        """Ships what there is, and returns how many rows were new. Raises ShipperBusy."""
        with self._exclusively(wait=False):
            shipped = self._pass()
            while self._behind and not self._stop.wait(INTERVAL / 4):
                shipped += self._pass()
            self._write_aside(everything=True)
            self._refused.put(None)
            self._confirm_refusals()
            notices.send_due(self._stop)
            if stuck := self._stuck():
                raise OSError(f"{stuck} segments cannot be read or removed")
        return shipped

    def run(self, stop: threading.Event) -> None:
        """Ships until `stop` is set, then once more. Waits for another shipper to end."""
        self._stop = self._delivery.stop = stop
        with self._exclusively(wait=True):
            confirming = threading.Thread(target=self._confirm_refusals, name="refusals", daemon=True)
            confirming.start()
            mailing = threading.Thread(target=notices.run, args=[stop], name="limit mails", daemon=True)
            mailing.start()
            next_day = 0.0
            while not stop.is_set():
                started = time.monotonic()
                if started >= next_day:
                    next_day = started + (_DAY if self._delivery.make_partitions() else 60.0)
                self._tolerantly(self._pass)
                stop.wait(INTERVAL - (time.monotonic() - started))
            self._tolerantly(self._final_pass)
            self._refused.put(None)
            mailing.join(_MAIL_PATIENCE)

    def _final_pass(self) -> None:
        self._pass()
        self._write_aside(everything=True)

    def _tolerantly(self, work: Callable[[], object]) -> None:
        """Whatever goes wrong in a pass, the next one reads everything again."""
        try:
            work()
        except ShippingStopped:
            logger.warning("Stopped while the database is away; what is left stays in %s", self.directory)
        except Exception:
            logger.exception("A pass over the journal at %s failed; it is tried again", self.directory)
            self._stop.wait(BACKOFF[1])

    @contextlib.contextmanager
    def _exclusively(self, *, wait: bool) -> Iterator[None]:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.directory / "shipper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _take(fd):
                if not wait or self._stop.wait(INTERVAL):
                    raise ShipperBusy(f"Another shipper has the journal at {self.directory}.")
            yield
        finally:
            os.close(fd)

    # --- Reading --------------------------------------------------------------------------------------

    def _pass(self) -> int:
        self._shipped, self._behind = 0, False
        try:
            found = segments.find(self.directory)
            # Asked before they are listed again: what a dead writer wrote is then all there.
            dead = {writer for writer in found if segments.is_dead(self.directory, writer)}
            found = segments.find(self.directory)
            for name in sorted(found):
                self._read_writer(name, found[name], dead=name in dead)
            self._flush()
            for writer in list(self._writers.values()):
                self._sweep(writer)
                if not writer.tails or writer.name not in found:
                    del self._writers[writer.name]
            segments.bury(self.directory, segments.dead_writers_without_segments(self.directory, self._writers))
            self._look_up_unresolved()
            self._write_aside()
            if self._kept:  # all else is done, and may have made space for them
                raise OSError(f"{self._kept} records could not be laid aside; they are read again")
        except BaseException:
            self._forget()
            raise
        finally:
            release()
        self._measure()
        return self._shipped

    def _forget(self) -> None:
        self._writers.clear()
        self._batch.clear()
        self._resigned.clear()
        self._touched.clear()
        self._kept = self._delivery.kept = 0

    def _read_writer(self, name: str, paths: dict[int, Path], *, dead: bool) -> None:
        writer = self._writers.setdefault(name, _Writer(name))
        for number, path in paths.items():
            tail = writer.tails.setdefault(number, Tail(path, path.suffix == ".sealed"))
            tail.path, tail.sealed = path, path.suffix == ".sealed"
        # Segments are used in order, and a begin must be read before its end: one that is not sealed is the last.
        numbers = sorted(paths)
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            tail = writer.tails[number]
            if tail.finished:
                continue
            final = dead or tail.sealed
            try:
                self._read(writer, tail, final=final)
                if not final:
                    self._behind |= following is not None and writer.tails[following].is_begun()
            except FileNotFoundError:  # a spare, removed by its writer as it closed; the next pass sees what it left
                del writer.tails[number]
                return
            except OSError as error:
                self._leave(tail, error)
            if not final:
                return
            if len(self._touched) == 1:  # this one: the rows of all before it are committed
                self._sweep(writer)
        if dead and not any(tail.stuck and not tail.finished for tail in writer.tails.values()):
            self._interrupt(writer)

    def _read(self, writer: _Writer, tail: Tail, *, final: bool) -> None:
        torn = tail.torn
        self._touched.add(tail)
        while True:
            before = tail.offset
            for payload in tail.payloads(final=final):
                self._take(writer, tail, payload)
                self._keep([tail])
                self._touched.add(tail)  # what was read so far may have been flushed
            if final or tail.offset == before:
                break
        if tail.torn > torn:
            metrics.TORN.inc(tail.torn - torn)
            logger.error("%d damaged records in %s were skipped", tail.torn - torn, tail.path.name)
        tail.stuck = False
        self._step("read")

    def _take(self, writer: _Writer, tail: Tail, payload: bytes) -> None:
        try:
            record = decode(payload)
        except msgspec.DecodeError:
            # Named for what is in it: where it stood, others of other segments may have stood too.
            name = blake2b(payload, digest_size=16).hexdigest()
            self._delivery.lay_aside(frame(payload), name, "this version cannot read it")
            return
        if isinstance(record, End):
            begun = writer.begins.pop(record.id, None)
            if begun is not None:
                begun[1].unresolved -= 1
            self._enqueue(record, writer.name)
        elif isinstance(record, Begin):
            if record.id not in writer.begins:
                writer.begins[record.id] = (record, tail)
                tail.unresolved += 1
        else:
            self._note(record)

    def _note(self, record: Refused | Resigned) -> None:
        if isinstance(record, Resigned):
            self._resigned.append(record)
        elif isinstance(record, Refused) and record.api_key_id not in self._waiting:
            self._waiting.add(record.api_key_id)
            self._refused.put(record.api_key_id)

    def _enqueue(self, end: End, writer: str) -> None:
        try:
            rows.checked(end)
            made_at(end.id)
        except ROWS_FAULT as error:
            self._delivery.lay_aside(encode(end), end.id.hex, str(error))
            return
        self._last_used.note(end)
        self._limits.note(end.user_id)
        self._batch.append(Row(end, writer))
        if len(self._batch) >= BATCH:
            self._flush()

    def _interrupt(self, writer: _Writer) -> None:
        """Its writer is dead and all it wrote is read: what has no end will never have one."""
        if writer.begins:
            metrics.INTERRUPTED.inc(len(writer.begins))
            for begin, tail in list(writer.begins.values()):
                self._touched.add(tail)
                self._enqueue(rows.interrupted(begin), writer.name)
                tail.unresolved -= 1
            writer.begins.clear()

    def _sweep(self, writer: _Writer) -> None:
        """Removes segments that nobody needs any more: all rows that were read of them are committed."""
        for number, tail in sorted(writer.tails.items()):
            if tail.finished and not tail.unresolved and tail not in self._touched:
                try:
                    tail.path.unlink(missing_ok=True)
                except OSError as error:
                    self._leave(tail, error)
                    continue
                del writer.tails[number]
                self._step("deleted")

    def _leave(self, tail: Tail, error: OSError) -> None:
        """For the next pass: what the disk or its rights withhold holds up no other segment."""
        if not tail.stuck:
            logger.error("%s cannot be read or removed (%s); it is tried again", tail.path, error.strerror)
        tail.stuck = True

    def _look_up_unresolved(self) -> None:
        """After a restart a begin may be read again whose end went with a later segment: its row tells."""
        if time.monotonic() - self._looked_up < _FORGOTTEN_AFTER:
            return
        self._looked_up = time.monotonic()
        for writer in self._writers.values():
            ids = [id for id, (_, tail) in writer.begins.items() if tail.finished]
            for start in range(0, len(ids), BATCH):
                chunk = ids[start : start + BATCH]
                times = [made_at(id) for id in chunk]
                recorded = ProxyRequest.objects.filter(id__in=chunk, created_at__range=(min(times), max(times)))
                for id in recorded.values_list("id", flat=True):
                    writer.begins.pop(id)[1].unresolved -= 1
            self._sweep(writer)

    # --- Writing --------------------------------------------------------------------------------------

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._shipped += self._delivery.ship(batch)
        while self._resigned:
            record = self._resigned.pop()
            try:
                events.resign(record)
            except Exception:
                logger.exception("Proxy key %s could not be signed anew; its next use asks again", record.proxy_key_id)
        for tail in self._touched:
            tail.shipped = tail.offset
        self._keep(self._touched)
        self._touched.clear()

    def _keep(self, tails: Iterable[Tail]) -> None:
        """One of these is where the records are that could not be laid aside."""
        if self._delivery.kept:
            for tail in tails:
                tail.unresolved += self._delivery.kept
            self._kept += self._delivery.kept
            self._delivery.kept = 0

    def _write_aside(self, *, everything: bool = False) -> None:
        """What hangs on rows that are stored, and holds up no others."""
        try:
            self._last_used.write(everything=everything)
            self._limits.look(everything=everything)
        except Error as error:
            logger.warning(
                "When keys were used, and who has reached a limit, could not be written (%s); it is tried again", error
            )
            if not connection.in_atomic_block:
                connection.close()

    def _confirm_refusals(self) -> None:
        """Test calls take seconds: they must not hold up rows. Ends at None."""
        while (api_key_id := self._refused.get()) is not None:
            try:
                events.confirm_refusal(api_key_id)
            except Exception:
                logger.exception("API key %s could not be tested; its next refusal asks again", api_key_id)
            finally:
                self._waiting.discard(api_key_id)
                release()

    def _measure(self) -> None:
        backlog = 0
        for tail in self._tails():
            with contextlib.suppress(OSError):
                backlog += max(0, tail.written() - tail.shipped)
        metrics.BACKLOG_BYTES.set(backlog)
        metrics.STUCK.set(self._stuck())

    def _stuck(self) -> int:
        return sum(tail.stuck for tail in self._tails())

    def _tails(self) -> Iterator[Tail]:
        for writer in self._writers.values():
            yield from writer.tails.values()


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
