"""Owns how hard a model thinks: Anthropic's `thinking` and `output_config.effort` as `reasoning_effort`.

`thinking` of the type `enabled` is a demand: 400 where it cannot be met. `adaptive`, `disabled` and an effort are
advice (https://docs.anthropic.com/en/docs/build-with-claude/effort): they go unheeded where a model cannot be told. The
tables of models are open at their new ends: a newer one gets what the newest takes.
"""

import re
from dataclasses import dataclass
from typing import Any

from proxy.errors import BadRequest
from proxy.routing import Route
from proxy.wire import Call
from proxy.wire import google_capabilities as google
from proxy.wire.alibaba_request import thinking_of
from proxy.wire.fields import expect, word

Json = dict[str, Any]

_KINDS = ("enabled", "adaptive", "disabled")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# Tokens set aside for thinking, up to which an effort is meant.
_BUDGETS = ((2048, "low"), (10_000, "medium"))

_GPT = re.compile(r"(?:ft:)?gpt-(\d{1,2})(?:\.(\d{1,2}))?(?:-|:|o|$)")
_NEVER = re.compile(r"(?:ft:)?(?:chatgpt-|gpt-[34]|gpt-5-chat|davinci-|babbage-)")


@dataclass(frozen=True, slots=True)
class _Ability:
    can_think: bool = False  # and be told how hard
    can_stop: bool = False  # takes the effort none
    must_stop: bool = False  # takes no other effort
    efforts: tuple[str, ...] = _EFFORTS


def reasoning_effort(fields: Json, call: Call, route: Route) -> str | None:
    """None: the model is left to itself. Notes on the call whether the client wants to see the thoughts."""
    thinking = expect(fields.get("thinking", {}), dict, "thinking")
    kind = word(thinking.get("type", ""))
    if "thinking" in fields and kind not in _KINDS:
        raise _bad(f"thinking.type must be one of {', '.join(_KINDS)}.", "thinking.type")
    call.shows_reasoning = kind in {"enabled", "adaptive"} and thinking.get("display") != "omitted"
    able = _ability(route, call.stream, has_tools=bool(fields.get("tools")))
    if kind == "enabled" and (not able.can_think or able.must_stop):
        beside = " beside tools" if able.must_stop else ""
        raise _bad(f"thinking: {route.model} cannot be made to think{beside} here. Leave it out.", "thinking")
    if able.must_stop or kind == "disabled":
        return "none" if able.can_stop else None
    effort = _effort(fields) or _of_thinking(kind, thinking)
    if effort is None or not able.can_think:
        return None
    return effort if effort in able.efforts else able.efforts[-1]


def _effort(fields: Json) -> str | None:
    effort = expect(fields.get("output_config", {}), dict, "output_config").get("effort")
    if effort is None:
        return None
    if word(effort) not in _EFFORTS:
        raise _bad(f"output_config.effort must be one of {', '.join(_EFFORTS)}.", "output_config.effort")
    return word(effort)


def _of_thinking(kind: str, thinking: Json) -> str | None:
    if kind != "enabled":
        return "high" if kind == "adaptive" else None  # the default of Anthropic's own models
    budget = expect(thinking.get("budget_tokens"), int, "thinking.budget_tokens")
    return next((effort for most, effort in _BUDGETS if budget <= most), "high")


def _ability(route: Route, stream: bool, *, has_tools: bool) -> _Ability:
    if route.provider == "google":
        able = google.capabilities(route.model)
        return _Ability(able.thinking != "none", able.thinking != "none" and able.can_stop_thinking)
    if route.provider == "alibaba":
        kind = thinking_of(route.model)
        told = kind in {"effort", "default", "asked"}
        return _Ability(told or (kind == "stream" and stream), told or kind == "stream")
    return _of_openai(route.model, has_tools=has_tools)


def _of_openai(model: str, *, has_tools: bool) -> _Ability:
    """https://platform.openai.com/docs/guides/reasoning; beside tools, newer models reason in Responses only."""
    if _NEVER.match(model):
        return _Ability()
    found = _GPT.match(model)
    version = (int(found[1]), int(found[2] or 0)) if found else (5, 0)  # o3, o4-mini
    efforts = _EFFORTS[:3] if version < (5, 2) else _EFFORTS[:4]
    return _Ability(True, version >= (5, 1), has_tools and version >= (5, 4), efforts)


def _bad(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_value")
