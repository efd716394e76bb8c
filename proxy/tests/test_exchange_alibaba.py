"""Exchanges with Alibaba, from the client's socket to the row in the log."""

import json
import secrets

import pytest

from proxy.tests.provider import DONE, USAGE, answer, stream
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

CHAT = {"model": "qwen-plus", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**CHAT, "stream": True}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]


def chunk(delta: dict | None = None, finish: str | None = None, **fields) -> bytes:
    choice = {"delta": {"role": None, **(delta or {})}, "index": 0} | ({"finish_reason": finish} if finish else {})
    data = {"model": "qwen-plus", "id": "c1", "created": 1, "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps({**data, "usage": None, **fields}).encode() + b"\n\n"


HELLO = [
    chunk({"content": "", "role": "assistant"}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({"content": ""}, "stop"),
    chunk(choices=[], usage=USAGE),
    DONE,
]


def tool(arguments: str, **fields) -> bytes:
    call = {"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": arguments}}
    return chunk({"content": "", "tool_calls": [call | fields]})


CALL = [
    tool("", id="call_a", function={"name": "weather", "arguments": ""}),
    tool('{"city":'),
    tool('"Oslo"}'),
    chunk({}, "tool_calls"),
    chunk(choices=[], usage=USAGE),
    DONE,
]


@pytest.fixture
def api_key(user, settings, provider) -> ApiKey:
    settings.AIPROXY_ALIBABA_BASE_URL = f"http://127.0.0.1:{provider.port}/compatible-mode/v1"
    return store.add(user.id, "alibaba", "", Secret("demo-" + secrets.token_hex(20)))


async def test_it_answers_in_openais_format(official, provider, rows):
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."}
    choice = {"finish_reason": "stop", "index": 0, "message": message}
    provider.default = answer(
        200, {"choices": [choice], "created": 1, "id": "c1", "model": "m", "object": "chat.completion", "usage": USAGE}
    )
    completion = await official.chat.completions.create(**CHAT)
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].message.reasoning_content == "Hm."
    assert provider.requests[0].target == "/compatible-mode/v1/chat/completions"
    assert provider.requests[0].headers["authorization"].startswith("Bearer demo-")
    (row,) = await rows()
    assert (row.provider, row.outcome, row.tokens_total) == ("alibaba", "ok", 12)


async def test_it_streams_to_the_official_client(official, provider, rows):
    provider.default = stream(HELLO)
    chunks = [one async for one in await official.chat.completions.create(**STREAMED)]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello"
    assert chunks[-1].choices[0].finish_reason == "stop" and all("usage" not in one.to_dict() for one in chunks)
    assert provider.requests[0].json()["stream_options"] == {"include_usage": True}
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_total) == ("ok", True, 12)


async def test_a_call_keeps_its_id_and_name(official, provider):
    provider.default = stream(CALL)
    async with official.chat.completions.stream(**CHAT) as chunks:
        completion = await chunks.get_final_completion()
    (call,) = completion.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_a", "weather", '{"city":"Oslo"}')
    assert completion.choices[0].finish_reason == "tool_calls"


def refusal(code: str) -> dict:
    return {"error": {"message": "no", "type": code, "param": None, "code": code}, "request_id": "r"}


@pytest.mark.parametrize(
    ("status", "code", "seen"),
    [
        (400, "Arrearage", (424, "Arrearage")),
        (400, "data_inspection_failed", (400, "content_filter")),
        (401, "invalid_api_key", (424, "provider_key_rejected")),
        (404, "model_not_found", (404, "model_not_found")),
        (429, "limit_requests", (429, "rate_limit_exceeded")),
    ],
)
async def test_it_passes_the_providers_refusals_on(client, provider, rows, status, code, seen):
    provider.default = answer(status, refusal(code))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == seen
    assert [(row.outcome, row.tokens_total) for row in await rows()] == [("provider_error", 0)]


MODERATED = b"data: " + json.dumps(refusal("data_inspection_failed")).encode() + b"\n\n"


async def test_a_moderation_before_the_first_byte_has_its_own_status(client, provider):
    provider.default = stream([MODERATED])
    response = await client.post("/v1/chat/completions", json=STREAMED)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter")


async def test_a_moderation_in_the_middle_is_an_error_and_no_end(client, provider, rows):
    provider.default = stream([*HELLO[:2], MODERATED])
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
            async for part in response.aiter_raw():
                received += part
    assert b'"Hel"' in received and b"[DONE]" not in received
    assert json.loads(received.split(b"data: ")[-1])["error"]["code"] == "content_filter"
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_refuses_a_file_before_anything_is_sent(client, provider):
    content = [{"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg=="}}]
    response = await client.post(
        "/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": content}]}
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages[0].content[0]")
    assert provider.requests == []


async def test_it_embeds(official, provider, rows):
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    provider.default = answer(200, {"object": "list", "model": "m", "data": data, "usage": usage})
    embeddings = await official.embeddings.create(model="text-embedding-v4", input="a")
    assert embeddings.data[0].embedding == [0.5]
    assert [(row.endpoint, row.tokens_input) for row in await rows()] == [("embeddings", 3)]
