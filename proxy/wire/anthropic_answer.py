"""Owns Anthropic's answers as OpenAI's chat completions: plain ones and event streams; knows nothing of requests.

Facts: https://docs.anthropic.com/en/api/messages, /build-with-claude/streaming; stop reasons:
/api/handling-stop-reasons; usage: input_tokens leaves out what was written to and read from the cache.
"""

import time
from typing import Any

import msgspec

from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Usage
from proxy.wire.anthropic_tools import JSON_TOOL
from proxy.wire.counts import Count, decoded

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}

# https://docs.anthropic.com/en/api/service-tiers, /build-with-claude/fast-mode
_STANDARD = frozenset({None, "", "standard"})
_ADVISOR = "advisor_message"
# Iterations that are billed beside what the usage says: of the model itself, and of another one, of another price.
# https://docs.anthropic.com/en/docs/build-with-claude/compaction, /agents-and-tools/tool-use/advisor-tool
_APART = frozenset({"compaction", _ADVISOR})


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: Count | None = None


class _Counts(msgspec.Struct):
    """Three disjoint classes of input. Each field may be absent."""

    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None
    output_tokens_details: _OutputDetails | None = None

    def usage(self, service_tier: str = "") -> Usage:
        cached = self.cache_read_input_tokens or 0
        written = self.cache_creation_input_tokens or 0
        input = (self.input_tokens or 0) + written + cached
        output = self.output_tokens or 0
        for_an_hour = (self.cache_creation and self.cache_creation.ephemeral_1h_input_tokens) or 0
        return Usage(
            input=input,
            output=output,
            total=input + output,
            cached=cached,
            reasoning=(self.output_tokens_details and self.output_tokens_details.thinking_tokens) or 0,
            cache_write=written,
            cache_write_1h=min(for_an_hour, written),
            service_tier=service_tier,
        )


class _Iteration(_Counts):
    """One of the samplings that an answer took."""

    type: str = ""


class Tokens(_Counts):
    """Anthropic's usage."""

    service_tier: str | None = None
    speed: str | None = None
    iterations: list[_Iteration] | None = None

    def replaced_by(self, later: "Tokens") -> "Tokens":
        """Usage in a stream is cumulative: what comes later replaces, what is absent stays."""
        fields = {name: getattr(later, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(self, **{name: value for name, value in fields.items() if value is not None})

    def usage(self, service_tier: str = "") -> Usage:
        tier = next((said for said in (self.speed, self.service_tier) if said not in _STANDARD), "") or service_tier
        found = super().usage(tier)
        for one in self.iterations or ():
            if one.type in _APART:
                found = _sum(found, one.usage(_ADVISOR if one.type == _ADVISOR else found.service_tier))
        return found

    def rendered(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        usage = self.usage()
        return {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }


def _sum(one: Usage, other: Usage) -> Usage:
    """Of both; the tier is the other's."""
    counts = [name for name in one.__struct_fields__ if name != "service_tier"]
    return msgspec.structs.replace(other, **{name: getattr(one, name) + getattr(other, name) for name in counts})


class StopDetails(msgspec.Struct):
    explanation: str | None = None


# Blocks that are the client's; what server tools did stays with Anthropic.
BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})


class Block(msgspec.Struct):
    """A content block; which fields it has depends on its type."""

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    thinking: str = ""
    signature: str = ""
    data: str = ""
    citations: list[msgspec.Raw] | None = None


class _Citation(msgspec.Struct):
    type: str = ""
    url: str = ""
    title: str | None = None


class _Message(msgspec.Struct):
    id: str
    model: str
    content: list[msgspec.Raw]
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Kind(msgspec.Struct):
    type: str = ""


class _WithUsage(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()


_decode_tokens = msgspec.json.Decoder(Tokens).decode
_decode_usage = msgspec.json.Decoder(_WithUsage).decode


def tokens(raw: msgspec.Raw) -> Tokens | None:
    """None for what is no usage, or none that can be true."""
    try:
        return _decode_tokens(raw) if bytes(raw) else None
    except UNREADABLE:
        return None


def usage(body: bytes) -> Usage | None:
    """The usage of a plain answer, or of the end of a long one whose beginning is gone; None if it has none."""
    said = decoded(_decode_usage, body)
    found = tokens(said.usage) if said else None
    return found.usage() if found else None


def answer(body: bytes) -> tuple[bytes, Usage | None]:
    """A plain answer in OpenAI's form. UpstreamBroken for what is no answer of Anthropic's."""
    try:
        return _completion(msgspec.json.decode(body, type=_Message))
    except UNREADABLE as error:
        raise UpstreamBroken("The provider's answer is not one of the Messages API.") from error


def _completion(message: _Message) -> tuple[bytes, Usage | None]:
    counted, said = tokens(message.usage), _said(message)
    rendered: dict[str, Any] = {
        "id": message.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": message.model,
        "choices": [
            {
                "index": 0,
                "message": said,
                "logprobs": None,
                "finish_reason": finish_reason(message.stop_reason, calls="tool_calls" in said),
            }
        ],
    }
    if counted is not None:
        rendered["usage"] = counted.rendered()
    return msgspec.json.encode(rendered), counted.usage() if counted else None


def _said(message: _Message) -> dict[str, Any]:
    blocks = [block for raw in message.content if (block := translated_block(raw))]
    thinking = [signed for block in blocks if (signed := thinking_block(block))]
    calls = [_tool_call(block) for block in blocks if block.type == "tool_use" and block.name != JSON_TOOL]
    hidden = [block for block in blocks if block.type == "tool_use" and block.name == JSON_TOOL]
    text = "".join(block.text for block in blocks if block.type == "text")
    text += "".join(arguments(block.input) for block in hidden)
    annotations = _annotations([block for block in blocks if block.type == "text"])
    said: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": refusal(message.stop_reason, message.stop_details),
    }
    if annotations:
        said["annotations"] = annotations
    if reasoning := "".join(block.thinking for block in blocks if block.type == "thinking"):
        said["reasoning_content"] = reasoning
    if thinking:
        said["thinking_blocks"] = thinking
    if calls:
        said["tool_calls"] = calls
    return said


def _annotations(texts: list[Block]) -> list[dict[str, Any]]:
    made, at = [], 0
    for block in texts:
        end = at + len(block.text)
        made += [found for raw in block.citations or () if (found := annotation(raw, at, end))]
        at = end
    return made


def annotation(citation: msgspec.Raw, start: int, end: int) -> dict[str, Any] | None:
    """OpenAI's annotation of a text (from start to end) with a page of the web; None for other citations."""
    try:
        found = msgspec.json.decode(citation, type=_Citation)
    except UNREADABLE:
        return None
    if found.type != "web_search_result_location":
        return None
    place = {"start_index": start, "end_index": end, "title": found.title or "", "url": found.url}
    return {"type": "url_citation", "url_citation": place}


def translated_block(raw: msgspec.Raw) -> Block | None:
    """None for a block of a kind that is not translated, whatever it holds."""
    if msgspec.json.decode(raw, type=_Kind).type not in BLOCKS:
        return None
    return msgspec.json.decode(raw, type=Block)


def thinking_block(block: Block) -> dict[str, str] | None:
    """A block that the client has to send back with the tool's result, as it is."""
    if block.type == "thinking" and block.signature:
        return {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
    return {"type": "redacted_thinking", "data": block.data} if block.type == "redacted_thinking" else None


def _tool_call(block: Block) -> dict[str, Any]:
    function = {"name": block.name, "arguments": arguments(block.input)}
    return {"id": block.id, "type": "function", "function": function}


def arguments(input: Any) -> str:
    return msgspec.json.encode(input).decode() if input else "{}"


def refusal(stop_reason: str | None, details: StopDetails | None) -> str | None:
    return details.explanation if stop_reason == "refusal" and details is not None else None


def finish_reason(stop_reason: str | None, *, calls: bool) -> str:
    """`calls`: whether the client has some to answer; a call of JSON_TOOL is none."""
    if stop_reason == "tool_use" and not calls:
        return "stop"
    return FINISH_REASONS.get(stop_reason or "", "stop")
