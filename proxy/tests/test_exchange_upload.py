"""Forms on their way to the provider: passed on as they come, once only, and never two models in one."""

import asyncio
import secrets
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from asgiref.sync import sync_to_async

from proxy.tests.provider import answer, stream
from proxy.tests.test_exchange_media import USAGE, event
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

PATH = "/v1/audio/transcriptions"
FORM = {"content-type": "multipart/form-data; boundary=B"}
TEXT = {"text": "Hello", "usage": {"type": "tokens", **USAGE}}
MODEL = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
FILE = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
END = b"\r\n--B--\r\n"
SMALL = MODEL % b"whisper-1" + FILE + b"x" * 100 + END
MIB = b"x" * (1 << 20)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def sized(*parts: bytes) -> dict:
    return {"content": pieces(*parts), "headers": {**FORM, "content-length": str(sum(map(len, parts)))}}


async def raw(address, key: str, begun: bytes, *, length: int) -> bytes:
    """The answer to a form of which no more comes."""
    reader, writer = await asyncio.open_connection(*address)
    fields = (
        f"host: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\ncontent-type: {FORM['content-type']}"
    )
    writer.write(f"POST {PATH} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + begun)
    said = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return said


async def test_it_transcribes_for_the_official_client(official, provider, rows):
    provider.default = answer(200, TEXT)
    heard = await official.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", MIB * 3))
    assert heard.text == "Hello"
    (request,) = provider.requests
    assert (request.target, request.body.count(MIB * 3)) == (PATH, 1)
    assert int(request.headers["content-length"]) == len(request.body)
    (row,) = await rows()
    assert (row.endpoint, row.model, row.outcome) == ("audio.transcriptions", "gpt-4o-transcribe", "ok")
    assert (row.tokens_total, row.usage_source, row.streamed) == (59, "provider", False)


async def test_it_streams_a_transcript_to_the_official_client(official, provider, rows):
    provider.default = stream([event("transcript.text.delta", delta="Hel"), event("transcript.text.done", usage=USAGE)])
    events = await official.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", b"x"), stream=True)
    assert [one.type async for one in events] == ["transcript.text.delta", "transcript.text.done"]
    assert [(row.streamed, row.tokens_total) for row in await rows()] == [(True, 59)]


async def test_it_translates_and_keeps_what_is_no_json(client, provider, rows):
    provider.default = answer(200, b"1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    form = {"model": "whisper-1", "response_format": "srt"}
    response = await client.post("/v1/audio/translations", data=form, files={"file": ("a.mp3", b"x")})
    assert response.text.startswith("1\n00:00")
    assert provider.requests[0].target == "/v1/audio/translations"
    (row,) = await rows()
    assert (row.endpoint, row.outcome, row.usage_source) == ("audio.translations", "ok", "none")


async def test_it_counts_no_tokens_of_what_is_billed_by_the_second(official, provider, rows):
    provider.default = answer(200, {"text": "Hello", "usage": {"type": "duration", "seconds": 3}})
    await official.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"x"))
    assert [(row.usage_source, row.tokens_total) for row in await rows()] == [("none", 0)]


async def test_it_edits_images(official, provider, rows):
    provider.default = answer(200, {"created": 1, "data": [{"b64_json": "aW1n"}], "usage": USAGE})
    await official.images.edit(model="gpt-image-1", prompt="a hat", image=[("a.png", b"x"), ("b.png", b"y")])
    assert [(row.endpoint, row.tokens_total) for row in await rows()] == [("images.edits", 59)]


@pytest.mark.parametrize("file", [b"x", MIB * 2], ids=["small", "large"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_it_leaves_the_proxys_prefix_away_and_every_other_byte_alone(client, provider, file, framing):
    body = MODEL % b"openai/whisper-1" + FILE + file + END
    sent = sized(body) if framing == "length" else {"content": pieces(body), "headers": FORM}
    response = await client.post(PATH, **sent)
    assert response.status_code == 200
    assert provider.requests[0].body == body.replace(b"openai/", b"")
    assert provider.requests[0].headers["content-type"] == 'multipart/form-data; boundary="B"'


async def test_it_tells_the_provider_the_length_of_this_form_not_of_the_one_before(client, provider):
    forms = [MODEL % b"whisper-1" + FILE + MIB * size + END for size in (1, 2, 1)]
    for form in forms:
        assert (await client.post(PATH, **sized(form))).status_code == 200
    assert [request.body for request in provider.requests] == forms


async def test_it_sends_on_what_it_has_before_there_is_more(client, provider):
    gate = asyncio.Event()

    async def body():
        yield MODEL % b"whisper-1" + FILE + b"x" * 100_000
        await gate.wait()
        yield END

    call = asyncio.create_task(client.post(PATH, content=body(), headers=FORM))
    await asyncio.wait_for(provider.arrived.wait(), 5)
    assert provider.requests == [] and not call.done()
    gate.set()
    assert (await call).status_code == 200


async def test_it_holds_a_bounded_part_of_a_large_upload(client, provider):
    provider.keeps_bodies = False
    body = sized(MODEL % b"whisper-1" + FILE, *[MIB] * 20, END)
    tracemalloc.start()
    try:
        response = await client.post(PATH, **body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (response.status_code, provider.received) == (200, int(body["headers"]["content-length"]))
    assert peak < 5 << 20


BROKEN = {
    "no boundary": ({"content": SMALL, "headers": {"content-type": "multipart/form-data"}}, None, "invalid_multipart"),
    "no form": ({"content": b"nonsense", "headers": FORM}, None, "invalid_multipart"),
    "no end": ({"content": SMALL[:-4], "headers": FORM}, None, "invalid_multipart"),
    "no model": ({"content": FILE + END, "headers": FORM}, "model", "missing_required_parameter"),
    "empty model": ({"content": MODEL % b"" + FILE + END, "headers": FORM}, "model", "invalid_value"),
    "two models": ({"content": MODEL % b"a" + SMALL, "headers": FORM}, "model", "duplicate_parameter"),
    "late model": ({"content": FILE + MIB * 2 + b"\r\n" + SMALL, "headers": FORM}, "model", "model_too_late"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_it_refuses_a_broken_form_before_anybody_is_asked(client, provider, rows, case):
    sent, param, code = BROKEN[case]
    response = await client.post(PATH, **sent)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert provider.connections == 0
    assert [(row.outcome, row.endpoint) for row in await rows()] == [("refused", "audio.transcriptions")]


@pytest.mark.parametrize(
    ("end", "code"),
    [(b"\r\n" + MODEL % b"gpt-4o-transcribe" + b"--B--", "duplicate_parameter"), (b"", "invalid_multipart")],
    ids=["second model", "no end"],
)
async def test_it_cuts_an_upload_that_turns_bad_before_the_provider_has_it_whole(client, provider, rows, end, code):
    response = await client.post(PATH, **sized(MODEL % b"whisper-1" + FILE, *[MIB] * 3, end))
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    await asyncio.wait_for(provider.left.wait(), 5)
    assert provider.requests == []
    assert [(row.outcome, row.usage_source) for row in await rows()] == [("refused", "none")]


async def test_it_takes_no_more_than_the_cap(client, provider, rows):
    response = await client.post(PATH, content=pieces(MODEL % b"whisper-1" + FILE, *[MIB] * 27, END), headers=FORM)
    assert (response.status_code, provider.requests) == (413, [])
    assert [(row.outcome, row.status_code) for row in await rows()] == [("refused", 413)]


async def test_it_believes_a_length_beyond_the_cap(address, proxy_key, provider):
    assert b" 413 " in await raw(address, proxy_key[1], MODEL % b"whisper-1" + FILE, length=27 << 20)
    assert provider.connections == 0


async def test_it_refuses_a_model_that_the_key_may_not_use(client, proxy_key, provider):
    await sync_to_async(proxy_key[0].change)(allowed_models=["gpt-4o-transcribe"])
    response = await client.post(PATH, **sized(SMALL))
    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")
    assert provider.connections == 0


@pytest.mark.parametrize(("file", "calls"), [(b"x", 2), (MIB * 2, 1)], ids=["small", "large"])
async def test_it_asks_with_another_key_only_while_it_has_the_whole_form(client, user, provider, rows, file, calls):
    await asyncio.to_thread(store.add, user.id, "openai", "b", Secret("demo-" + secrets.token_hex(20)))
    provider.scripts = [answer(429, {"error": {"message": "slow down"}})]
    provider.default = answer(200, TEXT)
    response = await client.post(PATH, content=MODEL % b"whisper-1" + FILE + file + END, headers=FORM)
    assert (response.status_code, len(provider.requests)) == (200 if calls == 2 else 429, calls)


async def test_it_tells_of_a_refusal_that_comes_before_the_upload_has_ended(address, proxy_key, plane):
    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await answer(413, {"error": {"message": "too large for me"}})(None, writer)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as early:
        plane.runtime.base_urls["openai"] = f"http://127.0.0.1:{early.sockets[0].getsockname()[1]}/v1"
        said = await raw(address, proxy_key[1], MODEL % b"whisper-1" + FILE, length=3 << 20)
    assert b" 413 " in said and b"too large for me" in said


async def test_it_cancels_the_provider_when_the_client_leaves_in_the_middle(client, provider, rows):
    async def body():
        yield MODEL % b"whisper-1" + FILE + b"x" * 100_000
        await asyncio.Event().wait()

    call = asyncio.create_task(client.post(PATH, content=body(), headers=FORM))
    await asyncio.wait_for(provider.arrived.wait(), 5)
    call.cancel()
    await asyncio.wait_for(provider.left.wait(), 5)
    assert [(row.outcome, row.status_code) for row in await rows()] == [("client_gone", 499)]
