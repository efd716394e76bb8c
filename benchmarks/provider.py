"""A provider that costs next to nothing: what is measured in front of it is not its own work.

    python -m benchmarks.provider PORT [--tls-port PORT --certificate FILE]

Plain: 600 bytes of JSON. `"stream":true`: 64 chunks, usage and the end, each in a write of its own, without a pause.
The model BURST gets all of it in one write. PACED gets its chunks, or `"max_tokens"` of them, BENCH_PACE seconds apart
(0.002 unless set), and each carries the moment at which it was sent.
"""

import argparse
import asyncio
import json
import os
import re
import ssl
import time
from typing import cast

import uvloop

CHUNKS = 64
BURST, PACED = "gpt-4.1-mini", "gpt-4o"
PACE = float(os.environ.get("BENCH_PACE") or "0.002")
USAGE = {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": 20 + CHUNKS}
OK = b"HTTP/1.1 200 OK\r\nx-request-id: req_1\r\n"
MOMENT = 19  # digits of a monotonic clock in nanoseconds, after a "t"


def plain() -> bytes:
    message: dict[str, object] = {"role": "assistant", "content": "x" * 330, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini"}
    body = json.dumps({**answer, "choices": [choice], "usage": USAGE}).encode()
    return OK + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", **fields}
    return framed(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")


def word(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return event(choices=[choice], usage=None)


HEAD = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STOP = event(choices=[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}], usage=None)
TAIL = event(choices=[], usage=USAGE) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
PLAIN = plain()
PIECES = [HEAD, *(word(f" word{n}") for n in range(CHUNKS)), STOP, TAIL]
STREAM = b"".join(PIECES)
BEFORE, AFTER = word("t" + "0" * MOMENT).split(b"0" * MOMENT)
MODEL = re.compile(rb'"model":\s*"([^"]*)"')
LIMIT = re.compile(rb'"max_tokens":\s*(\d+)')


class Peer(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        is_secure = transport.get_extra_info("sslcontext") is not None
        self.fd = -1 if is_secure else transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.answer(body)

    def answer(self, body: bytes) -> None:
        asked = MODEL.search(body)
        model = asked[1].decode() if asked else ""
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self.transport.write(PLAIN)
        elif model == PACED:
            limit = LIMIT.search(body)
            self.transport.write(HEAD)
            self.play(int(limit[1]) if limit else CHUNKS)
        elif model == BURST or self.fd < 0:
            self.transport.write(STREAM)
        else:
            self.send(PIECES)

    def send(self, pieces: list[bytes]) -> None:
        """Past the transport, which would join what is written in one turn of its loop."""
        for number, piece in enumerate(pieces):
            try:
                sent = os.write(self.fd, piece) if not self.transport.get_write_buffer_size() else 0
            except BlockingIOError:
                sent = 0
            except OSError:
                self.transport.abort()
                return
            if sent < len(piece):
                self.transport.write(b"".join([piece[sent:], *pieces[number + 1 :]]))
                return

    def play(self, left: int) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(STOP)
            self.transport.write(TAIL)
            return
        self.transport.write(b"%b%0*d%b" % (BEFORE, MOMENT, time.perf_counter_ns(), AFTER))
        asyncio.get_running_loop().call_later(PACE, self.play, left - 1)


async def serve(port: int, tls_port: int, certificate: str) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Peer, "127.0.0.1", port, backlog=1024)]
    if tls_port:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        servers.append(await loop.create_server(Peer, "127.0.0.1", tls_port, backlog=1024, ssl=context))
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--tls-port", type=int, default=0)
    parser.add_argument("--certificate", default="", help="PEM: the key, and the chain")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.tls_port, options.certificate))


if __name__ == "__main__":
    main()
