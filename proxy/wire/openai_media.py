"""OpenAI's images, sounds and moderations, spoken by the client as well: bytes pass untouched.

Facts: https://platform.openai.com/docs/api-reference/images, /audio, /moderations and their streams' events.
"""

import msgspec

from proxy import sse
from proxy.wire import UNREADABLE, Call, Usage, Wire, openai
from proxy.wire.counts import Count, decoded
from proxy.wire.fields import decode
from proxy.wire.stream import StreamDecoder

_TARGETS = {
    "images.generations": "/images/generations",
    "images.edits": "/images/edits",
    "audio.speech": "/audio/speech",
    "audio.transcriptions": "/audio/transcriptions",
    "audio.translations": "/audio/translations",
    "moderations": "/moderations",
}
# The events after which there is no more, unless there are several images.
_ENDS = frozenset({"image_generation.completed", "image_edit.completed", "speech.audio.done", "transcript.text.done"})


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _Usage(msgspec.Struct):
    """Of what is counted in seconds there are no tokens."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    input_tokens_details: _Details | None = None  # images
    input_token_details: _Details | None = None  # transcripts
    output_tokens_details: _Details | None = None

    def plain(self) -> Usage | None:
        if self.input_tokens is None and self.output_tokens is None and self.total_tokens is None:
            return None
        input, output = self.input_tokens or 0, self.output_tokens or 0
        of_input = self.input_tokens_details or self.input_token_details or _Details()
        of_output = self.output_tokens_details
        if of_output is None:  # where images are counted, older models say nothing of the output, which is one
            of_output = _Details(image_tokens=output if of_input.image_tokens is not None else 0)
        cached = min(of_input.cached_tokens or 0, input)
        return Usage(
            input=input,
            output=output,
            total=self.total_tokens if self.total_tokens is not None else input + output,
            cached=cached,
            audio_input=min(of_input.audio_tokens or 0, input - cached),
            image_input=min(of_input.image_tokens or 0, input - cached),
            image_output=min(of_output.image_tokens or 0, output),
        )


class _Answer(msgspec.Struct):
    type: str = ""  # of an event
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode_answer = msgspec.json.Decoder(_Answer).decode


def target(endpoint: str, model: str, stream: bool) -> str:
    return _TARGETS[endpoint]


def encode(body: bytes, call: Call, model: str, max_output: int | None) -> bytes:
    """The model is named also where the client left it to OpenAI: it is the one that was allowed."""
    said = bytes(decode(body, dict[str, msgspec.Raw]).get("model", b"null"))
    if said != b"null" and model == call.model:
        return body
    return openai.with_fields(body, {"model": msgspec.json.encode(model)})


def usage(body: bytes) -> Usage | None:
    """The usage of a plain answer, or of the end of a long one whose beginning is gone; None if it has none."""
    found = decoded(_decode_answer, body)
    return found.usage.plain() if found and found.usage else None


def _read(data: bytes) -> _Answer | None:
    try:
        return _decode_answer(data)
    except UNREADABLE:
        return None


class Decoder(StreamDecoder):
    """Passes complete events on. What may be the last one is held until the body ends or another follows."""

    __slots__ = ()

    def __init__(self, call: Call) -> None:
        super().__init__()

    def _take(self, block: bytes) -> bytes:
        passed: list[bytes] = []
        for event in sse.events(block):
            self._event(event, passed)
            if self.failure is not None:
                break
        return b"".join(passed)

    def flush(self) -> None:
        self.complete = bool(self.final)

    def _event(self, event: bytes, passed: list[bytes]) -> None:
        data = sse.data_of(event)
        found = _read(data) or _Answer()
        if bytes(found.error) not in {b"", b"null"}:
            self.failure = openai.in_stream_error(data)
        elif found.type in _ENDS:
            self.usage = found.usage.plain() if found.usage else None
            passed.append(self.final)
            self.final = event
        elif self.final and not found.type:  # a comment, or [DONE]
            self.final += event
        else:
            passed += (self.final, event)
            self.final = b""


WIRE = Wire(
    target=target,
    encode=encode,
    answer=None,
    usage=usage,
    decoder=Decoder,
    error=openai.error,
    request_headers=openai.WIRE.request_headers,
    response_headers=openai.WIRE.response_headers | {b"content-disposition"},
)
