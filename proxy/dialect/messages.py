"""Anthropic's Messages API as a dialect: its errors, and its translation to chat completions and back.

    messages_request   fields; messages_turns, messages_tools, messages_thinking: what they hold
    messages_answer    plain answers and usage; messages_stream: events

Facts: https://docs.anthropic.com/en/api/messages, /errors.
"""

import msgspec

from proxy.dialect import Dialect, Translation
from proxy.dialect.messages_answer import answer
from proxy.dialect.messages_request import to_chat
from proxy.dialect.messages_stream import Encoder
from proxy.errors import ProxyError
from proxy.wire import Decoder

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def render(error: ProxyError, request_id: str) -> bytes:
    """The type follows from the status: 400 and what else is the client's is invalid_request_error, 5xx api_error."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    # Anthropic's own words for a wrong key: Claude Code knows it by them.
    message = f"invalid x-api-key: {error.message}" if error.status == 401 else error.message
    said = {"type": _TYPES.get(error.status, other), "message": message}
    return msgspec.json.encode({"type": "error", "error": said, "request_id": request_id})


def error_event(error: ProxyError, request_id: str, decoder: Decoder) -> bytes:
    return b"event: error\ndata: " + render(error, request_id) + b"\n\n"


TRANSLATION = Translation(to_chat, answer, Encoder)
DIALECT = Dialect("messages", render, error_event, (b"x-request-id", b"request-id"))
