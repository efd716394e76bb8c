"""The main job, end to end: sign up, store a key, mint a proxy key, and the official client streams an answer."""

import os
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from tests.service import Person, Service, mock_provider, until


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("embedded", id="sqlite-no-redis"),
        pytest.param("cluster", id="postgres-redis-2-workers", marks=pytest.mark.postgres),
    ],
)
def service(request, tmp_path_factory) -> Iterator[Service]:
    with mock_provider() as base_url:
        settings, workers = {"AIPROXY_OPENAI_BASE_URL": base_url}, 1
        if request.param == "cluster":
            settings |= {
                "DATABASE_URL": request.getfixturevalue("module_postgres_database"),
                "REDIS_URL": os.environ["TEST_REDIS_URL"],
            }
            workers = 2
        service = Service(tmp_path_factory.mktemp("flow"), workers=workers, **settings)
        service.migrate()
        service.start()
        yield service
        assert service.stop() == 0, service.log.read_text()


@pytest.fixture(scope="module")
def person(service) -> Person:
    return service.sign_up()


@pytest.fixture
def client(service, person) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=person.key, max_retries=0) as client:
        yield client


HI = [{"role": "user", "content": "Say hello"}]


def test_it_answers_the_official_client(client, person):
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HI)
    assert answer.choices[0].message.content
    row = until(lambda: _row(person, answer._request_id), "the row of the request")
    assert (row["outcome"], row["tokens_total"]) == ("ok", answer.usage.total_tokens)


def test_it_streams_to_the_official_client(client, person):
    with client.chat.completions.create(model="gpt-4o-mini", messages=HI, stream=True) as stream:
        chunks = list(stream)
        request_id = stream.response.headers["x-request-id"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)
    row = until(lambda: _row(person, request_id), "the row of the stream")
    assert (row["outcome"], row["streamed"], row["usage_source"]) == ("ok", True, "provider")
    assert row["tokens_total"] > 0


def test_it_gives_usage_in_the_stream_to_who_asks(client):
    options = {"include_usage": True}
    with client.chat.completions.create(
        model="gpt-4o-mini", messages=HI, stream=True, stream_options=options
    ) as stream:
        assert list(stream)[-1].usage.total_tokens > 0


def test_it_streams_to_anthropics_official_client(service, person):
    asked = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": HI}
    with anthropic.Anthropic(base_url=service.url, api_key=person.key, max_retries=0) as client:
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream)
            message, request_id = stream.get_final_message(), stream.response.headers["request-id"]
        assert client.messages.count_tokens(model="gpt-4o-mini", messages=HI).input_tokens > 0
    row = until(lambda: _row(person, request_id), "the row of the stream")
    counted = message.usage.input_tokens + message.usage.output_tokens
    assert (row["endpoint"], row["outcome"], row["tokens_total"]) == ("messages", "ok", counted)


def test_it_embeds_and_lists_models(client):
    assert client.embeddings.create(model="text-embedding-3-small", input="hello").data[0].embedding
    names = [model.id for model in client.models.list()]
    assert client.models.retrieve(names[0]).id == names[0]


def test_it_raises_the_clients_own_errors(client, service):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="unknown-model", messages=HI)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-proxy-wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_it_sums_up_what_was_used(service, person):
    def models() -> set[str]:
        summary = service.call("/usage/summary?group_by=model", token=person.token).json()
        return {group["model"] for group in summary["groups"]}

    until(lambda: {"gpt-4o-mini", "text-embedding-3-small"} <= models(), "the sums of both models")


@pytest.mark.parametrize("own", [{}, {"rpm": 5}, {"rpm": 7, "tpm": 5000}], ids=["plan", "requests", "both"])
def test_it_shows_the_limits_that_an_answer_told(service, person, own):
    key = service.call("/proxy-api-keys/generate", own, token=person.token).json()
    told = service.call("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HI}, token=key["key"])
    limits = service.call("/limits", token=person.token).json()
    (listed,) = (limit for limit in limits["results"] if limit["id"] == key["id"])
    service.call(f"/proxy-api-keys/{key['id']}", token=person.token, method="DELETE")

    assert told.status == 200
    for kind in ("requests", "tokens"):
        shown = listed[kind] or limits["plan"][kind]  # the tighter one
        limit, remaining = (int(told.headers[f"x-ratelimit-{name}-{kind}"]) for name in ("limit", "remaining"))
        assert (limit, bool(listed[kind])) == (shown["limit"], kind[0] + "pm" in own)
        if "REDIS_URL" in service.environment:
            # A little has come back since, and of the tokens what was estimated too high.
            assert remaining <= shown["remaining"] <= limit
            assert kind == "tokens" or shown["remaining"] - remaining <= max(1, limit // 10)
        else:
            assert shown["remaining"] is None


def test_it_is_healthy_and_counts(service):
    health = service.call("/health").json()
    redis = "ok" if "REDIS_URL" in service.environment else "off"
    assert health == {"status": "healthy", "db": "ok", "redis": redis}


def test_it_refuses_a_revoked_key_on_every_worker(service, person, client):
    revoked = service.call("/proxy-api-keys/generate", {"name": "gone"}, token=person.token).json()
    clients = [httpx2.Client(base_url=service.url, trust_env=False) for _ in range(8)]
    headers = {"authorization": f"Bearer {revoked['key']}"}
    assert {one.get("/v1/models", headers=headers).status_code for one in clients} == {200}
    assert service.call(f"/proxy-api-keys/{revoked['id']}", token=person.token, method="DELETE").status == 204
    assert {one.get("/v1/models", headers=headers).status_code for one in clients} == {401}
    for one in clients:
        one.close()


def _row(person: Person, request_id: str | None) -> dict | None:
    return next((row for row in person.requests() if row["id"] == request_id), None)


@pytest.mark.live
def test_it_works_with_the_real_openai(tmp_path: Path):
    service = Service(tmp_path)
    service.migrate()
    service.start()
    try:
        person = service.sign_up(provider_key=os.environ["AIPROXY_LIVE_OPENAI_KEY"])
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key=person.key) as client:
            with client.chat.completions.create(model="gpt-4o-mini", messages=HI, stream=True) as stream:
                assert list(stream)
        assert until(lambda: [row["outcome"] for row in person.requests()], "the row") == ["ok"]
    finally:
        service.stop()
