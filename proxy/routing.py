"""Owns which provider serves a model name, and which models a name stands for; pure, knows no Django.

`provider/model` names the provider, a bare name is looked up by its family. Only the first `/` splits, and only
behind a provider's name: ids such as `meta-llama/…` contain slashes themselves. An alias stands for a list of models,
never for other aliases.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from proxy.errors import NotFound

# How a model is recorded that no provider is known for: a client's text must not become a label.
UNKNOWN_MODEL = "(unknown)"

PREFIXES = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "gemini": "google",
    "alibaba": "alibaba",
    "dashscope": "alibaba",
    "qwen": "alibaba",
}

# Longest first where families overlap: Google's and Alibaba's embeddings begin like OpenAI's.
FAMILIES = (
    ("text-embedding-004", "google"),
    ("text-embedding-005", "google"),
    ("text-embedding-v", "alibaba"),
    ("text-embedding-", "openai"),
    ("text-moderation-", "openai"),
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("codex-", "openai"),
    ("computer-use-", "openai"),
    ("ft:gpt-", "openai"),
    ("davinci-", "openai"),
    ("babbage-", "openai"),
    ("omni-moderation-", "openai"),
    ("dall-e-", "openai"),
    ("tts-", "openai"),
    ("whisper-", "openai"),
    ("sora-", "openai"),
    ("claude-", "anthropic"),
    ("gemini-", "google"),
    ("gemma-", "google"),
    ("learnlm-", "google"),
    ("models/", "google"),
    ("qwen", "alibaba"),
    ("qwq", "alibaba"),
    ("qvq", "alibaba"),
    ("tongyi-", "alibaba"),
)


class Route(msgspec.Struct, frozen=True, gc=False):
    provider: str
    model: str  # as the provider knows it


@lru_cache(maxsize=4096)
def route(model: str) -> Route:
    """The provider of a model name; NotFound (`model_not_found`) when there is none."""
    prefix, slash, rest = model.partition("/")
    if slash and rest and prefix in PREFIXES:
        return Route(PREFIXES[prefix], rest)
    for family, provider in FAMILIES:
        if model.startswith(family):
            return Route(provider, model)
    if len(model) > 1 and model[0] == "o" and model[1].isdigit():
        return Route("openai", model)
    raise NotFound(
        f"The model {model[:100]!r} is not known here. Name its provider, as in 'openai/{model[:100]}'.",
        param="model",
        code="model_not_found",
    )


def resolve(names: Iterable[str], aliases: Mapping[str, Sequence[str]]) -> list[str]:
    """The models that these names stand for, in order and each once."""
    found: list[str] = []
    for name in names:
        for model in aliases.get(name, (name,)):
            if model not in found:
                found.append(model)
    return found
