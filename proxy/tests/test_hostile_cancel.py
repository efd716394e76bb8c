"""Ends at the worst moments: each exchange still ends once, has its one row, and leaves nothing behind."""

import asyncio
import json
import os
import socket

import pytest

from accounts.models import Plan
from proxy.tests.provider import DONE, answer, chunk, stream

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(CHAT).encode()
STREAMED = json.dumps({**CHAT, "stream": True}).encode()
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]


@pytest.fixture(autouse=True)
def no_limits(user):
    """Whatever plan the database begins with: here nobody is over a limit."""
    Plan.objects.update(rpm=None, tpm=None, max_parallel=None)


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def is_clean(plane) -> bool:
    """No exchange, no byte of a body, no connection in use, no slot."""
    runtime = plane.runtime
    slots = sum(len(account.slots) for account in runtime.limiter._accounts.values())
    in_use = runtime.pool.open_connections - runtime.pool.idle_connections
    return (len(runtime.exchanges), runtime.bodies, in_use, slots) == (0, 0, 0, 0)


def open_sockets() -> int:
    """Of this process; what a thread has open of the database is none."""
    with os.scandir("/proc/self/fd") as entries:
        return sum(os.path.islink(entry) and os.readlink(entry).startswith("socket:") for entry in entries)


async def begin(address, key: str, body: bytes = BODY, *, length: int | None = None) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(*address)
    size = len(body) if length is None else length
    fields = f"host: a\r\nauthorization: Bearer {key}\r\ncontent-length: {size}\r\n\r\n"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{fields}".encode() + body)
    await writer.drain()
    return writer


async def silence(request, writer):
    await asyncio.Event().wait()


@pytest.fixture
def key(proxy_key) -> str:
    return proxy_key[1]


@pytest.fixture
def unreachable():
    """A port that takes no connection and refuses none: its queue is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_it_ends_clean_when_clients_leave_while_it_connects(plane, address, key, unreachable, rows):
    plane.runtime.base_urls["openai"] = f"http://127.0.0.1:{unreachable}/v1"
    sockets = open_sockets()
    writers = [await begin(address, key) for _ in range(100)]
    await until(lambda: plane.runtime.pool.open_connections == 100)
    for writer in writers:
        writer.transport.abort()
    await until(lambda: is_clean(plane))
    assert plane.runtime.pool.open_connections == 0
    assert [(row.outcome, row.status_code, row.usage_source) for row in await rows()] == [
        ("client_gone", 499, "none")
    ] * 100
    await until(lambda: open_sockets() <= sockets)


@pytest.mark.parametrize("body", [b"", BODY[:10]], ids=["no body", "half a body"])
async def test_it_counts_no_request_that_never_came_whole(plane, address, key, provider, rows, body):
    for _ in range(20):
        writer = await begin(address, key, body, length=len(BODY))
        await until(lambda: plane.runtime.exchanges)
        writer.close()
        await until(lambda: is_clean(plane))
    assert provider.requests == []
    assert {row.outcome for row in await rows()} <= {"client_gone"}


@pytest.mark.parametrize("first", ["client_gone", "drained", "deadline"])
async def test_it_ends_once_however_often_it_is_told(plane, address, key, provider, rows, first):
    """Stopped from several sides at once, at each of the first turns of its way to the end."""
    provider.default = silence
    for turns in range(50):
        provider.arrived.clear()
        writer = await begin(address, key)
        await asyncio.wait_for(provider.arrived.wait(), 5)
        (exchange,) = plane.runtime.exchanges
        exchange.stop(first)
        for _ in range(turns % 5):
            await asyncio.sleep(0)
        exchange.stop("drained")
        exchange.stop("client_gone")
        writer.transport.abort()
        await until(lambda: is_clean(plane))
    found = [row.outcome for row in await rows()]
    assert len(found) == 50
    assert set(found) <= {first, "timeout"} if first == "deadline" else set(found) == {first}


async def test_it_ends_clean_when_its_task_is_cancelled_twice(plane, address, key, provider, rows):
    provider.default = silence
    for turns in range(50):
        provider.arrived.clear()
        writer = await begin(address, key)
        await asyncio.wait_for(provider.arrived.wait(), 5)
        (exchange,) = plane.runtime.exchanges
        task = exchange._cycle.task
        task.cancel()
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        task.cancel()
        await until(lambda: is_clean(plane))
        writer.transport.abort()
    assert len(await rows()) == 50
    provider.default = answer()
    for _ in range(20):
        (await begin(address, key)).close()
    await until(lambda: is_clean(plane))


async def test_it_serves_as_before_after_many_left_in_the_middle(plane, address, client, key, provider, rows):
    provider.default = stream([*(chunk("a") for _ in range(3)), DONE], gate=asyncio.Event())
    room = asyncio.Semaphore(50)

    async def leave(after: int) -> None:
        async with room:
            reader, writer = await asyncio.open_connection(*address)
            fields = f"host: a\r\nauthorization: Bearer {key}\r\ncontent-length: {len(STREAMED)}\r\n\r\n"
            writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{fields}".encode() + STREAMED)
            for _ in range(after):
                await reader.readuntil(b"data: ")
            writer.transport.abort()

    await asyncio.gather(*(leave(number % 4) for number in range(200)))
    await until(lambda: is_clean(plane))
    assert plane.runtime.pool.open_connections <= 1
    assert {row.outcome for row in await rows()} == {"client_gone"}
    provider.default = answer()
    replies = [await client.post("/v1/chat/completions", json=CHAT) for _ in range(10)]
    assert {reply.status_code for reply in replies} == {200}
