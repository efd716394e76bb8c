"""Owns what each provider's list of models says. Pure.

Facts: https://platform.openai.com/docs/api-reference/models, https://docs.anthropic.com/en/api/models-list,
https://ai.google.dev/api/models; Alibaba's compatible mode has OpenAI's form.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE


class Model(msgspec.Struct, frozen=True):
    provider: str
    id: str  # as the provider knows it
    created: int = 0  # unix seconds; 0: it does not say
    owned_by: str = ""
    name: str = ""  # for people
    context: int | None = None  # the most input tokens
    max_output: int | None = None


class _OpenAI(msgspec.Struct):
    id: str
    created: int | None = None
    owned_by: str | None = None


class _Anthropic(msgspec.Struct):
    id: str
    created_at: str = ""
    display_name: str = ""
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class _Google(msgspec.Struct, rename="camel"):
    name: str
    display_name: str = ""
    input_token_limit: int | None = None
    output_token_limit: int | None = None
    supported_generation_methods: list[str] = []


class _OpenAIs(msgspec.Struct):
    data: list[_OpenAI]


class _Anthropics(msgspec.Struct):
    data: list[_Anthropic]


class _Googles(msgspec.Struct):
    models: list[_Google]


# What the proxy asks Google's models for; those that make pictures or films only are not reached through it.
_METHODS = frozenset({"generateContent", "embedContent", "batchEmbedContents"})


def _openai(provider: str, body: bytes) -> list[Model]:
    found = msgspec.json.decode(body, type=_OpenAIs).data
    return [Model(provider, one.id, _sane(one.created or 0), one.owned_by or provider) for one in found]


def _anthropic(provider: str, body: bytes) -> list[Model]:
    return [
        Model(
            provider=provider,
            id=one.id,
            created=_seconds(one.created_at),
            owned_by=provider,
            name=one.display_name,
            context=one.max_input_tokens,
            max_output=one.max_tokens,
        )
        for one in msgspec.json.decode(body, type=_Anthropics).data
    ]


def _seconds(moment: str) -> int:
    """Of an RFC 3339 moment; 0 if it is none."""
    try:
        return _sane(int(datetime.fromisoformat(moment).timestamp()))
    except (ValueError, OverflowError):
        return 0


def _sane(seconds: int) -> int:
    return seconds if 0 <= seconds < 1 << 33 else 0


def _google(provider: str, body: bytes) -> list[Model]:
    return [
        Model(
            provider=provider,
            id=one.name.removeprefix("models/"),
            owned_by=provider,
            name=one.display_name,
            context=one.input_token_limit,
            max_output=one.output_token_limit,
        )
        for one in msgspec.json.decode(body, type=_Googles).models
        if not _METHODS.isdisjoint(one.supported_generation_methods)
    ]


_READERS: dict[str, Callable[[str, bytes], list[Model]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
    "alibaba": _openai,
}


def models_in(provider: str, body: bytes) -> tuple[Model, ...]:
    """UpstreamBroken for what is no list of models."""
    try:
        return tuple(_READERS[provider](provider, body))
    except UNREADABLE as error:
        raise UpstreamBroken("The provider's list of models cannot be read.") from error
