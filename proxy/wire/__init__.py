"""The wires: one provider's format each, as pure functions between OpenAI's chat completions and that.

A wire does no I/O and knows no Django. `proxy.wires.WIRES` says which providers are spoken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from proxy.errors import ProxyError

# What reading JSON raises of bytes that are none, or of another shape: texts are looked at for UTF-8 only where read.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Call(msgspec.Struct):
    """What we read of a client's request; the rest of its body is not ours to know."""

    model: str
    fallbacks: tuple[str, ...] | None = None  # to be asked when it is not served; None: no list was sent
    stream: bool = False
    include_usage: bool = False  # the client asked for the usage event itself
    max_output: int | None = None
    tokens_input: int = 0  # estimated
    tokens_output: int = 0  # the most that the answer may have
    one_tool_call: bool = False  # the client takes one at a time
    shows_reasoning: bool = False  # the client asked to see it
    base64: bool = False  # embeddings are wanted as base64 of 32-bit floats
    body: bytes = b""  # as the client sent it, where the answer repeats some of it


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the provider counts them.

    `cached`, `cache_write`, audio and images in are part of `input`, `cache_write_1h` of `cache_write`, `audio_cached`
    of `cached`; `reasoning`, audio and images out of `output`.
    """

    input: int = 0
    output: int = 0
    total: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0
    service_tier: str = ""  # as the provider names it; empty: the standard one
    audio_input: int = 0  # not read from a cache
    audio_output: int = 0
    image_input: int = 0
    cache_write_1h: int = 0
    audio_cached: int = 0
    image_output: int = 0

    def is_count(self) -> bool:
        """Whether these can be numbers of tokens: a provider may claim anything."""
        return not (self.input | self.output | self.total) >> 31  # none is negative, none of more than 31 bits

    def so_far(self, chunks: int) -> "Usage":
        """Until the last count: a stream's beginning knows the input and hardly any output."""
        if self.output >= chunks:
            return self
        return msgspec.structs.replace(self, output=chunks, total=self.input + chunks)


class Decoder(Protocol):
    """Turns a provider's event stream into the client's, incrementally.

    `feed` returns bytes for the client; once `complete` is set, `final` holds the event that ends the answer (not
    returned by `feed`: the exchange is recorded before it goes out). `failure` is an error event of the provider.
    `flush` is called at the clean end of the body, for formats whose streams end without a last event. `chunks` counts
    the events with content so far: about as many tokens.
    """

    @property
    def complete(self) -> bool: ...
    @property
    def final(self) -> bytes: ...
    @property
    def failure(self) -> ProxyError | None: ...
    @property
    def usage(self) -> Usage | None: ...
    @property
    def chunks(self) -> int: ...

    def feed(self, data: bytes) -> bytes: ...

    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    # Endpoint, the provider's model name, streamed: the path below its base URL.
    target: Callable[[str, str, bool], str]
    encode: Callable[[bytes, Call, str, int | None], bytes]  # body, call, the provider's model name, output cap
    # A plain answer as a whole: in the client's dialect, and its usage; None: bytes and usage stay as they are.
    answer: Callable[[bytes, Call], tuple[bytes, Usage | None]] | None
    usage: Callable[[bytes], Usage | None]  # of a plain answer, or of the end of a long one
    decoder: Callable[[Call], Decoder]
    error: Callable[[int, bytes], ProxyError]  # of a complete error answer
    request_headers: frozenset[bytes]  # what a client may say to this provider; the credential is not among them
    response_headers: frozenset[bytes]  # what this provider may say to a client
