"""Clients that dawdle, do not read, or leave: against the running service, while somebody else is served."""

import asyncio
import contextlib
import json
from collections import Counter

import pytest

from proxy.tests.provider import DONE, STREAM_HEAD, answer, chunk, framed, stream
from tests.service import Person, until

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = json.dumps({**CHAT, "stream": True}).encode()
KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def crowd(exposed):
    """Connects many clients; closes them all in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda number, **options: [stack.enter_context(exposed.client(**options)) for _ in range(number)]


def quiet(exposed, sockets: int) -> bool:
    return exposed.descriptors().count("socket") <= sockets


def sockets(exposed) -> int:
    assert exposed.is_well()
    return exposed.descriptors().count("socket")


async def flood_streams(request, writer):
    """A stream never ends and never pauses; anything else is answered as usual."""
    if b'"stream": true' not in request.body:
        await answer()(request, writer)
        return
    writer.write(STREAM_HEAD)
    event = framed(chunk("x" * 8 * KIB))
    while True:
        writer.write(event)
        await writer.drain()


def test_it_serves_others_while_heads_and_bodies_trickle(exposed, crowd):
    before, open_before = exposed.forget_peak(), sockets(exposed)
    heads, bodies, silent = crowd(200), crowd(200), crowd(100)
    for client in heads:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Half: a he")
    for client in bodies:
        client.send(exposed.head(content_length=1000) + b'{"model"')
    assert {exposed.other.chat().status for _ in range(20)} == {200}
    assert exposed.memory("VmHWM") - before < 500 * 64 * KIB
    assert {client.head()[0] for client in (*heads, *bodies)} == {408}
    assert all(client.is_closed() for client in silent)
    assert until(lambda: quiet(exposed, open_before), "every connection is closed")


def test_it_holds_little_for_who_does_not_read(exposed, crowd):
    open_before = sockets(exposed)
    exposed.provider.play(flood_streams)
    before = exposed.forget_peak()
    readers = crowd(100, receive_buffer=4 * KIB)
    for client in readers:
        client.send(exposed.post(STREAMED))
    assert {exposed.other.chat().status for _ in range(20)} == {200}
    assert {client.head()[0] for client in readers} == {200}  # each of them is being flooded
    assert until(lambda: quiet(exposed, open_before), "who does not read is given up")
    assert exposed.memory("VmHWM") - before < 100 * 512 * KIB
    assert until(lambda: exposed.provider.connections <= 4, "the provider is told")


def test_it_loses_nothing_for_who_reads_slowly(exposed):
    events = [chunk("x" * 8 * KIB) for _ in range(200)]
    exposed.provider.play(stream([*events, DONE]))
    with exposed.client(receive_buffer=4 * KIB) as client:
        client.send(exposed.post(STREAMED))
        assert client.answer().body == b"".join([*events, DONE])


async def leave_after(person: Person, chunks: int, *, rudely: bool) -> None:
    """Asks for a stream, and leaves when it has seen so many chunks of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", person.service.port)
    fields = f"host: a\r\nauthorization: Bearer {person.key}\r\ncontent-length: {len(STREAMED)}\r\n\r\n"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{fields}".encode() + STREAMED)
    for _ in range(chunks):
        await reader.readuntil(b"data: ")
    if rudely:
        writer.transport.abort()
    writer.close()


async def all_leave(person: Person, visits: list[int]) -> None:
    room = asyncio.Semaphore(50)

    async def one(number: int, chunks: int) -> None:
        async with room:
            await leave_after(person, chunks, rudely=number % 2 == 0)

    await asyncio.gather(*(one(number, chunks) for number, chunks in enumerate(visits)))


@pytest.fixture
def parting(exposed):
    """A person whose key may have sixty requests under way, and a provider whose streams do not end by themselves."""
    person = exposed.service.sign_up("parting@example.com")
    changed = exposed.service.call(
        f"/proxy-api-keys/{person.key_id}", {"max_parallel": 60}, token=person.token, method="PATCH"
    )
    assert changed.status == 200
    exposed.provider.play(stream([*(chunk("a") for _ in range(5)), DONE], gate=asyncio.Event()))
    return person


def test_it_has_a_row_for_each_of_a_thousand_who_leave_and_nothing_else(exposed, parting):
    open_before = sockets(exposed)
    exposed.provider.play(stream([*(chunk("a") for _ in range(5)), DONE], gate=asyncio.Event()))
    before = exposed.memory()
    asyncio.run(all_leave(parting, [1, 2, 3, 4, 5] * 200))
    until(lambda: quiet(exposed, open_before), "every connection is closed")
    until(lambda: exposed.provider.connections <= 4, "the provider is told")
    rows = until(lambda: rows if len(rows := parting.requests()) >= 1000 else None, "1,000 rows")
    assert Counter(row["outcome"] for row in rows) == {"client_gone": 1000}
    assert all(1 <= row["tokens_output"] <= 5 and row["usage_source"] == "estimated" for row in rows)
    assert exposed.memory() - before < 16 * MIB
    asyncio.run(all_leave(parting, [0] * 200))  # before there is an answer at all
    until(lambda: quiet(exposed, open_before), "these, too, are closed")
    exposed.provider.play()
    assert {parting.chat().status for _ in range(100)} == {200}
    assert asyncio.run(together(parting, 60)) == {200}  # no slot was left behind


async def together(person: Person, number: int) -> set[int]:
    return {reply.status for reply in await asyncio.gather(*(asyncio.to_thread(person.chat) for _ in range(number)))}
