"""Owns what Google's errors mean to a client. Pure.

Facts: https://ai.google.dev/gemini-api/docs/troubleshooting, google.rpc: Status, ErrorInfo, RetryInfo, QuotaFailure.
"""

import re
from typing import Any

from proxy.errors import ProviderAnswer, ProviderKeyRejected, ProxyError
from proxy.wire.openai import error_object

_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s", re.ASCII)
_TOO_LONG = re.compile(r"token count .{0,40}exceeds the maximum|exceeds the maximum number of tokens", re.ASCII)
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def error(status: int, body: bytes) -> ProxyError:
    """Of a complete error answer; the caller scrubs it of secrets."""
    found = error_object(body)
    said = str(found.get("message") or f"The provider answered {status}.")
    details = found.get("details")
    details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    reasons = [one.get("reason") for one in details]
    if status == 401 or "API_KEY_INVALID" in reasons:  # Google says so with a 400
        refused = ProviderKeyRejected(f"The provider refuses the stored key: {said}")
        refused.key_refused = True
        return refused
    if status in {402, 403}:
        return ProviderKeyRejected(f"The provider does not serve the stored key: {said}")
    if status == 429:
        return _limited(said, details)
    kind = "invalid_request_error" if status < 500 else "server_error"
    param, code = None, str(found.get("status") or "").lower() or None
    if status == 404:
        param, code = "model", "model_not_found"
    elif status == 400 and _TOO_LONG.search(said):
        param, code = "messages", "context_length_exceeded"
    return ProviderAnswer(status, {"message": said, "type": kind, "param": param, "code": code})


def failure_of(status: int, data: bytes) -> ProxyError:
    """Of an error inside an answer that began as a success; `status` is for one that does not say its own."""
    found = error_object(data)
    status = _STATUS.get(str(found.get("status")), status)
    failure = error(status, data)
    failure.retryable = False
    return failure


def _limited(said: str, details: list[dict[str, Any]]) -> ProxyError:
    failure = ProviderAnswer(429, {"message": said, "type": "rate_limit_error", "code": "rate_limit_exceeded"})
    failure.retry_after_ms = _retry_after_ms(details)
    if _is_daily(details):  # waiting for the seconds that it names does not help
        failure.retryable, failure.retry_after_ms = False, None
    return failure


def _retry_after_ms(details: list[dict[str, Any]]) -> int | None:
    for one in details:
        if found := _SECONDS.fullmatch(str(one.get("retryDelay"))):
            return int(float(found[1]) * 1000)
    return None


def _is_daily(details: list[dict[str, Any]]) -> bool:
    violations = [one.get("violations") for one in details]
    return any(
        "PerDay" in str(violation.get("quotaId"))
        for some in violations
        if isinstance(some, list)
        for violation in some
        if isinstance(violation, dict)
    )
