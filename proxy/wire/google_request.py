"""Owns a request on its way to Google: OpenAI's chat completion or embeddings to generateContent or batchEmbedContents.

Pure. What has no counterpart is a BadRequest that names it. Facts: https://ai.google.dev/api/generate-content.
"""

import re
from typing import Any

import msgspec

from proxy.wire import Call
from proxy.wire.fields import HINTS, REFUSED, decode_object, expect, refuse, refuse_unknown, word
from proxy.wire.google_capabilities import BUDGETS, Capabilities, capabilities
from proxy.wire.google_messages import Json, bad, conversation

# A client's name -> generationConfig's, with the same meaning. All are OpenAI's but top_k.
PASSED = {
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "topK",
    "top_logprobs": "logprobs",
    "top_p": "topP",
}
# Asks for nothing, and is left out: a model that has no such field would refuse it.
_NEUTRAL = {"frequency_penalty": 0, "presence_penalty": 0, "n": 1, "logprobs": False, "top_logprobs": 0}
TRANSLATED = frozenset(
    {
        *("max_completion_tokens", "max_tokens", "messages", "modalities", "model", "parallel_tool_calls"),
        *("reasoning_effort", "response_format", "stop", "stream", "stream_options", "tool_choice", "tools"),
        "extra_body",
    }
)
# `extra_body.google`, as in Google's own compatible API -> generateContent's.
_EXTRAS = {"cached_content": "cachedContent", "safety_settings": "safetySettings", "thinking_config": ""}
_KNOWN = {*PASSED, *TRANSLATED, *HINTS, *REFUSED}
_EMBEDDINGS_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})

_MODALITIES = {"text": "TEXT", "image": "IMAGE"}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", re.ASCII)


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    request = decode_object(body)
    generates = call.tokens_output or ("messages" in request and "input" not in request)  # embeddings have no output
    found = _generate(request, call, model, max_output) if generates else _embed(request, model)
    return msgspec.json.encode(found)


# --- chat completions ---------------------------------------------------------------------------------------


def _generate(request: Json, call: Call, model: str, max_output: int | None) -> Json:
    refuse(request, REFUSED, "Google")
    refuse_unknown(request, _KNOWN, "Google")
    able = capabilities(model)
    found = conversation(request.get("messages"), able)
    found |= _tools(request, able)
    config = {
        name: request[field]
        for field, name in PASSED.items()
        if field in request and (field not in _NEUTRAL or request[field] != _NEUTRAL[field])
    }
    limit = call.max_output if call.max_output is not None else max_output
    if limit is not None:
        config["maxOutputTokens"] = limit
    if stop := [text for text in _stops(request.get("stop")) if text]:
        config["stopSequences"] = stop
    config |= _format(request.get("response_format"))
    config |= _modalities(request.get("modalities"))
    if "reasoning_effort" in request:
        config |= _thinking(request["reasoning_effort"], model, able)
    found |= _extras(request.get("extra_body"), config)
    if config:
        found["generationConfig"] = config
    return found


def _stops(stop: Any) -> list[str]:
    if stop is None:
        return []
    return [expect(text, str, "stop") for text in ([stop] if isinstance(stop, str) else expect(stop, list, "stop"))]


def _format(response_format: Any) -> Json:
    if response_format is None:
        return {}
    kind = expect(response_format, dict, "response_format").get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind != "json_schema":
        raise bad("response_format.type must be text, json_object or json_schema.", "response_format.type")
    wanted = expect(response_format.get("json_schema"), dict, "response_format.json_schema")
    schema = expect(wanted.get("schema"), dict, "response_format.json_schema.schema")
    return {"responseMimeType": "application/json", "responseJsonSchema": schema}


def _modalities(modalities: Any) -> Json:
    if modalities is None or modalities == ["text"]:
        return {}
    wanted = [_MODALITIES.get(str(one)) for one in expect(modalities, list, "modalities")]
    if None in wanted:
        raise bad("modalities may hold text and image.", "modalities", "unsupported_value")
    return {"responseModalities": wanted}


def _thinking(effort: Any, model: str, able: Capabilities) -> Json:
    effort = word(effort)
    if effort not in BUDGETS:
        raise bad(f"reasoning_effort must be one of {', '.join(BUDGETS)}.", "reasoning_effort")
    if able.thinking == "none":
        if effort == "none":
            return {}
        raise bad(f"{model} does not reason.", "reasoning_effort", "unsupported_parameter")
    if effort == "none":
        if not able.can_stop_thinking:
            raise bad(f"{model} cannot be kept from reasoning.", "reasoning_effort", "unsupported_value")
        return {"thinkingConfig": {"thinkingBudget": 0}}
    depth: Json = (
        {"thinkingBudget": BUDGETS[effort]} if able.thinking == "budget" else {"thinkingLevel": able.levels[effort]}
    )
    return {"thinkingConfig": {**depth, "includeThoughts": True}}


def _extras(extra_body: Any, config: Json) -> Json:
    """What Google's own compatible API takes beside OpenAI's fields; `thinking_config` goes before an effort."""
    extra = expect(extra_body or {}, dict, "extra_body")
    refuse_unknown(extra, {"google"}, "Google", at="extra_body.")
    google = expect(extra.get("google") or {}, dict, "extra_body.google")
    refuse_unknown(google, _EXTRAS, "Google", at="extra_body.google.")
    if "thinking_config" in google:
        config["thinkingConfig"] = google["thinking_config"]
    return {_EXTRAS[name]: value for name, value in google.items() if _EXTRAS[name]}


# --- tools --------------------------------------------------------------------------------------------------


def _tools(request: Json, able: Capabilities) -> Json:
    functions = [
        _function(tool, f"tools[{n}]") for n, tool in enumerate(expect(request.get("tools", []), list, "tools"))
    ]
    if not functions:
        if request.get("tool_choice") not in (None, "auto", "none"):
            raise bad("tool_choice needs tools.", "tool_choice")
        return {}
    strict = any(tool["function"].get("strict") for tool in request["tools"])
    mode, allowed = _choice(request.get("tool_choice"))
    config: Json = {}
    if allowed is not None:
        if missing := set(allowed) - {function["name"] for function in functions}:
            raise bad(f"tool_choice names {min(missing)[:64]!r}, which is not among the tools.", "tool_choice")
        if mode == "AUTO":  # Google takes allowed names with a forced call only
            functions = [function for function in functions if function["name"] in allowed]
        else:
            config["allowedFunctionNames"] = allowed
    if mode != "AUTO":
        config["mode"] = mode
    elif strict and able.validated_calls:
        config["mode"] = "VALIDATED"
    found: Json = {"tools": [{"functionDeclarations": functions}]}
    return found | ({"toolConfig": {"functionCallingConfig": config}} if config else {})


def _function(tool: Any, at: str) -> Json:
    if expect(tool, dict, at).get("type") != "function":
        raise bad(f"{at}.type must be function.", f"{at}.type", "unsupported_value")
    function = expect(tool.get("function"), dict, f"{at}.function")
    name = expect(function.get("name"), str, f"{at}.function.name")
    if not _FUNCTION_NAME.fullmatch(name):
        raise bad(
            f"{at}.function.name must begin with a letter or _ and have at most 64 of A-Z a-z 0-9 _ . : -",
            f"{at}.function.name",
        )
    found: Json = {"name": name}
    if description := function.get("description"):
        found["description"] = description
    parameters = expect(function.get("parameters") or {}, dict, f"{at}.function.parameters")
    if parameters.get("type", "object") != "object":
        raise bad(f"{at}.function.parameters must be a schema of an object.", f"{at}.function.parameters")
    if parameters.keys() - {"type", "additionalProperties"} and parameters != {"type": "object", "properties": {}}:
        found["parametersJsonSchema"] = {"type": "object", **parameters}
    return found


def _choice(choice: Any) -> tuple[str, list[str] | None]:
    """Google's mode, and the functions that may be called, None for all of them."""
    if choice is None:
        return "AUTO", None
    if isinstance(choice, str) and choice in _MODES:
        return _MODES[choice], None
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return "ANY", [_name(choice, "tool_choice")]
    if kind == "allowed_tools":
        allowed = expect(choice.get("allowed_tools"), dict, "tool_choice.allowed_tools")
        tools = expect(allowed.get("tools"), list, "tool_choice.allowed_tools.tools")
        mode = _MODES.get(str(allowed.get("mode")), "")
        if mode in {"AUTO", "ANY"}:
            return mode, [_name(tool, f"tool_choice.allowed_tools.tools[{n}]") for n, tool in enumerate(tools)]
    raise bad("tool_choice cannot be honoured by Google's models in this form.", "tool_choice", "unsupported_value")


def _name(holder: Any, at: str) -> str:
    function = expect(expect(holder, dict, at).get("function"), dict, f"{at}.function")
    return str(expect(function.get("name"), str, f"{at}.function.name"))


# --- embeddings ---------------------------------------------------------------------------------------------


def _embed(request: Json, model: str) -> Json:
    refuse_unknown(request, _EMBEDDINGS_KNOWN, "Google")
    if request.get("encoding_format", "float") not in ("float", "base64"):
        raise bad("encoding_format must be float or base64.", "encoding_format")
    texts = request.get("input")
    one: Json = {"model": model if model.startswith("models/") else f"models/{model}"}
    if "dimensions" in request:
        one["outputDimensionality"] = expect(request["dimensions"], int, "dimensions")
    found = []
    for text in [texts] if isinstance(texts, str) else expect(texts, list, "input"):
        if not isinstance(text, str):
            raise bad("input must be text: Google's models take no token numbers.", "input", "unsupported_value")
        found.append({**one, "content": {"parts": [{"text": text}]}})
    if not found:
        raise bad("input is empty.", "input")
    return {"requests": found}
