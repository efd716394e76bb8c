"""Recorded requests of Anthropic's and Google's as the OpenAI conversation that they would have started from.

The inverse of the wires' encoders, written without them. `Foreign` is what no OpenAI client can say.
"""

import json
from typing import Any

Json = dict[str, Any]


class Foreign(Exception):
    """A part of the request that has no counterpart in chat completions: a server tool's block, a cached content, …"""


def _known(found: Json, *names: str) -> Json:
    if strange := {name for name, value in found.items() if value is not None} - set(names):
        raise Foreign(f"{', '.join(sorted(strange))} of {found.get('type', 'the request')}")
    return found


def _blocks(content: str | list[Json] | None) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


# --- Anthropic ---------------------------------------------------------------------------------------------------

_ANTHROPIC_FIELDS = {
    "max_tokens": "max_completion_tokens",
    "stop_sequences": "stop",
    **{
        name: name
        for name in (
            *("model", "stream", "temperature", "top_p", "top_k", "thinking", "cache_control", "context_management"),
            *("mcp_servers", "container", "inference_geo", "service_tier"),
        )
    },
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def from_anthropic(sent: Json) -> Json:
    """https://docs.anthropic.com/en/api/messages"""
    rest = ("messages", "system", "tools", "tool_choice", "metadata", "output_config")
    _known(sent, *_ANTHROPIC_FIELDS, *rest)
    chat = {ours: sent[theirs] for theirs, ours in _ANTHROPIC_FIELDS.items() if sent.get(theirs) is not None}
    system = [{"role": "system", "content": _blocks(sent["system"])}] if sent.get("system") else []
    chat["messages"] = [*system, *(said for turn in sent["messages"] for said in _turn(turn))]
    if sent.get("tools"):
        chat["tools"] = [_tool(tool) for tool in sent["tools"]]
    if choice := sent.get("tool_choice"):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = named if choice["type"] == "tool" else _CHOICES[choice["type"]]
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
    if metadata := sent.get("metadata"):
        chat["user"] = _known(metadata, "user_id")["user_id"]
    config = dict(sent.get("output_config") or {})
    if form := config.pop("format", None):
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form["schema"]}}
    return chat | ({"output_config": config} if config else {})


def _tool(tool: Json) -> Json:
    if tool.get("type") not in (None, "custom"):
        return tool
    _known(tool, "type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading")
    function = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
    made = {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}
    return made | {name: tool[name] for name in ("cache_control", "defer_loading") if tool.get(name) is not None}


def _turn(turn: Json) -> list[Json]:
    blocks = _blocks(turn["content"])
    if turn["role"] == "system":
        raise Foreign("a system turn among the messages")
    if turn["role"] == "assistant":
        return [_said(blocks)]
    results = [block for block in blocks if block["type"] == "tool_result"]
    rest = [_part(block) for block in blocks if block["type"] != "tool_result"]
    return [*map(_result, results), *([{"role": "user", "content": rest}] if rest else [])]


def _result(block: Json) -> Json:
    _known(block, "type", "tool_use_id", "content", "is_error", "cache_control")
    content = block.get("content")
    said = {"role": "tool", "tool_call_id": block["tool_use_id"]}
    said["content"] = content if isinstance(content, str) else [_part(part) for part in content or ()]
    return said | {name: block[name] for name in ("is_error", "cache_control") if block.get(name)}


def _part(block: Json) -> Json:
    if block["type"] == "text":
        return _known(block, "type", "text", "cache_control", "citations")
    source = block.get("source") or {}
    if block["type"] == "document" or source.get("type") == "file":
        return block  # Anthropic's own parts may stand in a chat completion, too
    if block["type"] != "image" or source["type"] not in {"base64", "url"}:
        raise Foreign(f"a {block['type']} block")
    url = source["url"] if source["type"] == "url" else f"data:{source['media_type']};base64,{source['data']}"
    return {"type": "image_url", "image_url": {"url": url}}


def _said(blocks: list[Json]) -> Json:
    said: Json = {"role": "assistant", "content": []}
    for block in blocks:
        if block["type"] == "text" and not said.get("tool_calls"):
            said["content"].append(_known(block, "type", "text", "cache_control"))
        elif block["type"] in {"thinking", "redacted_thinking"} and not said["content"] and not said.get("tool_calls"):
            said.setdefault("thinking_blocks", []).append(block)
        elif block["type"] == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block["input"])}
            said.setdefault("tool_calls", []).append({"id": block["id"], "type": "function", "function": function})
        else:
            raise Foreign(f"a {block['type']} block in its place")
    return said


def same_anthropic(sent: Json) -> Json:
    """What Anthropic reads the same, written one way."""
    found = {name: value for name, value in sent.items() if value not in (None, [], False)}
    if found.get("tool_choice", {}).get("type") == "auto" and not found["tool_choice"].get("disable_parallel_tool_use"):
        del found["tool_choice"]
    if "tool_choice" in found:
        found["tool_choice"] = {name: value for name, value in found["tool_choice"].items() if value}
    if "system" in found:
        found["system"] = _blocks(found["system"])
    turns: list[Json] = []
    for turn in found["messages"]:
        blocks = [_same_block(block) for block in _blocks(turn["content"])]
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn["role"], "content": blocks})
    tools = [{name: value for name, value in tool.items() if name != "type"} for tool in found.get("tools", ())]
    return {**found, "messages": turns, **({"tools": tools} if tools else {})}


def _same_block(block: Json) -> Json:
    found = {name: value for name, value in block.items() if value is not None}
    if found["type"] == "tool_result":
        found = {**found, "content": _blocks(found.get("content"))} | {"is_error": bool(found.get("is_error"))}
    return found


# --- Google ------------------------------------------------------------------------------------------------------

_GOOGLE_CONFIG = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_completion_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "candidateCount": "n",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
_SCHEMAS = ("responseJsonSchema", "responseSchema")


def camel(value: Any) -> Any:
    """Google takes both spellings of its own names; those of schemas, arguments and results are the client's."""
    if isinstance(value, list):
        return [camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, held in value.items():
        first, *more = name.split("_")
        ours = first + "".join(word.capitalize() for word in more)
        opaque = ours in {*_SCHEMAS, "parameters", "parametersJsonSchema", "args", "response"}
        if held is not None:
            made[ours] = held if opaque else camel(held)
    return made


def from_google(recorded: Json, model: str) -> Json:
    """https://ai.google.dev/api/generate-content"""
    sent = camel(recorded)
    names = ("contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings")
    _known(sent, *names, "cachedContent", "model")
    chat: Json = {"model": model, "messages": []}
    if system := sent.get("systemInstruction"):
        chat["messages"].append({"role": "system", "content": [_google_part(part) for part in system["parts"]]})
    ids: dict[str, list[str]] = {}
    for number, content in enumerate(sent["contents"]):
        chat["messages"] += _google_content(content, ids, number)
    chat |= _google_config(sent)
    chat |= _google_tools(sent)
    extra = {
        "safety_settings": sent.get("safetySettings"),
        "cached_content": sent.get("cachedContent"),
        "thinking_config": sent.get("generationConfig", {}).get("thinkingConfig"),
    }
    if extra := {name: value for name, value in extra.items() if value is not None}:
        chat["extra_body"] = {"google": extra}
    return chat


def _google_config(sent: Json) -> Json:
    config = _known(
        sent.get("generationConfig") or {},
        *(*_GOOGLE_CONFIG, *_SCHEMAS, "responseMimeType", "responseModalities", "thinkingConfig"),
    )
    chat = {ours: config[theirs] for theirs, ours in _GOOGLE_CONFIG.items() if theirs in config}
    schema = next((config[name] for name in _SCHEMAS if name in config), None)
    if schema is not None:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    elif config.get("responseMimeType") == "application/json":
        chat["response_format"] = {"type": "json_object"}
    if "responseModalities" in config:
        chat["modalities"] = [one.lower() for one in config["responseModalities"]]
    return chat


def _google_tools(sent: Json) -> Json:
    functions = []
    for tool in sent.get("tools") or ():
        for found in _known(tool, "functionDeclarations")["functionDeclarations"]:
            _known(found, "name", "description", "parameters", "parametersJsonSchema")
            schema = _same_schema(found.get("parametersJsonSchema", found.get("parameters")))
            function = {"name": found["name"], "description": found.get("description"), "parameters": schema}
            functions.append({"type": "function", "function": function})
    config = _known((sent.get("toolConfig") or {}), "functionCallingConfig").get("functionCallingConfig") or {}
    mode, allowed = config.get("mode", "auto").lower(), config.get("allowedFunctionNames") or []
    choice: Any = {"any": "required", "none": "none"}.get(mode, "auto")  # VALIDATED is strict
    if len(allowed) == 1:
        choice = {"type": "function", "function": {"name": allowed[0]}}
    return {"tools": functions, "tool_choice": choice} if functions else {}


def _google_content(content: Json, ids: dict[str, list[str]], number: int) -> list[Json]:
    parts = content["parts"]
    if content.get("role") == "model":
        return [_google_said(parts, ids, number)]
    results = [part["functionResponse"] for part in parts if "functionResponse" in part]
    rest = [_google_part(part) for part in parts if "functionResponse" not in part]
    said = [
        {"role": "tool", "tool_call_id": ids[one["name"]].pop(0), "content": json.dumps(one["response"])}
        for one in results
    ]
    return [*said, *([{"role": "user", "content": rest}] if rest else [])]


def _google_said(parts: list[Json], ids: dict[str, list[str]], number: int) -> Json:
    said: Json = {"role": "assistant", "content": []}
    for part in parts:
        signature = {"extra_content": {"google": {"thought_signature": part.get("thoughtSignature")}}}
        signed = signature if part.get("thoughtSignature") else {}
        if call := part.get("functionCall"):
            call_id = f"call_{number}_{len(said.get('tool_calls', ()))}"
            ids.setdefault(call["name"], []).append(call_id)
            function = {"name": call["name"], "arguments": json.dumps(call.get("args") or {})}
            made = {"id": call_id, "type": "function", "function": function, **signed}
            said.setdefault("tool_calls", []).append(made)
        else:
            said["content"].append(_google_part(part))
            said |= signed
    return said


def _google_part(part: Json) -> Json:
    if part.get("thought"):
        raise Foreign("a thought")
    if blob := part.get("inlineData"):
        return {"type": "image_url", "image_url": {"url": f"data:{blob['mimeType']};base64,{blob['data']}"}}
    if stored := part.get("fileData"):
        return {"type": "image_url", "image_url": {"url": stored["fileUri"]}}
    return {"type": "text", "text": _known(part, "text", "thought", "thoughtSignature")["text"]}


def same_google(recorded: Json) -> Json:
    """What Google reads the same, written one way: defaults left out, schemas without their dialect."""
    sent = camel(recorded)
    sent.pop("model", None)
    config = dict(sent.pop("generationConfig", None) or {})
    if schema := next((config.pop(name) for name in _SCHEMAS if name in config), None):
        config["schema"] = _same_schema(schema)
    if config.get("responseModalities") == ["TEXT"]:
        del config["responseModalities"]
    calling = dict((sent.pop("toolConfig", None) or {}).get("functionCallingConfig") or {})
    calling["mode"] = calling.get("mode", "AUTO").upper()
    functions = [
        {
            "name": found["name"],
            "description": found.get("description") or "",
            "schema": _same_schema(found.get("parametersJsonSchema", found.get("parameters")) or {}),
        }
        for tool in sent.pop("tools", None) or ()
        for found in tool["functionDeclarations"]
    ]
    system = [part["text"] for part in (sent.pop("systemInstruction", None) or {"parts": []})["parts"]]
    contents: list[Json] = []
    for content in sent.pop("contents"):
        role, parts = content.get("role") or "user", [_same_part(part) for part in content["parts"]]
        contents.append({"role": "user" if role == "function" else role, "parts": parts})
    return {
        **sent,
        "config": config,
        "calling": calling,
        "functions": functions,
        "system": system,
        "contents": contents,
    }


def _same_part(part: Json) -> Json:
    found = {name: value for name, value in part.items() if name != "thought"}
    for name in ("functionCall", "functionResponse"):
        if name in found:
            found[name] = {key: value for key, value in found[name].items() if key != "id"}
            found[name].setdefault("args" if name == "functionCall" else "response", {})
    return found


def _same_schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_same_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _same_schema(value)
        for name, value in schema.items()
        if value is not None
    }
