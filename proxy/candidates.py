"""Owns which models may serve a request, in order, and whether the proxy key may ask for them.

A list is judged as a whole before anything is sent: a mistake in it must not wait for the day of the failover.
"""

from collections.abc import Sequence

from proxy.errors import BadRequest, Forbidden, NotFound
from proxy.lanes import Lane
from proxy.policy import Policy
from proxy.routing import Route, resolve, route
from proxy.views import Endpoint
from proxy.wire import Call

# What a request that names no model is asked of.
NO_MODEL = Route("openai", "")
# Names come from clients: no more of them than this a policy.
REMEMBERED = 64
NOT_ALLOWED = "model_not_allowed"


def candidates(policy: Policy, call: Call, endpoint: Endpoint) -> Sequence[Lane]:
    """Where the request may be served, the first choice first; that alone where we can answer ourselves.

    NotFound for a model that nobody serves there, Forbidden for one that the key may not use, BadRequest beyond its
    cap.
    """
    if not call.model:
        if call.tokens_output and policy.allowed_models:  # a prompt template that OpenAI stores would choose it
            raise Forbidden("This proxy key may use some models only: name one.", param="model", code=NOT_ALLOWED)
        return (_lane(policy, NO_MODEL, endpoint),)
    asked = endpoint.name, call.model, call.fallbacks
    lanes = policy.lanes.get(asked)
    if lanes is None:
        names = resolve((call.model, *(call.fallbacks or ())), policy.aliases)
        lanes = [_lane(policy, _allowed(policy, name, endpoint), endpoint) for name in names]
        if endpoint.local is not None:
            lanes = lanes[:1]
        if len(policy.lanes) >= REMEMBERED:
            policy.lanes.clear()
        policy.lanes[asked] = lanes
    if policy.max_tokens is not None and call.max_output is not None and call.max_output > policy.max_tokens:
        raise BadRequest(
            f"This proxy key may ask for {policy.max_tokens} output tokens at the most.",
            param="max_tokens",
            code="max_tokens_exceeded",
        )
    return lanes


def _lane(policy: Policy, found: Route, endpoint: Endpoint) -> Lane:
    wire = endpoint.wires.get(found.provider)
    return Lane(found, wire, policy.credentials.get(found.provider, ()), endpoint.name, endpoint.method)


def _allowed(policy: Policy, name: str, endpoint: Endpoint) -> Route:
    """Judges the model that is asked, never the alias: an alias is no way around what the key may use."""
    found = route(name)
    if not (policy.allows(name) or policy.allows(found.model)):
        raise Forbidden(f"This proxy key may not use the model {name!r}.", param="model", code=NOT_ALLOWED)
    if found.provider not in endpoint.wires and endpoint.local is None:
        raise NotFound(
            f"{name!r} is served by {found.provider}, which has no {endpoint.name}.",
            param="model",
            code="model_not_found",
        )
    return found
