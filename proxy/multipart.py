"""Owns the reading of a form (`multipart/form-data`, RFC 7578) in pieces: its `model`, and that it has only one.

Nothing of it is kept but the part's name under way. It is strict where readers differ, since what we take for the
content of a file must not be a second `model` to the provider: lines end with CRLF, nothing stands before the first
boundary or after the last, and the boundary occurs nowhere else. Knows no sockets and no Django.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.errors import BadRequest

MAX_HEAD = 8 << 10  # of one part, bytes
MAX_VALUE = 1 << 10  # of `model`, bytes
MAX_PARTS = 1000

_CONTENT_TYPE = re.compile(
    rb'multipart/form-data[ \t]*;[ \t]*boundary=(?:"([^"\\]{1,70})"|([^\s";,\\]{1,70}))'
    rb"(?:[ \t]*;[ \t]*charset=\"?utf-8\"?)?[ \t]*",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION = re.compile(rb"form-data((?:[ \t]*;[ \t]*[A-Za-z]+\*?=(?:\"[^\"]*\"|[^\s\";,]+))+)[ \t]*", re.IGNORECASE)
_PARAMETER = re.compile(rb";[ \t]*([A-Za-z]+\*?)=(?:\"([^\"]*)\"|([^\s\";,]+))")
# As all of OpenAI's: `file`, `image[]`, `chunking_strategy[type]`. An escape in a name is read in more than one way.
_NAME = re.compile(rb"[0-9A-Za-z_.-]{1,64}(?:\[[0-9A-Za-z_.-]*\])*")
_PLAIN_TEXT = re.compile(rb"text/plain(?:[ \t]*;[ \t]*charset=\"?utf-8\"?)?", re.IGNORECASE)
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


def boundary_of(content_type: bytes) -> bytes:
    """BadRequest when this is no form's content type."""
    found = _CONTENT_TYPE.fullmatch(content_type)
    boundary = (found[1] or found[2]) if found else b""
    if not _BOUNDARY.fullmatch(boundary):
        raise BadRequest(
            "The Content-Type must be multipart/form-data with a boundary, and nothing else.", code="invalid_multipart"
        )
    return boundary


class Form:
    """`feed` takes the body as it comes; BadRequest as soon as it is no form, or says `model` twice."""

    __slots__ = ("_delimiter", "_end", "_model", "_offset", "_parts", "_rest", "_state", "complete", "model", "span")

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._state: Callable[[Form], bool] = Form._first  # not bound: what is no cycle needs no collector
        self._rest = b""  # what waits for more
        self._offset = 0  # of `_rest` in the body
        self._end = 0  # of the last part's head
        self._parts = 0
        self._model = False  # whether the part under way is `model`
        self.model: str | None = None
        self.span = (0, 0)  # where its value stands in the body
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._rest += data
        while self._state(self):
            pass

    def finish(self) -> None:
        """The body has ended."""
        if not self.complete:
            raise _bad("The form ends before its last boundary.")

    def _take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        self._offset += size
        return taken

    # --- states: each says whether it got any further -------------------------------------------------------------

    def _first(self) -> bool:
        """The body begins with a boundary."""
        if len(self._rest) < len(self._delimiter):
            return False
        if self._take(len(self._delimiter)) != self._delimiter:
            raise _bad("The form does not begin with its boundary.")
        self._state = Form._behind
        return True

    def _behind(self) -> bool:
        """Behind a boundary: another part, or the end."""
        if len(self._rest) < 2:
            return False
        follows = self._take(2)
        if follows == b"\r\n":
            self._state = Form._head
        elif follows == b"--":
            self._state, self.complete = Form._epilogue, True
        else:
            raise _bad("A boundary in the form is not followed by a line end.")
        return True

    def _head(self) -> bool:
        end = self._rest.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._rest) >= MAX_HEAD:
                raise _bad(f"The head of a part is longer than {MAX_HEAD} bytes.")
            return False
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _bad(f"The form has more than {MAX_PARTS} parts.")
        self._model = _is_model(self._take(end + 4)[:end])
        if self._model and self.model is not None:
            raise BadRequest("model occurs twice in the form.", param="model", code="duplicate_parameter")
        self._end = self._offset
        self._state = Form._content
        return True

    def _content(self) -> bool:
        at = self._rest.find(self._delimiter)
        if self._model and (at if at >= 0 else len(self._rest)) > MAX_VALUE:
            raise _bad("model is too long to be a name.", param="model")
        if at < 0:
            if not self._model:
                self._take(max(0, len(self._rest) - len(self._delimiter) - 1))  # the line end before it included
            return False
        content = self._take(at)
        if not content.endswith(b"\r\n"):
            raise _bad("The boundary stands in the middle of a line.")
        if self._model:
            self.model = _text(content[:-2])
            self.span = (self._end, self._offset - 2)
        self._take(len(self._delimiter))
        self._state = Form._behind
        return True

    def _epilogue(self) -> bool:
        if not b"\r\n".startswith(self._rest):
            raise _bad("Something follows the last boundary of the form.")
        return False


def _is_model(head: bytes) -> bool:
    """Whether a part is the field `model`; BadRequest for a head that could be read in two ways."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        field = _FIELD.fullmatch(line)
        if field is None or field[1].lower() in fields:
            raise _bad("The head of a part is malformed.")
        fields[field[1].lower()] = field[2].rstrip()
    if fields.get(b"content-transfer-encoding", b"binary").lower() not in _IDENTITY:
        raise _bad("A part has a Content-Transfer-Encoding. Send it as it is.")
    named = _named(fields.get(b"content-disposition", b""))
    name = named[b"name"]
    if name.partition(b"[")[0].lower() != b"model":
        return False
    if name != b"model" or len(named) > 1 or not _PLAIN_TEXT.fullmatch(fields.get(b"content-type", b"text/plain")):
        raise _bad("model must be a plain field of the form.", param="model")
    return True


def _named(disposition: bytes) -> dict[bytes, bytes]:
    """The parameters of a Content-Disposition, with their names in lower case."""
    found = _DISPOSITION.fullmatch(disposition)
    pairs = _PARAMETER.findall(found[1]) if found else []
    parameters = {name.lower(): quoted or token for name, quoted, token in pairs}
    known = parameters.keys() <= {b"name", b"filename", b"filename*"} and len(parameters) == len(pairs)
    # A backslash before a quote ends the text for some readers and not for others.
    if not known or not _NAME.fullmatch(parameters.get(b"name", b"")) or b'\\"' in disposition:
        raise _bad('Each part must have a Content-Disposition: form-data with a plain name="…".')
    return parameters


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _bad("model must be UTF-8.", param="model") from None


def _bad(message: str, *, param: str | None = None) -> BadRequest:
    return BadRequest(message, param=param, code="invalid_multipart")
