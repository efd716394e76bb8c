"""Owns tools and the choice among them: Anthropic's as OpenAI's. Knows no other field of a request.

Facts: https://docs.anthropic.com/en/docs/agents-and-tools/tool-use, https://platform.openai.com/docs/guides/function-calling.
"""

from typing import Any

from proxy.errors import BadRequest
from proxy.wire import Call
from proxy.wire.fields import expect, refuse_unknown, word

Json = dict[str, Any]

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# How and when a definition is read, not what it says.
_HINTS = ("cache_control", "defer_loading", "eager_input_streaming", "input_examples")
_KNOWN = frozenset({"type", "name", "description", "input_schema", "strict", *_HINTS})


def tools_and_choice(fields: Json, call: Call, provider: str) -> Json:
    """`tools`, `tool_choice` and `parallel_tool_calls`, where there are any."""
    tools = [
        _tool(tool, f"tools[{number}]", provider)
        for number, tool in enumerate(expect(fields.get("tools", []), list, "tools"))
    ]
    if not tools:
        return {}
    chat: Json = {"tools": tools}
    choice = expect(fields.get("tool_choice", {}), dict, "tool_choice")
    if choice:
        chat["tool_choice"] = _choice(choice)
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
        call.one_tool_call = True
    return chat


def _tool(tool: Any, at: str, provider: str) -> Json:
    kind = expect(tool, dict, at).get("type", "custom")
    if kind != "custom":
        raise BadRequest(
            f"{at}: a tool of the type {str(kind)[:64]!r} is Anthropic's own; other models cannot use it.",
            param=f"{at}.type",
            code="unsupported_value",
        )
    refuse_unknown(tool, _KNOWN, provider, at=f"{at}.")
    function: Json = {"name": expect(tool.get("name"), str, f"{at}.name")}
    if tool.get("description"):
        function["description"] = expect(tool["description"], str, f"{at}.description")
    function["parameters"] = expect(tool.get("input_schema"), dict, f"{at}.input_schema")
    if tool.get("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: Json) -> str | Json:
    kind = word(choice.get("type"))
    if kind == "tool":
        return {"type": "function", "function": {"name": expect(choice.get("name"), str, "tool_choice.name")}}
    if kind not in _CHOICES:
        raise BadRequest("tool_choice.type must be auto, any, tool or none.", param="tool_choice.type")
    return _CHOICES[kind]
