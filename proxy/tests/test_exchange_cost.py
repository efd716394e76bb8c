"""What a request cost, told to its client and written into its row; prices as in usage/tests/test_pricing.py."""

import asyncio
import json
import secrets
from decimal import Decimal

import openai
import pytest
from asgiref.sync import sync_to_async

from proxy.tests.provider import DONE, Provider, answer, chunk, plain, stream
from usage import pricing
from usage.models import Price
from usage.tests.conftest import wait_until
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.django_db(transaction=True)

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}  # 9 tokens at 2.50, 3 at 10
COST = "0.00005250"
TOLD = {"stream_options": {"include_usage": True}, "stream": True}


@pytest.fixture
async def official(address, proxy_key):
    base_url = f"http://{address[0]}:{address[1]}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=proxy_key[1], max_retries=0) as client:
        yield client


async def test_it_tells_the_cost_of_a_plain_answer_in_a_header(client, rows):
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.headers["x-aiproxy-cost"] == COST
    (row,) = await rows()
    assert row.cost == Decimal(COST)


async def test_it_tells_the_official_client_the_cost_of_a_stream(official, provider, rows):
    provider.default = stream()
    chunks = [chunk async for chunk in await official.chat.completions.create(**CHAT, **TOLD)]
    assert chunks[-1].usage.model_dump() | {"cost": 0.0000525, "total_tokens": 12} == chunks[-1].usage.model_dump()
    (row,) = await rows()
    assert row.cost == Decimal(COST)


async def test_it_says_nothing_of_cost_to_who_did_not_ask_for_usage(client, provider, rows):
    provider.default = stream()
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert b"cost" not in response.content and "x-aiproxy-cost" not in response.headers
    (row,) = await rows()
    assert row.cost == Decimal(COST)


async def test_it_adds_no_cost_to_a_usage_that_says_nothing(official, provider):
    provider.default = stream([chunk("hi"), chunk(choices=[], usage={}), DONE])
    chunks = [chunk async for chunk in await official.chat.completions.create(**CHAT, **TOLD)]
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices] == ["hi"]


async def test_it_leaves_a_text_alone_that_looks_like_usage(client, provider):
    text = chunk('"usage":{"prompt_tokens":1}')
    provider.default = stream([text, chunk(), DONE])
    response = await client.post("/v1/chat/completions", json={**CHAT, **TOLD})
    assert response.content.startswith(text)


async def test_it_bills_the_tier_that_served_it(client, provider):
    provider.default = answer(body=plain() | {"service_tier": "priority"})
    response = await client.post("/v1/chat/completions", json={**CHAT, "service_tier": "priority"})
    assert response.headers["x-aiproxy-cost"] == "0.00008925"  # 4.25, 17


@pytest.mark.parametrize("fills", [False, True])
async def test_it_bills_the_tier_that_served_a_large_answer(client, provider, rows, fills):
    chat = {**plain("x" * (5 << 20)), "service_tier": "priority", "system_fingerprint": None}
    provider.default = answer(body=chat)
    await client.post("/v1/chat/completions", json=CHAT)
    said = {"output": ["x" * (5 << 20)], "service_tier": "priority", "tools": ["x" * 20_000 * fills]}
    provider.default = answer(body={**said, "usage": {"input_tokens": 9, "output_tokens": 3}, "user": None})
    await client.post("/v1/responses", json={"model": "gpt-4o", "input": "hi"})
    assert [row.cost for row in await rows()] == [Decimal("0.00008925"), None if fills else Decimal("0.00008925")]


async def test_it_does_not_know_what_an_unknown_model_costs(client, provider, rows):
    response = await client.post("/v1/chat/completions", json={**CHAT, "model": "gpt-99"})
    assert (response.status_code, "x-aiproxy-cost" in response.headers) == (200, False)
    provider.default = stream()
    told = await client.post("/v1/chat/completions", json={**CHAT, **TOLD, "model": "gpt-99"})
    assert b'"usage":{"prompt_tokens":9' in told.content
    assert [row.cost for row in await rows()] == [None, None]


async def test_it_bills_embeddings(client, provider, rows):
    body = {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 500, "total_tokens": 500}}
    provider.default = answer(body=body)
    response = await client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "hi"})
    assert response.headers["x-aiproxy-cost"] == "0.00001000"  # 0.02
    (row,) = await rows()
    assert row.cost == Decimal("0.00001")


async def test_it_costs_nothing_to_be_refused_or_to_list_models(client, provider, rows):
    provider.scripts = [answer(400, {"error": {"message": "no", "type": "invalid_request_error"}})]
    refused = await client.post("/v1/chat/completions", json=CHAT)
    await client.get("/v1/models")
    assert "x-aiproxy-cost" not in refused.headers
    assert [row.cost for row in await rows()] == [0, 0]


async def test_it_does_not_know_the_cost_of_an_answer_without_usage(client, provider, rows):
    provider.default = answer(body={name: value for name, value in plain().items() if name != "usage"})
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert "x-aiproxy-cost" not in response.headers
    (row,) = await rows()
    assert (row.usage_source, row.cost) == ("estimated", None)


class TestOfStaff:
    """Their price is there before the plane reads prices, and gone after."""

    @pytest.fixture
    def proxy_key(self, user, proxy_key):
        Price.objects.create(provider="openai", model="gpt-99*", input=1, output=2, note="agreed")
        yield proxy_key
        pricing.renew(())

    async def test_their_price_holds_for_what_the_book_does_not_know(self, client, rows):
        response = await client.post("/v1/chat/completions", json={**CHAT, "model": "gpt-99"})
        assert response.headers["x-aiproxy-cost"] == "0.00001500"

    async def test_a_new_price_reaches_a_worker_that_runs(self, client, plane):
        await sync_to_async(Price.objects.create)(provider="openai", model="gpt-99", input=2, output=0)
        plane.runtime.prices.read_again()
        await asyncio.to_thread(wait_until, lambda: pricing.price_of("openai", "gpt-99").id == "gpt-99")
        response = await client.post("/v1/chat/completions", json={**CHAT, "model": "gpt-99"})
        assert response.headers["x-aiproxy-cost"] == "0.00001800"


def anthropics(usage: dict) -> bytes:
    start = {"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-6", "usage": usage}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}}
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in (start, delta, {"type": "message_stop"}))


class TestOfAnthropic:
    @pytest.fixture
    async def provider(self, settings):
        provider = Provider()
        await provider.start()
        settings.AIPROXY_ANTHROPIC_BASE_URL = f"http://127.0.0.1:{provider.port}"
        yield provider
        await provider.stop()

    @pytest.fixture
    def api_key(self, user):
        return store.add(user.id, "anthropic", "", Secret("demo-" + secrets.token_hex(20)))

    async def test_it_bills_what_the_cache_was_given_by_how_long_it_keeps_it(self, official, provider, rows):
        written = {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 400}
        usage = {"input_tokens": 100, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 900}
        provider.default = stream([anthropics({**usage, "cache_creation": written, "output_tokens": 1})])
        chat = {**CHAT, "model": "claude-sonnet-4-6", "max_tokens": 50, **TOLD}
        chunks = [chunk async for chunk in await official.chat.completions.create(**chat)]
        # 100 at 3, 1000 at 0.30, 500 at 3.75, 400 at 6, 10 at 15
        assert chunks[-1].usage.cost == 0.005025
        (row,) = await rows()
        assert row.cost == Decimal("0.005025")
