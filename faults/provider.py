"""Owns the scripted provider: it does to each request what the request's own script says, and keeps a ledger.

The ledger is what the verdict compares the service's record with: which request came, when, with which key, and
whether it may have been billed. Speaks OpenAI's dialect over HTTP/1.1; knows nothing of the service.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from faults.script import NOT_SERVED, Script

BYTEWISE = 0.4  # seconds, at most, of an answer that comes byte by byte
LARGE = 4_700_000  # characters; more than the service holds back
MODEL = "gpt-4o-mini"
ERROR = "scripted"  # the type of all its errors
WORDS = ("alpha", "beta", "gamma", "δέλτα", "epsilon 🌊", "zeta\\n")


@dataclass(slots=True)
class Visit:
    """One request as it arrived. `billable` is False only when the answer said that it was not served."""

    at: float
    key: str
    act: str
    billable: bool = True


@dataclass(slots=True)
class Call:
    script: Script
    key: str
    stream: bool
    include_usage: bool
    attempt: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Gone(Exception):
    """This connection carries no further request."""


def usage_of(script: Script) -> dict[str, int] | None:
    """The tokens that this request is said to have used; different for every request."""
    if script.act == "mute":
        return None
    if script.act == "zero":
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    number = int(script.nonce[:6], 16)
    prompt, completion = 1 + number % 997, 1 + number // 997 % 991
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Provider:
    def __init__(self) -> None:
        self.port = 0
        self.visits: dict[str, list[Visit]] = defaultdict(list)
        self.connections = 0
        self.active: Counter[str] = Counter()  # requests being answered, by key
        self.peaks: dict[str, list[tuple[float, int]]] = defaultdict(list)  # by key: every rise
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, Gone):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self.connections -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if line.startswith("GET"):  # the shipper's test call after a refusal: the key is good
            await _json(writer, 200, {"object": "list", "data": []})
            return
        request = json.loads(body)
        script = Script.parse(request["messages"][0]["content"])
        key = headers["authorization"].removeprefix("Bearer ")
        visits = self.visits[script.nonce]
        visits.append(visit := Visit(time.monotonic(), key, script.act))
        include = bool((request.get("stream_options") or {}).get("include_usage"))
        call = Call(script, key, bool(request.get("stream")), include, len(visits), reader, writer)
        self.active[key] += 1
        self.peaks[key].append((time.monotonic(), self.active[key]))
        try:
            await self._play(call, visit)
        finally:
            self.active[key] -= 1

    async def _play(self, call: Call, visit: Visit) -> None:
        """Gone when the connection is over."""
        script, writer = call.script, call.writer
        refusal = script.first if script.act == "status" else 429 if script.act == "spare" and call.attempt == 1 else 0
        if refusal:
            visit.billable = refusal not in NOT_SERVED
            await _json(writer, refusal, _error(f"scripted {refusal}"), script)
        elif script.act == "close":
            raise Gone
        elif script.act == "reset":
            _reset(writer)
        elif script.act == "garbage":
            writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            await _until_left(call)
        elif script.act == "gzip":
            await _json(writer, 200, {"id": "x"}, script, extra="content-encoding: gzip\r\n")
        elif script.act == "stall" and not (call.stream and script.first):
            await _until_left(call)
        elif call.stream:
            await _stream(call)
        else:
            await _plain(call)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": ERROR, "param": None, "code": None}}


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise Gone


async def _until_left(call: Call) -> None:
    """Silence, until the other side has had enough."""
    while await call.reader.read(4096):
        pass
    raise Gone


def _head(script: Script | None, status: int, framing: str) -> bytes:
    name = f"x-request-id: req_{script.nonce}\r\n" if script else ""
    retry = "retry-after: 1\r\n" if status in {429, 503, 529} else ""
    return f"HTTP/1.1 {status} Scripted\r\n{framing}{name}{retry}\r\n".encode()


async def _json(
    writer: asyncio.StreamWriter, status: int, value: object, script: Script | None = None, *, extra: str = ""
) -> None:
    body = json.dumps(value).encode()
    head = _head(script, status, f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}")
    writer.write(head + body)
    await writer.drain()


async def _plain(call: Call) -> None:
    script = call.script
    content = "x" * (LARGE if script.act == "large" else 40 + script.first)
    message = {"role": "assistant", "content": content}
    answer: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL}
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    if (usage := usage_of(script)) is not None:
        answer["usage"] = usage
    body = json.dumps(answer).encode()
    await asyncio.sleep(script.second / 1000)
    announced = len(body) + (7 if script.act == "cut" else 0)
    whole = _head(script, 200, f"content-type: application/json\r\ncontent-length: {announced}\r\n") + body
    await _write(call, whole)
    if script.act == "cut":
        raise Gone


async def _write(call: Call, data: bytes) -> None:
    """As the script wants it: whole, in two, or byte by byte."""
    writer, script = call.writer, call.script
    if script.act == "bytes":
        until = time.monotonic() + BYTEWISE
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            if time.monotonic() < until:  # a machine that is busy must not make this a stall
                await asyncio.sleep(0)
    elif script.act == "split":
        at = script.first % len(data)
        writer.write(data[:at])
        await asyncio.sleep(0.003)
        writer.write(data[at:])
    else:
        writer.write(data)
    await writer.drain()


def _event(**fields: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL, **fields}
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _events(call: Call) -> Iterator[bytes]:
    """The whole stream of a request, as a provider that is well sends it."""
    extra: dict[str, Any] = {"usage": None} if call.include_usage else {}
    for number in range(3 + int(call.script.nonce[:4], 16) % 6):
        choice = {"index": 0, "delta": {"content": WORDS[number % len(WORDS)]}, "finish_reason": None}
        yield _event(choices=[choice], **extra)
    yield _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], **extra)
    usage = usage_of(call.script)
    if call.include_usage and usage is not None:
        yield _event(choices=[], usage=usage)
    yield b"data: [DONE]\n\n"


BREAKS = frozenset({"stall", "fin", "garbled"})


async def _stream(call: Call) -> None:
    script, writer = call.script, call.writer
    head = _head(script, 200, "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n")
    events = [event for event in _events(call) if script.act != "unended" or b"[DONE]" not in event]
    if script.act in {"bytes", "split"}:
        await _write(call, head + b"".join(map(_chunk, events)) + b"0\r\n\r\n")
        return
    writer.write(head)
    for number, event in enumerate(events):
        if script.act in BREAKS and number == script.first:
            await _break(call)
        if script.act == "error" and number == script.first:
            event = events[-1] = b"data: " + json.dumps(_error("scripted error event")).encode() + b"\n\n"
        if event is events[-1]:  # at once: this request is over when its client has [DONE]
            writer.write(_chunk(event) + b"0\r\n\r\n")
            await writer.drain()
            return
        writer.write(_chunk(event))
        await writer.drain()
        if script.second:
            await asyncio.sleep(script.second / 1000)
            if writer.transport.is_closing():
                raise Gone


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _break(call: Call) -> None:
    writer = call.writer
    if call.script.act == "fin":
        writer.write_eof()
    elif call.script.act == "garbled":
        writer.write(b"zz\r\nno chunk\r\n")
    await _until_left(call)
