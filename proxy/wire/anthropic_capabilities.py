"""Owns what each family of Claude models can do; knows nothing of requests.

A table by version, open at its new end: an id that is not known gets what the newest models have. Facts:
https://docs.anthropic.com/en/docs/about-claude/models, /build-with-claude/extended-thinking, /structured-outputs.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

Version = tuple[int, int]

NEWEST: Version = (99, 0)
# Always think, and never take a forced tool.
_ALWAYS_THINKING = frozenset({"fable", "mythos"})
_TIERS = frozenset({"opus", "sonnet", "haiku"}) | _ALWAYS_THINKING

# Below this version: the most tokens that an answer may have.
_MAX_OUTPUT: tuple[tuple[Version, int], ...] = (((3, 5), 4096), ((3, 7), 8192), ((4, 6), 64_000))
_MAX_OUTPUT_NEWEST = 128_000

# claude-3-5-sonnet-20241022, claude-2.1
_OLD = re.compile(r"claude-(\d)(?:[.-](\d{1,2}))?(?:-|$)")
# claude-opus-4-1-20250805, claude-sonnet-5, claude-haiku-4-5@20251001
_NEW = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[.-](\d{1,2}))?(?:[-@]|$)")


@dataclass(frozen=True, slots=True)
class Capabilities:
    max_output: int
    thinking: str  # "none", "budget" (tokens set aside), "adaptive" (the model decides, effort guides it)
    can_stop_thinking: bool  # takes thinking {"type": "disabled"}
    forced_tool: bool  # tool_choice any and tool
    forced_tool_with_thinking: bool
    structured_output: bool  # output_config.format, and strict tools
    sampling: bool  # temperature, top_p and top_k
    temperature_with_top_p: bool
    prefill: bool  # continues a last message of the assistant
    highest_efforts: bool  # xhigh beside max
    toolless_history: bool  # takes tool blocks in messages without tools


@lru_cache(maxsize=1024)
def capabilities(model: str) -> Capabilities:
    tier, version = family(model)
    always_thinking = tier in _ALWAYS_THINKING or (tier == "opus" and version >= (5, 5)) or version >= (6, 0)
    return Capabilities(
        max_output=_max_output(tier, version),
        thinking="none" if version < (3, 7) else "budget" if version < (4, 6) else "adaptive",
        can_stop_thinking=version >= (3, 7) and not always_thinking,
        forced_tool=not always_thinking,
        forced_tool_with_thinking=version >= (5, 0) and not always_thinking,
        structured_output=version >= (4, 5) or (tier, version) == ("opus", (4, 1)),
        sampling=version < (4, 7),
        temperature_with_top_p=version < (4, 0),
        prefill=version < (4, 6),
        highest_efforts=version >= (4, 7),
        toolless_history=version >= (4, 6),
    )


def family(model: str) -> tuple[str, Version]:
    """Tier and version of a model id; an unknown tier, or no version at all, is the newest."""
    if found := _OLD.match(model):
        return "", (int(found[1]), int(found[2] or 0))
    if (found := _NEW.match(model)) and found[1] in _TIERS:
        return found[1], (int(found[2]), int(found[3] or 0))
    if model.startswith("claude-instant"):
        return "", (1, 0)
    return "", NEWEST


def _max_output(tier: str, version: Version) -> int:
    if tier == "opus" and version < (4, 5):
        return 32_000
    return next((most for below, most in _MAX_OUTPUT if version < below), _MAX_OUTPUT_NEWEST)
