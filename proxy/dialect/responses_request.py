"""Owns a Responses request as a chat request: what becomes of each field; knows nothing of answers.

A field that cannot be honoured is a BadRequest that names it; `FIELDS` says what becomes of each. Nothing is stored
here, so that what refers to something stored is refused. Facts:
https://platform.openai.com/docs/api-reference/responses/create.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.dialect.responses_items import Json, bad, function_name, messages_of, qualified
from proxy.errors import ProxyError
from proxy.routing import Route
from proxy.wire import Call
from proxy.wire.fields import decode_object, expect, word

# Chat completions have them too: the model's provider decides.
_SHARED = (
    *("model", "stream", "temperature", "top_p", "parallel_tool_calls", "metadata", "user", "safety_identifier"),
    *("service_tier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)
# Refused fields, with the values that ask for nothing.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
FIELDS: dict[str, str] = {
    **dict.fromkeys(
        (
            *("include", "input", "instructions", "max_output_tokens", "reasoning", "text", "tool_choice", "tools"),
            "stream_options",
        ),
        "translated",
    ),
    **dict.fromkeys(_SHARED, "passed"),
    # Bookkeeping of a client's (Codex), and a limit on tools that are all refused.
    **dict.fromkeys(("client_metadata", "max_tool_calls"), "hint"),
    **dict.fromkeys(_REFUSED, "refused"),
}
# What may be included; details of built-in tools never occur.
_INCLUDES = frozenset(
    {
        *("reasoning.encrypted_content", "file_search_call.results", "web_search_call.results"),
        *("web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url"),
        "code_interpreter_call.outputs",
    }
)
# What a field of a function may say besides what is translated: nothing that another provider would have to do.
_FUNCTION: Mapping[str, tuple[Any, ...]] = {
    "allowed_callers": ([], ["direct"]),
    "async": (False,),
    "defer_loading": (False,),
}
_REASONING: Mapping[str, tuple[Any, ...]] = {"context": ("auto",), "mode": ("standard",)}

# The chat form's names for what a wire may refuse, and ours.
_PARAMS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}


def to_chat(body: bytes, call: Call, route: Route) -> bytes:
    """The body of a chat completion for this request, which the answer will repeat."""
    call.body = body
    fields = decode_object(body)
    _refuse(fields, FIELDS, _REFUSED)
    for number, name in enumerate(expect(fields.get("include", []), list, "include")):
        if word(name) not in _INCLUDES:
            raise bad(f"include: {str(name)[:64]!r} cannot be included.", f"include[{number}]", "unsupported_value")
    chat: Json = {name: fields[name] for name in _SHARED if name in fields}
    if "input" not in fields:
        raise bad("input is missing.", "input", "missing_required_parameter")
    chat["messages"] = messages_of(fields["input"])
    if "instructions" in fields:
        said = expect(fields["instructions"], str, "instructions")
        chat["messages"].insert(0, {"role": "system", "content": said})
    if "max_output_tokens" in fields:
        chat["max_completion_tokens"] = fields["max_output_tokens"]
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    chat |= _reasoning(fields) | _text(fields) | _tools(fields)
    return msgspec.json.encode(chat)


def in_our_words(error: ProxyError) -> ProxyError:
    """A wire names the chat form's fields; the client has sent others."""
    param = error.param or ""
    for theirs, ours in _PARAMS.items():
        if param == theirs or param.startswith((f"{theirs}[", f"{theirs}.")):
            error.param = ours
            error.message = error.message.replace(param, ours)
    return error


def _refuse(fields: Json, known: Mapping[str, Any], refused: Mapping[str, tuple[Any, ...]], at: str = "") -> None:
    for name, value in fields.items():
        if name not in known and name not in refused:
            raise bad(f"{at}{name[:64]} is not known.", f"{at}{name[:64]}", "unknown_parameter")
        if name in refused and value is not None and value not in refused[name]:
            raise bad(
                f"{at}{name} cannot be honoured by this model: only OpenAI's own have it.",
                f"{at}{name}",
                "unsupported_parameter",
            )


def _reasoning(fields: Json) -> Json:
    """Summaries are as the provider gives them: how long they are is a hint."""
    reasoning = expect(fields.get("reasoning", {}), dict, "reasoning")
    _refuse(reasoning, dict.fromkeys(("effort", "summary", "generate_summary")), _REASONING, "reasoning.")
    return {} if reasoning.get("effort") is None else {"reasoning_effort": reasoning["effort"]}


def _text(fields: Json) -> Json:
    text = expect(fields.get("text", {}), dict, "text")
    _refuse(text, dict.fromkeys(("format", "verbosity")), {}, "text.")
    chat: Json = {} if text.get("verbosity") is None else {"verbosity": text["verbosity"]}
    wanted = expect(text.get("format") or {"type": "text"}, dict, "text.format")
    kind = word(wanted.get("type"))
    if kind == "json_schema":
        schema = {name: value for name, value in wanted.items() if name != "type" and value is not None}
        chat["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        raise bad("text.format.type must be text, json_object or json_schema.", "text.format.type")
    return chat


# --- tools -------------------------------------------------------------------------------------------------------


def _tools(fields: Json) -> Json:
    """Without tools there is nothing to choose from, and nothing to forbid."""
    metadata = expect(fields.get("client_metadata", {}), dict, "client_metadata")
    is_codex = any(name.startswith("x-codex-") for name in metadata)
    tools: list[Json] = []
    for number, tool in enumerate(expect(fields.get("tools", []), list, "tools")):
        at = f"tools[{number}]"
        if not (is_codex and expect(tool, dict, at).get("type") == "web_search"):  # nobody asked Codex to offer it
            tools += _functions(expect(tool, dict, at), at)
    choice = _choice(fields["tool_choice"]) if "tool_choice" in fields else None
    if not tools and choice in (None, "auto", "none"):
        return {}
    names = [tool["function"]["name"] for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise bad(f"tools: {twice[:64]!r} occurs twice.", "tools")
    return {"tools": tools} if choice is None else {"tools": tools, "tool_choice": choice}


def _functions(tool: Json, at: str, namespace: str | None = None) -> list[Json]:
    """The functions of a tool: one, or those of a namespace."""
    kind = word(tool.get("type"))
    if kind == "namespace" and namespace is None:
        name = expect(tool.get("name"), str, f"{at}.name")
        tools = expect(tool.get("tools"), list, f"{at}.tools")
        inner = [(expect(one, dict, f"{at}.tools[{n}]"), f"{at}.tools[{n}]") for n, one in enumerate(tools)]
        return [function for one, where in inner for function in _functions(one, where, name)]
    if kind != "function":
        raise bad(
            f"{at}: a tool of the type {kind[:64]!r} cannot be honoured by this model; tools are functions.",
            f"{at}.type",
            "unsupported_value",
        )
    _refuse(tool, dict.fromkeys(("type", "output_schema", *_TRANSLATED)), _FUNCTION, f"{at}.")
    function = {name: tool[name] for name in _TRANSLATED if tool.get(name) is not None}
    name = expect(tool.get("name"), str, f"{at}.name")
    function["name"] = name if namespace is None else qualified(namespace, name)
    return [{"type": "function", "function": function}]


_TRANSLATED = ("name", "description", "parameters", "strict")


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    kind = word(expect(choice, dict, "tool_choice").get("type"))
    if kind == "function":
        return _named(choice, "tool_choice")
    if kind != "allowed_tools":
        raise bad("tool_choice: only functions can be chosen.", "tool_choice.type", "unsupported_value")
    tools = expect(choice.get("tools"), list, "tool_choice.tools")
    allowed = [_named(tool, f"tool_choice.tools[{number}]") for number, tool in enumerate(tools)]
    return {"type": kind, "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": allowed}}


def _named(tool: Any, at: str) -> Json:
    if word(expect(tool, dict, at).get("type")) != "function":
        raise bad(f"{at}: only functions can be chosen.", f"{at}.type", "unsupported_value")
    return {"type": "function", "function": {"name": function_name(tool, at)}}
