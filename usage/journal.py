"""Owns writing the journal: append-only segments on the local disk, one writer a process.

Every call is synchronous and costs microseconds: the data plane makes them on its event loop. What may wait for the
disk (sync, making and sealing segments) is done by a thread. Knows no database; usage/shipper.py reads what is
written here.

A segment's space is reserved before it is used, so that whatever was admitted can be recorded although the disk has
filled up meanwhile. That holds on file systems that write in place; there a segment is mapped into memory, and a record
costs no call of the system (docs/decisions/0013). A copy-on-write one may still refuse, which only `pwrite` can tell.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from usage import disk
from usage.records import RECORD_MAX, Attempt, Begin, End, Ending, Record, Refused, Resigned, Template, encode

__all__ = ["Attempt", "Begin", "End", "Ending", "Journal", "JournalFull", "Template"]

logger = logging.getLogger(__name__)

SEGMENT_MIN = 16 * RECORD_MAX


class JournalFull(Exception):
    """No space is reserved for this record: the disk is full or fails, or the journal is not open."""


@dataclass(slots=True)
class _Segment:
    path: Path
    fd: int
    memory: mmap.mmap | None  # None: written by calls of the system
    length: int = 0
    synced: int = 0
    since: float = 0.0


class Journal:
    """One process's journal; open() comes after fork. Safe to use from several threads."""

    def __init__(
        self, directory: Path, *, segment_bytes: int = 8 << 20, roll_after: float = 10.0, sync_every: float = 0.1
    ) -> None:
        """`roll_after`: seconds until a segment is sealed though it is not full. `sync_every`: seconds."""
        if segment_bytes < SEGMENT_MIN:
            raise ValueError(f"a journal segment has at least {SEGMENT_MIN} bytes, not {segment_bytes}")
        self.directory = directory
        self.writer = ""
        self._segment_bytes = segment_bytes
        self._usable = segment_bytes - RECORD_MAX
        self._roll_after = roll_after
        self._sync_every = sync_every
        self._open: set[bytes] = set()
        self._current: _Segment | None = None
        self._spares: deque[_Segment] = deque()
        self._retired: deque[_Segment] = deque()
        self._made = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._trouble = ""
        self._lock_fd = self._directory_fd = -1
        self._is_mapped = False
        self._is_failing = False  # the disk did not take what was written last; memory does, whatever the disk is like
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Takes a writer id and its lock. A full disk does not fail it: then room() says no until there is space."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._is_mapped = disk.file_system(self.directory) in disk.IN_PLACE
        self.writer = secrets.token_hex(8)
        self._lock_fd = self._take_lock()
        self._closing = self._is_failing = False
        self._tend()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Seals what was written and gives the lock back: exchanges still open become `interrupted`."""
        if self._thread is None:
            return
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        with self._lock:
            if self._current is not None:
                self._retired.append(self._current)
                self._current = None
            unused, self._spares = self._spares, deque()
            self._open.clear()
        self._seal_retired()
        for spare in unused:
            _release(spare)
            spare.path.unlink(missing_ok=True)
        (self.directory / f"{self.writer}.lock").unlink(missing_ok=True)
        os.close(self._lock_fd)
        os.close(self._directory_fd)

    def room(self) -> bool:
        """Whether the reserved space covers all open exchanges, and both records of one more."""
        needed = (len(self._open) + 2) * RECORD_MAX
        if self._closing or self._is_failing:
            return False
        return len(self._spares) * self._usable >= needed or self._capacity() >= needed

    def begin(self, begin: Begin) -> None:
        """Before anything that may be billed. Raises JournalFull or OSError: then the request must be refused."""
        self.write_begin(str(begin.id).encode(), encode(begin))

    def write_begin(self, id: bytes, record: bytes) -> None:
        """The same, as a Template has made it; `id` as text."""
        with self._lock:
            if not self.room():
                self._wake.set()
                raise JournalFull("the journal's disk has no space for another request")
            self._append(record)
            self._open.add(id)

    def end(self, end: End) -> None:
        """Never raises JournalFull for an exchange that was begun; OSError only when the disk itself fails.

        One that ends without having begun (refused by us) takes no space that is reserved for others.
        """
        self.write_end(str(end.id).encode(), encode(end))

    def write_end(self, id: bytes, record: bytes) -> None:
        """The same, as a Template has made it; `id` as text."""
        with self._lock:
            if id in self._open:
                self._open.discard(id)
            elif not self.room():
                raise JournalFull("the journal's disk has no space for another record")
            self._append(record)

    def api_key_refused(self, api_key_id: UUID, error: str) -> None:
        """`error`: for the key's owner, without secrets. Left out when it cannot be written: the next use says it
        again."""
        self._note(Refused(api_key_id, error))

    def key_resigned(self, proxy_key_id: UUID, verifier: bytes) -> None:
        """Left out when it cannot be written: the next use says it again."""
        self._note(Resigned(proxy_key_id, verifier))

    def _note(self, record: Record) -> None:
        data = encode(record)
        with self._lock:
            if self.room():
                with contextlib.suppress(OSError):  # the request that brought the news goes on without it
                    self._append(data)

    def _capacity(self) -> int:
        """Bytes of reserved space, such that every RECORD_MAX of them holds one record for certain."""
        current = self._current
        left = self._usable - current.length if current is not None and current.length < self._usable else 0
        return left + len(self._spares) * self._usable

    def _append(self, record: bytes) -> None:
        current = self._current
        if current is None or current.length >= self._usable:
            current = self._roll()
        at, size = current.length, len(record)
        if current.memory is not None:
            current.memory[at : at + size] = record
            current.length = at + size
            return
        # Counted before it is written: what a failed write leaves behind must not be overwritten in part.
        current.length = at + size
        written = os.pwrite(current.fd, record, at)
        while written < size:
            written += os.pwrite(current.fd, record[written:], at + written)

    def _roll(self) -> _Segment:
        if not self._spares:
            raise JournalFull("the journal is closed" if self._closing else "the journal's disk has no space")
        if self._current is not None:
            self._retired.append(self._current)
        self._current = self._spares.popleft()
        self._current.since = time.monotonic()
        self._wake.set()
        return self._current

    # --- What the thread does -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._sync_every)
            self._wake.clear()
            self._tend()

    def _tend(self) -> None:
        trouble = ""
        # What the event loop may soon wait for comes first. One that fails must not keep the others from freeing space.
        for step in (self._roll_by_age, self._make_spares, self._seal_retired, self._sync):
            try:
                step()
            except OSError as error:
                trouble = error.strerror or str(error)
        if trouble and not self._trouble:
            logger.error("The journal at %s cannot reserve or sync space: %s", self.directory, trouble)
        elif self._trouble and not trouble:
            logger.warning("The journal at %s has space again", self.directory)
        self._trouble = trouble

    def _roll_by_age(self) -> None:
        with self._lock:
            current = self._current
            # One that fails to be synced stays: when that succeeds there is room again.
            if current is None or self._is_failing or time.monotonic() - current.since < self._roll_after:
                return
            if len(self._spares) * self._usable >= (len(self._open) + 2) * RECORD_MAX:
                self._retired.append(current)
                self._current = None

    def _sync(self) -> None:
        with self._lock:  # where records are counted before they are written
            current = self._current
            length = current.length if current is not None else 0
        if current is not None and current.synced != length:
            try:
                os.fdatasync(current.fd)
            except OSError:
                self._is_failing = True
                raise
            current.synced = length
            self._is_failing = False
            if current.memory is not None:  # full pages stay in the kernel's cache, and leave our account
                current.memory.madvise(mmap.MADV_DONTNEED, 0, length - length % mmap.PAGESIZE)

    def _seal_retired(self) -> None:
        while self._retired:
            segment = self._retired[0]
            os.ftruncate(segment.fd, segment.length)
            os.fsync(segment.fd)
            try:
                segment.path.rename(segment.path.with_suffix(".sealed"))
            except FileNotFoundError:
                logger.critical("Somebody removed %s while it was written; what was in it is lost.", segment.path)
            self._retired.popleft()  # first: a close that fails has closed it, and its number may be another file's
            _release(segment)

    def _make_spares(self) -> None:
        """Two more than the open exchanges need: the disk may take a while for the next ones."""
        made = False
        while len(self._spares) < 2 + (len(self._open) + 2) * RECORD_MAX // self._usable:
            if self._closing:
                break
            self._spares.append(self._make_segment())
            made = True
        if made:
            os.fsync(self._directory_fd)

    def _make_segment(self) -> _Segment:
        path = self.directory / f"{self.writer}-{self._made:08d}.open"
        temporary = path.with_suffix(".tmp")  # may be there: a disk that fails can also refuse to remove it
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._segment_bytes)
            memory = self._map(fd) if self._is_mapped else None
            temporary.rename(path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        self._made += 1
        return _Segment(path, fd, memory)

    def _map(self, fd: int) -> mmap.mmap | None:
        """None where the process may map no more (RLIMIT_AS, vm.max_map_count): from then on, calls of the system."""
        try:
            return mmap.mmap(fd, self._segment_bytes)
        except OSError as error:
            self._is_mapped = False
            logger.warning(
                "The journal at %s cannot be mapped into memory (%s): it is written by calls of the system, which are "
                "slower. Raise RLIMIT_AS or vm.max_map_count.",
                self.directory,
                error.strerror,
            )
            return None

    def _take_lock(self) -> int:
        """Held for life and never touched again: a writer whose lock can be taken is dead."""
        path = self.directory / f"{self.writer}.lock"
        temporary = path.with_suffix(".lock-tmp")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it has its name: nobody can find it unlocked. flock, since a lockf would be lost when any
            # descriptor of the file is closed.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return fd


def _release(segment: _Segment) -> None:
    if segment.memory is not None:
        segment.memory.close()
    os.close(segment.fd)
