"""Owns Anthropic's errors as the client is told them: complete answers, and events within a stream.

Facts: https://docs.anthropic.com/en/api/errors. A billing failure is said in several ways, one of them a 400.
"""

import re
from typing import Any

import msgspec

from proxy.errors import ProviderAnswer, ProviderKeyRejected, ProxyError
from proxy.wire import UNREADABLE

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_CODES = {
    404: "model_not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "overloaded",
    529: "overloaded",
    504: "timeout",
}
_TOO_LONG = re.compile(r"prompt is too long|exceed(?:s|ed)? (?:the )?context (?:limit|window)")
_UNPAID = "credit balance is too low"
# "max_tokens: must be at least 1", "messages.0.content: …"
_PARAM = re.compile(r"([a-z_]+(?:\.\w+)*): ", re.ASCII)


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


def error(status: int, body: bytes) -> ProxyError:
    """Of a complete error answer; the caller scrubs it of secrets. OpenAI's clients know no 529."""
    return native_error(503 if status == 529 else status, body)


def native_error(status: int, body: bytes) -> ProxyError:
    """The same for Anthropic's own clients."""
    return _mapped(status, _read(body), retryable=None)


def in_stream_error(data: bytes) -> ProxyError:
    """Of an `error` event: its type says what the status would have been."""
    failure = native_stream_error(data)
    failure.status = 503 if failure.status == 529 else failure.status
    return failure


def native_stream_error(data: bytes) -> ProxyError:
    """The same for Anthropic's own clients."""
    found = _read(data)
    return _mapped(_STATUSES.get(found.type, 502), found, retryable=False)


def _read(body: bytes) -> _Error:
    try:
        return msgspec.json.decode(body, type=_Body).error
    except UNREADABLE:
        return _Error()


def _mapped(status: int, found: _Error, *, retryable: bool | None) -> ProxyError:
    said = found.message or f"The provider answered {status}."
    if status == 401:
        return ProviderKeyRejected(f"The provider refuses the stored key: {said}")
    if status in {402, 403} or _UNPAID in said:
        return ProviderKeyRejected(
            f"The provider does not serve the stored key: {said}", code="insufficient_quota" if status != 403 else None
        )
    fields: dict[str, Any] = {"message": said, "type": _kind(status), "code": _CODES.get(status)}
    if status == 404:
        fields["param"] = "model"
    elif status == 400 and _TOO_LONG.search(said):
        fields |= {"code": "context_length_exceeded", "param": "messages"}
    elif status == 400 and (where := _PARAM.match(said)):
        fields["param"] = where[1]
    return ProviderAnswer(status, fields, retryable=retryable)


def _kind(status: int) -> str:
    return "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
