"""How fast is the upstream client alone? Loopback, a raw asyncio peer in its own process on the other core.

    python -m benchmarks.upstream [--seconds 3] [--connections 32] [--stock-loop] [--profile]

Prints requests/s (600-byte JSON answers), CPU microseconds of the client a request, and CPU a streamed chunk, both with
all 67 chunks sent at once and with every chunk in a segment of its own. CPU is that of the client's process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import subprocess
import sys
import time

import uvloop

from proxy.upstream import Origin, Pool, Timeouts

CHUNKS = 67
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":" word"}}]}\n\n'
HEADERS = [
    (b"authorization", b"Bearer " + b"x" * 48),
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
    (b"user-agent", b"benchmark"),
]
QUESTION = b'{"model":"m","messages":[{"role":"user","content":"' + b"word " * 40 + b'"}]}'
TIMEOUTS = Timeouts(connect=5, tls=5, first_byte=600, idle=300)
COMMON = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: peer\r\nx-request-id: 1\r\nvary: origin\r\nvia: peer\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: 600\r\n\r\n" % COMMON + b"x" * 600
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%btransfer-encoding: chunked\r\n\r\n" % COMMON
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Peer(asyncio.Protocol):
    """Answers by path. Requests arrive whole: the client writes them in one piece."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /plain"):
            self.transport.write(PLAIN)
        elif data.startswith(b"POST /burst"):
            self.transport.write(STREAM + CHUNK * CHUNKS + b"0\r\n\r\n")
        else:
            self.transport.write(STREAM)
            self.next_chunk(CHUNKS)

    def next_chunk(self, left: int) -> None:
        if not left:
            self.transport.write(b"0\r\n\r\n")
            return
        self.transport.write(CHUNK)
        asyncio.get_running_loop().call_later(0.001, self.next_chunk, left - 1)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def load(port: int, path: bytes, seconds: float, connections: int) -> tuple[int, int, float, float]:
    """Exchanges, reads, elapsed seconds and CPU seconds of this process."""
    pool = Pool()
    origin = Origin("http", "127.0.0.1", port)
    exchanges = reads = 0
    stop = time.monotonic() + seconds

    async def client() -> None:
        nonlocal exchanges, reads
        while time.monotonic() < stop:
            response = await pool.send(origin, b"POST", path, HEADERS, QUESTION, timeouts=TIMEOUTS)
            while await response.read():
                reads += 1
            exchanges += 1

    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(client() for _ in range(connections)))
    elapsed, cpu = time.monotonic() - begun, time.process_time() - cpu
    await pool.close()
    return exchanges, reads, elapsed, cpu


async def measure(port: int, seconds: float, connections: int) -> None:
    await load(port, b"/plain", 0.3, connections)
    done, _, elapsed, cpu = await load(port, b"/plain", seconds, connections)
    print(f"plain:  {done / elapsed:9,.0f} requests/s  {cpu / done * 1e6:6.1f} us CPU a request")
    for path, title in ((b"/burst", "at once"), (b"/paced", "one by one")):
        done, reads, elapsed, cpu = await load(port, path, seconds, connections)
        print(
            f"stream: {done / elapsed:9,.0f} streams/s   {cpu / done / CHUNKS * 1e6:6.1f} us CPU a chunk"
            f"  ({CHUNKS} chunks {title}, {reads / done:.0f} reads)"
        )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--stock-loop", action="store_true", help="asyncio's own loop in place of uvloop")
    options.add_argument("--profile", action="store_true", help="cProfile of the client on top")
    options.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.peer:
        uvloop.run(serve())
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    command = [sys.executable, "-m", "benchmarks.upstream", "--peer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        port = int(peer.stdout.readline())
        if len(cores) > 1:
            os.sched_setaffinity(peer.pid, {cores[-1]})
            os.sched_setaffinity(0, {cores[0]})
        profile = cProfile.Profile()
        run = asyncio.run if chosen.stock_loop else uvloop.run
        try:
            if chosen.profile:
                profile.enable()
            run(measure(port, chosen.seconds, chosen.connections))
            profile.disable()
        finally:
            peer.terminate()
    if chosen.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
