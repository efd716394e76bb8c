"""Owns how the data plane learns that a key, a user or a plan changed. Knows nothing of policies or workers.

A change adds one to the row's `epoch` in the same transaction and, once that is committed, puts a new random token into
Redis. Workers compare tokens on every request and load anew when one differs. Without Redis they read the column.
"""

import secrets
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from uuid import UUID

import redis
from django.conf import settings
from django.db import models, transaction
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from accounts.models import Plan, ProxyKey, User

_LIFETIME = 30 * 24 * 3600  # seconds; workers put a token where none is, so an expired one costs a load, no more
_TIMEOUT = 1.0  # seconds an attempt


class EpochNotPublished(Exception):
    """The change is saved, but Redis could not be told of it: workers may go on with what they know."""

    def __init__(self) -> None:
        super().__init__(
            "Saved, but the workers were not told: Redis did not answer. Until they are, they may act on the old state"
            f" for up to {settings.AIPROXY_POLICY_MAX_AGE:.0f} seconds. Repeat the request."
        )


def key_name(proxy_key_id: UUID) -> str:
    return f"aiproxy:epoch:key:{proxy_key_id}"


def user_name(user_id: UUID) -> str:
    return f"aiproxy:epoch:user:{user_id}"


def plan_name(code: str) -> str:
    return f"aiproxy:epoch:plan:{code}"


def new_token() -> str:
    return secrets.token_hex(8)


def bump_key(proxy_key: "ProxyKey") -> None:
    _bump(proxy_key)
    publish_on_commit([key_name(proxy_key.pk)])


def bump_user(user: "User") -> None:
    _bump(user)
    publish_on_commit([user_name(user.pk)])


def bump_plan(plan: "Plan") -> None:
    _bump(plan)
    publish_on_commit([plan_name(plan.pk)])


def _bump(row: "ProxyKey | User | Plan") -> None:
    # an expression, not row.epoch + 1: two changes at once must count as two
    type(row)._default_manager.filter(pk=row.pk).update(epoch=models.F("epoch") + 1)
    row.refresh_from_db(fields=["epoch"])


def publish_on_commit(names: Iterable[str]) -> None:
    """Gives these names new tokens once the transaction is committed; raises EpochNotPublished out of the commit."""
    transaction.on_commit(partial(publish, list(names)))


def publish(names: list[str]) -> None:
    if not (settings.REDIS_URL and names):
        return
    client = _redis(settings.REDIS_URL)
    try:
        with client.pipeline(transaction=True) as batch:
            for name in names:
                batch.set(name, new_token(), ex=_LIFETIME)
            batch.execute()
    except redis.RedisError as error:
        # One that may only be read now answers on: its address may lead to another.
        client.connection_pool.disconnect(inuse_connections=False)
        raise EpochNotPublished from error


@lru_cache(maxsize=4)
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 2),
    )
