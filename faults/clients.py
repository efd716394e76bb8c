"""Owns the load: clients that read to the end, clients that leave, and what each of them saw.

A sighting is a client's word on one request; the verdict holds the service to it. Speaks HTTP/1.1 on plain sockets, so
that it knows exactly what arrived. Knows nothing of faults or rows.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.provider import ERROR, MODEL
from faults.script import ACTS, Script

PATIENCE = 40.0  # seconds; no request may take longer, whatever happens
STATUSES = (400, 404, 422, 429, 500, 503, 529)
LEAVES = ("connect", "head", "body", "sent", "chunks")


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    key: str
    key_id: str
    user_id: str
    provider_keys: Mapping[str, str]  # those that may be used for it, and their ids


@dataclass(slots=True)
class Sighting:
    tenant: Tenant
    script: Script
    streamed: bool
    model: str
    began: float
    ended: float = 0.0
    leave: str = ""  # at which point the client meant to leave; "": it reads to the end
    left: bool = False  # and did
    sent: bool = False  # the whole request was written
    status: int = 0
    request_id: str = ""
    source: str = ""
    code: str = ""  # of the error it was told
    attempts: int | None = None  # keys that were tried, as it was told
    complete: bool = False  # it has all that a complete answer has
    usage: dict[str, Any] | None = None  # with the `cost` that we add to a stream's
    trouble: str = ""  # how the connection failed under it
    hung: bool = False
    ended_cleanly: bool = False  # its stream: with the final chunk, as a whole one does
    events: int = 0

    @property
    def refused(self) -> bool:
        return self.status >= 400


@dataclass(slots=True)
class Ways:
    """What one client does, and how often it pauses (seconds)."""

    pause: float
    stream: float = 0.5  # of its requests
    leave: float = 0.15
    wrong: float = 0.05
    acts: tuple[str, ...] = tuple(ACTS)
    pace: tuple[int, int] = (0, 40)  # milliseconds between chunks


class Cut(Exception):
    """The connection ended before the answer did."""


class Client:
    """One client: requests one after the other, some of them over the same connection."""

    def __init__(self, port: int, tenant: Tenant, dice: random.Random, *, ways: Ways) -> None:
        self._port = port
        self._tenant = tenant
        self._dice = dice
        self._ways = ways
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, load: "Load") -> None:
        stop = load.stop
        while not stop.is_set():
            sighting = self.draw()
            load.sightings.append(sighting)
            await self.perform(sighting)
            if sighting.complete:
                load.when_complete()
            pause = self._dice.uniform(0.3, 1.7) * self._ways.pause + (
                0.5 if sighting.trouble and not sighting.sent else 0
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
        self.hang_up()

    def draw(self) -> Sighting:
        """The next request. What is drawn depends on the seed alone, never on what came of the ones before."""
        dice, ways = self._dice, self._ways
        streamed = dice.random() < ways.stream
        names = [name for name in ways.acts if (ACTS[name].streamed if streamed else ACTS[name].plain)]
        act = dice.choices(names, [ACTS[name].weight for name in names])[0]
        if act == "spare" and len(self._tenant.provider_keys) < 2:
            act = "ok"
        first = (
            dice.choice(STATUSES) if act == "status" else dice.randrange(4000) if act == "split" else dice.randrange(4)
        )
        script = Script(f"{dice.getrandbits(64):016x}", act, first, dice.randint(*ways.pace))
        wrong = dice.random() < ways.wrong
        tagged = dice.random() < 0.5
        leave = dice.choice(LEAVES) if dice.random() < ways.leave and not wrong else ""
        model = f"nobody-{script.nonce}" if wrong else f"gpt-{script.nonce}" if tagged or leave else MODEL
        return Sighting(self._tenant, script, streamed, model, time.monotonic(), leave=leave)

    async def perform(self, sighting: Sighting) -> None:
        sighting.began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._perform(sighting)
        except TimeoutError:
            sighting.hung = True
            self.hang_up()
        except (OSError, Cut, asyncio.IncompleteReadError, ValueError) as error:
            sighting.trouble = f"{type(error).__name__}: {error}"[:100]
            self.hang_up()
        finally:
            sighting.ended = time.monotonic()

    async def _perform(self, sighting: Sighting) -> None:
        if sighting.leave or _reconnects():
            self.hang_up()
        if self._link is None:
            self._link = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._link
        head, body = self._request(sighting)
        if sighting.leave in {"connect", "head", "body"}:
            cut = {"connect": 0, "head": len(head) // 2, "body": len(head) + len(body) // 2}[sighting.leave]
            writer.write((head + body)[:cut])
            self._leave(sighting)
            return
        writer.write(head + body)
        sighting.sent = True
        if sighting.leave == "sent":
            await asyncio.sleep(int(sighting.script.nonce[-2:], 16) / 5000)
            self._leave(sighting)
            return
        if not await self._read(reader, sighting):
            self.hang_up()

    def _request(self, sighting: Sighting) -> tuple[bytes, bytes]:
        request: dict[str, Any] = {"model": sighting.model, "stream": sighting.streamed}
        if sighting.streamed:
            request["stream_options"] = {"include_usage": True}
        request["messages"] = [{"role": "user", "content": str(sighting.script)}]
        body = json.dumps(request).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._tenant.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        return head, body

    def _leave(self, sighting: Sighting) -> None:
        sighting.left = True
        self.hang_up()

    def hang_up(self) -> None:
        if self._link is not None:
            self._link[1].close()
            self._link = None

    # --- The answer ----------------------------------------------------------------------------------

    async def _read(self, reader: asyncio.StreamReader, sighting: Sighting) -> bool:
        """Whether the connection can carry another request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        sighting.status = int(line.split()[1])
        sighting.request_id = headers.get("x-request-id", "")
        sighting.source = headers.get("x-aiproxy-error-source", "")
        if "x-aiproxy-attempts" in headers:
            sighting.attempts = int(headers["x-aiproxy-attempts"])
        if "content-length" in headers:
            _note_plain(sighting, await reader.readexactly(int(headers["content-length"])))
        elif headers.get("content-type", "").startswith("text/event-stream"):
            await self._read_stream(reader, sighting)
        else:
            _note_plain(sighting, b"".join([chunk async for chunk in _chunks(reader)]))
        return headers.get("connection", "") != "close" and not sighting.left

    async def _read_stream(self, reader: asyncio.StreamReader, sighting: Sighting) -> None:
        pending = b""
        async for chunk in _chunks(reader):
            *events, pending = (pending + chunk).split(b"\n\n")
            for event in events:
                _note_event(sighting, event.removeprefix(b"data: "))
            if sighting.leave == "chunks" and sighting.events > sighting.script.first and not sighting.complete:
                self._leave(sighting)
                return
        sighting.ended_cleanly = True


def _reconnects() -> bool:
    """By no dice of the seed's: whether there is a connection depends on what happened."""
    return random.random() < 0.3


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data = await reader.readexactly(size + 2)
        yield data[:-2]
    await reader.readexactly(2)


def _note_plain(sighting: Sighting, body: bytes) -> None:
    answer = json.loads(body)
    if sighting.status == 200:
        sighting.complete = True
        sighting.usage = answer.get("usage")
    else:
        sighting.code = (answer.get("error") or {}).get("code") or ""


def _note_event(sighting: Sighting, data: bytes) -> None:
    sighting.events += 1
    if data == b"[DONE]":
        sighting.complete = True
        return
    event = json.loads(data)
    if "error" in event:
        sighting.code = event["error"].get("code") or ERROR
    elif event.get("usage"):
        sighting.usage = event["usage"]


@dataclass(slots=True)
class Load:
    """All clients, and everything they saw."""

    clients: list[Client]
    sightings: list[Sighting] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    # Called the moment a client has a complete answer.
    when_complete: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Until `stop` is set, and the last request has ended."""
        await asyncio.gather(*(client.run(self) for client in self.clients))
