"""Exchanges in Anthropic's dialect with other providers, from its official client's socket to the row in the log."""

import json
import secrets

import anthropic
import pytest

from proxy.tests.provider import DONE, USAGE, Provider, answer, chunk, plain, stream
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

ASKED = {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def provider(provider: Provider, settings, user) -> Provider:
    """Stands for all of them."""
    settings.AIPROXY_GOOGLE_BASE_URL = f"http://127.0.0.1:{provider.port}"
    settings.AIPROXY_ALIBABA_BASE_URL = f"http://127.0.0.1:{provider.port}/v1"
    for slug in ("google", "alibaba"):
        store.add(user.id, slug, "", Secret("demo-" + secrets.token_hex(20)))
    return provider


@pytest.fixture
async def sdk(address, proxy_key):
    """The official client, unchanged."""
    url = f"http://{address[0]}:{address[1]}"
    async with anthropic.AsyncAnthropic(base_url=url, api_key=proxy_key[1], max_retries=0) as client:
        yield client


def delta(finish: str | None = None, **said: object) -> bytes:
    return chunk(choices=[{"index": 0, "delta": said, "finish_reason": finish}])


async def test_it_asks_openai(sdk, provider, rows):
    provider.default = answer(200, plain("Hello there"))
    message = await sdk.messages.create(**ASKED, system="Be brief.", stop_sequences=["END"])
    assert (message.content[0].text, message.stop_reason, message.usage.input_tokens) == ("Hello there", "end_turn", 9)
    request = provider.requests[0]
    assert (request.target, request.json()["stop"]) == ("/v1/chat/completions", ["END"])
    assert [one["role"] for one in request.json()["messages"]] == ["system", "user"]
    (row,) = await rows()
    assert (row.endpoint, row.provider, row.outcome, row.tokens_total) == ("messages", "openai", "ok", 12)


async def test_it_streams_a_tool_turn_and_takes_its_result(sdk, provider, rows):
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"city":"Bern"}'}}
    said = [delta(content="Let me see."), delta(tool_calls=[call]), delta(tool_calls=[rest]), delta("tool_calls")]
    provider.scripts = [stream([*said, chunk(choices=[], usage=USAGE), DONE]), answer(200, plain("It rains."))]
    async with sdk.messages.stream(**ASKED, tools=[TOOL]) as streamed:
        message = await streamed.get_final_message()
    assert (message.stop_reason, message.content[1].input) == ("tool_use", {"city": "Bern"})
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain"}
    turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    message = await sdk.messages.create(**{**ASKED, "messages": [*ASKED["messages"], *turns]}, tools=[TOOL])
    assert message.content[0].text == "It rains."
    assert provider.requests[1].json()["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}
    assert [(row.streamed, row.tokens_total) for row in await rows()] == [(True, 12), (False, 12)]


async def test_it_asks_alibaba(sdk, provider, rows):
    provider.default = answer(200, {**plain("Hello"), "model": "qwen-max"})
    message = await sdk.messages.create(**{**ASKED, "model": "qwen-max"}, extra_body={"top_k": 5})
    sent = provider.requests[0].json()
    assert (message.content[0].text, sent["top_k"], sent["max_tokens"]) == ("Hello", 5, 50)
    assert [(row.provider, row.tokens_total) for row in await rows()] == [("alibaba", 12)]


async def test_it_brings_googles_signature_back_to_it(sdk, provider):
    """A tool turn, streamed and answered as its users do: what the client was given goes back unread."""
    call = {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}
    parts = [{"text": "Hm.", "thought": True}, call]
    said = {"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
    body = json.dumps({**said, "usageMetadata": usage, "modelVersion": "gemini-3-pro", "responseId": "r"}).encode()
    provider.scripts = [stream([b"data: " + body + b"\r\n\r\n"]), answer(200, body)]
    asked = {**ASKED, "model": "gemini-3-pro", "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 2048}}
    async with sdk.messages.stream(**asked) as streamed:
        message = await streamed.get_final_message()
    thoughts, used = message.content
    assert (thoughts.thinking, used.input) == ("Hm.", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "Rain"}
    turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    await sdk.messages.create(**{**asked, "messages": [*ASKED["messages"], *turns]})
    _, model, results = provider.requests[1].json()["contents"]
    assert model["parts"][0]["thoughtSignature"] == "c2ln"
    assert results["parts"][0]["functionResponse"]["response"] == {"result": "Rain"}


async def test_its_errors_are_those_that_the_client_knows(sdk, provider):
    slow = {"message": "Slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    provider.default = answer(429, {"error": slow})
    with pytest.raises(anthropic.RateLimitError, match="Slow down") as limited:
        await sdk.messages.create(**ASKED)
    assert limited.value.request_id == limited.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError, match="top_k cannot be honoured"):
        await sdk.messages.create(**ASKED, extra_body={"top_k": 3})
    with pytest.raises(anthropic.NotFoundError, match="is not known here"):
        await sdk.messages.create(**{**ASKED, "model": "unheard-of"})


async def test_it_lets_the_client_see_a_stream_fail(sdk, provider, rows):
    provider.default = stream([chunk("Hel")], finish=False)
    text = ""
    with pytest.raises(anthropic.APIStatusError, match="connection to the provider broke"):
        async with sdk.messages.stream(**ASKED) as streamed:
            async for part in streamed.text_stream:
                text += part
    assert text == "Hel"
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_records_a_stream_before_the_client_sees_its_end(sdk, provider, rows):
    provider.default = stream()
    async with await sdk.messages.create(**ASKED, stream=True) as events:
        async for event in events:
            if event.type == "message_delta":
                break
        assert [row.outcome for row in await rows()] == ["ok"]


async def test_it_counts(sdk, provider):
    counted = await sdk.messages.count_tokens(model="gpt-4o", messages=ASKED["messages"])
    assert counted.input_tokens > 0
    assert provider.requests == []


async def test_it_refuses_a_schema_that_is_nested_too_deeply(client, provider):
    schema: dict = {}
    for _ in range(400):
        schema = {"items": schema}
    asked = {**ASKED, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    response = await client.post("/v1/messages", json=asked)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert provider.requests == []
