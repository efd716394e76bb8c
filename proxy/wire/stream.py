"""Owns what the decoders of event streams share: cutting the stream, and what has become of the answer so far."""

from proxy import sse
from proxy.errors import ProxyError, UpstreamBroken
from proxy.wire import Usage


class StreamDecoder:
    """A `proxy.wire.Decoder` but for `_take`, which turns a block of complete events into the client's bytes."""

    __slots__ = ("_blocks", "chunks", "complete", "failure", "final", "usage")

    def __init__(self) -> None:
        self._blocks = sse.Blocks()
        self.complete = False
        self.final = b""
        self.failure: ProxyError | None = None
        self.usage: Usage | None = None
        self.chunks = 0

    def feed(self, data: bytes) -> bytes:
        try:
            block = self._blocks.feed(data)
        except sse.EventTooLong:
            self.failure = UpstreamBroken("The provider sent an event that is too long.")
            return b""
        return self._take(block) if block else b""

    def flush(self) -> None:
        """Most streams say themselves when they end."""

    def _take(self, block: bytes) -> bytes:
        raise NotImplementedError
