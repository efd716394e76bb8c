"""OpenAI's Responses API, spoken by the client as well: bytes pass untouched.

A stream ends with the event that holds the finished Response, and no `[DONE]`. Facts:
https://platform.openai.com/docs/api-reference/responses, /responses-streaming.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec

from proxy import sse
from proxy.errors import ProviderAnswer, ProxyError
from proxy.wire import UNREADABLE, Call, Usage, Wire
from proxy.wire import openai as chat
from proxy.wire.counts import Count, decoded
from proxy.wire.stream import StreamDecoder

# In a text the quotes would be escaped.
_MARKS = re.compile(rb'"(?:response\.(?:completed|incomplete|failed)|error)"')
_SEQUENCE = re.compile(rb'"sequence_number": ?(\d+)')
_T = TypeVar("_T")
# Of the end of a long Response, which tells its tier, then its tools, then its usage: no tier has this name.
_UNKNOWN = "unknown"
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count = 0
    output_tokens: Count = 0
    total_tokens: Count | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def plain(self, service_tier: str | None) -> Usage:
        total = self.total_tokens if self.total_tokens is not None else self.input_tokens + self.output_tokens
        of_input = self.input_tokens_details or _Details()
        return Usage(
            input=self.input_tokens,
            output=self.output_tokens,
            total=total,
            cached=of_input.cached_tokens or 0,
            cache_write=of_input.cache_write_tokens or 0,
            reasoning=(self.output_tokens_details and self.output_tokens_details.reasoning_tokens) or 0,
            service_tier=chat.tier_of(service_tier),
        )


class _Response(msgspec.Struct):
    usage: _Usage | None = None
    service_tier: str | None = None


class _Error(msgspec.Struct):
    """Of the event `error`, as documented or in an object of its own, or of a failed Response."""

    code: str | None = None
    message: str = "The provider failed."
    param: str | None = None
    error: "_Error | None" = None


class _Ended(msgspec.Struct):
    response: _Response


class _Failed(msgspec.Struct):
    response: _Error


class _Kind(msgspec.Struct):
    type: str = ""


_decode_response = msgspec.json.Decoder(_Response).decode


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    """The provider's name leaves the model's, a key's cap holds where none was asked."""
    fields: dict[str, bytes] = {}
    if model != call.model:
        fields["model"] = msgspec.json.encode(model)
    if max_output is not None and call.max_output is None:
        fields["max_output_tokens"] = b"%d" % max_output
    return chat.with_fields(body, fields) if fields else body


class Decoder(StreamDecoder):
    """Passes blocks of complete events on; looks into those only that can hold the end or an error.

    A `response.failed` goes out as it is, in `final`, and is a failure.
    """

    __slots__ = ("_counts", "_seen")

    def __init__(self, call: Call, *, counts: bool = True) -> None:
        super().__init__()
        self._counts = counts
        self._seen = b""  # what was passed last
        self.usage = None if counts else Usage()

    def _take(self, block: bytes) -> bytes:
        self.chunks += block.count(b'.delta"')
        if _MARKS.search(block):
            block = self._inspect(block)
        self._seen = block or self._seen
        return block

    def fail(self, error: ProxyError) -> bytes:
        """The end of a stream that broke: the provider's own words, if it had any."""
        if self.final:
            return self.final
        found = _SEQUENCE.findall(self._seen)
        return error_event(error, int(found[-1]) + 1 if found else 0)

    def _inspect(self, block: bytes) -> bytes:
        passed = []
        for event in sse.events(block):
            if self._is_end(event):
                break
            passed.append(event)
        return b"".join(passed)

    def _is_end(self, event: bytes) -> bool:
        data = sse.data_of(event) if _MARKS.search(event) else b""
        found = _read(data, _Kind)
        kind = found.type if found else ""
        if kind in _ENDS:
            self.final = event
            ended = _read(data, _Ended)
            if self._counts and ended is not None and ended.response.usage is not None:
                self.usage = ended.response.usage.plain(ended.response.service_tier)
        if kind == "response.failed":
            failed = _read(data, _Failed)
            self.failure = _failure(failed.response if failed else _Error())
        elif kind == "error":
            self.failure = _failure(_read(data, _Error) or _Error())
        else:
            self.complete = kind in _ENDS
        return self.complete or self.failure is not None


def _read(data: bytes, kind: type[_T]) -> _T | None:
    """None for what has another shape."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE:
        return None


def _failure(said: _Error) -> ProxyError:
    said = said.error or said
    return ProviderAnswer(502, {"message": said.message, "code": said.code, "param": said.param}, retryable=False)


def error_event(error: ProxyError, number: int) -> bytes:
    """The event `error`, as documented and, for the official clients, with an `error` of its own."""
    said = {"type": "error", "sequence_number": number, "code": error.code, "message": error.message}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({**said, "param": error.param, **error.body()})


def usage(body: bytes) -> Usage | None:
    """The usage of a Response, or of the end of a long one whose beginning is gone; None if it has none."""
    found = decoded(_decode_response, body, b'"service_tier"')
    if found and found.usage:
        return found.usage.plain(found.service_tier)
    found = decoded(_decode_response, body)
    return found.usage.plain(found.service_tier or _UNKNOWN) if found and found.usage else None


WIRE = replace(
    chat.WIRE, target=lambda endpoint, model, stream: "/responses", encode=encode, usage=usage, decoder=Decoder
)


def stored(path: str) -> Wire:
    """What is asked of a Response that OpenAI stores; its tokens were counted when it was made."""
    target: Callable[[str, str, bool], str] = lambda endpoint, model, stream: path  # noqa: E731
    return replace(WIRE, target=target, usage=lambda body: Usage(), decoder=partial(Decoder, counts=False))
