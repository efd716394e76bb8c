"""Owns what each family of Google's models can do; knows nothing of requests.

A table by version, open at its new end: an id that is not known gets what the newest models have. Facts:
https://ai.google.dev/gemini-api/docs/thinking, /openai (the effort table), /thought-signatures,
/file-input-methods.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

Version = tuple[int, int]
NEWEST: Version = (99, 0)

_VERSION = re.compile(r"(?:models/)?gemini-(\d{1,2})(?:\.(\d{1,2}))?(?:-|$)")
_WITHOUT_VERSION = re.compile(r"(?:models/)?(?:gemma|learnlm|gemini-pro|gemini-exp|gemini-embedding)")

# Tokens for thinking, by reasoning_effort; the highest that all models of the generation take.
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_LEVELS_WITHOUT_MINIMAL = _LEVELS | {"minimal": "low"}


@dataclass(frozen=True, slots=True)
class Capabilities:
    thinking: str  # "none", "budget" (tokens), "level" (the model decides within a level)
    can_stop_thinking: bool
    levels: dict[str, str]  # reasoning_effort -> thinkingLevel
    validated_calls: bool  # function calling mode VALIDATED, which holds to the schema
    needs_signatures: bool  # refuses a function call in the history without its thought signature
    media_in_results: bool  # functionResponse.parts
    web_addresses: bool  # fileData of any https address, which Google fetches


@lru_cache(maxsize=1024)
def capabilities(model: str) -> Capabilities:
    version = version_of(model)
    is_pro = "-pro" in model
    return Capabilities(
        thinking="none" if version < (2, 5) else "budget" if version < (3, 0) else "level",
        can_stop_thinking=version < (2, 5) or (version < (3, 0) and not is_pro),
        levels=_LEVELS if version < (3, 7) and not is_pro else _LEVELS_WITHOUT_MINIMAL,
        validated_calls=version >= (2, 5),
        needs_signatures=version >= (3, 0),
        media_in_results=version >= (3, 0),
        web_addresses=version >= (2, 5),
    )


def version_of(model: str) -> Version:
    """`gemini-2.5-flash` is (2, 5); `gemini-flash-latest`, and a name that is not known, is the newest."""
    if found := _VERSION.match(model):
        return int(found[1]), int(found[2] or 0)
    return (1, 0) if _WITHOUT_VERSION.match(model) else NEWEST
