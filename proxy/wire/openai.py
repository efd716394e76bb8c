"""OpenAI's format, spoken by the client as well: bytes pass untouched, save what the client did not ask for.

Facts: https://platform.openai.com/docs/api-reference/chat (request, chunk and usage objects), /docs/guides/error-codes.
"""

from typing import Any

import msgspec

from proxy import sse
from proxy.errors import BadRequest, ProviderAnswer, ProviderKeyRejected, ProxyError
from proxy.wire import UNREADABLE, Call, Usage, Wire
from proxy.wire.counts import Count, decoded
from proxy.wire.fields import decode, word
from proxy.wire.stream import StreamDecoder

_TARGETS = {"chat.completions": "/chat/completions", "embeddings": "/embeddings", "models": "/models"}
_INCLUDE_USAGE = b'{"include_usage":true}'
# What a stored key's owner has to settle with the provider; another try does not help.
_BILLING_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "credit_balance_exhausted"})


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def plain(self, service_tier: str | None) -> Usage:
        input, output = self.prompt_tokens or 0, self.completion_tokens or 0
        of_input = self.prompt_tokens_details or _NO_DETAILS
        of_output = self.completion_tokens_details or _NO_DETAILS
        cached = of_input.cached_tokens or 0
        # How much of them was cached is not said: text is what a prompt begins with, and so what is cached first.
        uncached = input - cached if input > cached else 0
        return Usage(  # in the order of its fields: to name them costs seven times as much
            input,
            output,
            self.total_tokens if self.total_tokens is not None else input + output,
            cached,
            of_output.reasoning_tokens or 0,
            of_input.cache_write_tokens or 0,
            tier_of(service_tier),
            min(of_input.audio_tokens, uncached) if of_input.audio_tokens else 0,
            of_output.audio_tokens or 0,
            min(of_input.image_tokens, uncached) if of_input.image_tokens else 0,
        )


# Where the usage of a chunk begins, as OpenAI and our own encoders write it.
USAGE = b'"usage":{'
_STANDARD = frozenset({"default", "auto", "standard"})
_NO_DETAILS = _Details()


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    service_tier: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: _Usage | None = None
    service_tier: str | None = None
    error: msgspec.Raw = msgspec.Raw()  # in a union with None it would not take an object


# An event without any of these has nothing to tell us: inside of a text, quotes are escaped.
_MARKS = (b"[DONE]", b'"error"', b'"usage":{', b'"usage": {')

_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_fields(body: bytes, fields: dict[str, bytes]) -> bytes:
    """The JSON object with these fields set, an object beside what it holds already; all else keeps its bytes."""
    try:
        present = _decode_fields(body)
    except UNREADABLE as error:
        raise BadRequest(f"The body is not JSON that can be read: {error}", code="invalid_json") from error
    if fields.keys().isdisjoint(present):
        added = b",".join(msgspec.json.encode(name) + b":" + value for name, value in fields.items())
        head = body.rstrip()[:-1]
        return head + (b"," if present else b"") + added + b"}"
    return msgspec.json.encode(present | {name: _beside(present.get(name), value) for name, value in fields.items()})


def _beside(said: msgspec.Raw | None, value: bytes) -> msgspec.Raw:
    if said is not None and bytes(said).startswith(b"{") and value.startswith(b"{"):
        value = msgspec.json.encode(decode(said, dict[str, msgspec.Raw]) | _decode_fields(value))
    return msgspec.Raw(value)


def target(endpoint: str, model: str, stream: bool) -> str:
    return _TARGETS[endpoint]


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    """Usage is always asked for, the provider's name leaves the model's, a key's cap holds where none was asked."""
    fields: dict[str, bytes] = {}
    if model != call.model:
        fields["model"] = msgspec.json.encode(model)
    if call.stream and not call.include_usage:
        fields["stream_options"] = _INCLUDE_USAGE
    if max_output is not None and call.max_output is None:
        fields["max_completion_tokens"] = b"%d" % max_output
    return with_fields(body, fields) if fields else body


class Decoder(StreamDecoder):
    """Passes blocks of complete events on; looks into those only that can hold usage, an error or the end."""

    __slots__ = ("_include_usage",)

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._include_usage = call.include_usage

    def _take(self, block: bytes) -> bytes:
        self.chunks += block.count(b'"delta"')  # inside of a text, quotes are escaped
        at = sse.first_with(block, _MARKS)
        return block if at == len(block) else block[:at] + self._inspect(block[at:])

    def _inspect(self, block: bytes) -> bytes:
        passed = []
        for event in sse.events(block):
            data = sse.data_of(event)
            if data.startswith(b"[DONE]"):
                self.complete, self.final = True, event
                break
            chunk = self._chunk(data)
            if chunk is not None and bytes(chunk.error) not in {b"", b"null"}:
                self.failure = in_stream_error(data)
                break
            if chunk is not None and chunk.usage is not None:
                self.usage = chunk.usage.plain(chunk.service_tier)
                if not chunk.choices and not self._include_usage:
                    continue
            passed.append(event)
        return b"".join(passed)

    @staticmethod
    def _chunk(data: bytes) -> _Chunk | None:
        try:
            return _decode_chunk(data)
        except UNREADABLE:
            return None


def usage(body: bytes) -> Usage | None:
    """The usage of a plain answer, or of the end of a long one whose beginning is gone; None if it has none."""
    found = decoded(_decode_answer, body)
    return found.usage.plain(found.service_tier) if found and found.usage else None


def tier_of(said: str | None) -> str:
    """The service tier of an answer; empty for the standard one. https://platform.openai.com/docs/api-reference/chat/object"""
    return "" if said is None or said in _STANDARD else said


def with_cost(events: bytes, cost: str) -> bytes:
    """The same events, the last usage in them with its cost in dollars; a field that OpenAI's clients pass on.

    Within a text the quotes would be escaped: what is found is an object's key.
    """
    before, found, after = events.rpartition(USAGE)
    if not found or after.startswith(b"}"):  # none, or one that says nothing
        return events
    return b'%b%b"cost":%b,%b' % (before, found, cost.encode(), after)


def error_object(body: bytes) -> dict[str, Any]:
    """The `error` of an answer, a bare text as its message; {} if there is none."""
    try:
        answer = msgspec.json.decode(body)
    except UNREADABLE:
        return {}
    if isinstance(answer, list) and answer:  # some endpoints of Google's wrap it
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def in_stream_error(data: bytes) -> ProxyError:
    return ProviderAnswer(502, error_object(data), retryable=False)


def error(status: int, body: bytes) -> ProxyError:
    """What the client is told of a complete error answer; the caller scrubs it of secrets."""
    found = error_object(body)
    said = str(found.get("message") or f"The provider answered {status}.")
    if status == 401:
        return ProviderKeyRejected(f"The provider refuses the stored key: {said}")
    code = word(found.get("code")) or None
    if status in {402, 403} or code in _BILLING_CODES:
        return ProviderKeyRejected(f"The provider does not serve the stored key: {said}", code=code)
    return ProviderAnswer(503 if status == 529 else status, found)


WIRE = Wire(
    target=target,
    encode=encode,
    answer=None,
    usage=usage,
    decoder=Decoder,
    error=error,
    request_headers=frozenset({b"openai-beta", b"openai-organization", b"openai-project", b"idempotency-key"}),
    response_headers=frozenset({b"content-type", b"openai-processing-ms", b"openai-version"}),
)
