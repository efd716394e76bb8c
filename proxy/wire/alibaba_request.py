"""Owns a request on its way to Alibaba's compatible mode: what it spells otherwise, and when its models think. Pure.

Every field that needs no change keeps its bytes, those that only Alibaba knows too. The table of models is open at its
new end: a newer Qwen gets what the newest takes. Facts: https://www.alibabacloud.com/help/en/model-studio/deep-thinking.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.wire import Call
from proxy.wire.fields import REFUSED, decode, expect, refuse, word

REFUSED_HERE: Mapping[str, tuple[Any, ...]] = {**REFUSED, "frequency_penalty": (0,)}
TRANSLATED = frozenset({"max_completion_tokens", "messages", "model", "reasoning_effort", "stream_options", "tools"})

# Tokens for thinking, by reasoning_effort; the highest that all thinking models take. Some refuse thinking without one.
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 10_000, "high": 16_384, "xhigh": 32_768, "max": 38_912}
_EFFORTS = ("none", *BUDGETS)

_encode = msgspec.json.encode

_VERSION = re.compile(r"qwen(\d{1,2})(?:\.(\d{1,2}))?(?:-|$)")
_OPEN_WEIGHTS = re.compile(r"qwen3(?:\.[5-7])?-\d")  # qwen3-32b, qwen3.5-35b-a3b
_NEVER_THINKS = re.compile(r"qwen[12](?:\.\d)?-|qwen-(?:max|long|vl|coder|math|mt|audio|omni)|qwen3-coder")


@lru_cache(maxsize=1024)
def thinking_of(model: str) -> str:
    """When a model thinks, and how it is told.

    "effort": by reasoning_effort itself. "default": unless told otherwise, by enable_thinking. "stream": the same, but
    in streams only. "asked": when told so. "always": it cannot be told, and streams only. "never". "unknown": no Qwen.
    """
    if model.startswith(("qwq", "qvq")):
        return "always"
    if not model.startswith("qwen"):
        return "unknown"
    if _NEVER_THINKS.match(model) or "-instruct" in model:
        return "never"
    if _OPEN_WEIGHTS.match(model):
        return "always" if "-thinking" in model else "stream"
    found = _VERSION.match(model)
    version = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    return "effort" if version >= (3, 8) else "default" if version >= (3, 5) else "asked"


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    fields: dict[str, msgspec.Raw] = decode(body, dict[str, msgspec.Raw])
    sent = dict(fields)
    if model != call.model:
        sent["model"] = _raw(model)
    if "messages" in fields:
        _chat(sent, call, model, max_output)
    elif "input" in fields:
        _embeddings(decode(fields["input"]))
    if sent == fields:
        return body
    return _encode(sent)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _chat(sent: dict[str, msgspec.Raw], call: Call, model: str, max_output: int | None) -> None:
    refuse({name: decode(sent[name]) for name in REFUSED_HERE.keys() & sent.keys()}, REFUSED_HERE, "Alibaba")
    if call.stream and not call.include_usage:
        sent["stream_options"] = _raw({"include_usage": True})
    limit = sent.pop("max_completion_tokens", None)
    if call.max_output is not None and limit is not None:
        sent["max_tokens"] = _raw(call.max_output)
    elif call.max_output is None and max_output is not None:
        sent["max_tokens"] = _raw(max_output)
    _tools(sent)
    _messages(sent)
    _thinking(sent, call, model)


def _embeddings(input: Any) -> None:
    if isinstance(input, list) and any(not isinstance(text, str) for text in input):
        raise _refused("input must be text: Alibaba's models take no token numbers.", "input")


def _tools(sent: dict[str, msgspec.Raw]) -> None:
    if b'"custom"' not in bytes(sent.get("tools", b"")):
        return
    for number, tool in enumerate(expect(decode(sent["tools"]), list, "tools")):
        if expect(tool, dict, f"tools[{number}]").get("type") == "custom":
            at = f"tools[{number}].type"
            raise BadRequest(f"{at} must be function.", param=at, code="unsupported_value")


def _messages(sent: dict[str, msgspec.Raw]) -> None:
    """`developer` is not known there, and files are not taken; a conversation without either keeps its bytes."""
    raw = bytes(sent["messages"])
    if b'"developer"' not in raw and b'"file"' not in raw:
        return
    messages = expect(decode(raw), list, "messages")
    renamed = False
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if expect(message, dict, at).get("role") == "developer":
            message["role"], renamed = "system", True
        content = message.get("content")
        for position, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") == "file":
                at = f"{at}.content[{position}]"
                raise BadRequest("Alibaba's models take no files.", param=at, code="unsupported_value")
    if renamed:
        sent["messages"] = _raw(messages)


def _thinking(sent: dict[str, msgspec.Raw], call: Call, model: str) -> None:
    """Either `reasoning_effort` or Alibaba's own `enable_thinking` says whether to think."""
    kind = thinking_of(model)
    effort = _effort(sent)
    told = "enable_thinking" in sent or "thinking_budget" in sent
    if kind == "always" and not call.stream:
        raise _refused(f"{model} answers streams only. Set stream to true.", "stream")
    if effort is None:
        if kind in {"stream", "default"} and not call.stream and not told:
            sent["enable_thinking"] = _raw(False)  # thinking is refused there without a stream, unless asked for
        return
    if kind in {"effort", "unknown"}:
        return
    if told:
        raise _refused("Give reasoning_effort or enable_thinking, not both.", "reasoning_effort")
    del sent["reasoning_effort"]
    if effort == "none":
        if kind == "always":
            raise _refused(f"{model} cannot be kept from reasoning.", "reasoning_effort")
        if kind != "never":
            sent["enable_thinking"] = _raw(False)
        return
    if kind in {"never", "always"}:
        raise _refused(f"How much {model} reasons cannot be set.", "reasoning_effort")
    if kind == "stream" and not call.stream:
        raise _refused(f"{model} reasons in streams only. Set stream to true.", "reasoning_effort")
    sent["enable_thinking"], sent["thinking_budget"] = _raw(True), _raw(BUDGETS[effort])


def _effort(sent: dict[str, msgspec.Raw]) -> str | None:
    effort = decode(sent["reasoning_effort"]) if "reasoning_effort" in sent else None
    if effort is None:
        sent.pop("reasoning_effort", None)
        return None
    if word(effort) not in _EFFORTS:
        raise BadRequest(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}.", param="reasoning_effort", code="invalid_value"
        )
    return str(effort)


def _refused(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_value")
