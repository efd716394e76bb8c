"""Exchanges with Google, from the client's socket to the row in the log."""

import asyncio
import json
import secrets

import pytest

from proxy.tests.provider import DONE, STREAM_HEAD, answer, framed, head, stream
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

CHAT = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**CHAT, "stream": True}
USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 14}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]


def said(*parts: dict, finish: str | None = "STOP") -> dict:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    return {
        "candidates": [candidate | ({"finishReason": finish} if finish else {})],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }


def event(data: dict) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\r\n\r\n"


HELLO = [event(said({"text": "Hel"}, finish=None)), event(said({"text": "lo"}))]
WEATHER = {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}}
]


@pytest.fixture
def api_key(user, settings, provider) -> ApiKey:
    settings.AIPROXY_GOOGLE_BASE_URL = f"http://127.0.0.1:{provider.port}"
    return store.add(user.id, "google", "", Secret("demo-" + secrets.token_hex(20)))


async def test_it_answers_in_openais_format(official, provider, rows):
    provider.default = answer(200, said({"text": "Hello"}))
    completion = await official.chat.completions.create(**CHAT)
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("Hello", "stop")
    (row,) = await rows()
    assert (row.provider, row.tokens_input, row.tokens_output, row.tokens_reasoning) == ("google", 9, 5, 2)
    assert (row.outcome, row.usage_source) == ("ok", "provider")


async def test_it_sends_the_key_in_its_header_and_nowhere_else(client, provider):
    provider.default = answer(200, said({"text": "Hello"}))
    await client.post("/v1/chat/completions", json=CHAT)
    (request,) = provider.requests
    assert request.target == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert request.headers["x-goog-api-key"].startswith("demo-") and "authorization" not in request.headers
    assert request.json() == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


async def test_it_streams_to_the_official_client(official, provider, rows):
    provider.default = stream(HELLO)
    chunks = await official.chat.completions.create(**STREAMED, stream_options={"include_usage": True})
    *rest, last = [chunk async for chunk in chunks]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in rest) == "Hello"
    assert [chunk.choices[0].finish_reason for chunk in rest] == [None, None, "stop"]
    assert (last.choices, last.usage.total_tokens) == ([], 14)
    assert provider.requests[0].target == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_total) == ("ok", True, 14)


async def test_it_delivers_each_event_before_the_next_one_exists(client, provider):
    gate = asyncio.Event()
    provider.default = stream(HELLO, gate=gate)
    async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
        parts = response.aiter_raw()
        assert b'"content":"Hel"' in await anext(parts)
        gate.set()
        assert b"".join([part async for part in parts]).endswith(DONE)


async def test_a_tool_call_goes_round(official, provider):
    provider.scripts = [stream([event(said(WEATHER, finish=None)), event(said({"text": ""}))])]
    provider.default = answer(200, said({"text": "Cold."}))
    messages = [*CHAT["messages"]]
    async with official.chat.completions.stream(model=CHAT["model"], messages=messages, tools=TOOLS) as chunks:
        completion = await chunks.get_final_completion()
    assert completion.choices[0].finish_reason == "tool_calls"
    message = completion.choices[0].message.to_dict()
    (call,) = message["tool_calls"]
    messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": "4 degrees"}]
    await official.chat.completions.create(model=CHAT["model"], messages=messages, tools=TOOLS)
    _, model, user = provider.requests[1].json()["contents"]
    assert model["parts"] == [WEATHER | {"functionCall": {**WEATHER["functionCall"], "id": call["id"]}}]
    (response,) = user["parts"]
    assert response["functionResponse"] == {
        "id": call["id"],
        "name": "weather",
        "response": {"result": "4 degrees"},
    }


INVALID = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def refusal(code: int, status: str, *details: dict) -> dict:
    return {"error": {"code": code, "message": "no", "status": status, "details": list(details)}}


@pytest.mark.parametrize(
    ("status", "body", "seen"),
    [
        (400, refusal(400, "INVALID_ARGUMENT"), (400, "invalid_argument")),
        (403, refusal(403, "PERMISSION_DENIED"), (424, "provider_key_rejected")),
        (404, refusal(404, "NOT_FOUND"), (404, "model_not_found")),
        (500, refusal(500, "INTERNAL"), (500, "internal")),
    ],
)
async def test_it_passes_the_providers_refusals_on(client, provider, rows, status, body, seen):
    provider.default = answer(status, body)
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == seen
    assert [(row.outcome, row.tokens_total) for row in await rows()] == [("provider_error", 0)]


async def test_it_says_when_to_come_back(client, provider):
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6.5s"}
    provider.default = answer(429, refusal(429, "RESOURCE_EXHAUSTED", delay))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["retry-after-ms"], response.headers["retry-after"]) == (
        *(429, "6500", "7"),
    )


async def test_it_takes_an_unknown_key_for_refused_and_asks_with_the_next(client, user, provider, plane, rows):
    second = await asyncio.to_thread(store.add, user.id, "google", "b", Secret("demo-" + secrets.token_hex(20)))
    provider.scripts = [answer(400, refusal(400, "INVALID_ARGUMENT", INVALID))]
    provider.default = answer(200, said({"text": "Hello"}))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200 and len(provider.requests) == 2
    (row,) = await rows()
    assert row.api_key_id == second.id


async def test_an_unknown_key_is_tested_once_more_and_marked(client, api_key, provider, rows):
    provider.default = answer(400, refusal(400, "INVALID_ARGUMENT", INVALID))
    await client.post("/v1/chat/completions", json=CHAT)
    await rows()  # the shipper asks for Google's list of models
    assert provider.requests[-1].target == "/v1beta/models"
    await asyncio.to_thread(api_key.refresh_from_db)
    assert not api_key.is_valid


async def test_an_unknown_key_is_not_the_clients_fault(client, provider):
    provider.default = answer(400, [refusal(400, "INVALID_ARGUMENT", INVALID)])
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (424, "provider_key_rejected")
    assert response.headers["x-should-retry"] == "false"


async def test_an_error_that_calls_itself_a_stream_keeps_its_status(client, provider):
    body = json.dumps(refusal(404, "NOT_FOUND")).encode()

    async def play(request, writer):
        writer.write(head(404, "content-type: text/event-stream", f"content-length: {len(body)}") + body)

    provider.default = play
    response = await client.post("/v1/chat/completions", json=STREAMED)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert response.headers["content-type"] == "application/json"


async def read_broken(client) -> bytes:
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
            async for part in response.aiter_raw():
                received += part
    return received


async def test_it_ends_a_stream_that_fails_with_an_error_and_no_end(client, provider, rows):
    provider.default = stream([HELLO[0], event(refusal(503, "UNAVAILABLE"))])
    received = await read_broken(client)
    assert b'"Hel"' in received and b"[DONE]" not in received and b'finish_reason":"' not in received
    assert json.loads(received.split(b"data: ")[-1])["error"]["code"] == "unavailable"
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_takes_no_end_without_a_finish_for_a_whole_answer(client, provider, rows):
    provider.default = stream(HELLO[:1])
    received = await read_broken(client)
    assert json.loads(received.split(b"data: ")[-1])["error"]["code"] == "provider_broken"
    (row,) = await rows()
    assert (row.outcome, row.tokens_total, row.usage_source) == ("provider_error", 14, "provider")


async def test_it_takes_no_cut_connection_for_an_end(client, provider):
    async def cut(request, writer):
        writer.write(STREAM_HEAD + framed(HELLO[0]) + framed(HELLO[1]))
        await writer.drain()
        writer.close()

    provider.default = cut
    assert b"[DONE]" not in await read_broken(client)


async def test_it_refuses_a_picture_of_the_web_before_anything_is_sent(client, provider, rows):
    picture = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    response = await client.post(
        "/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": [picture]}]}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[0].image_url.url"
    assert provider.requests == []


async def test_it_embeds_for_the_official_client(official, provider, rows):
    provider.default = answer(200, {"embeddings": [{"values": [0.5, -0.25]}], "usageMetadata": {"promptTokenCount": 4}})
    embeddings = await official.embeddings.create(model="gemini-embedding-001", input=["a"])
    assert embeddings.data[0].embedding == [0.5, -0.25]
    assert provider.requests[0].target == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    (row,) = await rows()
    assert (row.tokens_input, row.tokens_output, row.usage_source) == (4, 0, "provider")
