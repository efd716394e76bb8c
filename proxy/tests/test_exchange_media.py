"""Images, sounds and moderations, from the official client's socket to the row in the log."""

import asyncio
import json

import openai
import pytest

from proxy.tests.provider import answer, framed, head, stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

USAGE = {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
SOUND = head(200, "content-type: audio/mpeg", "transfer-encoding: chunked", "x-request-id: req_1")
SPEECH = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello there"}


def event(kind: str, **fields) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def sound(*pieces: bytes, gate: asyncio.Event | None = None, finish: bool = True):
    async def play(request, writer):
        writer.write(SOUND)
        for number, piece in enumerate(pieces):
            if gate is not None and number:
                await gate.wait()
            writer.write(framed(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n") if finish else writer.close()

    return play


async def test_it_makes_images(official, provider, rows):
    provider.default = answer(200, {"created": 1, "data": [{"b64_json": "aW1n"}], "usage": USAGE})
    images = await official.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    assert (images.data[0].b64_json, images.usage.total_tokens) == ("aW1n", 59)
    assert provider.requests[0].target == "/v1/images/generations"
    (row,) = await rows()
    assert (row.endpoint, row.model, row.outcome) == ("images.generations", "gpt-image-1", "ok")
    assert (row.tokens_input, row.tokens_output, row.usage_source) == (14, 45, "provider")


async def test_it_passes_a_large_image_with_its_usage(client, provider, rows):
    body = json.dumps({"data": [{"b64_json": "x" * (6 << 20)}], "usage": USAGE}).encode()
    provider.default = answer(200, body)
    response = await client.post("/v1/images/generations", json={"model": "gpt-image-1", "prompt": "a cat"})
    assert response.content == body
    assert [(row.outcome, row.tokens_total) for row in await rows()] == [("ok", 59)]


async def test_it_streams_images_as_they_become_clear(official, provider, rows):
    partial = event("image_generation.partial_image", b64_json="aQ==", partial_image_index=0)
    whole = event("image_generation.completed", b64_json="aW1n", usage=USAGE)
    provider.default = stream([partial, whole])
    events = await official.images.generate(model="gpt-image-1", prompt="a cat", stream=True, partial_images=1)
    assert [one.type async for one in events] == ["image_generation.partial_image", "image_generation.completed"]
    (row,) = await rows()
    assert (row.streamed, row.outcome, row.tokens_total) == (True, "ok", 59)


async def test_it_takes_no_stream_without_its_last_event_for_a_whole_one(client, provider, rows):
    provider.default = stream([event("image_generation.partial_image", b64_json="aQ==")])
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        await client.post("/v1/images/generations", json={"model": "gpt-image-1", "prompt": "a", "stream": True})
    assert [(row.outcome, row.usage_source) for row in await rows()] == [("provider_error", "none")]


async def test_it_tells_of_an_error_within_a_stream(official, provider):
    partial = event("image_generation.partial_image", b64_json="aQ==")
    provider.default = stream([partial, event("error", error={"message": "moderated", "type": "x", "code": "c"})])
    events = await official.images.generate(model="gpt-image-1", prompt="a cat", stream=True)
    with pytest.raises(openai.APIError, match="moderated"):
        [one async for one in events]


async def test_it_passes_each_piece_of_sound_before_the_next_one_exists(official, provider, rows):
    gate = asyncio.Event()
    provider.default = sound(b"ID3\x00one", b"two", gate=gate)
    async with official.audio.speech.with_streaming_response.create(**SPEECH) as response:
        pieces = response.iter_bytes()
        assert await anext(pieces) == b"ID3\x00one"
        gate.set()
        assert b"".join([piece async for piece in pieces]) == b"two"
    assert response.headers["content-type"] == "audio/mpeg"
    (row,) = await rows()
    assert (row.endpoint, row.outcome, row.usage_source, row.tokens_total) == ("audio.speech", "ok", "none", 0)


async def test_it_gives_sound_as_a_whole(official, provider, rows):
    provider.default = answer(200, b"\xff\xfb" * 5000)
    assert (await official.audio.speech.create(**SPEECH)).content == b"\xff\xfb" * 5000
    assert [row.outcome for row in await rows()] == ["ok"]


async def test_it_shows_when_sound_was_cut(client, provider, rows):
    provider.default = sound(b"one", finish=False)
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        await client.post("/v1/audio/speech", json=SPEECH)
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_streams_speech_as_events(client, provider, rows):
    events = [event("speech.audio.delta", audio="aQ=="), event("speech.audio.done", usage=USAGE)]
    provider.default = stream(events)
    response = await client.post("/v1/audio/speech", json={**SPEECH, "stream_format": "sse"})
    assert response.content == b"".join(events)
    assert [(row.streamed, row.tokens_total) for row in await rows()] == [(True, 59)]


async def test_it_moderates(official, provider, rows):
    provider.default = answer(200, {"id": "modr-1", "model": "omni-moderation-latest", "results": []})
    moderation = await official.moderations.create(input="I want to kill time")
    assert moderation.id == "modr-1"
    assert provider.requests[0].json() == {"input": "I want to kill time", "model": "omni-moderation-latest"}
    (row,) = await rows()
    assert (row.endpoint, row.model, row.usage_source) == ("moderations", "omni-moderation-latest", "none")


@pytest.mark.parametrize("path", ["images/generations", "audio/speech", "moderations"])
async def test_it_leaves_the_proxys_prefix_away_and_every_other_byte_alone(client, provider, path):
    body = {"model": "openai/gpt-x", "prompt": "a", "input": "a", "brand_new": [1.50, {"model": "y"}]}
    await client.post(f"/v1/{path}", json=body)
    assert provider.requests[0].json() == {**body, "model": "gpt-x"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("images/generations", {"prompt": "a"}, "model"),
        ("images/generations", {"model": "dall-e-3"}, "prompt"),
        ("images/generations", {"model": "dall-e-3", "prompt": "a", "n": 0}, "n"),
        ("audio/speech", {"model": "tts-1"}, "input"),
        ("moderations", {"model": "omni-moderation-latest"}, "input"),
        ("moderations", {"model": "", "input": "a"}, "model"),
        ("audio/transcriptions", {"model": "whisper-1"}, None),
    ],
)
async def test_it_names_what_is_wrong(client, provider, rows, path, body, param):
    response = await client.post(f"/v1/{path}", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert provider.requests == [] and [row.outcome for row in await rows()] == ["refused"]


async def test_it_asks_nobody_else_for_what_only_openai_has(client, provider):
    response = await client.post("/v1/audio/speech", json={**SPEECH, "model": "gemini-2.5-flash"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_it_passes_openais_refusals_on(official, provider):
    provider.default = answer(400, {"error": {"message": "no such voice", "param": "voice", "type": "x", "code": "y"}})
    with pytest.raises(openai.BadRequestError, match="no such voice") as refused:
        await official.audio.speech.create(**SPEECH)
    assert refused.value.param == "voice"
