"""OpenAI's Responses as a dialect: untouched to OpenAI, and for the others a translation of chat completions.

Nothing is stored here: a conversation is what its request says. Facts:
https://platform.openai.com/docs/api-reference/responses.
"""

import msgspec

from proxy.dialect import Dialect, Encoded, Translation
from proxy.dialect.responses_request import in_our_words, to_chat
from proxy.dialect.responses_stream import Encoder, Message
from proxy.errors import ProxyError, UpstreamBroken
from proxy.wire import UNREADABLE, Call, Decoder, openai_responses
from proxy.wire.fields import word


class _Choice(msgspec.Struct):
    message: Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    model: str
    choices: list[_Choice]
    created: int = 0
    usage: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Completion).decode


def answer(body: bytes, call: Call) -> bytes:
    """A Response is what the events of a stream that says it all at once come to."""
    try:
        completion = _decode(body)
        choice = completion.choices[0]
    except (*UNREADABLE, IndexError) as error:
        raise UpstreamBroken("The provider's answer cannot be read.") from error
    encoder = Encoder(call)
    encoder.begin(completion.model, completion.created)
    message = choice.message
    for number, tool_call in enumerate(message.tool_calls or ()):
        tool_call.index = number
    for block in message.thinking_blocks or ():  # each stands behind its own reasoning
        encoder.say(Message(reasoning_content=word(block.get("thinking")), thinking_blocks=[block]))
    if message.thinking_blocks:
        message.thinking_blocks = message.reasoning_content = None
    encoder.say(message)
    encoder.end(choice.finish_reason, completion.usage)
    encoder.finish(b"")
    return encoder.response


def render(error: ProxyError, request_id: str) -> bytes:
    return msgspec.json.encode(in_our_words(error).body())


def error_event(error: ProxyError, request_id: str, decoder: Decoder) -> bytes:
    """What the stream says last; only what made it knows its numbers."""
    if isinstance(decoder, Encoded) and isinstance(decoder.encoder, Encoder):
        return decoder.encoder.fail(error)
    assert isinstance(decoder, openai_responses.Decoder)
    return decoder.fail(error)


DIALECT = Dialect("responses", render, error_event)

TRANSLATION = Translation(to_chat, answer, Encoder)
