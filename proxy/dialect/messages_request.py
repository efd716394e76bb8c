"""Owns a request of Anthropic's Messages API as a chat completion; knows nothing of answers.

A field that cannot be honoured is a BadRequest that names it; `FIELDS` says what becomes of each. Facts:
https://docs.anthropic.com/en/api/messages, https://platform.openai.com/docs/api-reference/chat/create.
"""

import hashlib
from typing import Any

import msgspec

from proxy.dialect.messages_thinking import reasoning_effort
from proxy.dialect.messages_tools import tools_and_choice
from proxy.dialect.messages_turns import conversation
from proxy.errors import BadRequest
from proxy.routing import Route
from proxy.wire import Call
from proxy.wire.fields import decode_object, expect, refuse_unknown, word

Json = dict[str, Any]

# What becomes of Anthropic's fields where another provider answers.
FIELDS: dict[str, str] = {
    **dict.fromkeys(
        (
            *("model", "messages", "system", "max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k"),
            *("tools", "tool_choice", "thinking", "output_config", "output_format", "metadata", "service_tier"),
        ),
        "translated",
    ),
    # They change cost, speed or what of a long history is kept, and make no promise on the answer.
    **dict.fromkeys(("cache_control", "context_management", "diagnostics", "speed"), "hint"),
    **dict.fromkeys(("container", "inference_geo", "mcp_servers"), "refused"),
}
_REFUSED = tuple(name for name, fate in FIELDS.items() if fate == "refused")
_OUTPUT_CONFIG = frozenset({"effort", "format", "task_budget"})  # the last is advice to the model
_SERVICE_TIERS = {"auto": "auto", "standard_only": "default"}
_LONGEST_USER = 64  # characters of OpenAI's safety_identifier


def to_chat(body: bytes, call: Call, route: Route) -> bytes:
    """The body for POST /chat/completions. BadRequest for what is no request, or cannot be honoured."""
    fields = decode_object(body)
    refuse_unknown(fields, FIELDS, route.provider)
    for name in _REFUSED:
        if fields.get(name):
            raise _unsupported(name, route)
    chat: Json = {"model": route.model, "max_completion_tokens": call.max_output}
    chat["messages"] = conversation(fields.get("system"), fields.get("messages"), route.provider)
    if call.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if stops := expect(fields.get("stop_sequences", []), list, "stop_sequences"):
        chat["stop"] = stops
    chat |= {name: fields[name] for name in ("temperature", "top_p") if name in fields}
    if "top_k" in fields:
        if route.provider == "openai":
            raise _unsupported("top_k", route)
        chat["top_k"] = fields["top_k"]
    chat |= tools_and_choice(fields, call, route.provider)
    effort = reasoning_effort(fields, call, route)
    if effort is not None:
        chat["reasoning_effort"] = effort
    chat |= _format(fields, route.provider)
    chat |= _bookkeeping(fields, route.provider)
    return msgspec.json.encode(chat)


def _format(fields: Json, provider: str) -> Json:
    """`output_config.format`, which was `output_format` while it was a beta."""
    config = expect(fields.get("output_config", {}), dict, "output_config")
    refuse_unknown(config, _OUTPUT_CONFIG, provider, at="output_config.")
    at = "output_format" if "output_format" in fields else "output_config.format"
    form = fields.get("output_format", config.get("format"))
    if form is None:
        return {}
    if expect(form, dict, at).get("type") != "json_schema":
        raise BadRequest(f"{at}.type must be json_schema.", param=f"{at}.type", code="unsupported_value")
    schema = expect(form.get("schema"), dict, f"{at}.schema")
    wanted = {"name": "answer", "schema": schema, "strict": _is_closed(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _is_closed(schema: Any) -> bool:
    """Whether OpenAI can hold a model to the schema: no object may have other fields, nor leave out one of its own.

    https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    if isinstance(schema, list):
        return all(_is_closed(one) for one in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        required, named = schema.get("required"), properties if isinstance(properties, dict) else {}
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if named.keys() != set(map(str, required)):
            return False
    return all(_is_closed(value) for value in schema.values())


def _bookkeeping(fields: Json, provider: str) -> Json:
    """Only OpenAI has words for these; the others do what `service_tier` can ask for, and know no users."""
    tier = fields.get("service_tier", "auto")
    if word(tier) not in _SERVICE_TIERS:
        raise BadRequest("service_tier must be auto or standard_only.", param="service_tier", code="unsupported_value")
    metadata = expect(fields.get("metadata", {}), dict, "metadata")
    user = metadata.get("user_id")
    if provider != "openai":
        return {}
    said: Json = {"service_tier": _SERVICE_TIERS[tier]} if "service_tier" in fields else {}
    if user is not None:
        user = expect(user, str, "metadata.user_id")
        too_long = len(user) > _LONGEST_USER
        said["safety_identifier"] = hashlib.sha256(user.encode()).hexdigest() if too_long else user
    return said


def _unsupported(name: str, route: Route) -> BadRequest:
    return BadRequest(
        f"{name} cannot be honoured by {route.model} of {route.provider}. Leave it out.",
        param=name,
        code="unsupported_parameter",
    )
