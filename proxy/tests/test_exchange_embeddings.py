"""Embeddings of three providers, as the official client asks for them: by default in base64, and otherwise."""

import base64
import secrets
import struct

import openai
import pytest

from proxy.tests.provider import answer
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

VECTORS = [[0.5, -0.25], [1.0, 0.125]]
MODELS = {"openai": "text-embedding-3-small", "google": "gemini-embedding-001", "alibaba": "text-embedding-v4"}
each_provider = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def api_key(user, settings, provider, name) -> ApiKey:
    setattr(settings, f"AIPROXY_{name.upper()}_BASE_URL", f"http://127.0.0.1:{provider.port}")
    return store.add(user.id, name, "", Secret("demo-" + secrets.token_hex(20)))


def embed(name: str):
    """Answers as each provider does to what it is asked for."""

    async def play(request, writer):
        asked = request.json()
        if name == "google":
            found = {"embeddings": [{"values": one} for one in VECTORS[: len(asked["requests"])]]}
            usage = {"usageMetadata": {"promptTokenCount": 4}}
        else:
            count = len(asked["input"]) if isinstance(asked["input"], list) else 1
            coded = [base64.b64encode(struct.pack("<2f", *one)).decode() for one in VECTORS]
            vectors = coded if asked.get("encoding_format") == "base64" else VECTORS
            data = [{"object": "embedding", "index": n, "embedding": vectors[n]} for n in range(count)]
            found = {"object": "list", "data": data, "model": asked["model"]}
            usage = {"usage": {"prompt_tokens": 4, "total_tokens": 4}}
        await answer(200, found | usage)(request, writer)

    return play


@each_provider
@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 2}])
async def test_it_embeds_in_every_form(official, provider, rows, name, form):
    provider.default = embed(name)
    found = await official.embeddings.create(model=MODELS[name], input=["a", "b"], **form)
    vectors = [one.embedding for one in found.data]
    if form.get("encoding_format") == "base64":
        vectors = [list(struct.unpack("<2f", base64.b64decode(one))) for one in vectors]
    assert (vectors, [one.index for one in found.data], found.usage.total_tokens) == (VECTORS, [0, 1], 4)
    (row,) = await rows()
    assert (row.provider, row.model, row.tokens_input, row.usage_source) == (name, MODELS[name], 4, "provider")


@each_provider
async def test_it_embeds_one_text_and_asks_for_the_dimensions(official, provider, name):
    provider.default = embed(name)
    found = await official.embeddings.create(model=f"{name}/{MODELS[name]}", input="a", dimensions=2)
    assert [one.embedding for one in found.data] == VECTORS[:1]
    asked = provider.requests[0].json()
    assert (asked["requests"][0]["outputDimensionality"] if name == "google" else asked["dimensions"]) == 2


@each_provider
@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2]]], ids=["one", "list"])
async def test_it_passes_token_numbers_to_openai_only(official, provider, name, tokens):
    provider.default = embed(name)
    if name == "openai":
        await official.embeddings.create(model=MODELS[name], input=tokens)
        assert provider.requests[0].json()["input"] == tokens
        return
    with pytest.raises(openai.BadRequestError) as refused:
        await official.embeddings.create(model=MODELS[name], input=tokens)
    assert (refused.value.param, provider.requests) == ("input", [])


@pytest.mark.parametrize("name", ["anthropic"])
async def test_it_says_who_has_none(official, name):
    with pytest.raises(openai.NotFoundError, match="anthropic, which has no embeddings"):
        await official.embeddings.create(model="claude-sonnet-4-5", input="a")
