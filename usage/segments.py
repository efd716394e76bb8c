"""Owns reading the journal's directory: which segments there are, whose writer is dead, what is new in each.

Reads what usage/journal.py writes, also while it is being written; knows no database.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from usage.records import HEAD, next_sound, payload_at

_NAME = re.compile(r"(?P<writer>[0-9a-f]{1,40})-(?P<number>\d{8})\.(?P<state>open|sealed)")
# How much of a segment that is still written is read at once.
CHUNK = 256 << 10
STILLBORN_AFTER = 600.0  # seconds


@dataclass(slots=True, eq=False)
class Tail:
    """One segment, read from where it was left."""

    path: Path
    sealed: bool
    offset: int = 0
    # How far its rows are in the database.
    shipped: int = 0
    # Begins in it that have no end yet.
    unresolved: int = 0
    finished: bool = False
    torn: int = 0
    # Whether it could not be read, or not be removed, when that was tried last.
    stuck: bool = False
    _suspect: int = -1

    def payloads(self, *, final: bool) -> Iterator[bytes]:
        """Whole records that were not returned before. `final`: its writer writes nothing more to it.

        What is damaged is skipped and counted. In a segment that is still written, a gap may be a record that was
        under way when that part was read: it counts as damaged when the next call finds it still there.
        """
        data = self._read(final=final)
        base, at = self.offset, 0
        while True:
            payload = payload_at(data, at)
            if payload is not None:
                at += HEAD + len(payload)
                self.offset = base + at
                yield payload
                continue
            sound = next_sound(data, at + 1)
            if sound is None:
                break
            if not final and self._suspect != base + at:
                self._suspect = base + at
                break
            self.torn += 1
            at = sound
        if final:
            self.torn += bool(data[at:].strip(b"\0"))
            self.offset = base + len(data)
            self.finished = True

    def is_begun(self) -> bool:
        """Whether anything was written to it: then the segment before it gets nothing more."""
        try:
            fd = self._open()
        except FileNotFoundError:
            return False
        try:
            return os.pread(fd, 1, 0) not in (b"", b"\0")
        finally:
            os.close(fd)

    def written(self) -> int:
        """How many bytes were written to it; the rest is reserved space, all NUL."""
        fd = self._open()
        try:
            low, high = self.offset, os.fstat(fd).st_size
            if self.sealed:
                return high
            while low < high:
                middle = (low + high) // 2
                if os.pread(fd, 1, middle) == b"\0":
                    high = middle
                else:
                    low = middle + 1
            return low
        finally:
            os.close(fd)

    def _read(self, *, final: bool) -> bytes:
        fd = self._open()
        try:
            rest = max(0, os.fstat(fd).st_size - self.offset)
            wanted = rest if final else min(rest, CHUNK)
            data = os.pread(fd, wanted, self.offset)
            # A read that ends before what the disk cannot give looks like the segment's end; the next one raises.
            while len(data) < wanted and (more := os.pread(fd, wanted - len(data), self.offset + len(data))):
                data += more
            return data
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self.sealed:
                raise
        sealed = self.path.with_suffix(".sealed")  # renamed since it was listed, or a spare that its writer removed
        fd = os.open(sealed, os.O_RDONLY | os.O_CLOEXEC)
        self.path, self.sealed = sealed, True
        return fd


def find(directory: Path) -> dict[str, dict[int, Path]]:
    """Every segment, by writer and number. Looks twice: one that is renamed while we look can be missed once."""
    found: dict[str, dict[int, Path]] = {}
    for _ in range(2):
        for name in os.listdir(directory):
            match = _NAME.fullmatch(name)
            if match:
                found.setdefault(match["writer"], {})[int(match["number"])] = directory / name
    return found


def is_dead(directory: Path, writer: str) -> bool:
    """Whether this writer writes nothing more: its lock can be taken, or it has gone and left none."""
    try:
        fd = os.open(directory / f"{writer}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:  # another user's, and so are its segments
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def bury(directory: Path, writers: Collection[str]) -> None:
    """Removes what dead writers, all of whose segments are gone, have left behind."""
    for leftover in directory.glob("*.tmp") if writers else ():
        if leftover.name.partition("-")[0] in writers:
            leftover.unlink(missing_ok=True)
    for writer in writers:
        for name in (f"{writer}.lock", f"{writer}.lock-tmp"):
            (directory / name).unlink(missing_ok=True)


def dead_writers_without_segments(directory: Path, found: Container[str]) -> set[str]:
    """Writers that died before they wrote anything, or whose segments were all removed before."""
    locks = [path.stem for path in directory.glob("*.lock") if path.name != "shipper.lock"]
    dead = {writer for writer in locks if writer not in found and is_dead(directory, writer)}
    return dead | _stillborn(directory)


def _stillborn(directory: Path) -> set[str]:
    """Writers that were killed as they took their lock. Told by its age: one that lives takes it at once, and a look
    whether it can be taken could be what keeps it from that."""
    found = set()
    for path in directory.glob("*.lock-tmp"):
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            if path.stat().st_mtime < time.time() - STILLBORN_AFTER:
                found.add(path.stem)
    return found
