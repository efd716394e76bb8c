"""Owns how a request's fields are told apart: honoured, a hint, or refused by name; knows no provider.

A refused field is a 400 unless it has a value that asks for nothing (its neutral ones, and null).
"""

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.wire import UNREADABLE

# What the contract itself calls optional help, bookkeeping or a choice of the provider's: it may go unheeded.
# https://platform.openai.com/docs/api-reference/chat/create
HINTS = frozenset(
    {
        *("metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("safety_identifier", "user", "verbosity"),
    }
)

# Fields that ask for something no other provider has, with the values that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": ([],),
    "logit_bias": ({},),
    "moderation": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "web_search_options": (),
}

# What is nested deeper than this is refused before it is translated. No provider takes schemas nearly as deep, and what
# is read, written or shown again later needs no more of the stack than there is wherever that happens.
DEEPEST = 256


def refuse(fields: Mapping[str, Any], refused: Mapping[str, tuple[Any, ...]], provider: str) -> None:
    """BadRequest for the first field that the provider cannot honour."""
    for name in refused.keys() & fields.keys():
        value = fields[name]
        if value is not None and value not in refused[name]:
            raise BadRequest(
                f"{name} cannot be honoured by {provider}'s models. Leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], provider: str, *, at: str = "") -> None:
    """BadRequest for a field that we have no translation of."""
    for name in fields.keys() - known:
        if fields[name] is not None:
            raise BadRequest(
                f"{at}{name[:64]} has no meaning for {provider}'s models.",
                param=f"{at}{name[:64]}",
                code="unknown_parameter",
            )


def decode(value: bytes | msgspec.Raw, kind: Any = Any) -> Any:
    """A JSON value of the request; views have read no more of it than they need."""
    try:
        return msgspec.json.decode(value, type=kind)
    except UNREADABLE as error:
        raise BadRequest(f"The body is not JSON that can be read: {error}", code="invalid_json") from error


def decode_object(body: bytes) -> dict[str, Any]:
    """The request as plain values, without the fields that are null."""
    value = decode(body)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_type")
    refuse_too_deep(body, value)
    return {name: field for name, field in value.items() if field is not None}


def refuse_too_deep(body: bytes, value: dict[str, Any]) -> None:
    """BadRequest beyond DEEPEST levels; `value` is what the body holds. Most bodies open fewer in all."""
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        parts = chain.from_iterable([one.values() if type(one) is dict else one for one in level])
        level = [part for part in parts if type(part) is dict or type(part) is list]
        if not level:
            return
    raise BadRequest(f"The body is nested too deeply: {DEEPEST} levels are the most.", code="invalid_json")


def word(value: Any) -> str:
    """A value that has to be one of several names; "" for what is no text, which is none of them."""
    return value if isinstance(value, str) else ""


def expect(value: Any, kind: type | tuple[type, ...], param: str) -> Any:
    """The value, or BadRequest when it is not of this JSON type."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRequest(f"{param} has the wrong type.", param=param, code="invalid_type")
    return value
