"""A real server on a loopback port in a thread of its own, and a client that sends exactly the bytes it is told."""

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any, NamedTuple

import uvicorn
import uvloop

from proxy.server import Limits, ProxyProtocol


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection; every wait ends after five seconds at the latest."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(5)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> "RawClient":
        self.socket.sendall(data)
        return self

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def chunk(self) -> bytes:
        size = int(self.file.readline(), 16)
        data = self.file.read(size)
        assert self.file.read(2) == b"\r\n"
        return data

    def answer(self) -> Answer:
        status, headers = self.head()
        if "content-length" in headers:
            return Answer(status, headers, self.file.read(int(headers["content-length"])))
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(iter(self.chunk, b"")))
        return Answer(status, headers, b"")

    def is_closed(self) -> bool:
        """Waits for the server to close; False if it sends something instead."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


class RawServer:
    """`app` under ProxyProtocol with its own limits, on uvloop, until `stop`; all of it in EagerTasks, or none."""

    def __init__(self, app: Any, *, eager: bool = True, **limits: Any) -> None:
        own = {"limits": Limits(**limits), "eager_path": "/" if eager else "none"}
        protocol = type("TestProtocol", (ProxyProtocol,), own)
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, server_header=False, proxy_headers=False
        )
        self.server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.server.serve([listener]))

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def client(self, **options: int) -> RawClient:
        return RawClient(self.port, **options)

    def ask(self, data: bytes) -> Answer:
        with self.client() as client:
            return client.send(data).answer()
