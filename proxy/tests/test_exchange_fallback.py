"""Several models for one request: who is asked, when the next one is, and who is told what."""

import asyncio
import secrets
import socket
import time

import pytest
from asgiref.sync import sync_to_async
from prometheus_client import REGISTRY

from proxy import metrics
from proxy.models import ModelAlias
from proxy.tests.provider import DONE, HELLO, Provider, answer, plain, stream
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

CLAUDE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-opus-4-6",
    "content": [{"type": "text", "text": "Hello there"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 3},
}
OVERLOADED = answer(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
MODELS = ["claude-opus-4-6", "gpt-4o"]


def slow(seconds: str) -> object:
    return answer(429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, f"retry-after: {seconds}")


@pytest.fixture
async def anthropic(settings, user) -> Provider:
    """Anthropic beside OpenAI, and a key for each."""
    provider = Provider(default=answer(200, CLAUDE))
    await provider.start()
    settings.AIPROXY_ANTHROPIC_BASE_URL = provider.base_url.removesuffix("/v1")
    await sync_to_async(store.add)(user.id, "anthropic", "", Secret("demo-" + secrets.token_hex(20)))
    yield provider
    await provider.stop()


def ask(client, **fields):
    body = {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "models": MODELS}
    return client.post("/v1/chat/completions", json=body | fields)


def told(row):
    return [(attempt["model"], attempt["result"], attempt["status"]) for attempt in row.attempts]


def served_by(response):
    return tuple(response.headers[f"x-aiproxy-{name}"] for name in ("provider", "model", "attempts"))


async def test_it_asks_the_first_model_of_a_list_only(anthropic, client, provider):
    response = await ask(client)
    assert response.json()["choices"][0]["message"]["content"] == "Hello there"
    assert (served_by(response), provider.requests) == (("anthropic", "claude-opus-4-6", "1"), [])


async def test_it_asks_the_next_model_when_one_is_not_served(anthropic, client, provider, rows):
    anthropic.default = OVERLOADED
    response = await ask(client)
    assert (response.status_code, response.json()) == (200, plain())
    assert served_by(response) == ("openai", "gpt-4o", "2")
    (row,) = await rows()
    assert (row.provider, row.model, row.outcome, row.tokens_total) == ("openai", "gpt-4o", "ok", 12)
    assert told(row) == [("claude-opus-4-6", "overloaded", 503), ("gpt-4o", "ok", 200)]
    assert row.attempts[1]["api_key_id"] == str(row.api_key_id) != row.attempts[0]["api_key_id"]


async def test_it_tells_of_every_attempt_when_none_was_served(anthropic, client, provider, rows):
    anthropic.default = OVERLOADED
    provider.default = answer(500, {"error": {"message": "broken", "type": "server_error"}})
    await ask(client, models=["qwen-plus", *MODELS])
    (row,) = await rows()
    assert told(row) == [
        ("qwen-plus", "provider_key_missing", 424),
        ("claude-opus-4-6", "overloaded", 503),
        ("gpt-4o", "provider_error", row.status_code),
    ]
    assert row.attempts[0]["api_key_id"] is None


@pytest.mark.data_plane(AIPROXY_RETRY_AFTER_WAIT=0)
async def test_it_tells_what_the_last_one_said_that_had_nobody_after_it(anthropic, client, provider, rows):
    anthropic.default, provider.default = OVERLOADED, slow("60")
    await ask(client)
    (row,) = await rows()
    assert (row.outcome, row.status_code) == ("provider_error", 429)
    assert told(row)[1] == ("gpt-4o", "rate_limit_exceeded", 429)


async def test_a_request_that_was_tried_once_has_no_list_of_attempts(anthropic, client, provider, rows):
    await ask(client)
    anthropic.default = OVERLOADED
    await ask(client, models=MODELS[:1])
    assert [row.attempts for row in await rows()] == [None, None]


async def test_it_writes_the_body_anew_for_each_provider(anthropic, client, provider):
    anthropic.default = OVERLOADED
    await ask(client, stop=["x"])
    sent, again = anthropic.requests[0].json(), provider.requests[0].json()
    assert (sent["model"], sent["stop_sequences"]) == ("claude-opus-4-6", ["x"])
    assert (again["model"], again["stop"]) == ("gpt-4o", ["x"])
    assert "models" not in sent | again


async def test_it_asks_model_before_models(anthropic, client, provider):
    response = await ask(client, model="openai/gpt-4.1")
    assert served_by(response) == ("openai", "gpt-4.1", "1")
    assert provider.requests[0].json()["model"] == "gpt-4.1"


async def test_it_falls_back_before_a_stream_begins(anthropic, client, provider, rows):
    anthropic.default, provider.default = OVERLOADED, stream()
    response = await ask(client, stream=True)
    assert response.content == b"".join([*HELLO[:3], DONE])
    assert [(row.provider, row.streamed, row.outcome) for row in await rows()] == [("openai", True, "ok")]


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_it_passes_on_what_another_model_may_not_be_asked_after(anthropic, client, provider, status):
    anthropic.default = answer(status, {"type": "error", "error": {"type": "x", "message": "no"}})
    response = await ask(client)
    assert (response.status_code, provider.requests) == (status, [])
    assert served_by(response) == ("anthropic", "claude-opus-4-6", "1")


async def test_it_never_asks_another_model_once_one_may_be_billed(anthropic, client, provider, rows):
    async def reset(request, writer):
        writer.transport.abort()

    anthropic.default = reset
    response = await ask(client)
    assert (response.status_code, provider.requests) == (502, [])
    assert [(row.provider, row.usage_source) for row in await rows()] == [("anthropic", "estimated")]


async def test_it_names_no_answer_of_another_provider(anthropic, client, provider, rows):
    async def reset(request, writer):
        writer.transport.abort()

    anthropic.default, provider.default = OVERLOADED, reset
    response = await ask(client)
    assert served_by(response)[0] == "openai" and "x-provider-request-id" not in response.headers
    assert [(row.provider, row.provider_request_id) for row in await rows()] == [("openai", "")]


async def test_it_passes_over_a_provider_that_has_no_key(client, provider):
    response = await ask(client)
    assert (response.status_code, served_by(response)) == (200, ("openai", "gpt-4o", "1"))


async def test_it_passes_over_a_model_that_cannot_honour_a_field(anthropic, client, provider):
    response = await ask(client, n=2)
    assert (response.status_code, served_by(response)) == (200, ("openai", "gpt-4o", "1"))
    assert anthropic.requests == []


async def test_it_tells_which_field_the_last_model_cannot_honour(anthropic, client, provider, rows):
    provider.default = slow("60")
    response = await ask(client, models=MODELS[::-1], n=2)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    (row,) = await rows()
    assert (row.outcome, row.tokens_total, row.provider) == ("refused", 0, "anthropic")
    assert (row.api_key_id, row.provider_request_id) == (None, "")  # that was asked nothing


@pytest.mark.data_plane(AIPROXY_CONNECT_TIMEOUT=1)
async def test_it_asks_the_next_model_when_a_provider_cannot_be_reached(anthropic, client, plane, provider):
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        plane.runtime.base_urls["anthropic"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        response = await ask(client, models=["claude-opus-4-6", "claude-haiku-4-5", "gpt-4o"])
    assert (response.status_code, served_by(response)) == (200, ("openai", "gpt-4o", "2"))  # the haiku's is not tried


async def test_it_says_what_the_last_one_that_was_asked_said(anthropic, client, provider):
    anthropic.default, provider.default = OVERLOADED, slow("60")
    response = await ask(client, models=[*MODELS, "gemini-2.5-flash"])
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert served_by(response) == ("openai", "gpt-4o", "2")


async def test_it_waits_once_when_everybody_says_soon(anthropic, client, provider):
    anthropic.scripts, provider.scripts = [slow("0.05")], [slow("0.1")]
    began = time.monotonic()
    response = await ask(client)
    assert time.monotonic() - began >= 0.1
    assert (response.status_code, served_by(response)) == (200, ("anthropic", "claude-opus-4-6", "3"))


async def test_it_waits_no_second_time(client, provider):
    provider.default = slow("0.05")
    response = await ask(client, models=["gpt-4o"])
    assert (response.status_code, len(provider.requests)) == (429, 2)


@pytest.mark.data_plane(AIPROXY_RETRY_AFTER_WAIT=0)
async def test_it_does_not_wait_when_told_so(client, provider):
    provider.default = slow("0.05")
    assert (await ask(client, models=["gpt-4o"])).status_code == 429
    assert len(provider.requests) == 1


@pytest.mark.data_plane(AIPROXY_TOTAL_TIMEOUT=1.5)
async def test_it_does_not_wait_beyond_the_deadline(client, provider):
    provider.default = slow("1.6")
    assert (await ask(client, models=["gpt-4o"])).status_code == 429
    assert len(provider.requests) == 1


async def test_it_does_not_wait_for_one_that_is_broken(anthropic, client, provider):
    anthropic.default, provider.default = slow("0.05"), answer(503, {"error": {"message": "down"}})
    assert (await ask(client)).status_code == 503
    assert len(anthropic.requests) == 1


# --- What may be asked -----------------------------------------------------------------------------------------------


async def change(row, **fields):
    for name, value in fields.items():
        setattr(row, name, value)
    await sync_to_async(row.save)()


async def alias(user, name, *targets, key=None):
    await sync_to_async(ModelAlias(user=user, name=name, targets=list(targets), proxy_key=key).add)()


async def test_it_asks_the_models_of_an_alias(anthropic, client, user, provider, rows):
    await alias(user, "best", *MODELS)
    anthropic.default = OVERLOADED
    response = await ask(client, model="best", models=None)
    assert (response.status_code, served_by(response)) == (200, ("openai", "gpt-4o", "2"))
    assert provider.requests[0].json()["model"] == "gpt-4o"
    assert [row.model for row in await rows()] == ["gpt-4o"]


async def test_it_puts_an_alias_in_the_place_of_the_model_whose_name_it_has(client, user, provider):
    await alias(user, "gpt-4o", "gpt-4.1")
    await ask(client, models=["gpt-4o"])
    await ask(client, models=["openai/gpt-4o"])
    assert [request.json()["model"] for request in provider.requests] == ["gpt-4.1", "gpt-4o"]


async def test_it_prefers_the_alias_of_the_key(client, user, proxy_key, provider):
    await alias(user, "best", "gpt-4.1", key=proxy_key[0])
    await alias(user, "best", "gpt-4o")
    assert served_by(await ask(client, models=["best"]))[1] == "gpt-4.1"


async def test_it_sees_a_changed_alias_on_the_very_next_request(client, user, provider, limiter_kind):
    await alias(user, "best", "gpt-4o")
    assert served_by(await ask(client, models=["best"]))[1] == "gpt-4o"
    row = await ModelAlias.objects.aget()
    await sync_to_async(row.change)(targets=["gpt-4.1"])
    assert served_by(await ask(client, models=["best"]))[1] == "gpt-4.1"
    await sync_to_async(row.delete)()
    assert (await ask(client, models=["best"])).json()["error"]["code"] == "model_not_found"


async def test_it_does_not_know_a_strangers_alias(client, stranger):
    await alias(stranger, "best", "gpt-4o")
    response = await ask(client, models=["best"])
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("allowed", [["best"], ["best", "claude-*"]])
async def test_it_lets_no_alias_around_the_models_of_a_key(anthropic, client, user, proxy_key, provider, allowed):
    await alias(user, "best", *MODELS)
    await change(proxy_key[0], allowed_models=allowed)
    response = await ask(client, models=["best"])
    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")
    assert anthropic.requests + provider.requests == []


async def test_it_allows_an_alias_whose_models_are_allowed(client, user, proxy_key):
    await alias(user, "best", "openai/gpt-4o")
    await change(proxy_key[0], allowed_models=["gpt-4o"])
    assert (await ask(client, models=["best"])).status_code == 200


async def test_it_holds_the_cap_of_a_key_for_each_model(anthropic, client, proxy_key, provider):
    await change(proxy_key[0], max_tokens=40)
    anthropic.default = OVERLOADED
    assert (await ask(client, max_tokens=41)).json()["error"]["code"] == "max_tokens_exceeded"
    await ask(client, max_tokens=None)
    assert (anthropic.requests[0].json()["max_tokens"], provider.requests[0].json()["max_completion_tokens"]) == (
        40,
        40,
    )


@pytest.mark.parametrize("models", [[], ["gpt-4o"] * 11, [""], ["a\nb"], "gpt-4o", [7]])
async def test_it_refuses_a_list_that_is_none(client, provider, models):
    response = await ask(client, models=models)
    assert (response.status_code, response.json()["error"]["param"].partition("[")[0]) == (400, "models")
    assert provider.requests == []


async def test_it_refuses_a_list_with_a_model_that_nobody_has(client, provider):
    response = await ask(client, models=["gpt-4o", "nobodys"])
    assert (response.status_code, response.json()["error"]["code"], provider.requests) == (404, "model_not_found", [])


async def test_it_escapes_a_name_that_no_header_can_hold(client, provider):
    response = await ask(client, models=["gpt-ü"])
    assert (response.status_code, served_by(response)[1]) == (200, "gpt-\\xfc")


# --- A provider that fails -------------------------------------------------------------------------------------------

FAILS = answer(500, {"error": {"message": "oops"}})


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=2)
async def test_it_leaves_a_failing_key_alone_and_says_for_how_long(client, provider, rows):
    provider.default = FAILS
    assert [(await ask(client, models=["gpt-4o"])).status_code for _ in range(2)] == [500, 500]
    response = await ask(client, models=["gpt-4o"])
    assert (response.status_code, response.json()["error"]["code"]) == (503, "provider_circuit_open")
    assert 1 <= int(response.headers["retry-after"]) <= 10
    assert (served_by(response), len(provider.requests)) == (("openai", "gpt-4o", "0"), 2)
    assert [(row.outcome, row.usage_source) for row in await rows()][-1] == ("refused", "none")


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=2)
async def test_it_asks_the_next_model_while_a_key_rests(anthropic, client, provider):
    anthropic.default = OVERLOADED
    answers = [await ask(client) for _ in range(3)]
    assert [served_by(response)[2] for response in answers] == ["2", "2", "1"]
    assert {response.status_code for response in answers} == {200}
    assert len(anthropic.requests) == 2


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=2)
async def test_it_uses_the_next_key_while_one_rests(client, user, api_key, provider):
    spare = await sync_to_async(store.add)(user.id, "openai", "2", Secret("demo-" + "b" * 30), priority=200)
    provider.scripts = [FAILS, FAILS]
    assert [(await ask(client, models=["gpt-4o"])).status_code for _ in range(3)] == [500, 500, 200]
    assert provider.requests[-1].headers["authorization"].endswith("b" * 30)
    assert spare.priority > api_key.priority


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=2, AIPROXY_BREAKER_REST=0)
async def test_it_asks_again_after_the_rest_and_counts_both_changes(client, provider):
    def changes():
        metrics.flush()
        labels = [{"provider": "openai", "change": change} for change in ("opened", "closed")]
        return [REGISTRY.get_sample_value("aiproxy_breaker_changes_total", one) or 0 for one in labels]

    provider.scripts, before = [FAILS, FAILS], changes()
    assert [(await ask(client, models=["gpt-4o"])).status_code for _ in range(3)] == [500, 500, 200]
    assert changes() == [count + 1 for count in before]


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=2)
@pytest.mark.parametrize("status", [400, 403, 404, 429])
async def test_it_never_blames_a_provider_for_a_clients_mistakes(client, provider, status):
    provider.default = answer(status, {"error": {"message": "no"}})
    assert {(await ask(client, models=["gpt-4o"])).status_code for _ in range(3)} == {424 if status == 403 else status}
    assert len(provider.requests) == 3


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=1, AIPROXY_FIRST_BYTE_TIMEOUT=0.1)
async def test_it_takes_silence_for_a_failure(client, provider):
    async def silence(request, writer):
        await asyncio.Event().wait()

    provider.default = silence
    assert [(await ask(client, models=["gpt-4o"])).status_code for _ in range(2)] == [504, 503]
