"""Owns Anthropic's event stream as OpenAI's chunks, incrementally; knows nothing of requests and sockets.

Facts: https://docs.anthropic.com/en/docs/build-with-claude/streaming (events, deltas, errors), and OpenAI's chunk
object: the first chunk names the role, tool calls are numbered from 0, usage stands in a last chunk without choices.
"""

import time
from typing import Any

import msgspec

from proxy import sse
from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Call
from proxy.wire.anthropic_answer import (
    BLOCKS,
    Block,
    StopDetails,
    Tokens,
    annotation,
    arguments,
    finish_reason,
    refusal,
    thinking_block,
    tokens,
    translated_block,
)
from proxy.wire.anthropic_errors import in_stream_error
from proxy.wire.anthropic_tools import JSON_TOOL
from proxy.wire.stream import StreamDecoder

_DONE = b"data: [DONE]\n\n"
# Events that only a message holds.
_WITHIN = frozenset(
    {"content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
)
_KINDS = _WITHIN | {"message_start", "error"}
_DELTAS = frozenset({"text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta", ""})


class _Delta(msgspec.Struct):
    """Of a content block, or of the message; which fields it has depends on its type."""

    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    citation: msgspec.Raw = msgspec.Raw()
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class _Start(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[msgspec.Raw] = []
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: Block | None = None
    message: _Start | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Kind(msgspec.Struct):
    type: str = ""


class _Kinds(msgspec.Struct):
    """As much of an event as says whether it is translated."""

    type: str = ""
    delta: _Kind | None = None
    content_block: _Kind | None = None


class _Open(msgspec.Struct):
    """A content block that has begun."""

    block: Block
    call: int = -1  # its number among the client's tool calls
    has_arguments: bool = False
    thinking: list[str] = msgspec.field(default_factory=list)
    start: int = 0  # where a text begins in the content
    citations: list[msgspec.Raw] = msgspec.field(default_factory=list)


_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.encode


class Decoder(StreamDecoder):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self._include_usage = call.include_usage
        self._open: dict[int, _Open] = {}
        self._head = b""  # of every chunk, up to the delta
        self._tail = b""
        self._calls = 0
        self._thinking_blocks = 0
        self._characters = 0  # of the content so far
        self._annotations = 0
        self._stop_reason: str | None = None
        self._tokens: Tokens | None = None
        self._counted = False  # the provider's last word on usage has come

    def _take(self, block: bytes) -> bytes:
        if self._is_over():
            return b""
        out = []
        for event in sse.events(block):
            if said := sse.data_of(event):
                out.append(self._read(said))
            if self._is_over():
                break
        if not self._counted and self._tokens is not None:
            self.usage = self._tokens.usage().so_far(self.chunks)
        return b"".join(out)

    def _is_over(self) -> bool:
        return self.complete or self.failure is not None

    def _read(self, data: bytes) -> bytes:
        try:
            return self._event(_decode(data), data)
        except UNREADABLE as error:
            if not (isinstance(error, msgspec.ValidationError) and _is_foreign(data)):
                self.failure = UpstreamBroken("The provider sent an event that cannot be read.")
            return b""

    def _event(self, event: _Event, data: bytes) -> bytes:
        kind = event.type
        if not self._head and kind in _WITHIN:
            self.failure = UpstreamBroken("The provider's stream has no beginning.")
            return b""
        if kind == "content_block_delta":
            return self._delta(event.index, event.delta) if event.delta else b""
        if kind == "content_block_start":
            return self._block_start(event.index, event.content_block) if event.content_block else b""
        if kind == "content_block_stop":
            return self._block_stop(event.index)
        if kind == "message_start":
            return self._message_start(event.message) if event.message else b""
        if kind == "message_delta":
            return self._message_delta(event)
        if kind == "message_stop":
            self._finish()
        elif kind == "error":
            self.failure = in_stream_error(data)
        return b""  # ping, and what is not known yet

    def _message_start(self, message: _Start) -> bytes:
        """Another one within a stream (a fallback model's) goes on with the client's one answer."""
        self._count(message.usage)
        if self._head:
            return b""
        fixed = {"id": message.id, "object": "chat.completion.chunk", "created": int(time.time())}
        self._head = b"data: " + _encode({**fixed, "model": message.model})[:-1]
        usage = b',"usage":null' if self._include_usage else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._head += b',"choices":[{"index":0,"delta":'
        self._stop_reason = message.stop_reason
        blocks = [block for raw in message.content if (block := translated_block(raw))]  # a turn that was held up
        role = self._chunk({"role": "assistant", "content": "", "refusal": None})
        return role + b"".join([self._block_start(-1, block) + self._block_stop(-1) for block in blocks])

    def _block_start(self, index: int, block: Block) -> bytes:
        self._open[index] = found = _Open(block, start=self._characters)
        if block.type == "text" and block.text:
            self._characters += len(block.text)
            return self._chunk({"content": block.text})
        if block.type == "thinking" and block.thinking:
            return self._chunk({"reasoning_content": block.thinking})
        if block.type != "tool_use" or block.name == JSON_TOOL:
            return b""
        found.call, self._calls = self._calls, self._calls + 1
        function = {"name": block.name, "arguments": ""}
        return self._chunk(
            {"tool_calls": [{"index": found.call, "id": block.id, "type": "function", "function": function}]}
        )

    def _delta(self, index: int, delta: _Delta) -> bytes:
        kind = delta.type
        if kind == "text_delta":
            self.chunks += 1
            self._characters += len(delta.text)
            return self._head + b'{"content":' + _encode(delta.text) + b"}" + self._tail if delta.text else b""
        found = self._open.get(index)
        if found is None:
            return b""
        if kind == "input_json_delta":
            self.chunks += 1
            return self._arguments(found, delta.partial_json)
        if kind == "thinking_delta":
            self.chunks += 1
            found.thinking.append(delta.thinking)
            return self._chunk({"reasoning_content": delta.thinking}) if delta.thinking else b""
        if kind == "signature_delta":
            found.block.signature = delta.signature
        elif kind == "citations_delta":
            found.citations.append(delta.citation)
        return b""

    def _arguments(self, found: _Open, part: str) -> bytes:
        """A part of a call's arguments; those of JSON_TOOL are the answer itself. Server tools are not the client's."""
        if not part or found.block.type != "tool_use":
            return b""
        found.has_arguments = True
        if found.call < 0:
            return self._chunk({"content": part})
        said = b'{"tool_calls":[{"index":%d,"function":{"arguments":' % found.call
        return self._head + said + _encode(part) + b"}}]}" + self._tail

    def _block_stop(self, index: int) -> bytes:
        found = self._open.pop(index, None)
        if found is None:
            return b""
        if found.block.type == "tool_use" and not found.has_arguments:
            return self._arguments(found, arguments(found.block.input))
        if found.block.type == "text":
            return self._annotated(found)
        found.block.thinking += "".join(found.thinking)
        if signed := thinking_block(found.block):
            number, self._thinking_blocks = self._thinking_blocks, self._thinking_blocks + 1
            return self._chunk({"thinking_blocks": [{"index": number, **signed}]})
        return b""

    def _annotated(self, found: _Open) -> bytes:
        citations = [*(found.block.citations or ()), *found.citations]
        made = [said for raw in citations if (said := annotation(raw, found.start, self._characters))]
        if not made:
            return b""
        numbered = [{"index": self._annotations + number, **said} for number, said in enumerate(made)]
        self._annotations += len(made)
        return self._chunk({"annotations": numbered})

    def _message_delta(self, event: _Event) -> bytes:
        self._count(event.usage)
        if self._tokens is not None:
            self._counted, self.usage = True, self._tokens.usage()
        if event.delta is None or event.delta.stop_reason is None:
            return b""
        self._stop_reason = event.delta.stop_reason
        said = refusal(self._stop_reason, event.delta.stop_details)
        return self._chunk({"refusal": said}) if said else b""

    def _count(self, raw: msgspec.Raw) -> None:
        if found := tokens(raw):
            self._tokens = self._tokens.replaced_by(found) if self._tokens else found

    def _finish(self) -> None:
        reason = finish_reason(self._stop_reason, calls=self._calls > 0)
        tail = self._tail.replace(b'"finish_reason":null', b'"finish_reason":' + _encode(reason))
        self.final = self._head + b"{}" + tail
        if self._include_usage:
            head = self._head[: self._head.index(b',"choices":[{')]
            counted = _encode(self._tokens.rendered() if self._tokens else None)
            self.final += head + b',"choices":[],"usage":' + counted + b"}\n\n"
        self.final += _DONE
        self.complete = True

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return self._head + _encode(delta) + self._tail


def _is_foreign(data: bytes) -> bool:
    """Whether an event is of a kind that is not translated: its fields may have any shape."""
    try:
        kinds = msgspec.json.decode(data, type=_Kinds)
    except UNREADABLE:
        return False
    if kinds.content_block is not None:
        return kinds.content_block.type not in BLOCKS
    return kinds.type not in _KINDS or (kinds.delta is not None and kinds.delta.type not in _DELTAS)
