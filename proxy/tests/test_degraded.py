"""What goes on while something is away: each part really stopped or really unreachable."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from accounts.models import Plan
from proxy import policy
from proxy.tests.limits_redis import RedisServer
from proxy.tests.provider import answer
from proxy.tests.test_hostile_cancel import until
from usage.journal import Journal

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
pytestmark = pytest.mark.django_db(transaction=True)


async def ask(client, **fields):
    return await client.post("/v1/chat/completions", json={**CHAT, **fields})


@pytest.fixture
def no_database(monkeypatch):
    """From now on every read of the data plane fails as it does when PostgreSQL is gone."""

    def away(*args):
        raise OperationalError("connection refused")

    def stop() -> None:
        monkeypatch.setattr(policy, "read_policy", away)
        monkeypatch.setattr(policy, "read_row_epochs", away)

    return stop


async def test_it_serves_known_keys_while_the_database_is_away(client, limiter_kind, no_database):
    assert (await ask(client)).status_code == 200
    no_database()
    assert (await ask(client)).status_code == 200


async def test_it_says_503_and_never_401_for_new_keys_while_the_database_is_away(client, limiter_kind, no_database):
    no_database()
    response = await ask(client)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")


@pytest.mark.data_plane(AIPROXY_POLICY_MAX_AGE=0.0)
async def test_it_stops_serving_policies_that_are_too_old(client, no_database, limiter_kind):
    no_database()
    assert (await ask(client)).status_code == 503


@pytest.fixture
def redis_away(plane_settings, proxy_key) -> None:
    """From the start of the worker on; the key was made before."""
    plane_settings.REDIS_URL = "redis://127.0.0.1:1/0"


@pytest.mark.data_plane(AIPROXY_WORKERS=2)
async def test_it_enforces_its_share_while_redis_is_away(redis_away, client, user):
    await Plan.objects.filter(code=user.plan_id).aupdate(rpm=10)
    assert [(await ask(client)).status_code for _ in range(8)] == [200] * 5 + [429] * 3


async def test_it_keeps_its_limiter_whatever_output_is_asked_for(client, plane, limiter_kind):
    asked = await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 10**20})
    assert (asked.status_code, asked.json()["error"]["param"]) == (400, "max_tokens")
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert plane.runtime.limiter.tells_epochs == (limiter_kind == "redis")


async def test_it_takes_nothing_that_it_could_not_record(client, provider, monkeypatch):
    assert (await ask(client)).status_code == 200
    monkeypatch.setattr(Journal, "room", lambda self: False)
    response = await ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "record_unavailable")
    assert len(provider.requests) == 1


async def test_it_refuses_a_body_over_the_cap(client, plane, provider):
    plane.runtime.max_body = 1000
    response = await ask(client, padding="x" * 2000)
    assert (response.status_code, provider.requests, plane.runtime.bodies) == (413, [], 0)


async def test_it_refuses_when_all_bodies_together_are_too_much(client, plane):
    plane.runtime.max_bodies = 10
    response = await ask(client)
    assert (response.status_code, plane.runtime.bodies) == (503, 0)


async def test_it_says_502_when_the_provider_cannot_be_reached(client, provider, rows):
    await provider.stop()
    response = await ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_unreachable")
    assert [(row.outcome, row.usage_source) for row in await rows()] == [("provider_error", "none")]


@pytest.mark.data_plane(AIPROXY_FIRST_BYTE_TIMEOUT=0.05)
async def test_it_says_504_when_the_provider_is_silent(client, provider, rows):
    async def silence(request, writer):
        await asyncio.Event().wait()

    provider.default = silence
    response = await ask(client)
    assert (response.status_code, response.headers["x-should-retry"], len(provider.requests)) == (504, "false", 1)
    assert [(row.outcome, row.usage_source) for row in await rows()] == [("timeout", "estimated")]


@pytest.mark.data_plane(AIPROXY_TOTAL_TIMEOUT=0.5)
async def test_it_ends_what_takes_too_long_in_all(client, provider, rows):
    async def silence(request, writer):
        await asyncio.Event().wait()

    provider.default = silence
    assert (await ask(client)).status_code == 504
    assert [row.outcome for row in await rows()] == ["timeout"]


async def test_it_admits_what_the_limit_allows_and_says_when_to_come_back(client, user, limiter_kind):
    plan = await Plan.objects.acreate(code="ten", name="Ten", rpm=10)
    await sync_to_async(user.change_plan)(plan)
    answers = await asyncio.gather(*(ask(client) for _ in range(30)))
    refused = [response for response in answers if response.status_code == 429]
    assert 18 <= len(refused) <= 20  # ten, and what a slow run refills
    assert 1 <= int(refused[0].headers["retry-after"]) <= 6
    assert refused[0].headers["x-ratelimit-remaining-requests"] == "0"


async def test_it_gives_tokens_back_that_were_not_used(client, user, provider, limiter_kind):
    plan = await Plan.objects.acreate(code="few", name="Few", tpm=3000)
    await sync_to_async(user.change_plan)(plan)
    provider.default = answer()
    for _ in range(3):
        assert (await ask(client, max_tokens=2000)).status_code == 200
    response = await ask(client, max_tokens=4000)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "request_too_large")


async def test_it_frees_the_slot_of_a_client_that_left(client, user, provider, limiter_kind):
    plan = await Plan.objects.acreate(code="one", name="One", max_parallel=1)
    await sync_to_async(user.change_plan)(plan)

    async def silence(request, writer):
        await asyncio.Event().wait()

    provider.scripts = [silence]
    call = asyncio.create_task(ask(client))
    await asyncio.wait_for(provider.arrived.wait(), 5)
    assert (await ask(client)).status_code == 429
    call.cancel()
    await asyncio.wait_for(provider.left.wait(), 5)
    assert (await ask(client)).status_code == 200


@pytest.fixture
def redis(plane_settings) -> Iterator[RedisServer]:
    """One that a test may freeze."""
    server = RedisServer()
    plane_settings.REDIS_URL = server.url
    yield server
    server.close()


@pytest.mark.data_plane(AIPROXY_REDIS_TIMEOUT=0.5)
async def test_it_frees_the_slot_of_a_client_that_left_as_redis_went_away(redis, client, plane, user, monkeypatch):
    plan = await Plan.objects.acreate(code="one", name="One", max_parallel=1)
    await sync_to_async(user.change_plan)(plan)
    assert (await ask(client)).status_code == 200
    asked, told = threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(policy, "read_row_epochs", lambda keys: asked.set() or (told.wait(10) and {}))
        redis.freeze()
        call = asyncio.create_task(ask(client))
        assert await asyncio.to_thread(asked.wait, 10)
        call.cancel()
        await until(lambda: not plane.runtime.exchanges)
        told.set()
    assert (await ask(client)).status_code == 200
