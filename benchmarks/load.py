"""A load generator of our own, for machines without wrk and for what wrk cannot do; it reports the same numbers.

    python -m benchmarks.load --scenario specification [--base URL --key KEY]

The scenario is that of load-test.js: 50 users, 1,000 requests between them, and thresholds that fail the run. Without
--base it starts this service itself, on its embedded default, in front of the benchmark's provider.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

from benchmarks.client import Endpoint, percentile, whole

USERS, REQUESTS, P95_MS = 50, 1000, 500
LEAVERS_AT_ONCE = 64


@dataclass
class Report:
    """Latencies in microseconds. An error is anything but a whole 200."""

    requests: int
    seconds: float
    errors: int
    p50: float
    p95: float
    p99: float
    slowest: float
    by: str

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


@dataclass
class Tally:
    """`more` says whether another request may begin."""

    more: Callable[[], bool]
    times: list[int] = field(default_factory=list)
    errors: int = 0

    def report(self, seconds: float) -> Report:
        self.times.sort()
        p50, p95, p99 = (percentile(self.times or [0], share) for share in (0.5, 0.95, 0.99))
        slowest = (self.times or [0])[-1] / 1e3
        return Report(len(self.times), seconds, self.errors, p50, p95, p99, slowest, "benchmarks/load.py")


class Client(asyncio.Protocol):
    """A connection that asks again as soon as it is answered; `ended` is done when there is no more to ask."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self.request, self.tally = request, tally
        self.ended = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        if not self.tally.more():
            self.transport.close()
            return
        self.buffer = b""
        self.begun = time.perf_counter_ns()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not whole(self.buffer):
            return
        if self.buffer.startswith(b"HTTP/1.1 200"):
            self.tally.times.append(time.perf_counter_ns() - self.begun)
        else:
            self.tally.errors += 1
        self.buffer = b""
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or self.buffer:
            self.tally.errors += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def run(endpoint: Endpoint, body: bytes, connections: int, more: Callable[[], bool]) -> Report:
    loop, tally = asyncio.get_running_loop(), Tally(more)
    request = endpoint.request(body)
    begun = time.perf_counter()
    pairs = [
        await loop.create_connection(lambda: Client(request, tally), "127.0.0.1", endpoint.port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.ended for _, client in pairs))
    return tally.report(time.perf_counter() - begun)


def for_seconds(endpoint: Endpoint, body: bytes, connections: int, seconds: float) -> Report:
    until = time.perf_counter() + seconds
    return uvloop.run(run(endpoint, body, connections, lambda: time.perf_counter() < until))


def of_requests(endpoint: Endpoint, body: bytes, connections: int, requests: int) -> Report:
    left = iter(range(requests))
    return uvloop.run(run(endpoint, body, connections, lambda: next(left, None) is not None))


async def leave_midway(endpoint: Endpoint, body: bytes, clients: int) -> None:
    """Clients that begin a stream and go away after a part of it, without a word; the same parts in every run."""
    chance, request, gate = random.Random(1), endpoint.request(body), asyncio.Semaphore(LEAVERS_AT_ONCE)

    async def one(pieces: int) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
            writer.write(request)
            for _ in range(pieces):
                data = await reader.read(65536)
                if not data or data.endswith(b"\r\n0\r\n\r\n"):  # too slow to leave before the end
                    break
            writer.transport.abort()

    await asyncio.gather(*(one(chance.randint(1, 40)) for _ in range(clients)))


def specification(endpoint: Endpoint, body: bytes) -> bool:
    report = of_requests(endpoint, body, USERS, REQUESTS)
    p95 = report.p95 / 1e3
    checks = {
        f"requests answered: {report.requests} of {REQUESTS}": report.requests == REQUESTS,
        f"p95 {p95:.1f} ms < {P95_MS} ms": 0 < p95 < P95_MS,
        f"errors: {report.errors} (0 allowed)": report.errors == 0,
    }
    for text, passed in checks.items():
        print(f"  {'ok  ' if passed else 'FAIL'} {text}")
    print(f"  {report.rate:,.0f} requests/s, p50 {report.p50 / 1e3:.1f} ms, slowest {report.slowest / 1e3:.1f} ms")
    return all(checks.values())


def main() -> None:
    from benchmarks import question

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=["specification"], required=True)
    parser.add_argument("--base", default=os.environ.get("BASE", ""), help="of a running service on loopback")
    parser.add_argument("--key", default=os.environ.get("KEY", ""), help="a proxy key of it")
    options = parser.parse_args()
    print(f"{USERS} users, {REQUESTS} requests")
    if options.base:
        url = urlsplit(options.base)
        if url.hostname not in ("127.0.0.1", "localhost"):
            parser.error("--base must be on loopback: from elsewhere run load-test.js by k6")
        endpoint = Endpoint(url.port or 80, headers=(("authorization", f"Bearer {options.key}"),))
        sys.exit(not specification(endpoint, question.PLAIN))
    from benchmarks.run import embedded_service

    with embedded_service() as endpoint:
        passed = specification(endpoint, question.PLAIN)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
