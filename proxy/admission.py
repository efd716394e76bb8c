"""Owns whether an identified client may go on now: its limits, by a policy that is certainly current."""

import time
from typing import NamedTuple

from proxy.authentication import Identity, check
from proxy.errors import ProxyError, QuotaUsedUp, RateLimited, RequestTooLarge, Unavailable
from proxy.limits import Admission, Ask
from proxy.runtime import Runtime
from usage.quotas import Standing

# A policy that changes this often while one request waits is somebody's mistake or attack.
TRIES = 4


class Admitted(NamedTuple):
    identity: Identity  # with the policy that was current
    ask: Ask  # to be settled
    headers: list[tuple[bytes, bytes]]


async def admit(runtime: Runtime, identity: Identity, request_id: str, tokens: int) -> Admitted:
    """One atomic step takes the request, its estimated tokens and a slot, or nothing.

    RateLimited, QuotaUsedUp, RequestTooLarge, Unavailable; Unauthenticated or Forbidden: the key has changed meanwhile.
    """
    for _ in range(TRIES):
        policy = identity.policy
        by_database = runtime.epochs_by_database()
        if not runtime.policies.young_enough(policy) or (by_database and not await runtime.policies.is_current(policy)):
            identity = await reload(runtime, identity)
            continue
        ask = Ask(request_id, policy.limits, tokens, policy.epoch_keys, policy.epochs)
        admission = await runtime.limiter.admit(ask)
        if admission.verdict in {"limited", "too_large"}:
            raise _refusal(admission, tokens)
        if admission.verdict == "ok":
            if admission.epochs:
                current = policy.epochs is not None
            else:  # Redis went away meanwhile
                current = by_database or await runtime.policies.is_current(policy)
            if current:
                if policy.used_up and time.time() < policy.used_up.until.timestamp():
                    runtime.limiter.settle(ask, 0)
                    raise _quota_used_up(policy.used_up)
                return Admitted(identity, ask, limit_headers(admission))
            runtime.limiter.settle(ask, 0)
        identity = await reload(runtime, identity)
    raise Unavailable("This key's settings are changing too fast. Try again.", retry_after_ms=1000)


async def reload(runtime: Runtime, identity: Identity) -> Identity:
    policy = await runtime.policies.load(identity.policy.key_id)
    return identity._replace(policy=check(runtime, policy, identity.key, identity.address))


def _refusal(admission: Admission, tokens: int) -> ProxyError:
    """Says which limit, how much of it, and when to come back."""
    whose = "your plan's" if admission.scope.startswith("user:") else "this proxy key's"
    if admission.verdict == "too_large":
        return RequestTooLarge(
            f"The request may take {tokens} tokens, more than {whose} limit of {admission.limit_tokens} a minute "
            "ever allows. Shorten it or ask for fewer output tokens."
        )
    limit = {
        "requests": f"{admission.limit_requests} requests a minute",
        "tokens": f"{admission.limit_tokens} tokens a minute",
        "parallel": "requests under way at once",
    }[admission.kind or "requests"]
    seconds = admission.retry_after_ms / 1000
    error = RateLimited(
        f"Over {whose} limit of {limit}. Try again in {seconds:.3g}s.", retry_after_ms=admission.retry_after_ms
    )
    error.type = {"requests": "requests", "tokens": "tokens"}.get(admission.kind, "rate_limit_error")
    error.extra_headers = limit_headers(admission)
    return error


def _quota_used_up(standing: Standing) -> ProxyError:
    return QuotaUsedUp(
        f"Your plan's limit of {standing.allowed} {standing.quota.what} is used up. "
        f"It is whole again at {standing.until:%Y-%m-%d %H:%M} UTC.",
        retry_after_ms=max(0, int(1000 * (standing.until.timestamp() - time.time()))),
    )


def limit_headers(admission: Admission) -> list[tuple[bytes, bytes]]:
    """As OpenAI's (https://platform.openai.com/docs/guides/rate-limits): a reset is the time until it is full."""
    headers = []
    if admission.limit_requests is not None:
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % admission.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, admission.remaining_requests or 0)),
            (b"x-ratelimit-reset-requests", b"%dms" % (admission.reset_requests_ms or 0)),
        ]
    if admission.limit_tokens is not None:
        headers += [
            (b"x-ratelimit-limit-tokens", b"%d" % admission.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, admission.remaining_tokens or 0)),
            (b"x-ratelimit-reset-tokens", b"%dms" % (admission.reset_tokens_ms or 0)),
        ]
    return headers
