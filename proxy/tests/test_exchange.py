"""One exchange, from the client's socket to the row in the log."""

import asyncio
import contextlib
import gc
import json

import httpx
import pytest

from proxy.exchange import Exchange
from proxy.tests.provider import DONE, HELLO, answer, chunk, head, plain, stream

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**CHAT, "stream": True}

pytestmark = pytest.mark.django_db(transaction=True)


async def test_it_passes_a_plain_answer_untouched(client, provider, rows):
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()) == (200, plain())
    (row,) = await rows()
    assert (row.outcome, row.status_code, row.tokens_total, row.usage_source) == ("ok", 200, 12, "provider")
    assert str(row.id) == response.headers["x-request-id"]


async def test_it_sends_the_stored_key_and_nothing_of_the_clients(client, provider, api_key):
    await client.post("/v1/chat/completions", json=CHAT, headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4"})
    (request,) = provider.requests
    assert request.headers["authorization"].startswith("Bearer demo-")
    assert request.headers["host"] == f"127.0.0.1:{provider.port}"
    assert set(request.headers) == {
        *("host", "authorization", "accept", "accept-encoding", "user-agent", "via", "content-type", "content-length")
    }


async def test_it_streams_byte_for_byte_but_for_the_usage_nobody_asked_for(client, provider, rows):
    provider.default = stream()
    response = await client.post("/v1/chat/completions", json=STREAMED)
    assert response.content == b"".join(HELLO[:3]) + DONE
    assert provider.requests[0].json()["stream_options"] == {"include_usage": True}
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_input, row.tokens_output) == ("ok", True, 9, 3)


async def test_it_gives_the_usage_event_to_who_asks(client, provider):
    provider.default = stream()
    response = await client.post("/v1/chat/completions", json={**STREAMED, "stream_options": {"include_usage": True}})
    assert response.content == b"".join(HELLO).replace(b'"usage":{', b'"usage":{"cost":0.00005250,')


async def test_it_delivers_each_event_before_the_next_one_exists(client, provider):
    gate = asyncio.Event()
    provider.default = stream([chunk("a"), DONE], gate=gate)
    async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == chunk("a")
        gate.set()
        assert b"".join([part async for part in parts]) == DONE


async def test_it_ends_a_cut_stream_with_an_error_event_and_no_end(client, provider, rows):
    provider.default = stream([chunk("Hel")], finish=False)
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
            async for part in response.aiter_raw():
                received += part
    assert received.startswith(chunk("Hel")) and b"[DONE]" not in received
    assert json.loads(received.split(b"data: ")[-1])["error"]["code"] == "provider_broken"
    (row,) = await rows()
    assert (row.outcome, row.usage_source, row.tokens_output) == ("provider_error", "estimated", 1)


async def test_it_does_not_take_a_stream_without_its_end_for_a_whole_one(client, provider, rows):
    provider.default = stream([chunk("Hel")])
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        await client.post("/v1/chat/completions", json=STREAMED)
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_holds_the_200_until_the_provider_has_said_something(client, provider):
    provider.default = stream([b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'])
    response = await client.post("/v1/chat/completions", json=STREAMED)
    assert (response.status_code, response.json()["error"]["message"]) == (502, "overloaded")
    assert response.headers["x-should-retry"] == "false"


async def test_it_cancels_the_provider_when_the_client_leaves(client, provider, rows):
    provider.default = stream([chunk("a"), DONE], gate=asyncio.Event())
    async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
        await anext(response.aiter_raw())
    await asyncio.wait_for(provider.left.wait(), 5)
    (row,) = await rows()
    assert (row.outcome, row.status_code, row.tokens_output) == ("client_gone", 200, 1)


async def test_it_cancels_the_provider_when_the_client_leaves_before_the_first_byte(client, provider, rows):
    async def silence(request, writer):
        await asyncio.Event().wait()

    provider.default = silence
    call = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
    await asyncio.wait_for(provider.arrived.wait(), 5)
    call.cancel()
    await asyncio.wait_for(provider.left.wait(), 5)
    (row,) = await rows()
    assert (row.outcome, row.status_code) == ("client_gone", 499)


@pytest.mark.parametrize(
    ("status", "code", "seen"),
    [(401, "invalid_api_key", 424), (403, "denied", 424), (404, "model_not_found", 404), (500, "oops", 500)],
)
async def test_it_passes_the_providers_refusals_on(client, provider, rows, status, code, seen):
    provider.default = answer(status, {"error": {"message": "no", "type": "x", "code": code}})
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == seen
    assert response.headers["x-aiproxy-error-source"] == "provider"
    assert response.headers["x-provider-request-id"] == "req_1"
    assert [(row.outcome, row.tokens_total) for row in await rows()] == [("provider_error", 0)]


async def test_it_keeps_retry_after(client, provider):
    provider.default = answer(429, {"error": {"message": "slow"}}, "retry-after: 7")
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_it_masks_a_key_that_the_provider_echoes(client, provider):
    echoed = "sk-" + "z" * 40
    provider.default = answer(400, {"error": {"message": f"Incorrect key {echoed}", "param": f"{echoed}"}})
    response = await client.post("/v1/chat/completions", json=CHAT)
    error = response.json()["error"]
    assert (error["message"], error["param"]) == ("Incorrect key ***", "***")


def refusing(key: bytes):
    return b'{"error":{"message":"Incorrect key %b","code":"%b"}}' % (key, key)


def escaping(key: bytes):
    return refusing(b"\\u%04x%b" % (key[0], key[1:]))


@pytest.mark.parametrize(
    "told",
    [
        lambda key: answer(400, refusing(key)),
        lambda key: answer(400, escaping(key)),
        lambda key: stream([chunk("a"), b"data: %b\n\n" % refusing(key)], finish=False),
        lambda key: stream([b"data: %b\n\n" % escaping(key)]),
    ],
    ids=["plain", "escaped", "in a stream", "instead of a stream"],
)
async def test_it_masks_the_key_in_use_whatever_it_looks_like(client, provider, rows, told):
    async def echo(request, writer):
        await told(request.headers["authorization"].removeprefix("Bearer ").encode())(request, writer)

    provider.default, seen = echo, b""
    async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
        with contextlib.suppress(httpx.RemoteProtocolError):
            async for part in response.aiter_raw():
                seen += part
    assert b'"message":"Incorrect key ***"' in seen and b'"code":"***"' in seen
    assert [row.error_message for row in await rows()] == ["Incorrect key ***"]


async def test_it_never_asks_twice_what_may_have_been_served(client, provider, rows):
    async def reset(request, writer):
        writer.transport.abort()

    provider.default = reset
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, len(provider.requests)) == (502, 1)
    assert response.headers["x-should-retry"] == "false"


async def test_it_turns_a_cut_plain_answer_into_a_clean_error(client, provider):
    async def cut(request, writer):
        writer.write(head(200, "content-type: application/json", "content-length: 500") + b'{"id":')
        writer.close()

    provider.default = cut
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_broken")


async def test_it_passes_a_large_plain_answer(client, provider, rows):
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    body = json.dumps({"data": "x" * (6 << 20), "usage": usage, "model": "large"}).encode()
    provider.default = answer(200, body)
    response = await client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "a"})
    assert response.content == body
    assert [(row.outcome, row.usage_source, row.tokens_total) for row in await rows()] == [("ok", "provider", 7)]


async def test_it_records_usage_of_embeddings(client, provider, rows):
    provider.default = answer(200, {"data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}})
    await client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "a"})
    (row,) = await rows()
    assert (row.endpoint, row.tokens_input, row.tokens_output) == ("embeddings", 5, 0)


async def test_it_refuses_a_bad_body_and_counts_it(client, provider, rows):
    response = await client.post("/v1/chat/completions", content=b"nope")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert [(row.outcome, row.model, row.status_code) for row in await rows()] == [("refused", "(unknown)", 400)]
    assert provider.requests == []


async def test_it_refuses_a_request_that_comes_back(client, plane, provider):
    await client.post("/v1/chat/completions", json=CHAT)
    via = provider.requests[0].headers["via"]
    response = await client.post("/v1/chat/completions", json=CHAT, headers={"via": f"1.0 x, {via}"})
    assert response.status_code == 508


async def test_it_lets_no_body_field_steer_where_the_key_goes(client, provider):
    evil = {
        "api_base": "http://127.0.0.1:1",
        "base_url": "http://127.0.0.1:1",
        "api_key": "x",
        "headers": {"host": "x"},
    }
    response = await client.post("/v1/chat/completions", json={**CHAT, **evil, "extra_body": evil})
    assert response.status_code == 200
    assert provider.requests[0].json() == {**CHAT, **evil, "extra_body": evil}


async def test_it_ends_open_streams_with_their_own_row_when_drained(client, plane, provider, rows):
    provider.default = stream([chunk("a"), DONE], gate=asyncio.Event())
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
            async for part in response.aiter_raw():
                received += part
                plane.drain(0)
    assert b'"shutting_down"' in received
    assert [row.outcome for row in await rows()] == ["drained"]


@pytest.mark.parametrize("failure", [answer(400), answer(503), stream([chunk("Hel")]), None])
async def test_it_needs_no_collector_to_forget_a_request_that_failed(client, provider, failure):
    provider.default = failure
    if failure is None:  # nobody is there
        await provider.stop()
    gc.collect()  # what tests before this one have left
    gc.disable()
    try:
        with contextlib.suppress(httpx.RemoteProtocolError):
            await client.post("/v1/chat/completions", json=STREAMED)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not [known for known in gc.get_objects() if type(known) is Exchange]
    finally:
        gc.enable()
