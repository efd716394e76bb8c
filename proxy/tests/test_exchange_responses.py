"""Responses through the data plane, by OpenAI's own client: untouched to OpenAI, translated for the others."""

import asyncio
import json
import secrets

import openai
import pytest
from pydantic import BaseModel

from proxy.tests.provider import DONE, Provider, answer, chunk, plain, stream
from proxy.tests.test_wire_openai_responses import USAGE, event, response
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

MODELS = {"openai": "gpt-5.6", "anthropic": "claude-opus-4-6", "google": "gemini-2.5-pro", "alibaba": "qwen-plus"}
TRANSLATED = [name for name in MODELS if name != "openai"]
JSON = '{"city": "Bonn"}'
TOOL = {"type": "function", "name": "time", "parameters": {"type": "object", "properties": {}}, "strict": False}


class Place(BaseModel):
    city: str


def message(text: str) -> dict:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def native(text: str) -> dict:
    fixed = {"object": "response", "created_at": 1, "model": "gpt-5.6", "parallel_tool_calls": True, "tools": []}
    said = {"id": "resp_1", "status": "completed", "output": [message(text)], "usage": USAGE, "tool_choice": "auto"}
    return {**fixed, **said}


def whole(provider: str, text: str) -> dict:
    """What the provider answers, in its own form: 9 tokens in, 5 out."""
    if provider == "anthropic":
        content = [{"type": "text", "text": text}]
        said = {"id": "msg_1", "type": "message", "model": MODELS[provider], "content": content}
        return {**said, "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 5}}
    if provider == "google":
        counts = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}
        candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
        return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": MODELS[provider]}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return native(text) if provider == "openai" else {**plain(text), "usage": usage}


def streamed(provider: str, text: str) -> list[bytes]:
    half = len(text) // 2
    if provider == "anthropic":
        deltas = [{"type": "text_delta", "text": part} for part in (text[:half], text[half:])]
        start = {"id": "msg_1", "model": MODELS[provider], "usage": {"input_tokens": 9, "output_tokens": 1}}
        return [
            event("message_start", 0, message=start),
            event("content_block_start", 0, index=0, content_block={"type": "text", "text": ""}),
            *[event("content_block_delta", 0, index=0, delta=delta) for delta in deltas],
            event("content_block_stop", 0, index=0),
            event("message_delta", 0, delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
            event("message_stop", 0),
        ]
    if provider == "google":
        first = {"candidates": [{"content": {"parts": [{"text": text[:half]}]}}], "modelVersion": MODELS[provider]}
        return [b"data: %b\n\n" % json.dumps(one).encode() for one in (first, whole(provider, text[half:]))]
    if provider == "alibaba":
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        return [chunk(text[:half]), chunk(text[half:]), chunk(), chunk(choices=[], usage=usage), DONE]
    return [*native_begin(text), event("response.completed", 7, response=native(text))]


def native_begin(text: str) -> list[bytes]:
    begun = {**native(text), "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    item = {**message(text), "status": "in_progress", "content": []}
    return [
        event("response.created", 0, response=begun),
        event("response.output_item.added", 1, output_index=0, item=item),
        event("response.content_part.added", 2, **place, part={**part, "text": ""}),
        event("response.output_text.delta", 3, **place, delta=text, logprobs=[]),
        event("response.output_text.done", 4, **place, text=text, logprobs=[]),
        event("response.content_part.done", 5, **place, part={**part, "text": text}),
        event("response.output_item.done", 6, output_index=0, item=message(text)),
    ]


@pytest.fixture
async def provider(settings):
    """One server that stands for all of them."""
    provider = Provider()
    await provider.start()
    settings.AIPROXY_OPENAI_BASE_URL = settings.AIPROXY_ALIBABA_BASE_URL = provider.base_url
    settings.AIPROXY_ANTHROPIC_BASE_URL = f"http://127.0.0.1:{provider.port}"
    settings.AIPROXY_GOOGLE_BASE_URL = f"http://127.0.0.1:{provider.port}/v1beta"
    yield provider
    await provider.stop()


@pytest.fixture
def api_key(user):
    return [store.add(user.id, name, "", Secret("demo-" + secrets.token_hex(20))) for name in MODELS]


@pytest.fixture
async def sdk(address, proxy_key):
    url = f"http://{address[0]}:{address[1]}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=proxy_key[1], max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("name", MODELS)
async def test_it_answers_openais_client(sdk, provider, rows, name):
    provider.default = answer(200, whole(name, "Hello"))
    found = await sdk.responses.create(model=MODELS[name], input="hi")
    assert (found.output_text, found.status, found.usage.total_tokens) == ("Hello", "completed", 14)
    (row,) = await rows()
    assert (row.endpoint, row.provider, row.outcome, row.tokens_input, row.tokens_output) == (
        *("responses", name, "ok", 9, 5),
    )


@pytest.mark.parametrize("name", MODELS)
async def test_it_streams_to_openais_client(sdk, provider, rows, name):
    provider.default = stream(streamed(name, "Hello there"))
    async with sdk.responses.stream(model=MODELS[name], input="hi") as events:
        text = "".join([one.delta async for one in events if one.type == "response.output_text.delta"])
        final = await events.get_final_response()
    assert (text, final.output_text, final.usage.total_tokens) == ("Hello there", "Hello there", 14)
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_total, row.usage_source) == ("ok", True, 14, "provider")


@pytest.mark.parametrize("name", MODELS)
async def test_it_parses_into_a_model(sdk, provider, name):
    provider.default = answer(200, whole(name, JSON))
    found = await sdk.responses.parse(model=MODELS[name], input="where?", text_format=Place)
    assert found.output_parsed == Place(city="Bonn")


async def test_it_passes_openais_own_to_the_byte(client, provider):
    parts = streamed("openai", "Hello")
    provider.default = stream(parts)
    asked = b'{"model":"gpt-5.6",  "input":"hi","stream":true,"store":true,"tools":[{"type":"web_search"}]}'
    found = await client.post("/v1/responses", content=asked)
    assert found.content == b"".join(parts)
    (request,) = provider.requests
    assert (request.target, request.body) == ("/v1/responses", asked)


async def test_it_gets_signed_thinking_back(sdk, provider):
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "signed=="}
    call = {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {}}
    said = {**whole("anthropic", ""), "content": [thinking, call], "stop_reason": "tool_use"}
    provider.scripts = [answer(200, said), answer(200, whole("anthropic", "Noon."))]
    asked: list = [{"role": "user", "content": "When?"}]
    first = await sdk.responses.create(model=MODELS["anthropic"], input=asked, tools=[TOOL])
    asked += [item.to_dict() for item in first.output]
    asked += [{"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "noon"}]
    second = await sdk.responses.create(model=MODELS["anthropic"], input=asked, tools=[TOOL])
    assert second.output_text == "Noon."
    assert provider.requests[1].json()["messages"][1]["content"] == [thinking, call]


@pytest.mark.parametrize("name", TRANSLATED)
async def test_it_names_what_it_cannot_honour_and_asks_nobody(sdk, provider, name):
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(model=MODELS[name], input="hi", previous_response_id="resp_1")
    assert (refused.value.param, provider.requests) == ("previous_response_id", [])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_it_makes_no_response_in_the_background(client, provider, rows, name, streamed):
    asked = {"model": MODELS[name], "input": "hi", "background": True, "stream": streamed}
    refused = await client.post("/v1/responses", json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
    assert "stream" in refused.json()["error"]["message"]
    assert provider.requests == []
    assert [(row.outcome, row.tokens_total) for row in await rows()] == [("refused", 0)]


async def test_it_asks_nobody_twice_whether_it_is_in_the_background(client, provider):
    body = b'{"model": "gpt-5.6", "input": "hi", "background": false, "background": true}'
    refused = await client.post("/v1/responses", content=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "duplicate_parameter")
    assert provider.requests == []


@pytest.mark.parametrize("name", TRANSLATED)
@pytest.mark.parametrize("depth", [300, 930])
async def test_it_refuses_what_is_nested_too_deeply_before_anybody_is_asked(client, provider, name, depth):
    provider.default = answer(200, whole(name, "Hello"))
    schema = b'{"items":' * depth + b"{}" + b"}" * depth
    tool = b'{"type":"function","name":"f","strict":false,"parameters":' + schema + b"}"
    body = b'{"model":"%b","input":"hi","tools":[%b]}' % (MODELS[name].encode(), tool)
    refused = await client.post("/v1/responses", content=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_json")
    assert provider.requests == []


@pytest.mark.parametrize("name", TRANSLATED)
async def test_it_takes_a_schema_of_a_hundred_levels(sdk, provider, name):
    provider.default = answer(200, whole(name, "Hello"))
    schema: dict = {"type": "object", "properties": {}}
    for _ in range(100):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "name": "f", "strict": False, "parameters": schema}
    found = await sdk.responses.create(model=MODELS[name], input="hi", tools=[tool])
    assert (found.output_text, found.tools[0].parameters) == ("Hello", schema)


async def test_it_holds_a_keys_cap(client, provider, proxy_key):
    key, _ = proxy_key
    key.max_tokens = 77
    await key.asave()
    provider.default = answer(200, native("Hi"))
    await client.post("/v1/responses", json={"model": "gpt-5.6", "input": "hi"})
    provider.default = answer(200, whole("anthropic", "Hi"))
    await client.post("/v1/responses", json={"model": MODELS["anthropic"], "input": "hi"})
    asked = [request.json() for request in provider.requests]
    assert (asked[0]["max_output_tokens"], asked[1]["max_tokens"]) == (77, 77)


async def test_it_lets_no_template_choose_a_model_for_a_key_of_some_models(client, provider, proxy_key):
    key, _ = proxy_key
    key.allowed_models = ["gpt-5.6"]
    await key.asave()
    found = await client.post("/v1/responses", json={"prompt": {"id": "pmpt_1"}})
    assert (found.status_code, found.json()["error"]["code"], provider.requests) == (403, "model_not_allowed", [])


async def test_it_asks_the_next_model_of_a_list(client, provider):
    provider.scripts = [answer(503, {"error": {"message": "Busy."}}), answer(200, whole("anthropic", "Hi"))]
    asked = {"models": [MODELS["openai"], MODELS["anthropic"]], "input": "hi"}
    found = await client.post("/v1/responses", json=asked)
    assert found.json()["output"][0]["content"][0]["text"] == "Hi"
    assert [request.target for request in provider.requests] == ["/v1/responses", "/v1/messages"]


async def broken(sdk, provider, model: str, parts: list[bytes], *, finish: bool = True) -> list:
    """The events that a client was given before it was told of the failure."""
    provider.default = stream(parts, finish=finish)
    seen = []
    with pytest.raises(openai.APIError):
        async for one in await sdk.responses.create(model=model, input="hi", stream=True):
            seen.append(one)
    return seen


async def test_it_tells_of_a_failure_within_a_translated_stream(sdk, provider, rows):
    failure = event("error", 0, error={"type": "overloaded_error", "message": "Overloaded"})
    seen = await broken(sdk, provider, MODELS["anthropic"], [*streamed("anthropic", "Hello")[:3], failure])
    assert seen[-1].type == "response.output_text.delta"
    assert [row.outcome for row in await rows()] == ["provider_error"]


@pytest.mark.parametrize("name", MODELS)
async def test_it_does_not_take_a_cut_stream_for_a_whole_one(sdk, provider, rows, name):
    cut = 1 if name == "google" else -2
    seen = await broken(sdk, provider, MODELS[name], streamed(name, "Hello")[:cut], finish=False)
    assert seen and {one.type for one in seen}.isdisjoint({"response.completed", "response.incomplete"})
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_passes_a_failed_response_on(client, provider, rows):
    error = {"code": "server_error", "message": "Sorry."}
    parts = [*native_begin("Hello"), event("response.failed", 7, **response("failed", error=error))]
    provider.default = stream(parts)
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream(
            "POST", "/v1/responses", json={"model": "gpt-5.6", "input": "", "stream": True}
        ) as got:
            async for part in got.aiter_raw():
                received += part
    assert received == b"".join(parts)
    assert [(row.outcome, row.error_message) for row in await rows()] == [("provider_error", "Sorry.")]


# --- what OpenAI stores ------------------------------------------------------------------------------------------


async def silence(request, writer):
    await asyncio.Event().wait()


async def test_it_asks_openai_for_what_it_stores(sdk, provider, rows):
    provider.default = answer(200, native("Hello"))
    assert (await sdk.responses.retrieve("resp_1")).output_text == "Hello"
    await sdk.responses.cancel("resp_1")
    provider.default = answer(200, {"object": "list", "data": [], "has_more": False})
    await sdk.responses.input_items.list("resp_1", limit=5)
    provider.default = answer(200, {"id": "resp_1", "object": "response", "deleted": True})
    await sdk.responses.delete("resp_1")
    assert [(one.method, one.target) for one in provider.requests] == [
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items?limit=5"),
        ("DELETE", "/v1/responses/resp_1"),
    ]
    assert {(row.endpoint, row.provider, row.tokens_total) for row in await rows()} == {
        ("responses.stored", "openai", 0)
    }


async def test_it_goes_on_with_a_stored_stream(sdk, provider, rows):
    provider.default = stream(streamed("openai", "Hello"))
    events = [one.type async for one in await sdk.responses.retrieve("resp_1", stream=True, starting_after=2)]
    assert events[-1] == "response.completed"
    assert provider.requests[0].target == "/v1/responses/resp_1?starting_after=2&stream=true"
    assert [row.tokens_total for row in await rows()] == [0]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_it_costs_nothing_to_leave_what_is_asked_of_a_stored_response(client, provider, rows, method):
    provider.default = silence
    path = "/v1/responses/resp_1/cancel" if method == "POST" else "/v1/responses/resp_1"
    asking = asyncio.ensure_future(client.request(method, path))
    await provider.arrived.wait()
    asking.cancel()
    await provider.left.wait()
    (row,) = await rows()
    assert (row.outcome, row.tokens_total, row.usage_source, row.cost) == ("client_gone", 0, "none", 0)


async def test_it_costs_nothing_to_leave_a_stored_stream(client, provider, rows):
    provider.default = stream(streamed("openai", "Hello"), gate=asyncio.Event())
    async with client.stream("GET", "/v1/responses/resp_1?stream=true") as got:
        await anext(got.aiter_raw())
    await provider.left.wait()
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_total, row.cost) == ("client_gone", True, 0, 0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses/resp_1", 405),
        ("GET", "/v1/responses/resp_1/cancel", 405),
        ("GET", "/v1/responses/resp_1/other", 404),
        ("GET", "/v1/responses/..%2Fmodels", 404),
        ("GET", "/v1/responses/resp_1%3Fa", 404),
        ("GET", "/v1/responses/resp_1?a=1;b", 400),
    ],
)
async def test_it_asks_for_nothing_else(client, provider, method, path, status):
    found = await client.request(method, path)
    assert (found.status_code, provider.requests) == (status, [])
