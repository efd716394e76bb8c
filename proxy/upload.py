"""Owns an upload: a form that is passed on as it comes, once it has said which model it is for.

Until then it is held, 1 MiB at the most; after that no more than a piece of it is ever here, so it can be sent only
once. All of it is read on its way (`proxy.multipart`): a second `model` ends the request before the provider has it
whole.
"""

from collections.abc import AsyncIterator

from proxy.cycle import ClientGone, Cycle
from proxy.errors import BadRequest, BodyTooLarge
from proxy.framing import CHUNKED
from proxy.incoming import Body, Fields
from proxy.multipart import Form, boundary_of
from proxy.upstream import Stream

MAX_HELD = 1 << 20


def is_form(fields: Fields) -> bool:
    return any(value[:10].lower() == b"multipart/" for value in fields.all(b"content-type"))


class Upload:
    """`begin` it, ask for its `model`, then send what `outgoing` gives, as `content_type`."""

    def __init__(self, body: Body, cycle: Cycle, *, max_bytes: int) -> None:
        self._body = body
        self._cycle = cycle
        self._max_bytes = max_bytes
        self._form = Form(b"")
        self._held = bytearray()
        self._seen = 0
        self._more = True
        self._refusal: BadRequest | None = None
        self.content_type = b""

    async def begin(self, fields: Fields) -> "Upload":
        """Reads until the model is known, or what is wrong. BodyTooLarge and Unavailable at once, ClientGone."""
        self._check_size(self._cycle.length)
        try:
            boundary = boundary_of(fields[b"content-type"])
            self.content_type = b'multipart/form-data; boundary="%b"' % boundary
            self._form = Form(boundary)
            while self._more and self._form.model is None:
                if len(self._held) >= MAX_HELD:
                    raise BadRequest(
                        f"The form does not say its model within the first {MAX_HELD} bytes. Send the field before "
                        "the file.",
                        param="model",
                        code="model_too_late",
                    )
                piece = await self._next()
                self._body.hold(len(piece))
                self._held += piece
        except BadRequest as error:
            self._refusal = error
        return self

    @property
    def model(self) -> str:
        """BadRequest for a form that is none, or does not say it."""
        if self._refusal is not None:
            raise self._refusal
        if self._form.model is None:
            raise BadRequest("model is missing.", param="model", code="missing_required_parameter")
        return self._form.model

    def outgoing(self, model: str) -> bytes | Stream:
        """The form for the provider, with its own name of the model: as bytes if it is here as a whole."""
        start, end = self._form.span
        begun = b"".join((self._held[:start], model.encode(), self._held[end:]))
        if not self._more:
            return begun
        grown, length = len(begun) - len(self._held), self._cycle.length
        return Stream(self._pieces(begun), None if length == CHUNKED else length + grown)

    async def _pieces(self, begun: bytes) -> AsyncIterator[bytes]:
        self._held = bytearray()
        yield begun
        del begun
        while self._more:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._cycle.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self._more = message.get("more_body", False)
        self._seen += len(piece)
        self._check_size(self._seen)
        self._form.feed(piece)
        if not self._more:
            self._form.finish()
        return piece

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(f"The body is larger than {self._max_bytes} bytes.")
