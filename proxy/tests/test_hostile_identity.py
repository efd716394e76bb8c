"""Whoever a client says it is: no header, fault or flood makes it somebody else, or reaches a provider unproven."""

import asyncio
import base64
import datetime as dt
import itertools
import json
import random
from contextlib import ExitStack

import argon2
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts import hashers, keys, tokens
from accounts.keys import issue, mint
from accounts.models import Plan
from proxy import authentication, exchange, incoming, policy
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter
from usage.journal import Journal

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]


async def ask(client, headers=None, **fields):
    return await client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=headers)


@pytest.fixture(autouse=True)
def no_limits(user):
    """Whatever plan the database begins with: here nobody is over a limit."""
    Plan.objects.update(rpm=None, tpm=None, max_parallel=None)


@pytest.fixture
def anonymous(client):
    del client.headers["authorization"]
    return client


# --- A check that fails itself denies ----------------------------------------------------------------------------

# Everything between a request's head and its way to a provider that can raise what nobody expected.
AT_FIRST_USE = [
    (keys, "parse"),
    (keys.Peppers, "verify"),
    (keys.hmac, "compare_digest"),
    (policy.Policy, "allows"),
    (exchange, "authenticate"),
    (authentication, "check"),
]
OF_A_HEAD = [  # which is read once for all requests of a connection that have the same
    (keys.Proofs, "find"),
    (authentication, "presented_key"),
    (authentication, "_proves"),
    (incoming, "address_of"),
]
CHECKS = [
    *AT_FIRST_USE,
    (exchange, "recognise"),
    (authentication, "_refusal"),
    (policy.Policies, "known"),
    (policy.Policies, "load"),
    (policy.Policies, "is_current"),
    (policy.Policies, "young_enough"),
    (policy, "read_policy"),
    (policy, "read_row_epochs"),
    (authentication, "ip_address"),
    (exchange, "admit"),
    (exchange, "candidates"),
    (MemoryLimiter, "admit"),
    (Journal, "room"),
    (Journal, "write_begin"),
    (policy.Credential, "secret"),
]
REDIS_CHECKS = [(RedisLimiter, "admit"), (RedisLimiter, "read_epochs")]
FAULTS = [RuntimeError, TypeError, KeyError, MemoryError, AttributeError, OSError]
NO = {401, 403, 424, 500, 503}


def refuse_at(patched, place, name, fault):
    def broken(*args, **kwargs):
        raise fault("canary detail")

    patched.setattr(place, name, broken)


async def assert_denied(client, provider, checks):
    """With each check broken by each fault, for a key that was never seen and for one that is known."""
    for number, ((place, name), fault) in enumerate(itertools.product(checks, FAULTS)):
        before = len(provider.requests)
        with pytest.MonkeyPatch.context() as patched:
            refuse_at(patched, place, name, fault)
            response = await ask(client, {"x-head": str(number)} if (place, name) in OF_A_HEAD else None)
        passed = response.status_code == 200 and len(provider.requests) == before + 1
        assert response.status_code in NO or passed, f"{name}: {response.status_code}"
        if response.status_code in NO:
            assert len(provider.requests) == before, f"{name}: the provider was asked"
            assert "canary" not in response.text
        yield name, fault, response.status_code


@pytest.mark.data_plane(AIPROXY_POLICY_MAX_AGE=900)
async def test_it_denies_whatever_check_fails_itself(client, provider, proxy_key):
    await sync_to_async(restrict)(proxy_key[0], ip_allowlist=["127.0.0.0/8"], allowed_models=["gpt-4o"])
    assert (await ask(client)).status_code == 200
    denied = assert_denied(client, provider, [*CHECKS, *OF_A_HEAD])
    lenient = {name async for name, _, status in denied if status == 200}
    # A policy that is at hand and young is not read anew; what was found by it is not asked again.
    assert lenient <= {"load", "read_policy", *(name for _, name in AT_FIRST_USE)}
    assert (await ask(client)).status_code == 200


async def test_it_denies_the_first_use_of_a_key_whatever_fails(client, plane, provider):
    for (place, name), fault in itertools.product(AT_FIRST_USE, FAULTS):
        plane.runtime.proofs._proofs.clear()
        plane.runtime.policies._policies.clear()
        with pytest.MonkeyPatch.context() as patched:
            refuse_at(patched, place, name, fault)
            assert (await ask(client)).status_code in NO, name
    assert provider.requests == []


async def test_it_denies_an_unknown_key_whatever_fails(client, plane, provider):
    for name, fault in itertools.product(("read_policy", "read_row_epochs"), FAULTS):
        plane.runtime.policies._policies.clear()
        with pytest.MonkeyPatch.context() as patched:
            refuse_at(patched, policy, name, fault)
            assert (await ask(client)).status_code in NO
    assert provider.requests == []


async def test_it_denies_when_redis_answers_what_nobody_understands(client, provider, limiter_kind):
    assert (await ask(client)).status_code == 200
    statuses = {status async for _, _, status in assert_denied(client, provider, REDIS_CHECKS)}
    # OSError is Redis being away: the worker's share of the limits holds meanwhile.
    assert statuses <= NO | {200}
    assert (await ask(client)).status_code == 200


# --- One resolver for every header -------------------------------------------------------------------------------

HEADERS = {"authorization": "Bearer {}", "x-api-key": "{}", "api-key": "{}"}
RESTRICTED = {
    "revoked": lambda: {"revoked_at": timezone.now()},
    "expired": lambda: {"expires_at": timezone.now() - dt.timedelta(seconds=1)},
    "elsewhere": lambda: {"ip_allowlist": ["10.0.0.0/8"]},
    "another model": lambda: {"allowed_models": ["gpt-5"]},
    "fewer tokens": lambda: {"max_tokens": 1},
    "no requests": lambda: {"tpm": 1},
}


def restrict(row, **fields):
    for name, value in fields.items():
        setattr(row, name, value)
    row.save()


@pytest.mark.parametrize("restriction", RESTRICTED.values(), ids=RESTRICTED.keys())
async def test_it_holds_a_restriction_whatever_header_brings_the_key(anonymous, proxy_key, provider, restriction):
    await sync_to_async(restrict)(proxy_key[0], **restriction())
    seen = []
    for name, form in HEADERS.items():
        response = await ask(anonymous, {name: form.format(proxy_key[1])}, max_tokens=9)
        seen.append((response.status_code, response.content))
    assert len(set(seen)) == 1
    assert seen[0][0] >= 400
    assert provider.requests == []


async def test_it_takes_no_key_from_anywhere_else(anonymous, proxy_key, provider, user):
    key = proxy_key[1]
    token = (await sync_to_async(tokens.sign_in)(user)).token
    elsewhere = [
        *({name: key} for name in ("x-goog-api-key", "proxy-authorization", "x-aiproxy-key", "x_api_key", "cookie")),
        *({"authorization": f"{scheme} {key}"} for scheme in ("Basic", "Token", "Key", "Digest", "Bearer\tx")),
        {"authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()},
        {"authorization": "Basic " + base64.b64encode(f"x:{key}".encode()).decode()},
        {"authorization": key},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"Bearer {key[:-1]}"},
        {"authorization": f"Bearer {key},{key}"},
        {"authorization": f"Bearer {key} {key}"},
        {"authorization": f"Bearer {key.lower()}"},
        {"x-api-key": f"Bearer {key}"},
        {"cookie": f"key={key}; authorization=Bearer {key}"},
    ]
    for headers in elsewhere:
        assert (await ask(anonymous, headers)).status_code == 401, headers.keys()
    for query in (f"?key={key}", f"?api_key={key}", f"?access_token={key}", f"?authorization=Bearer%20{key}"):
        assert (await anonymous.post(f"/v1/chat/completions{query}", json=CHAT)).status_code == 401
    assert provider.requests == []


async def test_it_refuses_any_two_that_differ(anonymous, proxy_key, provider):
    mine, other = proxy_key[1], mint().key
    for first, second in itertools.product(HEADERS, repeat=2):
        for one, two in ((mine, other), (other, mine), (mine, "garbage"), ("", mine)):
            pairs = [(first, HEADERS[first].format(one).strip()), (second, HEADERS[second].format(two).strip())]
            response = await ask(anonymous, pairs)
            assert response.status_code in {400, 401}, pairs
    assert provider.requests == []
    same = [(name, form.format(mine)) for name, form in HEADERS.items()]
    assert (await ask(anonymous, same)).status_code == 200


# --- Floods and guesses ------------------------------------------------------------------------------------------


async def test_it_spends_nothing_on_made_up_keys(client, plane, provider, rows, monkeypatch):
    """No Argon2, no row, no request to a provider, and memory that is bounded."""
    reads, slow = [], []
    read = policy.read_policy
    monkeypatch.setattr(policy, "read_policy", lambda key_id: reads.append(key_id) or read(key_id))
    monkeypatch.setattr(policy, "CACHE_SIZE", 50)
    for method in ("hash", "verify"):
        monkeypatch.setattr(argon2.PasswordHasher, method, lambda *args, **kwargs: slow.append(args))
    monkeypatch.setattr(hashers.turns, "turn", lambda: slow.append("turn") or ExitStack())
    made_up, garbage = [mint().key for _ in range(100)], random.Random(1)
    for number in range(1000):
        body = "".join(garbage.choices("abcXYZ0129-_%'\" ", k=48))
        key = made_up[number // 10] if number % 10 == 0 else "sk-proxy-" + body.strip()
        response = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 401
    assert len(reads) <= len(made_up)  # one each, and none for what is no key
    assert len(plane.runtime.policies._absent) <= 50
    assert (slow, provider.requests, await rows()) == ([], [], [])
    assert (await ask(client)).status_code == 200


async def test_it_has_no_more_patience_with_the_same_key_at_once(client, monkeypatch):
    """A thousand askers of one key that is none cost one read."""
    reads = []
    monkeypatch.setattr(policy, "read_policy", lambda key_id: reads.append(key_id))
    headers = {"authorization": f"Bearer {mint().key}"}
    answers = await asyncio.gather(*(client.get("/v1/models", headers=headers) for _ in range(100)))
    assert {response.status_code for response in answers} == {401}
    assert len(reads) == 1


# --- What a body says --------------------------------------------------------------------------------------------

STEERING = ["api_base", "base_url", "api_key", "headers", "extra_headers", "proxy", "api_type", "user_config", "url"]
STEERING += ["host", "authorization", "organization", "custom_llm_provider", "litellm_params", "fallbacks", "metadata"]
STEERING += ["model_list", "provider", "route", "credentials", "timeout", "extra_body", "azure_endpoint", "aws_region"]


def steering_body(rng: random.Random, where: str, depth: int) -> dict:
    value: object = {"host": "evil.example", "authorization": "Bearer evil"} if depth % 2 else where
    for _ in range(depth):
        value = {rng.choice(STEERING): value, rng.choice(STEERING): [where]}
    return {**CHAT, rng.choice(STEERING): value, rng.choice(STEERING): where}


async def test_it_is_steered_by_nothing_in_a_body(client, provider, settings):
    rng = random.Random(7)
    sent_to = f"127.0.0.1:{provider.port}"
    for depth in list(range(7)) * 20:
        body = steering_body(rng, f"http://{sent_to}/elsewhere", depth)
        await client.post("/v1/chat/completions", content=json.dumps(body))
    assert len(provider.requests) == 140
    assert {request.target for request in provider.requests} == {"/v1/chat/completions"}
    assert {request.headers["host"] for request in provider.requests} == {sent_to}
    assert len({request.headers["authorization"] for request in provider.requests}) == 1


MODELS = [
    *(
        "http://127.0.0.1:{port}/x",
        "openai/http://127.0.0.1:{port}/x",
        "//127.0.0.1:{port}",
        "openai//127.0.0.1:{port}",
    ),
    *("@127.0.0.1:{port}", "openai/@127.0.0.1:{port}/", "gpt-4o@127.0.0.1", "gpt-4o#@evil", "gpt-4o?x=http://a/"),
    *(
        "openai/../../admin",
        "gpt-4o/../..",
        "..",
        ".",
        "/",
        "\\\\evil",
        "gpt-4o\r\nhost: evil",
        "gpt-4o\0",
        "\uff47pt-4o",
    ),
    *("openai/", "evil/gpt-4o", "OPENAI/gpt-4o", "openai/openai/gpt-4o", "127.0.0.1:{port}/gpt-4o", "gpt-4o\u3002evil"),
]


async def test_it_is_steered_by_no_model_name(client, provider):
    for model in MODELS:
        response = await ask(client, model=model.format(port=provider.port))
        assert response.status_code in {200, 400, 404}, model
    for request in provider.requests:
        assert request.target == "/v1/chat/completions"
        assert request.headers["host"] == f"127.0.0.1:{provider.port}"


async def test_it_keeps_two_tenants_apart_in_every_order(client, provider, proxy_key, stranger):
    """Their keys are asked alternately on one connection: each gets its own, every time."""
    from vault import store
    from vault.secret import Secret

    await sync_to_async(store.add)(stranger.id, "openai", "", Secret("demo-" + "s" * 40))
    _, other = await sync_to_async(issue)(stranger)
    for number in range(40):
        await ask(client, {"authorization": f"Bearer {(proxy_key[1], other)[number % 2]}"})
    sent = [request.headers["authorization"].endswith("s" * 40) for request in provider.requests]
    assert sent == [False, True] * 20
