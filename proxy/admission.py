"""Owns whether an identified client may go on now: its limits, by a policy that is certainly current."""

import time

from proxy.authentication import check
from proxy.errors import ProxyError, QuotaUsedUp, RateLimited, RequestTooLarge, Unavailable
from proxy.incoming import Caller
from proxy.limits import Admission, Ask
from proxy.policy import Policy
from proxy.runtime import Runtime
from usage.quotas import Standing

# A policy that changes this often while one request waits is somebody's mistake or attack.
TRIES = 4


# The policy that was current, what is to be settled, and what the answer's head says of the limits.
Admitted = tuple[Policy, Ask, bytes]


async def admit(runtime: Runtime, caller: Caller, policy: Policy, request_id: bytes, tokens: int) -> Admitted:
    """One atomic step takes the request, its estimated tokens and a slot, or nothing.

    RateLimited, QuotaUsedUp, RequestTooLarge, Unavailable; Unauthenticated or Forbidden: the key has changed meanwhile.
    """
    policies, limiter = runtime.policies, runtime.limiter
    for _ in range(TRIES):
        by_database = not limiter.tells_epochs
        if policies.young_enough(policy) and not (by_database and not await policies.is_current(policy)):
            ask = Ask(request_id, policy.limits, tokens, policy.epoch_keys, policy.epochs)
            try:
                admission = await limiter.admit(ask)
                if admission.verdict == "ok":
                    if admission.epochs:
                        current = policy.epochs is not None
                    else:  # Redis went away meanwhile
                        current = by_database or await policies.is_current(policy)
            except BaseException:
                limiter.settle(ask, 0)
                raise
            if admission.verdict == "ok":
                if current and (policy.used_up is None or not _is_used_up(policy.used_up)):
                    return policy, ask, limit_fields(admission)
                limiter.settle(ask, 0)
                if current and policy.used_up is not None:
                    raise _quota_used_up(policy.used_up)
            elif admission.verdict != "stale":
                raise _refusal(admission, tokens)
        policy = check(runtime, await policies.load(policy.key_id), caller)
    raise Unavailable("This key's settings are changing too fast. Try again.", retry_after_ms=1000)


def _is_used_up(standing: Standing) -> bool:
    return time.time() < standing.until.timestamp()


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
    error.extra_fields = limit_fields(admission)
    return error


def _quota_used_up(standing: Standing) -> ProxyError:
    return QuotaUsedUp(
        f"Your plan's limit of {standing.allowed} {standing.quota.what} is used up. "
        f"It is whole again at {standing.until:%Y-%m-%d %H:%M} UTC.",
        retry_after_ms=max(0, int(1000 * (standing.until.timestamp() - time.time()))),
    )


_REQUESTS = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %dms\r\n"
)
_TOKENS = _REQUESTS.replace(b"requests", b"tokens")
_BOTH = _REQUESTS + _TOKENS


def limit_fields(admission: Admission) -> bytes:
    """As OpenAI's (https://platform.openai.com/docs/guides/rate-limits): a reset is the time until it is full."""
    requests = (admission.limit_requests, admission.remaining_requests, admission.reset_requests_ms)
    tokens = (admission.limit_tokens, admission.remaining_tokens, admission.reset_tokens_ms)
    if requests[0] is None:
        return b"" if tokens[0] is None else _TOKENS % tokens
    return _REQUESTS % requests if tokens[0] is None else _BOTH % (requests + tokens)
