"""What GET /v1/models shows: everything that the caller's own keys reach, whoever fails, and nothing else."""

import asyncio
import json
import secrets

import anthropic
import openai
import pytest
from asgiref.sync import sync_to_async

from proxy import model_list
from proxy.tests.provider import answer
from proxy.wire.listing import models_in
from usage import pricing
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.django_db(transaction=True)

ANTHROPIC = {"anthropic-version": "2023-06-01"}
LISTS = {
    "/v1/models": {
        "object": "list",
        "data": [
            {"id": "gpt-4o", "object": "model", "created": 1715367049, "owned_by": "system"},
            {"id": "acme-tuned", "object": "model", "created": 1, "owned_by": "acme"},
        ],
    },
    "/anthropic/v1/models?limit=1000": {
        "data": [
            {
                "type": "model",
                "id": "claude-x-1",
                "display_name": "Claude X 1",
                "created_at": "2026-02-04T00:00:00Z",
                "max_input_tokens": 200000,
                "max_tokens": 64000,
            }
        ],
        "has_more": False,
    },
    "/google/v1beta/models?pageSize=1000": {
        "models": [
            {
                "name": "models/gemini-x",
                "displayName": "Gemini X",
                "inputTokenLimit": 1048576,
                "outputTokenLimit": 65536,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
            },
            {"name": "models/imagen-x", "supportedGenerationMethods": ["predict"]},
        ]
    },
    "/alibaba/models": {"data": [{"id": "qwen-plus"}, {"id": "gpt-4o"}]},
}


@pytest.fixture
def provider(provider, settings):
    """All providers at one address, each below a path of its own."""
    for slug in ("anthropic", "google", "alibaba"):
        setattr(settings, f"AIPROXY_{slug.upper()}_BASE_URL", f"http://127.0.0.1:{provider.port}/{slug}")

    async def play(request, writer):
        await answer(200, LISTS[request.target])(request, writer)

    provider.default = play
    return provider


@pytest.fixture
def all_keys(user, provider, api_key):
    for slug in ("anthropic", "google", "alibaba"):
        store.add(user.id, slug, "", Secret("demo-" + secrets.token_hex(20)))


async def test_it_lists_what_every_key_reaches_for_the_official_client(all_keys, official, rows):
    listed = {model.id: model async for model in official.models.list()}
    assert set(listed) == {
        *("gpt-4o", "openai/acme-tuned", "claude-x-1", "gemini-x", "qwen-plus", "alibaba/gpt-4o"),
    }
    assert (listed["gpt-4o"].created, listed["gpt-4o"].owned_by, listed["gpt-4o"].provider) == (
        *(1715367049, "system", "openai"),
    )
    assert (listed["gemini-x"].context_length, listed["gemini-x"].max_output_tokens) == (1048576, 65536)
    (row,) = await rows()
    assert (row.endpoint, row.outcome, row.status_code, row.provider) == ("models", "ok", 200, "")
    assert (row.tokens_total, row.usage_source, row.cost) == (0, "none", 0)


async def test_it_names_the_price_of_a_token(client):
    listed = (await client.get("/v1/models")).json()["data"]
    (model,) = (one for one in listed if one["id"] == "gpt-4o")
    price = pricing.price_of("openai", "gpt-4o").dollars[""][0]
    assert float(model["pricing"]["prompt"]) == pytest.approx(float(price.input) / 1e6)
    assert float(model["pricing"]["completion"]) == pytest.approx(float(price.output) / 1e6)
    assert "pricing" not in next(one for one in listed if one["id"] == "openai/acme-tuned")


@pytest.mark.parametrize("name", ["gpt-4o", "openai/gpt-4o"])
async def test_it_shows_one_model_by_all_its_names(official, rows, name):
    model = await official.models.retrieve(name)
    assert (model.id, model.provider) == ("gpt-4o", "openai")
    assert [(row.endpoint, row.outcome, row.provider) for row in await rows()] == [("model", "ok", "openai")]


@pytest.mark.parametrize("name", ["gpt-unheard-of", "acme-tuned", "claude-x-1"])
async def test_it_shows_no_model_that_is_not_reached(official, name):
    with pytest.raises(openai.NotFoundError) as missing:
        await official.models.retrieve(name)
    assert missing.value.code == "model_not_found"


async def test_it_speaks_anthropics_form(all_keys, client):
    page = (await client.get("/v1/models", headers=ANTHROPIC)).json()
    assert (page["has_more"], page["first_id"], page["last_id"]) == (
        False,
        page["data"][0]["id"],
        page["data"][-1]["id"],
    )
    (model,) = (one for one in page["data"] if one["id"] == "claude-x-1")
    assert model == {
        "type": "model",
        "id": "claude-x-1",
        "display_name": "Claude X 1",
        "created_at": "2026-02-04T00:00:00Z",
        "max_input_tokens": 200000,
        "max_tokens": 64000,
    }
    assert (await client.get("/v1/models/claude-x-1", headers=ANTHROPIC)).json() == model


async def test_it_lists_models_for_anthropics_client(all_keys, address, proxy_key):
    url = f"http://{address[0]}:{address[1]}"
    async with anthropic.AsyncAnthropic(base_url=url, api_key=proxy_key[1], max_retries=0) as official:
        names = [model.display_name async for model in official.models.list()]
        model = await official.models.retrieve("claude-x-1")
        with pytest.raises(anthropic.NotFoundError):
            await official.models.retrieve("claude-unheard-of")
    assert "Claude X 1" in names and len(names) == 6
    assert (model.display_name, model.created_at.year) == ("Claude X 1", 2026)


async def test_it_shows_only_what_the_key_may_use(client, proxy_key):
    await sync_to_async(proxy_key[0].change)(allowed_models=["gpt-4*"])
    assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["gpt-4o"]
    assert (await client.get("/v1/models/openai/acme-tuned")).status_code == 404


async def test_it_names_who_could_not_say_and_shows_the_others(all_keys, client, provider):
    async def play(request, writer):
        body = LISTS[request.target] if "anthropic" not in request.target else {"error": {"message": "overloaded"}}
        await answer(529 if "anthropic" in request.target else 200, body)(request, writer)

    provider.default = play
    response = await client.get("/v1/models")
    assert response.headers["x-aiproxy-models-missing"] == "anthropic"
    assert {one["provider"] for one in response.json()["data"]} == {"openai", "google", "alibaba"}
    response = await client.get("/v1/models/claude-x-1")
    assert (response.status_code, response.headers["retry-after"]) == (503, "30")


@pytest.mark.parametrize("body", [b"nonsense", b'{"data":5}', b'{"data":[{"id":1}]}', b"[" * 100_000, b"x" * (5 << 20)])
async def test_it_takes_no_nonsense_for_a_list(client, provider, body):
    provider.default = answer(200, body)
    response = await client.get("/v1/models")
    assert (response.json()["data"], response.headers["x-aiproxy-models-missing"]) == ([], "openai")


async def test_it_waits_for_a_silent_provider_no_longer_than_is_bearable(client, provider, monkeypatch):
    async def silence(request, writer):
        await asyncio.Event().wait()

    monkeypatch.setattr(model_list, "PATIENCE", 0.05)
    provider.default = silence
    response = await client.get("/v1/models")
    assert (response.json()["data"], response.headers["x-aiproxy-models-missing"]) == ([], "openai")


async def test_it_asks_a_provider_once_for_many(client, provider):
    await asyncio.gather(*(client.get("/v1/models") for _ in range(5)))
    assert len(provider.requests) == 1


async def test_it_keeps_what_it_knows_while_a_provider_fails(client, plane, provider, monkeypatch):
    monkeypatch.setattr(model_list, "YOUNG", 0.0)
    first = (await client.get("/v1/models")).json()
    provider.default = answer(500, {"error": {"message": "oops"}})
    assert (await client.get("/v1/models")).json() == first
    await asyncio.gather(*plane.runtime.model_lists._asking.values())
    assert len(provider.requests) == 2
    assert (await client.get("/v1/models")).json() == first


async def test_it_asks_the_next_key_when_one_is_refused(client, user, provider):
    await asyncio.to_thread(store.add, user.id, "openai", "b", Secret("demo-" + secrets.token_hex(20)))
    provider.scripts = [answer(401, {"error": {"message": "no"}})]
    response = await client.get("/v1/models")
    assert len(response.json()["data"]) == 2 and "x-aiproxy-models-missing" not in response.headers


async def test_a_replaced_key_is_asked_for_anew(client, api_key, provider):
    await client.get("/v1/models")
    provider.default = answer(200, {"data": [{"id": "gpt-new"}]})
    await asyncio.to_thread(store.change, api_key.user_id, api_key.id, Secret("demo-" + secrets.token_hex(20)))
    assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["gpt-new"]


class TestWithoutKeys:
    @pytest.fixture
    def api_key(self, user):
        return None

    async def test_it_lists_nothing(self, client, provider):
        response = await client.get("/v1/models")
        assert (response.status_code, response.json()) == (200, {"object": "list", "data": []})
        page = (await client.get("/v1/models", headers=ANTHROPIC)).json()
        assert page == {"data": [], "has_more": False, "first_id": None, "last_id": None}
        assert provider.requests == []


@pytest.mark.parametrize("created", [-1, 1 << 60, "2026-02-04", "0001-01-01T00:00:00+14:00", "soon"])
def test_it_survives_any_date(created):
    slug, field = ("openai", "created") if isinstance(created, int) else ("anthropic", "created_at")
    (model,) = models_in(slug, json.dumps({"data": [{"id": "m", field: created}]}).encode())
    assert b'"m"' in model_list.page(model_list.Found({"m": model}, ()), anthropic=True)
