"""Owns the framing of event streams (WHATWG HTML §9.2), on bytes; knows no provider and no sockets.

Lines end at CR, LF or CRLF and nowhere else: `str.splitlines` also breaks at U+2028, which JSON strings may hold.
An event is not a TCP chunk: what is incomplete waits for its rest.

`find` stands where `in` would read better: that takes the bytes for a number first, and formats an error nobody reads.
"""

import re

# A blank line: two line ends in a row. The groups are atomic, or a lone CRLF would count as CR and LF.
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")

MAX_EVENT = 16 << 20


class EventTooLong(ValueError):
    """An event grew beyond MAX_EVENT bytes without an end."""


class Blocks:
    """Cuts a stream into blocks of complete events, bytes untouched; an event that waits for its end is copied once.

    `feed` returns everything up to the last boundary seen, b"" if there is none yet.
    """

    __slots__ = ("_overlap", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._overlap = b""

    @property
    def rest(self) -> bytes:
        """What waits for its end."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> bytes:
        if not self._parts and data.endswith(b"\n\n") and data.find(b"\r") < 0:
            return data  # as most of them come
        probe = self._overlap + data if self._overlap else data
        end = self._last_boundary(probe) - len(self._overlap)
        if end <= 0:
            self._wait(data, probe)
            return b""
        block = b"".join((*self._parts, data[:end])) if self._parts else data[:end]
        self._parts, self._size, self._overlap = [], 0, b""
        if end < len(data):
            self._wait(data[end:], data[end:])
        return block

    @staticmethod
    def _last_boundary(data: bytes) -> int:
        if data.find(b"\r") >= 0:
            return max((match.end() for match in _BOUNDARY.finditer(data)), default=0)
        at = data.rfind(b"\n\n")
        return at + 2 if at >= 0 else 0

    def _wait(self, data: bytes, probe: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._overlap = probe[-3:]
        if self._size > MAX_EVENT:
            raise EventTooLong


def first_with(block: bytes, marks: tuple[bytes, ...]) -> int:
    """Where the first event begins that may hold one of the marks; the block's length if none does."""
    found = sorted(map(block.find, marks))
    if found[-1] < 0:
        return len(block)
    first = next(at for at in found if at >= 0)
    before = -1 if block.find(b"\r") >= 0 else block.rfind(b"\n\n", 0, first)  # lines that end with CR are rare
    return before + 2 if before >= 0 else 0


def events(block: bytes) -> list[bytes]:
    """The single events of a block, each with its own end: joined they are the block again."""
    if block.find(b"\r") < 0:
        *whole, rest = block.split(b"\n\n")
        return [event + b"\n\n" for event in whole] + ([rest] if rest else [])
    cuts = [match.end() for match in _BOUNDARY.finditer(block)]
    if not cuts or cuts[-1] != len(block):
        cuts.append(len(block))
    return [block[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True) if end > start]


def data_of(event: bytes) -> bytes:
    """The event's data: its `data:` lines, joined by LF; b"" for a comment."""
    only_line = event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2
    if only_line and event.find(b"\r") < 0:
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)


def name_of(event: bytes) -> bytes:
    """The event's type: its last `event:` line; b"" if it has none."""
    name = b""
    for line in _LINE_END.split(event):
        if line.startswith(b"event:"):
            name = line[6:].strip(b" ")
    return name
