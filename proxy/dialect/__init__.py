"""The dialects that clients speak besides OpenAI's chat completions, as pure functions to that and back.

A dialect does no I/O and knows no Django. Every wire takes a chat request and gives a chat answer; `through_chat` puts
a dialect's translation around one, so that the result is a wire again and an exchange needs to know nothing of it. A
pair that speaks the same (Anthropic's dialect to Anthropic) has a wire of its own instead: bytes pass untouched.
`proxy.views` says which URL speaks which dialect, over which wires.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from proxy.errors import ProxyError
from proxy.routing import Route
from proxy.wire import Call, Decoder, Usage, Wire


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a client is told what went wrong, and how it knows an answer again."""

    name: str
    render: Callable[[ProxyError, str], bytes]  # the body of an error answer; with the request's id
    # The same within the stream of a decoder, after which it just closes.
    error_event: Callable[[ProxyError, str, Decoder], bytes]
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)


class Encoder(Protocol):
    """Turns OpenAI's event stream into the dialect's, incrementally.

    Both take whole events, as a wire's decoder gives them. `finish` takes the last of them (the decoder's `final`) and
    returns the bytes that complete the answer: they go out once the exchange is recorded. `feed` never returns those.
    """

    def feed(self, events: bytes) -> bytes: ...

    def finish(self, events: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Translation:
    """A dialect's bodies as chat completions, and back.

    `to_chat` asks for `stream_options.include_usage` in streams (the Call says so too), so that an encoder sees usage.
    It may note on the Call what `answer` and `encoder` have to know of the request.
    """

    to_chat: Callable[[bytes, Call, Route], bytes]  # BadRequest names what this provider or model cannot honour
    answer: Callable[[bytes, Call], bytes]  # a plain chat completion
    encoder: Callable[[Call], Encoder]


def through_chat(translation: Translation, provider: str, wire: Wire) -> Wire:
    """The provider's wire, spoken to in the dialect."""

    def target(endpoint: str, model: str, stream: bool) -> str:
        return wire.target("chat.completions", model, stream)

    def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
        return wire.encode(translation.to_chat(body, call, Route(provider, model)), call, model, max_output)

    return Wire(
        target=target,
        encode=encode,
        answer=partial(_answer, translation, wire),
        usage=wire.usage,
        decoder=lambda call: Encoded(wire.decoder(call), translation.encoder(call)),
        error=wire.error,
        request_headers=wire.request_headers,
        response_headers=wire.response_headers,
    )


def _answer(translation: Translation, wire: Wire, body: bytes, call: Call) -> tuple[bytes, Usage | None]:
    said, usage = wire.answer(body, call) if wire.answer else (body, wire.usage(body))
    if call.stream and said.startswith(b"data:"):  # a stream that came as a whole
        encoder = translation.encoder(call)
        return encoder.feed(said) + encoder.finish(b""), usage
    return translation.answer(said, call), usage


class Encoded:
    """A provider's decoder with a dialect's encoder behind it: a `Decoder`."""

    __slots__ = ("_decoder", "encoder", "final")

    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        self._decoder = decoder
        self.encoder = encoder
        self.final = b""

    @property
    def complete(self) -> bool:
        return self._decoder.complete

    @property
    def failure(self) -> ProxyError | None:
        return self._decoder.failure

    @property
    def usage(self) -> Usage | None:
        return self._decoder.usage

    @property
    def chunks(self) -> int:
        return self._decoder.chunks

    def feed(self, data: bytes) -> bytes:
        events = self._decoder.feed(data)
        passed = self.encoder.feed(events) if events else b""
        if self._decoder.complete:
            self.final = self.encoder.finish(self._decoder.final)
        return passed

    def flush(self) -> None:
        self._decoder.flush()
        if self._decoder.complete:
            self.final = self.encoder.finish(self._decoder.final)
