"""Owns the fixtures every app's tests share: three people who must not see each other, and an API client."""

import functools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.contrib.auth.hashers import make_password
from django.core.cache import cache
from django.db import connections
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker
from rest_framework.test import APIClient

from accounts.models import User
from tests.emptying import Emptying

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _no_throttle_history() -> None:
    """Whoever has asked too often in the tests before, nobody has in this one."""
    cache.clear()


@functools.cache
def _password_hash() -> str:
    """Argon2id at production cost, once a run."""
    return make_password(PASSWORD)


def _person(name: str) -> User:
    return User.objects.create(email=f"{name}@example.com", password=_password_hash(), plan_id="free")


@pytest.fixture
def owner(db: None) -> User:
    return _person("owner")


@pytest.fixture
def teammate(db: None) -> User:
    return _person("teammate")


@pytest.fixture
def stranger(db: None) -> User:
    return _person("stranger")


@pytest.fixture
def password() -> str:
    """The password of owner, teammate and stranger."""
    return PASSWORD


@pytest.fixture
def api() -> Callable[[User | None], APIClient]:
    """`api(user)` is signed in as that user, `api(None)` as nobody."""

    def client(user: User | None) -> APIClient:
        result = APIClient()
        if user is not None:
            result.force_authenticate(user)
        return result

    return client


@pytest.fixture
def redis_url() -> str:
    """A real Redis with a database of this run's own."""
    return os.environ["TEST_REDIS_URL"]


def empty_postgres_database() -> Iterator[str]:
    server, name = os.environ["TEST_DATABASE_URL"], f"aiproxy_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def postgres_database() -> Iterator[str]:
    """The URL of an empty PostgreSQL database, for processes that a test starts; mark such a test `postgres`."""
    yield from empty_postgres_database()


@pytest.fixture(scope="module")
def module_postgres_database() -> Iterator[str]:
    """One for all tests of a module."""
    yield from empty_postgres_database()


@pytest.fixture(scope="session")
def session_postgres_database() -> Iterator[str]:
    """One for all tests of a run that say so."""
    yield from empty_postgres_database()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """SQLite on disk, as in production: a shared in-memory one locks tables in its own way."""
    database = connections["default"].settings_dict
    if database["ENGINE"].endswith("sqlite3"):
        database["TEST"]["NAME"] = str(Path(os.environ["AIPROXY_DATA_DIR"]) / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    connection = connections["default"]
    with django_db_blocker.unblock():
        empty = Emptying(connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _: empty())
        yield
    if connection.vendor == "postgresql":  # it drops no database that a thread of some test still has open
        with psycopg.connect(os.environ["TEST_DATABASE_URL"], autocommit=True) as server:
            name = connection.settings_dict["NAME"]
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A thread that ends with a connection in its hands has taken it from the pool for good: begin with a new pool."""
    yield
    connection = connections["default"]
    if connection.vendor == "postgresql" and not connection.in_atomic_block and connection.pool is not None:
        connection.close()
        stats = connection.pool.get_stats()
        if stats["pool_available"] < stats["pool_size"]:
            connection.close_pool()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A module's tests stay together, and all that are done in a browser: they share one service."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/browser" if nodeid.startswith("tests/browser/") else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None
