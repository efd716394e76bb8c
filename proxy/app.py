"""The data plane's ASGI application: everything under `/v1/`. Owns its lifetime and its drain; no Django middleware.

One exchange a request (proxy/exchange.py); CORS preflights are answered here.
"""

import asyncio
import logging
from collections.abc import Awaitable

from proxy.cycle import cycle_of
from proxy.exchange import Exchange
from proxy.incoming import Receive, Scope, Send
from proxy.runtime import Runtime

logger = logging.getLogger(__name__)

# Before the server's own end: what is cut off still gets its error event and its row.
LAST_WORDS = 1.0
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, api-key, openai-beta, *"),
    (b"access-control-max-age", b"86400"),
]


class DataPlane:
    def __init__(self) -> None:
        self.runtime: Runtime | None = None

    async def startup(self) -> None:
        self.runtime = Runtime()
        await self.runtime.open()

    async def shutdown(self) -> None:
        if self.runtime is not None:
            await self.runtime.close()
            self.runtime = None

    def drain(self, grace: float) -> None:
        """Lets what runs finish for `grace` seconds, then ends it: an error event, a row `drained`."""
        asyncio.get_running_loop().call_later(max(0.0, grace - LAST_WORDS), self._cut_off)

    def _cut_off(self) -> None:
        if self.runtime is not None:
            for exchange in tuple(self.runtime.exchanges):
                exchange.stop("drained")

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        assert self.runtime is not None, "the lifespan has not started: run `manage.py serve`"
        if scope["method"] == "OPTIONS":
            return self._preflight(self.runtime, scope, send)
        return Exchange(self.runtime, cycle_of(receive)).run()

    @staticmethod
    async def _preflight(runtime: Runtime, scope: Scope, send: Send) -> None:
        allowed = runtime.cors(dict(scope["headers"]).get(b"origin", b""))
        headers = [*allowed, *(_PREFLIGHT if len(allowed) > 1 else [])]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
