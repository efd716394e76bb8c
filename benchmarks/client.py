"""One connection, one request at a time, blocking: the least noise there is for measuring what a hop adds."""

import re
import socket
import ssl
import time
from dataclasses import dataclass

from benchmarks.provider import MOMENT

SENT_AT = re.compile(rb'"content":\s*"t(\d{%d})"' % MOMENT)
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and what they carry. `trusted` is a PEM file: then it is TLS."""

    port: int
    path: str = "/v1/chat/completions"
    headers: tuple[tuple[str, str], ...] = ()
    trusted: str = ""

    def request(self, body: bytes) -> bytes:
        fields = [("host", f"127.0.0.1:{self.port}"), ("content-type", "application/json"), ("accept", "*/*")]
        fields += [("user-agent", "benchmark"), *self.headers, ("content-length", str(len(body)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.trusted:
            context = ssl.create_default_context(cafile=self.trusted)
            return context.wrap_socket(connection, server_hostname="localhost")
        return connection


class Refused(Exception):
    """An answer that is not 200, or no whole answer."""


def whole(answer: bytes) -> bool:
    """Whether the one answer that began this buffer has ended."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    found = CONTENT_LENGTH.search(answer, 0, end)
    return len(answer) >= end + 4 + int(found[1]) if found else answer.endswith(LAST_CHUNK)


def exchange(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while not whole(answer):
        data = connection.recv(65536)
        if not data:
            raise Refused(f"the connection closed after: {answer[:300]!r}")
        answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Refused(answer[:600].decode(errors="replace"))
    return answer


def latencies(endpoint: Endpoint, body: bytes, seconds: float, *, warm_up: int = 20) -> list[int]:
    """Nanoseconds of each exchange on one kept-alive connection, sorted."""
    request, found = endpoint.request(body), []
    with endpoint.connect() as connection:
        for _ in range(warm_up):
            exchange(connection, request)
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter_ns()) < until * 1e9:
            exchange(connection, request)
            found.append(time.perf_counter_ns() - begun)
    return sorted(found)


def chunk_delays(endpoint: Endpoint, body: bytes, seconds: float) -> tuple[list[int], list[int]]:
    """Of paced streams, sorted nanoseconds: from the request to its first chunk, and of each chunk under way."""
    first: list[int] = []
    later: list[int] = []
    request = endpoint.request(body)
    until = time.perf_counter() + seconds
    with endpoint.connect() as connection:
        for _ in range(3):
            exchange(connection, request)
        while time.perf_counter() < until or len(first) < 5:
            times = _one_stream(connection, request)
            first.append(times[0])
            later += times[1:]
    return sorted(first), sorted(later)


def _one_stream(connection: socket.socket, request: bytes) -> list[int]:
    """Nanoseconds until the first chunk is here, then for each chunk how long it was under way."""
    times: list[int] = []
    buffer, seen, begun = b"", 0, time.perf_counter_ns()
    connection.sendall(request)
    while not buffer.endswith(LAST_CHUNK):
        data = connection.recv(65536)
        now = time.perf_counter_ns()
        if not data:
            raise Refused(f"the stream broke off: {buffer[-300:]!r}")
        buffer += data
        for moment in SENT_AT.finditer(buffer, seen):
            if not times:
                times.append(now - begun)
            times.append(now - int(moment[1]))
            seen = moment.end()
    if not times:
        raise Refused(f"a stream without chunks: {buffer[:600]!r}")
    return times


def percentile(ordered: list[int], share: float) -> float:
    """In microseconds."""
    if not ordered:
        raise Refused("nothing was measured")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3
