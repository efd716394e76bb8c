"""Anthropic's Messages API behind OpenAI's chat completions: the wire's record, made of its parts.

    anthropic_capabilities  what each family of models can do
    anthropic_request       fields; anthropic_messages, anthropic_tools, anthropic_schema: what they hold
    anthropic_answer        plain answers and usage; anthropic_stream: events; anthropic_errors

Facts: https://docs.anthropic.com/en/api/messages.
"""

from proxy.errors import BadRequest
from proxy.wire import Call, Usage, Wire
from proxy.wire import anthropic_answer as answers
from proxy.wire.anthropic_errors import error
from proxy.wire.anthropic_request import encode_chat
from proxy.wire.anthropic_stream import Decoder

_TARGETS = {"chat.completions": "/v1/messages", "models": "/v1/models?limit=1000"}


def target(endpoint: str, model: str, stream: bool) -> str:
    if endpoint not in _TARGETS:
        raise BadRequest(f"Anthropic has no {endpoint}.", param="model", code="unsupported_model")
    return _TARGETS[endpoint]


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    return encode_chat(body, model, stream=call.stream, max_output=max_output)


def answer(body: bytes, call: Call) -> tuple[bytes, Usage | None]:
    return answers.answer(body)


WIRE = Wire(
    target=target,
    encode=encode,
    answer=answer,
    usage=answers.usage,
    decoder=Decoder,
    error=error,
    request_headers=frozenset({b"anthropic-beta"}),
    response_headers=frozenset({b"content-type"}),
)
