"""Owns what a journal record looks like, in memory and as bytes; knows no files and no database.

A record is a newline, eight hex digits of CRC-32, four of the payload's length, and the payload: a JSON array whose
first element says its kind. JSON leaves no bare newline in a payload, so a newline can only be where a record begins:
from there a reader finds its way again after damage. Fields are appended to a kind, never moved or removed: older
records must stay readable.
"""

from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID
from zlib import crc32

import msgspec

HEAD = 13
# The longest record there can be: every text at its full width in four-byte characters, every number at its longest.
RECORD_MAX = 2_560
PAYLOAD_MAX = RECORD_MAX - HEAD
INTEGER_MAX = 2**31 - 1

_INTEGERS = {
    "status_code": 32_767,
    "tokens_input": INTEGER_MAX,
    "tokens_output": INTEGER_MAX,
    "tokens_total": INTEGER_MAX,
    "tokens_cached": INTEGER_MAX,
    "tokens_reasoning": INTEGER_MAX,
    "latency_ms": INTEGER_MAX,
    "ttft_ms": INTEGER_MAX,
}


class Begin(msgspec.Struct, array_like=True, tag="begin", gc=False):
    """An exchange that may be billed from now on."""

    id: UUID
    user_id: UUID
    proxy_key_id: UUID
    endpoint: str
    model: str
    provider: str
    api_key_id: UUID | None
    streamed: bool


class Attempt(msgspec.Struct, array_like=True, gc=False):
    """One of several tries of an exchange: who was asked, and what came of it."""

    provider: str
    model: str
    api_key_id: UUID | None
    result: str  # an outcome, or the code of the error that the client would have been told
    status: int  # the same as a status
    ms: int


class End(msgspec.Struct, array_like=True, tag="end", gc=False):
    """An ended exchange: all of its row, so that the row can be made without the Begin.

    Names and units are those of usage.models.ProxyRequest; `created_at` is the time inside `id`.
    """

    id: UUID
    user_id: UUID
    proxy_key_id: UUID
    endpoint: str
    model: str
    provider: str
    api_key_id: UUID | None
    streamed: bool
    outcome: str
    status_code: int
    error_message: str = ""
    tokens_input: int = 0
    tokens_output: int = 0
    tokens_total: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    usage_source: str = "none"
    cost: Decimal | None = None
    latency_ms: int = 0
    ttft_ms: int | None = None
    overhead_ms: float | None = None
    provider_request_id: str = ""
    traceparent: str = ""  # the client's, when a collector is told; in no column
    attempts: list[Attempt] | None = None  # in order, the last one too; None: there was one, which is this row


class Ending(msgspec.Struct, array_like=True, gc=False):
    """How an exchange ends: End's fields from `outcome` on, for a Template that has those before. (msgspec cannot make
    one struct of two; a test sees to it that they agree.)"""

    outcome: str
    status_code: int
    error_message: str = ""
    tokens_input: int = 0
    tokens_output: int = 0
    tokens_total: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    usage_source: str = "none"
    cost: str | None = None
    latency_ms: int = 0
    ttft_ms: int | None = None
    overhead_ms: float | None = None
    provider_request_id: str = ""
    traceparent: str = ""
    attempts: list[Attempt] | None = None


class Refused(msgspec.Struct, array_like=True, tag="refused", gc=False):
    """A provider answered that this stored key is no good."""

    api_key_id: UUID
    error: str


class Resigned(msgspec.Struct, array_like=True, tag="resigned", gc=False):
    """A proxy key was verified by an old pepper; `verifier` is by the present one."""

    proxy_key_id: UUID
    verifier: bytes


Record = Begin | End | Refused | Resigned

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def cut(text: str, width: int) -> str:
    """At most `width` characters, none of them NUL, control, or half a surrogate pair."""
    if len(text) <= width and text.isprintable():
        return text
    kept = (c if c.isprintable() else " " if c.isspace() else "" for c in text[: 4 * width])
    return "".join(kept)[:width]


def fit(end: End | Ending) -> None:
    """Every number within its column: a provider may claim any count."""
    for name, most in _INTEGERS.items():
        value = getattr(end, name)
        if value is not None and not 0 <= value <= most:
            setattr(end, name, min(max(0, value), most))


def encode(record: Record) -> bytes:
    """The record's bytes. Texts that others wrote are cut to their columns in place."""
    if isinstance(record, Refused):
        record.error = cut(record.error, 200)
    elif isinstance(record, Begin | End):
        record.model = cut(record.model, 100)
    return frame(_encoded(record, PAYLOAD_MAX) if isinstance(record, End) else _encoder.encode(record))


def _encoded(end: End | Ending, most: int) -> bytes:
    """In `most` bytes."""
    if end.error_message:
        end.error_message = cut(end.error_message, 200)
    if end.provider_request_id:
        end.provider_request_id = cut(end.provider_request_id, 80)
    if end.traceparent:
        end.traceparent = cut(end.traceparent, 55)
    if end.attempts:
        for attempt in end.attempts:
            attempt.model, attempt.result = cut(attempt.model, 100), cut(attempt.result, 40)
    try:
        payload = _encoder.encode(end)
    except OverflowError:  # beyond 64 bits
        fit(end)
        payload = _encoder.encode(end)
    while len(payload) > most and end.attempts:
        del end.attempts[len(end.attempts) // 2]  # the first and the last tell most
        payload = _encoder.encode(end)
    return payload


_BEGIN, _END = b'["begin","', b'["end","'


class Template:
    """The records of exchanges that differ in their ids, and in how they end, alone."""

    __slots__ = ("_begun", "_ended", "_room")

    def __init__(self, begin: Begin) -> None:
        begin.model = cut(begin.model, 100)
        _, _, common = _encoder.encode(begin).partition(str(begin.id).encode())
        self._begun, self._ended = common, common.removesuffix(b"]") + b","
        self._room = PAYLOAD_MAX - len(_END) - len(str(begin.id)) - len(self._ended)

    def begin(self, id: bytes) -> bytes:
        """`id` as text."""
        return frame(_BEGIN + id + self._begun)

    def end(self, id: bytes, ending: Ending) -> bytes:
        return frame(_END + id + self._ended + _encoded(ending, self._room)[1:])


def frame(payload: bytes) -> bytes:
    length = len(payload)
    if length > PAYLOAD_MAX:
        raise ValueError(f"a journal record of {length} bytes is longer than {PAYLOAD_MAX}")
    return b"\n%012x%b" % (crc32(payload, length) << 16 | length, payload)


def decode(payload: bytes) -> Record:
    """Raises msgspec.ValidationError when a newer version wrote a kind or type that this one does not know."""
    record: Record = _decoder.decode(payload)
    return record


def payload_at(data: bytes, at: int) -> bytes | None:
    """The payload of the whole and sound record that begins at `at`."""
    head = data[at : at + HEAD]
    if len(head) != HEAD or head[0] != 0x0A:
        return None
    try:
        length = int(head[9:], 16)
    except ValueError:
        return None
    payload = data[at + HEAD : at + HEAD + length]
    # The head as a whole is compared: int() also takes spaces and signs. Nothing is no record: twelve zeros in a text
    # behind a stray newline would be one.
    if not payload or len(payload) != length or length > PAYLOAD_MAX or not data.startswith(frame(payload), at):
        return None
    return payload


def next_sound(data: bytes, at: int) -> int | None:
    """Where, from `at` on, the next whole and sound record begins."""
    for start in _newlines(data, at):
        if payload_at(data, start) is not None:
            return start
    return None


def _newlines(data: bytes, at: int) -> Iterator[int]:
    while (at := data.find(b"\n", at)) != -1:
        yield at
        at += 1
