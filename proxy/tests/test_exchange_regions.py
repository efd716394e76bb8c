"""Keys with an address of their own: each is sent there, by way of a proxy that sees where and lets nobody out."""

import secrets

import pytest
from asgiref.sync import sync_to_async

from proxy.tests.provider import answer
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

CHAT = {"model": "qwen-plus", "messages": [{"role": "user", "content": "hi"}]}
US, HONG_KONG = "dashscope-us.aliyuncs.com", "cn-hongkong.dashscope.aliyuncs.com"


def add(user, host: str) -> ApiKey:
    url = f"https://{host}/compatible-mode/v1"
    return store.add(user.id, "alibaba", host, Secret("demo-" + secrets.token_hex(20)), base_url=url)


@pytest.fixture
def api_key(user, settings, provider) -> ApiKey:
    settings.AIPROXY_UPSTREAM_PROXY = f"http://127.0.0.1:{provider.port}"
    provider.default = answer(403)
    return add(user, US)


async def test_it_sends_a_key_to_its_own_region(client, provider):
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_unreachable")
    assert {(request.method, request.target) for request in provider.requests} == {("CONNECT", f"{US}:443")}


async def test_it_asks_in_another_region_when_one_cannot_be_reached(client, user, provider):
    await sync_to_async(add)(user, HONG_KONG)
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.headers["x-aiproxy-attempts"] == "2"
    assert [request.target for request in provider.requests[::3]] == [f"{US}:443", f"{HONG_KONG}:443"]
