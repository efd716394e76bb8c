"""Owns what a log line looks like and what may reach it: secrets are masked at the sink, whoever wrote the line.

A line is one line: control characters in a message are escaped, so that nobody's text can pose as a record of ours.
"""

import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str] = ContextVar("request_id", default="")

_MASK = "***"
# What a secret looks like by itself: proxy and provider keys (`sk-…`, Google's `AIza…` and `AQ.…`), JWTs, our hashes.
_BARE = r"\b(?:sk-|AIza|AQ\.|eyJ)[A-Za-z0-9_-]{8,}[A-Za-z0-9_.-]*|\bargon2id?\$[^\s\"']+"
# What is one because of what stands before it: `Bearer …`, `x-api-key: …`, `(b'cookie', b'…')`, `"password": "…"`,
# `?key=…`, `scheme://user:…@`.
_SCHEME = r"\b(?:bearer|basic)\s+(?=[A-Za-z0-9._~+/=-]{8})"
_NAME = (
    r"\b(?:(?:proxy-)?authorization|(?:x-)?(?:goog-)?api[-_]?key|sessionid|csrf(?:token|middlewaretoken)"
    r"|(?:\w+_)?password[12]?|passwd|(?:client_)?secret(?:_key)?|(?:\w+_)?token)|[?&]key"
)
_NAMED = rf"(?:{_NAME})(?:[\"']\s*[,:]\s*b?|\s*[:=]\s*)[\"']?(?:(?:bearer|basic)\s+)?"
_VALUE = r"(?:(?<=\")[^\"\r\n]+|(?<=')[^'\r\n]+|[^\s\"',;&)}\]]{3,})"
_COOKIE = r"\b(?:set-)?cookie[\"']?\s*[,:]\s*b?[\"']?"
_USERINFO = r"://[^\s:@/]*:"
_SECRET = re.compile(
    rf"{_BARE}|(?P<before>{_NAMED}){_VALUE}|(?P<scheme>{_SCHEME})[^\s\"',]+"
    rf"|(?P<cookie>{_COOKIE})[^\"'\r\n]+|(?P<userinfo>{_USERINFO})[^\s@/]+(?=@)",
    re.IGNORECASE,
)
# A line without any of these holds no secret, and is not searched.
_HINTS = (
    *("sk-", "aiza", "aq.", "eyj", "argon2", "key", "auth", "cookie", "bearer", "basic"),
    *("passw", "secret", "token", "session", "csrf", "://"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


def scrub(text: str) -> str:
    """The text with everything that looks like a secret masked; names and addresses around it stay."""
    lowered = text.lower()
    return _SECRET.sub(_masked, text) if any(hint in lowered for hint in _HINTS) else text


def _masked(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup] if match.lastgroup else ''}{_MASK}"


def one_line(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Line(logging.Formatter):
    """`2026-01-31 23:59:59,999 ERROR django.request [request id]: message`, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        context = f" [{request_id.get()}]" if request_id.get() else ""
        message = one_line(record.getMessage())
        text = f"{self.formatTime(record)} {record.levelname} {record.name}{context}: {message}"
        trace = _traceback(self, record)
        return scrub(f"{text}\n{trace}" if trace else text)


class Json(logging.Formatter):
    """One JSON object a record: time, level, logger, message, request_id and traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": scrub(record.getMessage()),
            "request_id": request_id.get(),
            "traceback": scrub(_traceback(self, record)),
        }
        return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
