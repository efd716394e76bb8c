"""Google's format: the native Gemini API, spoken for clients of OpenAI's chat completions and embeddings.

The native one: Google's compatible one leaves thoughts out of the count and calls without ids. The key goes into a
header only. Facts: https://ai.google.dev/api.
"""

from urllib.parse import quote

import msgspec

from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Call, Usage, Wire
from proxy.wire.google_answer import Answer, decode_answer, plain
from proxy.wire.google_error import error, failure_of
from proxy.wire.google_request import encode
from proxy.wire.google_stream import Decoder

_KINDS = ("models/", "tunedModels/")


def target(endpoint: str, model: str, stream: bool) -> str:
    """The model's name is a client's text: no more than one segment of the path comes of it."""
    if endpoint == "models":
        return "/v1beta/models?pageSize=1000"
    kind = next((kind for kind in _KINDS if model.startswith(kind)), "models/")
    name = quote(model.removeprefix(kind), safe="")
    if endpoint == "embeddings":
        return f"/v1beta/{kind}{name}:batchEmbedContents"
    return f"/v1beta/{kind}{name}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"


def answer(body: bytes, call: Call) -> tuple[bytes, Usage | None]:
    if call.stream:
        return _stream_at_once(body, call)
    found = _decode(body)
    if found is None:
        raise UpstreamBroken("The provider's answer cannot be read.")
    if bytes(found.error) not in {b"", b"null"}:
        raise failure_of(502, body)
    return plain(found, call)


def _stream_at_once(body: bytes, call: Call) -> tuple[bytes, Usage | None]:
    """A stream that came as something else than one: an array of its events, or without a content type."""
    if body.lstrip()[:1] in {b"[", b"{"}:
        events = _decode_events(body) if body.lstrip().startswith(b"[") else [msgspec.Raw(body)]
        body = b"".join(b"data: " + b" ".join(bytes(one).splitlines()) + b"\n\n" for one in events)
    decoder = Decoder(call)
    passed = decoder.feed(body)
    decoder.flush()
    if decoder.failure is not None:
        raise decoder.failure
    if not decoder.complete:
        raise UpstreamBroken("The provider's stream ended before its end was said.")
    return passed + decoder.final, decoder.usage


def _decode_events(body: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=list[msgspec.Raw])
    except UNREADABLE as error:
        raise UpstreamBroken("The provider's answer cannot be read.") from error


def usage(body: bytes) -> Usage | None:
    found = _decode(body)
    return found.usage_metadata.plain() if found and found.usage_metadata else None


def _decode(body: bytes) -> Answer | None:
    try:
        return decode_answer(body)
    except UNREADABLE:
        return None


WIRE = Wire(
    target=target,
    encode=encode,
    answer=answer,
    usage=usage,
    decoder=Decoder,
    error=error,
    request_headers=frozenset(),
    response_headers=frozenset({b"content-type"}),
)
