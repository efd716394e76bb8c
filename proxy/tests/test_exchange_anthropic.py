"""One exchange with a Claude model, from an OpenAI client's socket to the row in the log."""

import json
import secrets

import openai
import pytest

from proxy.tests.provider import Provider, answer, stream
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

MODEL = "claude-opus-4-6"
CHAT = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 3}


def message(*content: dict, stop: str = "end_turn") -> dict:
    return {"id": "msg_1", "type": "message", "model": MODEL, "content": content, "stop_reason": stop, "usage": USAGE}


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def text(part: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": part})


START = event("message_start", message={"id": "msg_1", "model": MODEL, "usage": {**USAGE, "output_tokens": 1}})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
END = [
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    event("message_stop"),
]


@pytest.fixture
async def provider(settings):
    provider = Provider(default=answer(200, message({"type": "text", "text": "Hello"})))
    await provider.start()
    settings.AIPROXY_ANTHROPIC_BASE_URL = f"http://127.0.0.1:{provider.port}"
    yield provider
    await provider.stop()


@pytest.fixture
def api_key(user):
    return store.add(user.id, "anthropic", "", Secret("demo-" + secrets.token_hex(20)))


async def test_it_asks_anthropic_natively(client, provider, rows):
    response = await client.post("/v1/chat/completions", json=CHAT, headers={"anthropic-beta": "b", "openai-beta": "x"})
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    (request,) = provider.requests
    assert (request.target, request.json()["messages"][0]["content"][0]["text"]) == ("/v1/messages", "hi")
    assert request.headers["x-api-key"].startswith("demo-") and request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["anthropic-beta"] == "b"
    assert not {"authorization", "openai-beta"} & set(request.headers)
    (row,) = await rows()
    assert (row.outcome, row.provider, row.tokens_input, row.tokens_cached, row.tokens_output) == (
        *("ok", "anthropic", 9, 4, 3),
    )


async def test_it_streams(client, provider, rows):
    provider.default = stream([START, BLOCK, text("Hel"), text("lo"), *END])
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    *chunks, done = [part[6:] for part in response.text.split("\n\n") if part]
    said = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [choice["delta"].get("content") for choice in said] == ["", "Hel", "lo", None]
    assert (said[-1]["finish_reason"], done) == ("stop", "[DONE]")
    assert response.headers["content-type"].startswith("text/event-stream")
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_total, row.usage_source) == ("ok", True, 12, "provider")


async def test_it_calls_tools(client, provider):
    call = {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {"zone": "CET"}}
    provider.default = answer(200, message(call, stop="tool_use"))
    tools = [{"type": "function", "function": {"name": "time"}}]
    response = await client.post("/v1/chat/completions", json={**CHAT, "tools": tools})
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "time", "arguments": '{"zone":"CET"}'}


async def test_it_names_the_field_that_it_cannot_honour_and_asks_nobody(client, provider, rows):
    response = await client.post("/v1/chat/completions", json={**CHAT, "n": 2})
    assert (response.status_code, response.json()["error"]["param"], provider.requests) == (400, "n", [])
    assert [row.tokens_total for row in await rows()] == [0]


async def test_it_passes_an_overload_on(client, provider, rows):
    provider.default = answer(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_tells_a_refused_key_from_the_clients(client, provider):
    provider.default = answer(401, {"type": "error", "error": {"type": "authentication_error", "message": "no"}})
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (424, "provider_key_rejected")


async def test_it_ends_a_failed_stream_with_an_error_event_and_no_end(client, provider, rows):
    failure = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    provider.default = stream([START, BLOCK, text("Hel"), failure])
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            async for part in response.aiter_raw():
                received += part
    assert b'"Hel"' in received and b"[DONE]" not in received and b'"stop"' not in received
    assert json.loads(received.split(b"data: ")[-1])["error"]["code"] == "overloaded"
    (row,) = await rows()
    assert (row.outcome, row.tokens_input, row.tokens_output) == ("provider_error", 9, 1)


async def test_it_does_not_take_a_stream_without_its_end_for_a_whole_one(client, provider, rows):
    provider.default = stream([START, BLOCK, text("Hel"), *END[:2]])
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_takes_a_count_below_nothing_for_none(client, provider, rows):
    said = message({"type": "text", "text": "Hi"})
    provider.default = answer(200, {**said, "usage": {**USAGE, "output_tokens": -900}})
    await client.post("/v1/chat/completions", json=CHAT)
    assert [(row.outcome, row.usage_source) for row in await rows()] == [("ok", "estimated")]


def block(index: int, content: dict, *deltas: dict) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=content),
        *[event("content_block_delta", index=index, delta=delta) for delta in deltas],
        event("content_block_stop", index=index),
    ]


THINKING = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "signed=="},
)
REDACTED = block(1, {"type": "redacted_thinking", "data": "sealed"})
CALLS = [
    *block(2, {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {}}),
    *block(3, {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}}),
]


async def test_it_gets_signed_thinking_back_from_openais_own_client(address, proxy_key, provider):
    """A tool turn, streamed and put together by the official client, then answered as its users do."""
    stop = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9})
    provider.scripts = [stream([START, *THINKING, *REDACTED, *CALLS, stop, event("message_stop")])]
    asked = {"model": MODEL, "max_tokens": 50, "tools": [{"type": "function", "function": {"name": "time"}}]}
    messages: list = [{"role": "user", "content": "hi"}]
    url = f"http://{address[0]}:{address[1]}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=proxy_key[1], max_retries=0) as sdk:
        async with sdk.chat.completions.stream(**asked, messages=messages) as streamed:
            said = (await streamed.get_final_completion()).choices[0].message
        messages.append(said.model_dump(exclude_none=True, exclude={"parsed"}))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "noon"} for call in said.tool_calls or ()]
        completion = await sdk.chat.completions.create(**asked, messages=messages)
    assert completion.choices[0].message.content == "Hello"
    turns = provider.requests[1].json()["messages"]
    assert turns[1]["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "signed=="},
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {}},
        {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
    ]
    assert [result["tool_use_id"] for result in turns[2]["content"]] == ["toolu_1", "toolu_2"]
