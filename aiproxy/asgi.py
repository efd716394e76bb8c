"""The only door: `/v1/*` goes to the data plane, all else to Django; owns start-up and drain."""

import asyncio
import os
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiproxy.settings")

import django

django.setup(set_prefix=False)

from django.conf import settings
from django.core import checks
from django.core.handlers.asgi import ASGIHandler

from aiproxy import health
from aiproxy.body_limit import BodyLimit
from proxy.app import DataPlane
from proxy.cycle import ClientGone
from proxy.incoming import Receive, Scope, Send


class Handler(ASGIHandler):
    async def listen_for_disconnect(self, receive: Any) -> None:
        """Returns where Django's raises: the error would know the frame that knows its task, and request and answer
        would stay until the collector comes, which holds up the loop."""
        with suppress(asyncio.CancelledError):
            await receive()


class Application:
    def __init__(self) -> None:
        self.data_plane = DataPlane()
        self.control_plane: Any = BodyLimit(Handler(), idle=settings.AIPROXY_BODY_IDLE_TIMEOUT)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope.get("path", "")
        if path.startswith("/v1/") or path == "/v1":
            return self.data_plane.__call__(scope, receive, send)  # called by name, a method needs no detour through C
        if scope["type"] == "http":
            answered: Awaitable[None] = self.control_plane(scope, receive, _quiet(send))
            return answered
        return self._lifespan(receive, send)

    def drain(self, grace: float) -> None:
        """On SIGTERM: not ready from now on; what runs may finish within `grace` seconds."""
        health.draining = True
        self.data_plane.drain(grace)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            refuse_bad_settings()
            await self.data_plane.startup()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.data_plane.shutdown()
        await send({"type": "lifespan.shutdown.complete"})


def _quiet(send: Send) -> Send:
    """Django tidies up after a response only if sending it to nobody is no error."""

    async def send_or_drop(message: dict[str, Any]) -> None:
        with suppress(ClientGone):
            await send(message)

    return send_or_drop


def refuse_bad_settings() -> None:
    """Whoever starts us: secrets that are missing, short or equal, and anything else that is an error."""
    errors = [message for message in checks.run_checks(tags=["aiproxy", "security"]) if message.level >= checks.ERROR]
    if errors:
        raise RuntimeError("; ".join(f"{error.id}: {error.msg}" for error in errors))


application = Application()
