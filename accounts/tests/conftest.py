"""Owns what the tests of accounts share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient

from accounts.keys import PREFIX, mint
from accounts.models import ProxyKey, User

NEW_PASSWORD = "a staple for the battery"


@pytest.fixture
def anonymous() -> APIClient:
    return APIClient()


@pytest.fixture
def make_key() -> Callable[..., ProxyKey]:
    """A row without the slow hash, for tests that never show the key."""

    def make(user: User, **fields: Any) -> ProxyKey:
        return ProxyKey.objects.create(user=user, key_prefix=PREFIX + mint().key_id, verifier=b"", **fields)

    return make


@pytest.fixture
def bearer() -> Callable[[str], APIClient]:
    """A client that sends this text as its token."""

    def client(token: str) -> APIClient:
        result = APIClient()
        result.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        return result

    return client


@pytest.fixture
def epochs(settings: Any, redis_url: str) -> Iterator["redis.Redis[str]"]:
    """A real Redis that epochs are published to."""
    settings.REDIS_URL = redis_url
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def redis_away(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # nothing listens there
