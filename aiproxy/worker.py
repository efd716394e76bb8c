"""One worker process: uvicorn under gunicorn, with our protocol, our limits and an end that lets streams finish.

Owns what happens between the fork and the exit. Knows nothing of requests; what is open for them is the application's.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from aiproxy.process import give_back_memory, run_promptly
from proxy.server import Limits, ProxyProtocol

# Each end waits for the one inside it: the application's grace, then this long for the server to close connections …
SERVER_MARGIN = 1.0
# … and then, in the master, for the lifespan's shutdown.
WORKER_MARGIN = 4.0
# Ctrl-C and SIGQUIT: streams are told at once that they end.
QUICK_GRACE = 1.0
# More unsent bytes than this do not go into the kernel: a slow reader is felt here, where it can be bounded.
UNSENT_LIMIT = 128 * 1024
RESPAWN_DELAY = 1.0
# Blocked by the master around the fork, until the worker has its own handlers.
WORKER_ENDS = {signal.SIGTERM, signal.SIGQUIT}


def limits() -> Limits:
    return Limits(
        header_timeout=settings.AIPROXY_HEADER_TIMEOUT,
        body_idle_timeout=settings.AIPROXY_BODY_IDLE_TIMEOUT,
        write_timeout=settings.AIPROXY_WRITE_TIMEOUT,
        keepalive_timeout=settings.AIPROXY_KEEPALIVE_TIMEOUT,
    )


class ProxyServer(Server):
    def __init__(self, config: Config, worker: "ProxyWorker") -> None:
        super().__init__(config)
        self._worker = worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            if listener.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LIMIT)
        await super().startup(sockets)
        gc.freeze()  # prices, trust roots, code: what is there from the start stays, and is not looked at again
        if self.started and self._worker.age == 1:
            self._worker.announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's: the worker then exits 0, and a Ctrl-C in the terminal is left to the master."""
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self.end, settings.AIPROXY_GRACE)
        loop.add_signal_handler(signal.SIGQUIT, self.end, QUICK_GRACE)
        try:
            yield
        finally:
            for number in WORKER_ENDS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    def end(self, grace: float) -> None:
        self.should_exit = True
        self.config.timeout_graceful_shutdown = grace + SERVER_MARGIN  # type: ignore[assignment]  # a float will do
        if hasattr(self._worker.wsgi, "drain"):
            self._worker.wsgi.drain(grace)

    async def on_tick(self, counter: int) -> bool:
        if not self.should_exit and os.getppid() != self._worker.ppid:
            self.end(settings.AIPROXY_GRACE)  # nobody would stop us, or start another in our place
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The loop owns the listeners, and closes them: gunicorn would close them a second time.
        beating = asyncio.create_task(self._keep_beating())
        try:
            await super().shutdown()
        finally:
            beating.cancel()

    async def _keep_beating(self) -> None:
        """A worker that lets streams finish is not one that hangs."""
        while True:
            self._worker.notify()
            await asyncio.sleep(1)


class ProxyWorker(UvicornWorker):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.CONFIG_KWARGS = {
            "loop": "uvloop",
            "http": ProxyProtocol,
            "ws": "none",
            "lifespan": "on",
            "interface": "asgi3",
            "proxy_headers": False,
            "server_header": False,
            "access_log": False,
        }
        super().__init__(*args, **kwargs)

    def init_process(self) -> None:
        sys.setswitchinterval(0.0005)  # a thread that computes may hold up the loop this long
        run_promptly()  # and the kernel does not make it longer
        give_back_memory()
        # An exchange leaves next to no cycles; at the default of 700 an eighth of its instructions went to looking.
        # Pages leave some, and all else waits while they are freed: not too many at once.
        gc.set_threshold(10_000, 5, 5)
        ProxyProtocol.limits = limits()
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKER_ENDS)

    def run(self) -> None:
        try:
            super().run()
        except SystemExit as end:
            if end.code == Arbiter.WORKER_BOOT_ERROR and self.age > self.cfg.workers:
                # This status stops the whole service. That is right for the first workers; a later one, whose disk or
                # database is away for a while, must not take the others with it.
                time.sleep(RESPAWN_DELAY)
                sys.exit(1)
            raise

    def announce(self) -> None:
        """The line that tells a person, or a script, that the service takes requests, and where."""
        where = ", ".join(str(listener) for listener in self.sockets)
        plural = "s" if self.cfg.workers > 1 else ""
        with contextlib.suppress(OSError):  # who started us may have gone, or its disk be full
            os.write(1, f"Ready at {where} ({self.cfg.workers} worker{plural})\n".encode())

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = ProxyServer(self.config, self)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
