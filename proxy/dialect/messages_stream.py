"""Owns OpenAI's chunks as Anthropic's event stream, incrementally; knows nothing of requests and sockets.

Blocks come one after the other: thinking, text, tools. Facts: https://docs.anthropic.com/en/docs/build-with-claude/streaming.
"""

from typing import Any

import msgspec

from proxy import sse
from proxy.dialect.messages_answer import (
    Completion,
    Said,
    ToolCall,
    completion,
    head,
    signature_of,
    stop_reason,
    usage,
)
from proxy.errors import UpstreamBroken
from proxy.wire import Call

Json = dict[str, Any]

_encode = msgspec.json.encode
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class Encoder:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._started = False
        self._blocks = 0  # begun so far
        self._open = ""  # the type of the last one, until it ends
        self._tools: dict[int, int] = {}  # a tool call's index -> its block
        self._finish_reason: str | None = None
        self._refused = False
        self._usage = msgspec.Raw()

    def feed(self, events: bytes) -> bytes:
        out: list[bytes] = []
        for event in sse.events(events):
            data = sse.data_of(event)
            if data and not data.startswith(b"[DONE]"):
                self._chunk(completion(data), out)
        return b"".join(out)

    def finish(self, events: bytes) -> bytes:
        """The stop reason and the usage are known now only: OpenAI's count comes last."""
        out = [self.feed(events)]
        if not self._started:
            self._start(Completion(), out)
        self._close(out)
        reason = stop_reason(self._finish_reason, refused=self._refused)
        delta = {"stop_reason": reason, "stop_sequence": None}
        out += [_event("message_delta", delta=delta, usage=usage(self._usage)), _STOP]
        return b"".join(out)

    def _chunk(self, chunk: Completion, out: list[bytes]) -> None:
        if not self._started:
            self._start(chunk, out)
        if bytes(chunk.usage) not in {b"", b"null"}:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            self._finish_reason = choice.finish_reason or self._finish_reason
            self._said(choice.delta, out)

    def _start(self, chunk: Completion, out: list[bytes]) -> None:
        """Nobody else counts the prompt this early: the input is our estimate until message_delta."""
        self._started = True
        counted = usage(msgspec.Raw()) | {"input_tokens": self._call.tokens_input}
        message = {**head(chunk), "content": [], "stop_reason": None, "stop_sequence": None, "usage": counted}
        out += [_event("message_start", message=message), _PING]

    def _said(self, delta: Said, out: list[bytes]) -> None:
        if delta.reasoning_content and self._call.shows_reasoning:
            self._go_on("thinking", {"type": "thinking", "thinking": "", "signature": ""}, out)
            out.append(self._delta({"type": "thinking_delta", "thinking": delta.reasoning_content}))
        for text in (delta.content, delta.refusal):
            if text:
                self._go_on("text", {"type": "text", "text": ""}, out)
                out.append(
                    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
                    b'{"type":"text_delta","text":%b}}\n\n' % (self._blocks - 1, _encode(text))
                )
        self._refused = self._refused or bool(delta.refusal)
        for call in delta.tool_calls or ():
            self._tool(call, out)

    def _tool(self, call: ToolCall, out: list[bytes]) -> None:
        if signature := signature_of(call):
            self._sign(signature, out)
        if call.index not in self._tools:
            block = {"type": "tool_use", "id": call.id or "", "name": call.function.name or "", "input": {}}
            self._begin("tool_use", block, out)
            self._tools[call.index] = self._blocks - 1
        if arguments := call.function.arguments:
            if self._open != "tool_use" or self._tools[call.index] != self._blocks - 1:
                raise UpstreamBroken("The provider went on with a tool call after its end.")
            out.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))

    def _sign(self, signature: str, out: list[bytes]) -> None:
        """A call's signature is that of the thoughts before it, or stands alone where those are not shown."""
        if self._open == "thinking":
            out.append(self._delta({"type": "signature_delta", "signature": signature}))
        else:
            self._begin("redacted_thinking", {"type": "redacted_thinking", "data": signature}, out)

    def _go_on(self, kind: str, block: Json, out: list[bytes]) -> None:
        if self._open != kind:
            self._begin(kind, block, out)

    def _begin(self, kind: str, block: Json, out: list[bytes]) -> None:
        self._close(out)
        out.append(_event("content_block_start", index=self._blocks, content_block=block))
        self._blocks += 1
        self._open = kind

    def _close(self, out: list[bytes]) -> None:
        if self._open:
            out.append(_event("content_block_stop", index=self._blocks - 1))
            self._open = ""

    def _delta(self, delta: Json) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))
