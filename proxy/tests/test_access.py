"""Who may use the data plane, and how fast that changes."""

import asyncio
import base64
import datetime as dt
import secrets
import time

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts import keys
from accounts.keys import issue
from accounts.models import Plan
from proxy.tests.provider import DONE, answer, chunk, stream

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
pytestmark = pytest.mark.django_db(transaction=True)


async def ask(client, **headers):
    return await client.post(
        "/v1/chat/completions", json=CHAT, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


@sync_to_async
def change(row, **fields):
    for name, value in fields.items():
        setattr(row, name, value)
    row.save()


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "authorization"])
async def test_it_takes_the_key_from_every_usual_header(client, proxy_key, header):
    value = proxy_key[1] if header != "authorization" else f"bearer  {proxy_key[1]}"
    del client.headers["authorization"]
    assert (await ask(client, **{header: value})).status_code == 200


async def test_it_refuses_two_different_keys(client, user, provider):
    _, other = await sync_to_async(issue)(user)
    response = await ask(client, x_api_key=other)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "ambiguous_credentials")
    assert provider.requests == []


@pytest.mark.parametrize("value", ["", "Bearer", "Basic abc", "Bearer sk-proxy-short", "Bearer " + "x" * 5000])
async def test_it_refuses_what_is_no_key(client, provider, rows, value):
    response = await ask(client, authorization=value)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert (provider.requests, await rows()) == ([], [])


async def test_it_refuses_a_well_formed_key_that_nobody_has(client, proxy_key, rows):
    from accounts.keys import mint

    assert (await ask(client, authorization=f"Bearer {mint().key}")).status_code == 401
    assert await rows() == []


async def test_it_tells_keys_apart_that_share_their_id(client, proxy_key):
    """The cached policy is of the id; the rest of the key must match too."""
    from accounts.keys import _crc

    assert (await ask(client)).status_code == 200
    body = proxy_key[1][:17] + "A" * 34
    assert (await ask(client, authorization=f"Bearer {body}{_crc(body)}")).status_code == 401


async def test_it_refuses_a_revoked_key_on_its_very_next_request(client, proxy_key, limiter_kind):
    assert (await ask(client)).status_code == 200
    await sync_to_async(proxy_key[0].revoke)()
    response = await ask(client)
    assert (response.status_code, "revoked" in response.text) == (401, True)


async def test_it_lets_running_streams_of_a_revoked_key_finish(client, proxy_key, provider, limiter_kind):
    gate = asyncio.Event()
    provider.default = stream([chunk("a"), DONE], gate=gate)
    async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        parts = response.aiter_raw()
        await anext(parts)
        await sync_to_async(proxy_key[0].revoke)()
        assert (await ask(client)).status_code == 401
        gate.set()
        assert [part async for part in parts] == [DONE]
    assert (await ask(client)).status_code == 401


async def test_it_refuses_every_key_of_a_disabled_user_at_once(client, user, limiter_kind):
    assert (await ask(client)).status_code == 200
    await sync_to_async(user.disable)()
    assert (await ask(client)).status_code == 401


async def test_it_serves_a_user_who_was_enabled_again_at_once(client, user, limiter_kind):
    await sync_to_async(user.disable)()
    assert (await ask(client)).status_code == 401
    await sync_to_async(user.enable)()
    assert (await ask(client)).status_code == 200


async def test_it_lets_a_key_into_a_new_network_at_once(client, proxy_key, limiter_kind):
    await change(proxy_key[0], ip_allowlist=["10.0.0.0/8"])
    assert (await ask(client)).status_code == 403
    await change(proxy_key[0], ip_allowlist=["127.0.0.0/8"])
    assert (await ask(client)).status_code == 200


async def test_it_asks_the_database_nothing_for_who_only_guesses(client, plane, proxy_key, monkeypatch):
    """Else anybody who knows the first characters of a key could have the database asked at will."""
    from accounts.keys import _crc

    assert (await ask(client)).status_code == 200
    monkeypatch.setattr(plane.runtime.policies, "_ask", None)
    body = proxy_key[1][:17] + "A" * 34
    assert (await ask(client, authorization=f"Bearer {body}{_crc(body)}")).status_code == 401


async def test_it_sees_a_changed_plan_at_once(client, user, limiter_kind):
    assert (await ask(client)).status_code == 200
    plan = await Plan.objects.acreate(code="tiny", name="Tiny", rpm=7)
    await sync_to_async(user.change_plan)(plan)
    assert (await ask(client)).headers["x-ratelimit-limit-requests"] == "7"


async def test_it_sees_an_edited_plan_at_once(client, user, limiter_kind):
    await ask(client)
    await change(await Plan.objects.aget(code=user.plan_id), rpm=9)
    assert (await ask(client)).headers["x-ratelimit-limit-requests"] == "9"


async def test_it_refuses_who_has_used_up_their_day_until_the_plan_allows_more(client, user, rows, limiter_kind):
    plan = await Plan.objects.acreate(code="tiny", name="Tiny", tpd=1)
    await sync_to_async(user.change_plan)(plan)
    assert (await ask(client)).status_code == 200
    await rows()

    refused = await ask(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert 0 <= int(refused.headers["retry-after"]) <= 86_400
    await change(plan, tpd=1_000_000)
    assert (await ask(client)).status_code == 200


@pytest.mark.data_plane(AIPROXY_TOTAL_TIMEOUT=7_200)
async def test_it_counts_a_request_for_as_long_as_it_may_take(client, plane, proxy_key, provider):
    await change(proxy_key[0], max_parallel=1)
    gate = asyncio.Event()
    provider.scripts = [stream([chunk("a"), DONE], gate=gate)]
    async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        plane.runtime.limiter._clock = lambda: time.monotonic_ns() + 7_199 * 10**9
        assert (await ask(client)).status_code == 429
        gate.set()
        await response.aread()
    assert (await ask(client)).status_code == 200


async def test_it_sees_a_deleted_provider_key_at_once(client, user, api_key, limiter_kind):
    from vault import store

    assert (await ask(client)).status_code == 200
    await sync_to_async(store.remove)(user.id, api_key.id)
    response = await ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (424, "provider_key_missing")


async def test_it_refuses_an_expired_key(client, proxy_key):
    assert (await ask(client)).status_code == 200
    await change(proxy_key[0], expires_at=timezone.now() - dt.timedelta(seconds=1))
    assert "expired" in (await ask(client)).text


@pytest.mark.parametrize(("networks", "status"), [(["127.0.0.0/8"], 200), (["10.0.0.0/8", "::1/128"], 403)])
async def test_it_keeps_a_key_to_its_networks(client, proxy_key, networks, status):
    await change(proxy_key[0], ip_allowlist=networks)
    assert (await ask(client, x_forwarded_for="10.1.1.1")).status_code == status


@pytest.mark.data_plane(AIPROXY_TRUSTED_PROXIES=["127.0.0.1/32"])
async def test_it_believes_a_trusted_proxy_about_the_address(client, proxy_key):
    await change(proxy_key[0], ip_allowlist=["10.0.0.0/8"])
    assert (await ask(client, x_forwarded_for="10.1.1.1")).status_code == 200
    assert (await ask(client, x_forwarded_for="10.1.1.1, 8.8.8.8")).status_code == 403


@pytest.mark.parametrize(
    ("allowed", "model", "status"),
    [
        (["gpt-4o"], "gpt-4o", 200),
        (["gpt-*"], "openai/gpt-4o", 200),
        (["gpt-5"], "gpt-4o", 403),
        (["gpt-4"], "gpt-4o", 403),
    ],
)
async def test_it_keeps_a_key_to_its_models(client, proxy_key, allowed, model, status):
    await change(proxy_key[0], allowed_models=allowed)
    response = await client.post("/v1/chat/completions", json={**CHAT, "model": model})
    assert response.status_code == status


async def test_it_keeps_a_key_to_its_output_tokens(client, proxy_key, provider):
    await change(proxy_key[0], max_tokens=50)
    response = await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 51})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "max_tokens_exceeded")
    await ask(client)
    assert provider.requests[0].json()["max_completion_tokens"] == 50


async def test_it_tries_the_next_key_when_one_is_refused(client, user, api_key, provider, rows):
    from vault import store
    from vault.secret import Secret

    second = await sync_to_async(store.add)(user.id, "openai", "2", Secret("demo-" + "b" * 30), priority=200)
    provider.scripts = [answer(401, {"error": {"message": "bad"}}), answer()]
    assert (await ask(client)).status_code == 200
    sent = [request.headers["authorization"] for request in provider.requests]
    assert len(set(sent)) == 2
    (row,) = await rows()
    assert (row.api_key_id, row.outcome) == (second.id, "ok")


async def test_it_tries_each_key_once_and_says_what_the_last_one_got(client, user, api_key, provider):
    from vault import store
    from vault.secret import Secret

    await sync_to_async(store.add)(user.id, "openai", "2", Secret("demo-" + "b" * 30), priority=1)
    provider.default = answer(429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, "retry-after: 3")
    response = await ask(client)
    assert (response.status_code, len(provider.requests), response.headers["retry-after"]) == (429, 2, "3")
    assert provider.requests[0].headers["authorization"].endswith("b" * 30)


async def test_it_does_not_send_a_key_whose_row_was_retargeted(client, api_key, provider):
    """Whoever can write the database but has no master key cannot move a secret to another host."""
    from vault.models import ApiKey

    await ApiKey.objects.filter(id=api_key.id).aupdate(base_url="http://127.0.0.1:9/v1")
    response = await ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (424, "provider_key_rejected")
    assert provider.requests == []


async def test_it_says_no_when_a_check_itself_fails(client, plane, provider, monkeypatch):
    def broken(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr(type(plane.runtime.peppers), "verify", broken)
    response = await ask(client)
    assert (response.status_code, "boom" in response.text, provider.requests) == (500, False, [])


@pytest.mark.data_plane(AIPROXY_CORS_ORIGINS=["https://app.example"])
async def test_it_answers_preflights_of_allowed_pages_only(client):
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = await client.options("/v1/chat/completions", headers={"origin": "https://app.example", **wanted})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "https://app.example")
    other = await client.options("/v1/chat/completions", headers={"origin": "https://evil.example", **wanted})
    assert "access-control-allow-origin" not in other.headers
    assert (await ask(client, origin="https://app.example")).headers["access-control-allow-origin"]


async def test_it_allows_no_page_by_default(client):
    response = await ask(client, origin="https://app.example")
    assert "access-control-allow-origin" not in response.headers


async def test_it_signs_a_key_anew_that_an_old_pepper_verified(client, plane, proxy_key, settings, rows):
    old, new = settings.AIPROXY_PEPPERS, "9:" + base64.b64encode(secrets.token_bytes(32)).decode()
    settings.AIPROXY_PEPPERS = f"{new},{old}"
    plane.runtime.peppers = keys.Peppers.from_settings()
    assert [(await ask(client)).status_code for _ in range(2)] == [200, 200]
    await rows()
    await proxy_key[0].arefresh_from_db()
    assert proxy_key[0].verifier[0] == 9
    plane.runtime.peppers = keys.Peppers(keys.parse_keyset(new))
    await plane.runtime.policies.load(proxy_key[0].key_id)
    assert (await ask(client)).status_code == 200


async def test_it_refuses_a_key_whose_pepper_is_unknown(client, plane):
    plane.runtime.peppers = keys.Peppers({5: secrets.token_bytes(32)})
    assert (await ask(client)).status_code == 401


async def test_it_lets_an_unverified_user_in_from_the_moment_they_verify(client, user, settings, limiter_kind):
    settings.AIPROXY_UNVERIFIED_MAY_PROXY = False
    refused = await ask(client)
    user.email_verified = True
    await sync_to_async(user.save)(update_fields=["email_verified"])
    let_in = await ask(client)
    assert (refused.status_code, refused.json()["error"]["code"], let_in.status_code) == (
        403,
        "email_not_verified",
        200,
    )
