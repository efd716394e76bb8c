"""Owns an OpenAI chat request as Anthropic's Messages API takes it; knows nothing of answers.

A field that cannot be honoured is a BadRequest that names it; `FIELDS` says what becomes of each. Facts:
https://docs.anthropic.com/en/api/messages, https://platform.openai.com/docs/api-reference/chat/create.
"""

import hashlib
import re
from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.wire import UNREADABLE
from proxy.wire.anthropic_capabilities import Capabilities, capabilities
from proxy.wire.anthropic_messages import Conversation, Message
from proxy.wire.anthropic_schema import sanitised
from proxy.wire.anthropic_tools import tools_and_choice
from proxy.wire.fields import refuse_too_deep

Fields = dict[str, Any]

# What becomes of OpenAI's fields, and of Anthropic's own.
FIELDS: dict[str, str] = {
    **dict.fromkeys(
        (
            *("model", "messages", "stream", "stream_options", "max_completion_tokens", "max_tokens", "stop"),
            *("temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
            *("reasoning_effort", "user", "safety_identifier", "service_tier", "web_search_options"),
        ),
        "translated",
    ),
    # OpenAI's own contract makes no promise on these, or they change speed, cost or bookkeeping and not the answer.
    **dict.fromkeys(
        (
            *("seed", "metadata", "prediction", "verbosity"),
            *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        ),
        "hint",
    ),
    **dict.fromkeys(
        (
            *("top_k", "thinking", "cache_control", "output_config", "container", "context_management"),
            *("mcp_servers", "inference_geo"),
        ),
        "passed",
    ),
    **dict.fromkeys(
        (
            *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "modalities"),
            *("moderation", "n", "presence_penalty", "store", "top_logprobs"),
        ),
        "refused",
    ),
}
_PASSED = tuple(name for name, fate in FIELDS.items() if fate == "passed")
_REFUSED = tuple(name for name, fate in FIELDS.items() if fate == "refused")
# What a refused field may say: what happens anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "store": (False,),
    "top_logprobs": (0,),
    "functions": ([],),
}
_SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 10_000, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_MIN_BUDGET = 1024
# What Anthropic refuses as a user's id: an address or a telephone number.
_PERSONAL = re.compile(r".*@.*|\+?[\d\s().-]{7,}", re.DOTALL)
_JSON_ONLY = "Answer with one valid JSON object and nothing else: no prose, no code fences."


class _Chat(msgspec.Struct):
    """The fields whose shape matters here; the others are looked up by name."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[Fields] | None = None
    tool_choice: str | Fields | None = None
    parallel_tool_calls: bool | None = None
    response_format: Fields | None = None
    reasoning_effort: str | None = None
    thinking: Fields | None = None
    output_config: Fields | None = None
    user: str | None = None
    safety_identifier: str | None = None
    web_search_options: Fields | None = None
    service_tier: str | None = None


def encode_chat(body: bytes, model: str, *, stream: bool, max_output: int | None) -> bytes:
    """The body for POST /v1/messages. BadRequest for what is no request, or cannot be honoured."""
    fields, chat = _decode(body)
    _refuse(fields)
    can = capabilities(model)
    sent: Fields = {name: fields[name] for name in _PASSED if fields.get(name) is not None}
    sent |= {"model": model, "max_tokens": _max_tokens(chat, can, max_output)}
    if stream:
        sent["stream"] = True
    conversation = _conversation(chat, can)
    sent["messages"] = conversation.turns
    _add_thinking(sent, chat, can, conversation)
    forced_json = _add_format(sent, chat, can, conversation)
    sent |= tools_and_choice(chat, can, conversation, forced_json)
    if sent.get("tool_choice", {}).get("type") in {"any", "tool"}:
        _check_forced(sent, can, "response_format" if forced_json else "tool_choice")
    if conversation.system:
        sent["system"] = conversation.system
    _add_sampling(sent, chat, can)
    _add_rest(sent, chat)
    return msgspec.json.encode(sent)


def _decode(body: bytes) -> tuple[Fields, _Chat]:
    try:
        fields = msgspec.json.decode(body)
        if not isinstance(fields, dict):
            raise BadRequest("The body is not a JSON object.", code="invalid_json")
        refuse_too_deep(body, fields)
        return fields, msgspec.convert(fields, _Chat)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        param = path.strip("`.") or "messages"
        raise BadRequest(f"{param}: {said}.", param=param, code="invalid_type") from error
    except UNREADABLE as error:
        raise BadRequest(f"The body is not JSON that can be read: {error}", code="invalid_json") from error


def _refuse(fields: Fields) -> None:
    for name in fields:
        if name not in FIELDS:
            raise BadRequest(
                f"{name[:100]} is neither a field of OpenAI's chat completions nor one that is passed to Anthropic.",
                param=name[:100],
                code="unknown_parameter",
            )
    for name in _REFUSED:
        value = fields.get(name)
        if value is not None and value not in _NEUTRAL.get(name, ()):
            raise BadRequest(
                f"{name} cannot be honoured by Anthropic's models.", param=name, code="unsupported_parameter"
            )


def _max_tokens(chat: _Chat, can: Capabilities, cap: int | None) -> int:
    """Anthropic wants a limit; without the client's it is the most that the model can."""
    asked = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    if asked is not None:
        return asked
    return can.max_output if cap is None else min(cap, can.max_output)


def _conversation(chat: _Chat, can: Capabilities) -> Conversation:
    conversation = Conversation()
    for number, message in enumerate(chat.messages):
        conversation.add(message, f"messages[{number}]")
    if not conversation.turns:
        raise BadRequest("messages: Anthropic needs a message that is not a system message.", param="messages")
    last = conversation.turns[-1]
    if last["role"] == "assistant":
        if not can.prefill:
            raise BadRequest(
                "messages: this model does not continue a last message of the assistant; end with the user's.",
                param=f"messages[{len(chat.messages) - 1}]",
                code="unsupported_value",
            )
        if last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()
    return conversation


# --- thinking ----------------------------------------------------------------------------------------------------


def _add_thinking(sent: Fields, chat: _Chat, can: Capabilities, conversation: Conversation) -> None:
    """reasoning_effort as Anthropic's thinking; a `thinking` of the client's own goes before it."""
    effort = chat.reasoning_effort
    if effort is None or chat.thinking is not None:
        return
    if effort != "none" and effort not in _EFFORTS:
        raise _unsupported("reasoning_effort", f"{effort!r} is none of none, {', '.join(_EFFORTS)}.")
    if effort == "none":
        if can.thinking != "none" and not can.can_stop_thinking:
            raise _unsupported("reasoning_effort", "this model always thinks; the least is low.")
        if can.thinking != "none":
            sent["thinking"] = {"type": "disabled"}
    elif can.thinking == "none":
        raise _unsupported("reasoning_effort", "this model does not reason.")
    elif can.thinking == "adaptive":
        sent["thinking"] = {"type": "adaptive", "display": "summarized"}
        said = "max" if effort == "xhigh" and not can.highest_efforts else _EFFORTS[effort]
        sent["output_config"] = {"effort": said, **sent.get("output_config", {})}
    elif not conversation.thinking_is_lost:  # it would be refused; the turn goes on without
        _add_budget(sent, effort, chat)


def _add_budget(sent: Fields, effort: str, chat: _Chat) -> None:
    """The budget is part of max_tokens; OpenAI counts reasoning into its limit just so."""
    budget = min(_BUDGETS[effort], sent["max_tokens"] - 1)
    if budget < _MIN_BUDGET:
        name = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
        raise _unsupported(name, f"with reasoning_effort this model needs more than {_MIN_BUDGET} output tokens.")
    sent["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _thinks(sent: Fields) -> bool:
    return sent.get("thinking", {}).get("type") in ("enabled", "adaptive")


def _check_forced(sent: Fields, can: Capabilities, param: str) -> None:
    if not can.forced_tool:
        raise _unsupported(param, "this model cannot be made to call a tool; let it choose (auto).")
    if _thinks(sent) and not can.forced_tool_with_thinking:
        raise _unsupported(param, "this model cannot be made to call a tool while it thinks; leave out one of the two.")


# --- the rest ----------------------------------------------------------------------------------------------------


def _add_format(sent: Fields, chat: _Chat, can: Capabilities, conversation: Conversation) -> Fields | None:
    """response_format. Returns the schema where only a tool can hold the answer to it."""
    form = chat.response_format
    kind = form.get("type") if form else "text"
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        conversation.system.append({"type": "text", "text": _JSON_ONLY})
        return None
    wanted = form.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise BadRequest("response_format is text, json_object, or json_schema with a schema.", param="response_format")
    assert isinstance(wanted, dict)
    if isinstance(wanted.get("description"), str):
        schema = {"description": wanted["description"], **schema}
    if not can.structured_output:
        return schema
    made = {"type": "json_schema", "schema": sanitised(schema, "response_format.json_schema.schema")}
    sent["output_config"] = {**sent.get("output_config", {}), "format": made}
    return None


def _add_sampling(sent: Fields, chat: _Chat, can: Capabilities) -> None:
    """Temperature ends at 1 here. Where a model refuses sampling, or while it thinks, it goes without."""
    if not can.sampling or _thinks(sent):
        sent.pop("top_k", None)
        return
    if chat.temperature is not None:
        sent["temperature"] = min(chat.temperature, 1.0)
    if chat.top_p is not None and (chat.temperature is None or can.temperature_with_top_p):
        sent["top_p"] = chat.top_p


def _add_rest(sent: Fields, chat: _Chat) -> None:
    stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
    if kept := [stop for stop in stops if stop.strip()]:
        sent["stop_sequences"] = kept
    if user := chat.safety_identifier or chat.user:
        if _PERSONAL.fullmatch(user) or len(user) > 256:
            user = hashlib.sha256(user.encode()).hexdigest()
        sent["metadata"] = {"user_id": user}
    if chat.service_tier is not None:
        if chat.service_tier not in _SERVICE_TIERS:
            raise _unsupported("service_tier", f"Anthropic has {' and '.join(('auto', 'default'))} only.")
        sent["service_tier"] = _SERVICE_TIERS[chat.service_tier]


def _unsupported(param: str, why: str) -> BadRequest:
    return BadRequest(f"{param}: {why}", param=param, code="unsupported_value")
