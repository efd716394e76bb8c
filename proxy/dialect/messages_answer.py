"""Owns a chat completion as an answer of Anthropic's Messages API; knows nothing of requests.

Facts: https://docs.anthropic.com/en/api/messages, /handling-stop-reasons; OpenAI counts what its cache had as part of
the prompt, Anthropic beside it.
"""

from typing import Any

import msgspec

from proxy.dialect.messages_turns import GOOGLE_SIGNATURE
from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Call
from proxy.wire.counts import Count

Json = dict[str, Any]

_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)
    extra_content: Any = None


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    message: Said = msgspec.field(default_factory=Said)
    delta: Said = msgspec.field(default_factory=Said)
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """A chat completion, or a chunk of one."""

    id: str = ""
    model: str = ""
    choices: list[Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_completion = msgspec.json.Decoder(Completion).decode
_usage = msgspec.json.Decoder(_Usage | None).decode


def completion(data: bytes) -> Completion:
    """UpstreamBroken for what is no chat completion."""
    try:
        return _completion(data)
    except UNREADABLE as error:
        raise UpstreamBroken("The provider's answer cannot be read.") from error


def answer(body: bytes, call: Call) -> bytes:
    found = completion(body)
    choice = found.choices[0] if found.choices else Choice()
    said = {
        **head(found),
        "content": _content(choice, call),
        "stop_reason": stop_reason(choice.finish_reason, refused=bool(choice.message.refusal)),
        "stop_sequence": None,
        "usage": usage(found.usage),
    }
    return msgspec.json.encode(said)


def head(found: Completion) -> Json:
    """What every answer begins with."""
    made = f"msg_{found.id.removeprefix('chatcmpl-')}"
    return {"id": made, "type": "message", "role": "assistant", "model": found.model}


def stop_reason(finish_reason: str | None, *, refused: bool) -> str:
    """Which stop sequence it was is said by no other provider: end_turn."""
    return "refusal" if refused else _STOP_REASONS.get(finish_reason or "", "end_turn")


def usage(raw: msgspec.Raw) -> Json:
    """Anthropic's three disjoint classes of input; zeros where the provider said nothing, or no counts."""
    try:
        found = (_usage(raw) if bytes(raw) else None) or _Usage()
    except UNREADABLE:
        found = _Usage()
    details = found.prompt_tokens_details or _InputDetails()
    read, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    counted: Json = {
        "input_tokens": max(0, found.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": found.completion_tokens,
    }
    if found.completion_tokens_details and found.completion_tokens_details.reasoning_tokens:
        counted["output_tokens_details"] = {"thinking_tokens": found.completion_tokens_details.reasoning_tokens}
    return counted


def signature_of(call: ToolCall) -> str:
    """Google's thought signature as Anthropic's clients bring it back; '' if there is none."""
    google = call.extra_content.get("google") if isinstance(call.extra_content, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return GOOGLE_SIGNATURE + signature if isinstance(signature, str) and signature else ""


def _content(choice: Choice, call: Call) -> list[Json]:
    said = choice.message
    calls = said.tool_calls or []
    signature = next((found for one in calls if (found := signature_of(one))), "")
    blocks: list[Json] = []
    if said.reasoning_content and call.shows_reasoning:
        blocks.append({"type": "thinking", "thinking": said.reasoning_content, "signature": signature})
    elif signature:
        blocks.append({"type": "redacted_thinking", "data": signature})
    blocks += [{"type": "text", "text": text} for text in (said.content, said.refusal) if text]
    is_cut = choice.finish_reason == "length"
    return blocks + [made for one in calls if (made := _tool_use(one, is_cut=is_cut))]


def _tool_use(call: ToolCall, *, is_cut: bool) -> Json | None:
    """None for a call that the limit of tokens has cut off."""
    try:
        input = msgspec.json.decode(call.function.arguments or "{}")
    except UNREADABLE:
        input = None
    if isinstance(input, dict):
        return {"type": "tool_use", "id": call.id or "", "name": call.function.name or "", "input": input}
    if is_cut:
        return None
    raise UpstreamBroken("The model has called a tool with arguments that are no JSON object.")
