"""Owns what a test run finds around it: fresh secrets, its own data directory, database and Redis, and no network.

Loaded by `-p tests.environment` before Django reads its settings. `--database postgres` (or AIPROXY_TEST_DB=postgres)
runs the tests that touch a database on PostgreSQL; SQLite runs everything but those marked `postgres`.
"""

import atexit
import base64
import ipaddress
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.servers import Servers

KEPT = {
    "AIPROXY_TEST_DB",
    "AIPROXY_TRAFFIC_DIR",
    "AIPROXY_LIVE_OPENAI_KEY",
    "AIPROXY_CHROMIUM",
    "AIPROXY_SCREENSHOTS",
    "AIPROXY_EVERY_PAGE",
}
DROPPED = {"SECRET_KEY", "DATABASE_URL", "REDIS_URL", "DEBUG", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "HOST", "PORT"}
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
MARKERS = {
    "any_database": "shows nothing that depends on the kind of database: SQLite is enough",
    "postgres": "needs PostgreSQL, whose server is at TEST_DATABASE_URL",
    "data_plane": "starts the data plane with these settings (keyword arguments)",
    "live": "talks to the real provider; runs when AIPROXY_LIVE_OPENAI_KEY is set",
    "image": "builds the image and looks into it; runs with `make image-test`",
}

# Seconds. A machine that is busy with tests is no outage.
PATIENT = {"AIPROXY_REDIS_TIMEOUT": "2", "AIPROXY_DATABASE_TIMEOUT": "10"}

_servers: Servers | None = None
_network_allowed = False


def keyset() -> str:
    return f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def fresh_secrets() -> dict[str, str]:
    return {
        "SECRET_KEY": secrets.token_urlsafe(64),
        "AIPROXY_JWT_KEY": secrets.token_urlsafe(48),
        "AIPROXY_FINGERPRINT_KEY": secrets.token_urlsafe(48),
        "AIPROXY_PEPPERS": keyset(),
        "AIPROXY_MASTER_KEYS": keyset(),
    }


def _forget_the_shell() -> None:
    """What a developer has exported must not change what the tests do."""
    for name in list(os.environ):
        plain = name.removesuffix("_FILE")
        if (plain.startswith("AIPROXY_") and plain not in KEPT) or plain in DROPPED or name.lower() in PROXIES:
            del os.environ[name]


def _prepare(database: str) -> Servers:
    directory = Path(tempfile.mkdtemp(prefix="aiproxy-tests-"))
    servers = Servers(directory)

    def leave() -> None:
        if os.getpid() == owner:  # not in a forked child
            servers.stop()
            shutil.rmtree(directory, ignore_errors=True)

    owner = os.getpid()
    atexit.register(leave)
    _forget_the_shell()
    os.environ.update(fresh_secrets())
    os.environ["AIPROXY_HTTPS"] = "false"
    os.environ |= PATIENT
    os.environ["AIPROXY_ADMIN_SECOND_FACTOR"] = "false"  # the tests of it turn it on
    os.environ["AIPROXY_ENV_FILE"] = str(directory / "no.env")
    os.environ["AIPROXY_DATA_DIR"] = str(directory / "data")
    (directory / "data").mkdir(mode=0o700)
    os.environ["TEST_REDIS_URL"] = servers.redis_url(os.environ)
    if database == "postgres":
        os.environ["TEST_DATABASE_URL"] = server = servers.postgres_url(os.environ)
        # A name of its own: two runs on one server do not meet.
        name = f"/aiproxy_{secrets.token_hex(4)}"
        os.environ["DATABASE_URL"] = urlunsplit(urlsplit(server)._replace(path=name))
    else:
        os.environ["DATABASE_URL"] = f"sqlite:///{directory / 'data' / 'aiproxy.sqlite3'}"
        servers.notes.append("SQLite")
    return servers


def _guard_network(event: str, args: tuple[object, ...]) -> None:
    """An audit hook: a test that would leave this machine fails, and says where it wanted to go."""
    if event not in ("socket.connect", "socket.sendto") or _network_allowed:
        return
    address = args[1]
    if not isinstance(address, tuple):
        return  # a Unix socket
    host = str(address[0]).partition("%")[0]
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise RuntimeError(f"a test tried to reach {host}:{address[1]}; tests stay on loopback")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgres"],
        default=os.environ.get("AIPROXY_TEST_DB", "sqlite"),
        help="what Django's database is (default: $AIPROXY_TEST_DB, else sqlite)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """A wrapper runs before pytest-django's own hook, which reads the settings."""
    global _servers
    database = early_config.known_args_namespace.database
    os.environ["AIPROXY_TEST_DB"] = database
    _servers = _prepare(database)
    sys.addaudithook(_guard_network)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_report_header() -> list[str]:
    assert _servers is not None
    return [f"servers: {', '.join(_servers.notes)}"]


def _differs_by_database(item: pytest.Item) -> bool:
    """Touches it by marker, by any fixture that leads to Django's database, or as one of Django's own test cases."""
    from django.test import TransactionTestCase

    if item.get_closest_marker("any_database") is not None:
        return False
    if item.get_closest_marker("django_db") is not None:
        return True
    if isinstance(item, pytest.Function) and item.cls is not None and issubclass(item.cls, TransactionTestCase):
        return True
    return not {"db", "transactional_db", "django_db_setup"}.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """PostgreSQL need not repeat what touches no database."""
    postgres = config.getoption("--database") == "postgres"
    kept, dropped = [], []
    for item in items:
        marked = item.get_closest_marker("postgres") is not None
        fits = marked or _differs_by_database(item) if postgres else not marked
        if item.get_closest_marker("live") is not None:
            fits = bool(os.environ.get("AIPROXY_LIVE_OPENAI_KEY")) and not postgres
        if item.get_closest_marker("image") is not None:
            fits = "image" in config.option.markexpr and (postgres or not marked)
        (kept if fits else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _network_allowed
    _network_allowed = item.get_closest_marker("live") is not None
    try:
        return (yield)
    finally:
        _network_allowed = False


def pytest_unconfigure() -> None:
    if _servers is not None:
        _servers.stop()
