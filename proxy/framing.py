"""Where one HTTP/1.1 request ends, and which requests are refused before any application code runs.

Owns: the rules of RFC 9112 that the parser leaves open, the limits on a request's head, and the search for the end of a
chunked body. Pure functions and one small scanner; no I/O, no Django, no asyncio. llhttp still validates and decodes
every byte: two readers that must agree, so that a request never means one thing here and another behind us.
"""

import re
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

import msgspec

Headers = Sequence[tuple[bytes, bytes]]

CHUNKED: Final = -1
HEAD_END: Final = b"\r\n\r\n"
CHUNK_LINE_LIMIT: Final = 1024
TRAILER_LIMIT: Final = 8192

BARE_LF: Final = re.compile(rb"(?<!\r)\n")
UPGRADE_FIELD: Final = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
ABSOLUTE_FORM: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n]*)?\r\n")


class Refused(Exception):
    """The request is not served: `status`, and `code` and `message` for the client's error object."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Head:
    """A request's head, parsed and checked; `length` is that of its body in bytes, or CHUNKED.

    The next request on a connection mostly has the same head but for that length: `before` and `after` are the bytes
    around it, so that those heads need not be read again (empty where the length has no digits). What `fields` and
    `scope` say of that length is then of an earlier request: ask the Cycle. `notes` are for the application, of what
    it makes of these bytes.
    """

    __slots__ = (
        "after",
        "before",
        "continue_due",
        "fields",
        "is_eager",
        "keep_alive",
        "length",
        "line",
        "notes",
        "scope",
    )

    def __init__(self, line: "RequestLine", fields: Headers, data: bytes, *, keep_alive: bool) -> None:
        """Raises Refused. `data` is the head as it came, `keep_alive` what the parser says of it."""
        self.line = line
        self.fields = fields
        # An HTTP/1.0 client that asks to be kept takes an answer that does not grant it to end with the connection.
        self.keep_alive = keep_alive and line.version == "1.1"
        self.length, self.continue_due = check_fields(line, fields)
        self.scope: dict[str, Any] = {}
        self.notes: Any = None
        self.is_eager = False
        self.before = self.after = b""
        digits = _LENGTH.search(data) if self.length >= 0 and not self.continue_due else None
        if digits is not None:
            self.before, self.after = data[: digits.start(1)], data[digits.end(1) :]


def malformed(message: str) -> Refused:
    return Refused(400, "malformed_request", message)


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    authority: bytes | None  # of an absolute-form target


def parse_request_line(line: bytes, target_limit: int) -> RequestLine:
    """`line` without its CRLF; raises Refused. Methods and characters are left to the parser."""
    if len(line) > target_limit:
        raise Refused(414, "uri_too_long", f"The request target is longer than {target_limit} bytes.")
    parts = line.split(b" ")
    if len(parts) != 3 or line[0] in b"\r\n":  # those the parser would pass over, and we take for the method's
        raise malformed("The request line must be a method, a target and a version, one space apart.")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refused(505, "http_version_not_supported", "Use HTTP/1.1.")
    if method == b"CONNECT":
        raise malformed("This server is not a forward proxy.")
    if b"#" in target or not line.isascii():
        raise malformed("The request target must be percent-encoded and without a fragment.")
    authority = None
    if not target.startswith(b"/"):
        absolute = ABSOLUTE_FORM.fullmatch(target)
        if absolute is None:
            raise malformed("The request target must be a path that starts with a slash.")
        authority, target = absolute.groups()
        if not target.startswith(b"/"):
            target = b"/" + target
    raw_path, _, query = target.partition(b"?")
    path = urllib.parse.unquote(raw_path.decode("ascii"))
    return RequestLine(method.decode("ascii"), path, raw_path, query, version[5:].decode("ascii"), authority)


def check_fields(line: RequestLine, headers: Headers) -> tuple[int, bool]:
    """The body's length in bytes (0: none) or CHUNKED, and whether `100 Continue` is due; names are in lower case.

    Raises Refused.
    """
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_duplicates(headers)
    host = fields.get(b"host")
    if host is None:
        if line.version == "1.1":
            raise malformed("HTTP/1.1 needs exactly one Host field.")
    elif line.authority is not None or HOST.fullmatch(host) is None:
        _check_host(host, line.authority)
    expectation = fields.get(b"expect")
    continue_due = expectation is not None and _is_continue(line, expectation)
    if b"transfer-encoding" in fields:
        return _check_chunked(line, fields), continue_due
    length = fields.get(b"content-length")
    if length is None:
        return 0, continue_due
    if not length.isdigit():
        length = length.strip(b" \t")
    if not length.isdigit() or len(length) > 18:
        raise malformed("Content-Length must be a decimal number.")
    return int(length), continue_due


def _check_duplicates(headers: Headers) -> None:
    names = [name for name, _ in headers]
    for name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
        if names.count(name) > 1:
            raise malformed(f"The field {name.decode()} must occur once.")


def _check_host(value: bytes, authority: bytes | None) -> None:
    value = value.strip(b" \t")
    if HOST.fullmatch(value) is None:
        raise malformed("The Host field is not a host name with an optional port.")
    if authority is not None and authority.lower() != value.lower():
        raise malformed("The request target and the Host field name different hosts.")


def _check_chunked(line: RequestLine, fields: dict[bytes, bytes]) -> int:
    if b"content-length" in fields or fields[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
        raise malformed("Transfer-Encoding must be `chunked`, once, and without Content-Length.")
    if line.version != "1.1":
        raise malformed("Transfer-Encoding needs HTTP/1.1.")
    return CHUNKED


def _is_continue(line: RequestLine, expectation: bytes) -> bool:
    if line.version != "1.1":
        return False
    if expectation.strip(b" \t").lower() != b"100-continue":
        raise Refused(417, "expectation_failed", "Only `Expect: 100-continue` is understood.")
    return True


class ChunkedEnd:
    """Finds the byte after a chunked body, across any split of the input."""

    __slots__ = ("_in_trailer", "_line", "_skip", "_trailer_bytes")

    def __init__(self) -> None:
        self._skip = 0  # bytes of chunk data, with their CRLF, still to pass over
        self._line = b""
        self._in_trailer = False
        self._trailer_bytes = 0

    def scan(self, data: bytes, start: int) -> int:
        """The offset in `data` just after the body, or -1 while it goes on; raises Refused."""
        position = start
        while True:
            if self._skip:
                step = min(self._skip, len(data) - position)
                position += step
                self._skip -= step
            newline = data.find(b"\n", position)
            line = self._line + data[position : newline + 1 if newline >= 0 else len(data)]
            if len(line) > CHUNK_LINE_LIMIT:
                raise malformed(f"A chunk's size line or a trailer field is longer than {CHUNK_LINE_LIMIT} bytes.")
            if newline < 0:
                self._line = line
                return -1
            self._line = b""
            position = newline + 1
            if self._in_trailer:
                if self._is_end(line):
                    return position
            else:
                self._start_chunk(line)

    def _start_chunk(self, line: bytes) -> None:
        match = CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise malformed("A chunk's size is not a hexadecimal number that ends with CRLF.")
        size = int(match[1], 16)
        if size:
            self._skip = size + 2
        else:
            self._in_trailer = True

    def _is_end(self, line: bytes) -> bool:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_LIMIT:
            raise Refused(431, "request_head_too_large", f"The trailer is larger than {TRAILER_LIMIT} bytes.")
        return line == b"\r\n"
