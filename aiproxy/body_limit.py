"""Owns how large a control-plane body may be; wraps Django in asgi.py and knows nothing of it.

Django spools a whole body to disk before its first middleware runs, so a cap has to stand outside of it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from accounts.ids import new_id

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Django's own signature differs from the specification's in what it calls a mapping.
App = Callable[[Any, Any, Any], Awaitable[None]]

MAX_BODY = 1 << 20
# A client that is still sending would not see an answer before the close: this much more is read and thrown away.
_DRAIN_BYTES = 1 << 20
_DRAIN_SECONDS = 2.0


class _Refused(Exception):
    """Carries the status and the detail that the client is answered with."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Gone(Exception):
    """The client left before its body was complete."""


class BodyLimit:
    """Calls `app` with a body of at most `limit` bytes, in one piece; it came without a pause of `idle` seconds."""

    def __init__(self, app: App, *, limit: int = MAX_BODY, idle: float = 30.0) -> None:
        self.app, self.limit, self.idle = app, limit, idle

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except _Gone:
            return
        except _Refused as refused:
            await _drain(receive)
            await _answer(send, refused.status, refused.detail)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        self._check_declared(scope)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self.idle)
            except TimeoutError:
                raise _Refused(408, f"The body stalled for {self.idle:g} seconds.") from None
            if message["type"] == "http.disconnect":
                raise _Gone
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
            size += len(pieces[-1])
            if size > self.limit:
                raise _Refused(413, f"The body is larger than {self.limit} bytes.")
        return b"".join(pieces)

    def _check_declared(self, scope: MutableMapping[str, Any]) -> None:
        for name, value in scope["headers"]:
            if name != b"content-length":
                continue
            if not value.isdigit():
                raise _Refused(400, "Content-Length is not a number.")
            if int(value[:20]) > self.limit:
                raise _Refused(413, f"The body is larger than {self.limit} bytes.")


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _drain(receive: Receive) -> None:
    left, more = _DRAIN_BYTES, True
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more and left > 0:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-request-id", new_id()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
