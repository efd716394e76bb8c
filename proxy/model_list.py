"""Owns the list of models that a caller can reach: asked of each provider with their stored key, and kept for minutes.

What a key reaches is kept by the key's id and the nonce that it is sealed with: a replaced key is asked for anew, and
nobody is shown what another's key reaches. A provider that cannot be asked is named, and spoils nothing for the others.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

from proxy.errors import NotFound, ProviderKeyRejected, ProxyError, Unavailable, UpstreamBroken, UpstreamTimeout
from proxy.lanes import Lane
from proxy.pipeline import Attempts, Outgoing, translate
from proxy.policy import Credential, Policy
from proxy.routing import Route, route
from proxy.runtime import Runtime
from proxy.upstream import Response, UpstreamError
from proxy.wire.listing import Model, models_in
from proxy.wires import WIRES
from usage import pricing

Json = dict[str, Any]

# Seconds: how long a list is young, when a provider that failed is asked again, and how long a request waits for one.
YOUNG = 300.0
AGAIN = 30.0
PATIENCE = 10.0
MAX_LIST = 4 << 20  # bytes


class Listing(msgspec.Struct, frozen=True):
    """What one stored key reaches."""

    models: tuple[Model, ...] = ()
    failure: ProxyError | None = None


class Found(msgspec.Struct, frozen=True):
    """What a caller reaches, by the names that the proxy takes; and which providers could not say."""

    models: dict[str, Model]
    missing: tuple[str, ...]

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-aiproxy-models-missing", ", ".join(self.missing).encode())] if self.missing else []


async def models_of(runtime: Runtime, policy: Policy) -> Found:
    """All providers are asked at once; what the proxy key may not use is left out."""
    slugs = sorted(policy.credentials.keys() & WIRES.keys())
    listings = await asyncio.gather(*(_reached(runtime, policy.credentials[slug]) for slug in slugs))
    found: dict[str, Model] = {}
    for listing in listings:
        for model in sorted(listing.models, key=lambda model: model.id):
            name = _name(model)
            if policy.allows(name) or policy.allows(model.id):
                found[name] = model
    missing = (slug for slug, listing in zip(slugs, listings, strict=True) if listing.failure is not None)
    return Found(found, tuple(missing))


def _name(model: Model) -> str:
    """Bare where that leads to the same model, else with its provider."""
    try:
        plain = route(model.id) == Route(model.provider, model.id)
    except NotFound:
        plain = False
    return model.id if plain else f"{model.provider}/{model.id}"


async def _reached(runtime: Runtime, credentials: Sequence[Credential]) -> Listing:
    """What the first key reaches that its provider answers: requests go with that one, too."""
    listing = Listing(failure=UpstreamTimeout("The provider did not list its models in time."))
    try:
        async with asyncio.timeout(PATIENCE):
            for credential in credentials:
                key = credential.api_key_id, credential.sealed.iv
                listing = await runtime.model_lists.get(key, partial(_ask, runtime, credential))
                if listing.failure is None:
                    break
    except TimeoutError:
        pass  # the call goes on: whoever asks next may find its answer
    return listing


async def _ask(runtime: Runtime, credential: Credential, known: Listing | None) -> tuple[Listing, float]:
    provider = credential.context.provider
    lane = Lane(Route(provider, ""), WIRES[provider], (credential,), "models", "GET")
    attempts = Attempts(runtime, deadline=time.monotonic() + 3 * PATIENCE)
    try:
        async with asyncio.timeout(3 * PATIENCE):
            response = await attempts.run((lane,), lambda _: Outgoing((), b""))
            return Listing(models_in(provider, await _read(response))), YOUNG
    except TimeoutError:
        failure: ProxyError = UpstreamTimeout("The provider did not list its models in time.")
    except ProxyError as error:
        failure = error
    keeps = known is not None and not isinstance(failure, ProviderKeyRejected)
    return known if known is not None and keeps else Listing(failure=failure), AGAIN


async def _read(response: Response) -> bytes:
    parts, size = [], 0
    try:
        while data := await response.read():
            parts.append(data)
            size += len(data)
            if size > MAX_LIST:
                raise UpstreamBroken("The provider's list of models is too long.")
    except UpstreamError as error:
        raise translate(error) from error
    finally:
        response.abort()
    return b"".join(parts)


def one_of(found: Found, asked: str) -> tuple[str, Model]:
    """A model by any of its names, with the one that is shown. NotFound; Unavailable when its provider cannot say."""
    try:
        at = route(asked)
    except NotFound:
        at = None
    for name, model in found.models.items():
        if name == asked or at == Route(model.provider, model.id):
            return name, model
    if at is not None and at.provider in found.missing:
        raise Unavailable(f"{at.provider} cannot list its models now. Try again.", retry_after_ms=int(AGAIN * 1000))
    raise NotFound(
        f"None of your stored keys reaches the model {asked!r}. GET /v1/models lists what they reach.",
        param="model",
        code="model_not_found",
    )


# --- pages, in OpenAI's form or in Anthropic's (https://docs.anthropic.com/en/api/models-list) --------------------


def page(found: Found, *, anthropic: bool) -> bytes:
    if not anthropic:
        return msgspec.json.encode({"object": "list", "data": [_openai(*item) for item in found.models.items()]})
    names = list(found.models)
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return msgspec.json.encode(
        {"data": [_anthropic(*item) for item in found.models.items()], "has_more": False, **ends}
    )


def page_of(name: str, model: Model, *, anthropic: bool) -> bytes:
    return msgspec.json.encode((_anthropic if anthropic else _openai)(name, model))


def _openai(name: str, model: Model) -> Json:
    """With more than OpenAI says, in the words of OpenRouter's list, which clients know."""
    price = pricing.price_of(model.provider, model.id)
    context = model.context or (price and price.context)
    shown: Json = {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "provider": model.provider,
    }
    more = {
        "name": model.name or None,
        "context_length": context,
        "max_output_tokens": model.max_output,
        "pricing": _prices(price.dollars[""][0]) if price else None,
    }
    return shown | {field: value for field, value in more.items() if value is not None}


def _prices(dollars: pricing.Dollars) -> dict[str, str]:
    """Dollars a token."""
    classes: Iterable[tuple[str, Decimal | None]] = (
        ("prompt", dollars.input),
        ("completion", dollars.output),
        ("input_cache_read", dollars.cache_read),
        ("input_cache_write", dollars.cache_write),
    )
    return {name: f"{(price / 1_000_000).normalize():f}" for name, price in classes if price is not None}


def _anthropic(name: str, model: Model) -> Json:
    created = datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
    shown: Json = {"type": "model", "id": name, "display_name": model.name or name, "created_at": created}
    more = {"max_input_tokens": model.context, "max_tokens": model.max_output}
    return shown | {field: value for field, value in more.items() if value is not None}
