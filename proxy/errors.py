"""Owns what can go wrong with an exchange and how a client is told; knows no Django and no sockets.

    ProxyError
    ├── BadRequest 400 ── RequestTooLarge
    ├── Unauthenticated 401
    ├── Forbidden 403
    ├── NotFound 404, MethodNotAllowed 405, BodyTooLarge 413
    ├── RateLimited 429 ── QuotaUsedUp
    ├── InternalError 500
    ├── Unavailable 503          we cannot take the request now; nothing was sent
    │   └── BreakerOpen          nor does the provider, as it seems
    ├── LoopDetected 508         the request has been here before
    ├── ProviderKeyMissing 424
    └── UpstreamError            what the way to the provider, or the provider, did
        ├── UpstreamUnreachable 502, UpstreamBroken 502, UpstreamTimeout 504
        ├── ProviderKeyRejected 424
        └── ProviderAnswer       a complete error answer, passed on

The class carries `status`, `type`, `code` and `retryable`; the instance the message and what belongs to one case.
"""

import re
from typing import Any, ClassVar

import msgspec

# What the row says of a client that left before it was sent a status (nginx's convention).
CLIENT_CLOSED_REQUEST = 499

# What a provider may echo of the key that it was sent.
_SECRET = re.compile(r"(?:sk-|AIza|[Bb]earer )[A-Za-z0-9_*.-]{6,}")


def scrub(text: str) -> str:
    """A provider's words without keys."""
    return _SECRET.sub("***", text)


class ProxyError(Exception):
    """`retryable`: False tells the official SDKs not to send it again (`x-should-retry`), None leaves it to them."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retryable: bool | None = None
    source: ClassVar[str] = "proxy"
    complete_answer: ClassVar[bool] = False  # the provider said so itself: nothing was generated
    key_refused: bool = False  # the provider says that the stored key is none of its keys

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_ms: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_ms = retry_after_ms
        self.extra_fields = b""  # whole lines of the answer's head
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code},
        }

    def render(self) -> bytes:
        """OpenAI's error object, as JSON."""
        return msgspec.json.encode(self.body())

    def headers(self) -> list[tuple[bytes, bytes]]:
        fields = [(b"x-aiproxy-error-source", self.source.encode())]
        if self.retryable is not None:
            fields.append((b"x-should-retry", b"true" if self.retryable else b"false"))
        if self.retry_after_ms is not None:
            fields.append((b"retry-after-ms", b"%d" % self.retry_after_ms))
            fields.append((b"retry-after", b"%d" % -(-self.retry_after_ms // 1000)))
        return fields


class BadRequest(ProxyError):
    status = 400
    type = "invalid_request_error"


class RequestTooLarge(BadRequest):
    code = "request_too_large"


class Unauthenticated(ProxyError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    retryable = False  # Claude Code would try for minutes

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"www-authenticate", b"Bearer")]


class Forbidden(ProxyError):
    status = 403
    type = "invalid_request_error"


class NotFound(ProxyError):
    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(ProxyError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This URL takes {allowed} only.")
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"allow", self.allowed.encode())]


class BodyTooLarge(ProxyError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class ProviderKeyMissing(ProxyError):
    status = 424
    type = "invalid_request_error"
    code = "provider_key_missing"
    retryable = False


class RateLimited(ProxyError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaUsedUp(RateLimited):
    """A limit of the plan that holds for a day or a month: no SDK should wait for that."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    retryable = False


class InternalError(ProxyError):
    status = 500
    code = "internal_error"
    retryable = False


class Unavailable(ProxyError):
    status = 503
    code = "unavailable"


class BreakerOpen(Unavailable):
    """The provider has failed so often with the stored key that it is left alone for a while."""

    code = "provider_circuit_open"


class LoopDetected(ProxyError):
    status = 508
    code = "loop_detected"
    retryable = False


class UpstreamError(ProxyError):
    """Not to be sent again by the client either, once the provider may have been asked."""

    status = 502
    source = "provider"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(scrub(message), **fields)


class UpstreamUnreachable(UpstreamError):
    code = "provider_unreachable"


class UpstreamBroken(UpstreamError):
    code = "provider_broken"
    retryable = False


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "provider_timeout"
    retryable = False


class ProviderKeyRejected(UpstreamError):
    """The provider refuses the stored key: the client must not think that its proxy key is bad."""

    status = 424
    type = "invalid_request_error"
    code = "provider_key_rejected"
    retryable = False
    complete_answer = True


class ProviderAnswer(UpstreamError):
    """A complete error answer of the provider: its status, and its own error object scrubbed of secrets."""

    complete_answer = True

    def __init__(self, status: int, error: dict[str, Any], *, retryable: bool | None = None) -> None:
        said = {
            name: scrub(value)
            for name in ("message", "type", "param", "code")
            if isinstance(value := error.get(name), str)
        }
        super().__init__(said.get("message", f"The provider answered {status}."), retryable=retryable)
        self.status = status
        self.type = said.get("type", self.type)
        self.param = said.get("param")
        self.code = said.get("code")
