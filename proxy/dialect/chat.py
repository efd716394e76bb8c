"""OpenAI's chat completions as a dialect: what the wires speak anyway, so that nothing is translated."""

from proxy.dialect import Dialect
from proxy.errors import ProxyError
from proxy.wire import Decoder


def render(error: ProxyError, request_id: str) -> bytes:
    return error.render()


def error_event(error: ProxyError, request_id: str, decoder: Decoder) -> bytes:
    """As the official clients raise it: `data: {"error": …}`."""
    return b"data: " + error.render() + b"\n\n"


DIALECT = Dialect("chat", render, error_event)
