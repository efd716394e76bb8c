"""Owns tools and the choice among them as Anthropic takes them; knows no other field of a request.

Facts: https://docs.anthropic.com/en/docs/agents-and-tools/tool-use, https://platform.openai.com/docs/guides/function-calling.
"""

import re
from typing import Any, Protocol

import msgspec

from proxy.errors import BadRequest
from proxy.wire.anthropic_capabilities import Capabilities
from proxy.wire.anthropic_messages import Conversation
from proxy.wire.anthropic_schema import sanitised, tool_input

Fields = dict[str, Any]

# The tool whose input is the answer, for models without structured output. Its name is kept for that.
JSON_TOOL = "aiproxy_json_answer"

# Anthropic's own tools pass as they are: web_search_20250305, tool_search_tool_bm25_20251119, …
_NATIVE_TYPE = re.compile(r"[a-z0-9_]+_\d{8}|mcp_toolset")
_EXTENSIONS = ("cache_control", "defer_loading", "input_examples", "eager_input_streaming", "allowed_callers")


class Chat(Protocol):
    """What of a request is read here."""

    @property
    def tools(self) -> list[Fields] | None: ...
    @property
    def tool_choice(self) -> str | Fields | None: ...
    @property
    def web_search_options(self) -> Fields | None: ...
    @property
    def parallel_tool_calls(self) -> bool | None: ...


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Fields | None = None
    strict: bool | None = None


def tools_and_choice(chat: Chat, can: Capabilities, conversation: Conversation, answer: Fields | None) -> Fields:
    """The fields `tools` and `tool_choice`, where there are any. `answer`: the schema that JSON_TOOL has to hold."""
    tools = [_tool(tool, f"tools[{number}]", can) for number, tool in enumerate(chat.tools or ())]
    tools, choice = _choice(chat.tool_choice, tools)
    if not tools:
        if choice["type"] in {"any", "tool"}:
            raise BadRequest("tool_choice needs tools.", param="tool_choice")
        if not can.toolless_history:  # such a model wants the tools defined that were used
            tools = [{"name": name, "input_schema": tool_input(None)} for name in conversation.tools_used]
            choice = {"type": "none"} if tools else choice
    if chat.web_search_options is not None:
        tools = [*tools, _web_search(chat.web_search_options)]
        choice = {"type": "auto"} if len(tools) == 1 or chat.tool_choice is None else choice
    if answer is not None:
        tools, choice = _answer_by_tool(tools, choice, answer)
    if chat.parallel_tool_calls is False and tools and choice["type"] != "none":
        choice = {**choice, "disable_parallel_tool_use": True}
    if not tools:
        return {}
    is_default = choice == {"type": "auto"} and chat.tool_choice is None
    return {"tools": tools} if is_default else {"tools": tools, "tool_choice": choice}


def _tool(tool: Fields, path: str, can: Capabilities) -> Fields:
    kind = tool.get("type")
    if isinstance(kind, str) and _NATIVE_TYPE.fullmatch(kind):
        return tool
    if kind != "function":
        raise BadRequest(f"{path}: a tool of type {kind!r} cannot be sent to Anthropic.", param=f"{path}.type")
    try:
        function = msgspec.convert(tool.get("function"), _Function)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{path}.function: {error}.", param=f"{path}.function", code="invalid_type") from error
    if function.name == JSON_TOOL:
        raise BadRequest(f"{path}: the name {JSON_TOOL} is taken.", param=f"{path}.function.name")
    made: Fields = {"name": function.name}
    if function.description:
        made["description"] = function.description
    schema = tool_input(function.parameters)
    if function.strict:
        if not can.structured_output:
            raise BadRequest(
                f"{path}: this model has no strict tools.",
                param=f"{path}.function.strict",
                code="unsupported_parameter",
            )
        schema = sanitised(schema, f"{path}.function.parameters")
        made["strict"] = True
    made["input_schema"] = schema
    return made | {name: tool[name] for name in _EXTENSIONS if tool.get(name) is not None}


def _web_search(options: Fields) -> Fields:
    """The size of the search's context is OpenAI's own measure, and a hint."""
    tool: Fields = {"type": "web_search_20250305", "name": "web_search"}
    where = options.get("user_location")
    if isinstance(where, dict) and isinstance(where.get("approximate"), dict):
        tool["user_location"] = {"type": "approximate", **where["approximate"]}
    return tool


def _choice(choice: str | Fields | None, tools: list[Fields]) -> tuple[list[Fields], Fields]:
    """Anthropic's tool_choice, and the tools it leaves."""
    simple = {None: "auto", "auto": "auto", "required": "any", "none": "none"}
    if choice is None or isinstance(choice, str):
        if choice not in simple:
            raise BadRequest("tool_choice is none, auto, required, or an object.", param="tool_choice")
        return tools, {"type": simple[choice]}
    kind = str(choice.get("type"))
    named = choice.get(kind)
    if not isinstance(named, dict) or kind not in {"function", "allowed_tools"}:
        raise BadRequest(f"tool_choice of type {kind!r} cannot be honoured.", param="tool_choice.type")
    names = {str(tool.get("name")) for tool in tools}
    if kind == "function":
        if str(named.get("name")) not in names:
            raise BadRequest("tool_choice names a tool that is not in tools.", param="tool_choice.function.name")
        return tools, {"type": "tool", "name": named["name"]}
    allowed = _allowed(named)
    if not allowed <= names:
        raise BadRequest("tool_choice allows a tool that is not in tools.", param="tool_choice.allowed_tools.tools")
    left = [tool for tool in tools if str(tool.get("name")) in allowed]
    return left, {"type": "any" if named.get("mode") == "required" else "auto"}


def _allowed(named: Fields) -> set[str]:
    tools = named.get("tools")
    if named.get("mode") not in ("auto", "required") or not isinstance(tools, list):
        raise BadRequest(
            "tool_choice.allowed_tools needs a mode (auto, required) and tools.", param="tool_choice.allowed_tools"
        )
    try:
        return {str(tool["function"]["name"]) for tool in tools}
    except (KeyError, TypeError) as error:
        raise BadRequest(
            "tool_choice.allowed_tools.tools holds more than functions.", param="tool_choice.allowed_tools.tools"
        ) from error


def _answer_by_tool(tools: list[Fields], choice: Fields, answer: Fields) -> tuple[list[Fields], Fields]:
    """Makes the model answer by JSON_TOOL; beside other tools it may call one of those instead, one at a time."""
    if choice["type"] in {"any", "tool"}:
        return tools, choice  # the answer is a call anyway
    hidden = {
        "name": JSON_TOOL,
        "description": "Give your answer to the user: its fields are the answer.",
        "input_schema": tool_input(answer),
    }
    if tools and choice["type"] == "auto":
        return [*tools, hidden], {"type": "any", "disable_parallel_tool_use": True}
    return [*tools, hidden], {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
