import asyncio
import json
import uuid

import pytest

from aiproxy.body_limit import BodyLimit


class Door:
    """One exchange with the app: what the client sends, and what it is sent."""

    def __init__(self, *pieces, headers=(), complete=True):
        self.messages = [
            {"type": "http.request", "body": piece, "more_body": not complete or n < len(pieces) - 1}
            for n, piece in enumerate(pieces)
        ] or [{"type": "http.request"}]
        self.scope = {"type": "http", "headers": list(headers)}
        self.sent = []

    async def receive(self):
        return self.messages.pop(0) if self.messages else {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def detail(self):
        return json.loads(self.sent[1]["body"])["detail"]


async def echo(scope, receive, send):
    message = await receive()
    assert not message.get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


async def through(door, **options):
    await BodyLimit(echo, **{"limit": 10, **options})(door.scope, door.receive, door.send)
    return door


async def test_it_hands_on_a_body_in_one_piece():
    door = await through(Door(b"01234", b"56789"))
    assert (door.status, door.sent[1]["body"]) == (200, b"0123456789")


async def test_it_hands_on_an_empty_body():
    assert (await through(Door())).status == 200


async def test_it_refuses_a_body_that_grows_too_large():
    door = await through(Door(b"0123456789", b"0"))
    assert (door.status, door.detail) == (413, "The body is larger than 10 bytes.")


async def test_it_names_what_it_refuses():
    door = await through(Door(b"0" * 11))
    assert uuid.UUID(dict(door.sent[0]["headers"])[b"x-request-id"].decode())


async def test_it_closes_after_a_refusal():
    door = await through(Door(b"0" * 11))
    assert (b"connection", b"close") in door.sent[0]["headers"]


async def test_it_refuses_a_declared_size_without_reading_it_all():
    door = Door(*[b"0" * (1 << 19)] * 8, headers=[(b"content-length", b"4194304")])
    await through(door)
    assert door.status == 413
    assert len(door.messages) >= 5


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"", b"1, 1"])
async def test_it_refuses_a_length_that_is_no_number(length):
    assert (await through(Door(headers=[(b"content-length", length)]))).status == 400


async def test_it_refuses_a_body_that_stalls():
    door = Door()

    async def never():
        await asyncio.Event().wait()

    async def drained():
        return {"type": "http.disconnect"}

    receives = iter([never, drained])
    await BodyLimit(echo, idle=0.01)(door.scope, lambda: next(receives)(), door.send)
    assert door.status == 408


async def test_it_says_nothing_to_a_client_that_left():
    door = await through(Door(b"0", complete=False))
    assert door.sent == []


async def test_it_leaves_other_scopes_alone():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await BodyLimit(app)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
