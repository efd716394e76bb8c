"""Owns row ids: UUIDv7 (RFC 9562 §5.7), so that an id sorts by, and tells, the time it was made."""

import datetime as dt
import os
import time
import uuid
from collections.abc import Iterator

import msgspec

_AT_ONCE = 400
_DIGITS = 19  # hexadecimal, of an id's random part
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_encode = msgspec.json.Encoder().encode


class _Tails:
    """The random part of ids, many at a time: a call of the system for each costs more than all else of an id."""

    def __init__(self) -> None:
        self.made: Iterator[str] = iter(())

    def make(self) -> str:
        page = os.urandom(_AT_ONCE * _DIGITS // 2).hex()
        pieces = [page[at : at + _DIGITS] for at in range(0, len(page), _DIGITS)]
        self.made = iter([f"-7{piece[:3]}-{_VARIANT[piece[3]]}{piece[4:7]}-{piece[7:]}" for piece in pieces])
        return next(self.made)

    def forget(self) -> None:
        self.made = iter(())


_tails = _Tails()
os.register_at_fork(after_in_child=_tails.forget)  # or parent and child would use the same


def new_id(unix_ms: int | None = None) -> bytes:
    """A new id of the given time (milliseconds since 1970; now by default), as text: 36 ASCII characters."""
    if unix_ms is None:
        unix_ms = time.time_ns() // 1_000_000
    moment = unix_ms.to_bytes(6, "big").hex("-", -4)
    return (moment + (next(_tails.made, None) or _tails.make())).encode()


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """The same as a UUID."""
    return uuid.UUID(new_id(unix_ms).decode())


def text_of(id: uuid.UUID) -> str:
    """As str(id), for a tenth of its instructions."""
    return _encode(id)[1:-1].decode("ascii")


def made_at(id: uuid.UUID) -> dt.datetime:
    """The time inside a UUIDv7, to the millisecond, in UTC."""
    return dt.datetime.fromtimestamp((id.int >> 80) / 1000, tz=dt.UTC)
