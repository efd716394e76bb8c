"""Anthropic's Messages API for clients that speak it themselves: bytes pass untouched, but for the model's prefix.

Facts: https://docs.anthropic.com/en/api/messages, /messages-count-tokens, /build-with-claude/streaming.
"""

from dataclasses import replace

import msgspec

from proxy import sse
from proxy.wire import UNREADABLE, Call, Usage, Wire
from proxy.wire.anthropic_answer import Tokens, tokens, usage
from proxy.wire.anthropic_errors import native_error, native_stream_error
from proxy.wire.openai import with_fields
from proxy.wire.stream import StreamDecoder

_TARGETS = {"messages": "/v1/messages", "messages.count_tokens": "/v1/messages/count_tokens"}
# An event without any of these has nothing to tell us.
_MARKS = (b"message_start", b"message_delta", b"message_stop", b'"error"')
_CONTENT = b"event: content_block_delta"


class _Message(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Event).decode


def target(endpoint: str, model: str, stream: bool) -> str:
    return _TARGETS[endpoint]


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    """The limit is the client's: this API makes it say one."""
    return with_fields(body, {"model": msgspec.json.encode(model)}) if model != call.model else body


class Decoder(StreamDecoder):
    """Passes blocks of complete events on; looks into those only that can hold usage, an error or the end."""

    __slots__ = ("_counted", "_tokens")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._tokens: Tokens | None = None
        self._counted = False  # the provider's last word on usage has come

    def _take(self, block: bytes) -> bytes:
        at = sse.first_with(block, _MARKS)
        passed = block if at == len(block) else block[:at] + self._inspect(block[at:])
        self.chunks += passed.count(_CONTENT)
        if self._tokens is not None and not self._counted:
            self.usage = self._tokens.usage().so_far(self.chunks)
        return passed

    def _inspect(self, block: bytes) -> bytes:
        passed = []
        for event in sse.events(block):
            data = sse.data_of(event)
            try:
                found = _decode(data)
            except UNREADABLE:
                found = _Event()  # not ours to judge
            if found.type == "message_stop":
                self.complete, self.final = True, event
                break
            if found.type == "error":
                self.failure = native_stream_error(data)
                break
            self._count(found)
            passed.append(event)
        return b"".join(passed)

    def _count(self, event: _Event) -> None:
        """Usage is cumulative: what comes later replaces, what is absent stays."""
        said = tokens(event.message.usage if event.message else event.usage)
        if said is None:
            return
        self._tokens = self._tokens.replaced_by(said) if self._tokens else said
        if event.type == "message_delta":
            self._counted, self.usage = True, self._tokens.usage()


WIRE = Wire(
    target=target,
    encode=encode,
    answer=None,
    usage=usage,
    decoder=Decoder,
    error=native_error,
    request_headers=frozenset({b"anthropic-beta", b"anthropic-version"}),
    response_headers=frozenset({b"content-type"}),
)

# A count is free, and nothing that is billed is made of it.
COUNT = replace(WIRE, usage=lambda body: Usage())
