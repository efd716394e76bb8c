"""The data plane as it runs: our protocol on a real socket, real journal and database, a scripted provider."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from django.db import connection

from accounts.keys import issue
from accounts.models import ProxyKey, User
from proxy.app import DataPlane
from proxy.server import ProxyProtocol
from proxy.tests.limits_redis import RedisServer
from proxy.tests.provider import Provider
from usage.models import ProxyRequest
from usage.shipper import Shipper
from vault import store
from vault.models import ApiKey
from vault.secret import Secret


@pytest.fixture
async def provider(settings) -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    settings.AIPROXY_OPENAI_BASE_URL = provider.base_url
    yield provider
    await provider.stop()


@pytest.fixture
def user(transactional_db, owner: User) -> User:
    return owner


@pytest.fixture
def api_key(user: User) -> ApiKey:
    return store.add(user.id, "openai", "", Secret("demo-" + secrets.token_hex(20)))


@pytest.fixture
def proxy_key(user: User, api_key: ApiKey) -> tuple[ProxyKey, str]:
    return issue(user, name="test")


@pytest.fixture(params=["memory", "redis"])
def limiter_kind(request) -> str:
    """Ask for it to run a test on both limiters; without it there is no Redis."""
    return request.param


@pytest.fixture
def plane_settings(settings, tmp_path: Path, request: pytest.FixtureRequest):
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    on_redis = "limiter_kind" in request.fixturenames and request.getfixturevalue("limiter_kind") == "redis"
    settings.REDIS_URL = request.getfixturevalue("redis_url") if on_redis else ""
    for name, value in getattr(request.node.get_closest_marker("data_plane"), "kwargs", {}).items():
        setattr(settings, name, value)
    return settings


@pytest.fixture
async def plane(plane_settings, provider: Provider, proxy_key) -> AsyncIterator[DataPlane]:
    plane = DataPlane()
    await plane.startup()
    yield plane
    await plane.shutdown()


@pytest.fixture
async def address(plane: DataPlane) -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(
        plane,
        port=0,
        http=ProxyProtocol,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        ws="none",
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    await server.shutdown()


@pytest.fixture
async def client(address, proxy_key) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {proxy_key[1]}"}
    async with httpx.AsyncClient(
        base_url=f"http://{address[0]}:{address[1]}", headers=headers, timeout=20, trust_env=False, verify=False
    ) as client:
        yield client


@pytest.fixture
async def official(address, proxy_key) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, unchanged."""
    url = f"http://{address[0]}:{address[1]}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=proxy_key[1], max_retries=0) as client:
        yield client


@pytest.fixture
def rows(plane: DataPlane) -> Callable[[], list[ProxyRequest]]:
    """The rows that exist once everything written so far has been shipped."""

    def ship() -> list[ProxyRequest]:
        try:
            Shipper(plane.runtime.journal.directory).run_once()
            return list(ProxyRequest.objects.order_by("created_at", "id"))
        finally:
            connection.close()  # this thread's own

    async def shipped() -> list[ProxyRequest]:
        return await asyncio.to_thread(ship)

    return shipped


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    server = RedisServer()
    yield server
    server.close()
