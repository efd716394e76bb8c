"""Secrets go through everything the service does, at its most talkative, and are found nowhere afterwards."""

import base64
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import redis
from django_otp.oath import totp

from proxy.tests.provider import HELLO, answer, chunk, stream
from tests.exposed import ScriptedProvider
from tests.service import Service, manage, until

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "the canary's prompt"}]}
HIDDEN_SETTINGS = ["SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_FINGERPRINT_KEY", "AIPROXY_METRICS_TOKEN"]
KEYSETS = ["AIPROXY_PEPPERS", "AIPROXY_MASTER_KEYS"]


def canary(prefix: str = "") -> str:
    return f"{prefix}CANARY{secrets.token_hex(16)}"


@dataclass
class Tour:
    """What was secret, and all that anybody was shown."""

    service: Service
    provider: ScriptedProvider
    client: httpx2.Client
    secrets: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)
    password: str = field(default_factory=lambda: f"canary {secrets.token_hex(12)}")
    keys: list[str] = field(default_factory=lambda: [canary("sk-proj-"), canary("sk-ant-"), canary("plain")])

    @property
    def database(self) -> Path:
        return self.service.directory / "data" / "aiproxy.sqlite3"

    def ask(self, method: str, path: str, body: object = None, *, reveals: tuple[str, ...] = (), **headers: str):
        """`reveals` names the fields that show a secret this one time."""
        response = self.client.request(
            method,
            path,
            json=body if not isinstance(body, bytes) else None,
            content=body if isinstance(body, bytes) else None,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        text = response.text
        for name in reveals:
            self.secrets.add(secret := response.json()[name])
            text = text.replace(secret, "")
        self.shown.append(f"{path.partition('?')[0]} {response.status_code} {response.headers} {text}")
        return response

    @contextmanager
    def without(self, table: str) -> Iterator[None]:
        """The database is there, but not what is asked of it."""
        with sqlite3.connect(self.database, timeout=20) as database:
            database.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        try:
            yield
        finally:
            with sqlite3.connect(self.database, timeout=20) as database:
                database.execute(f"ALTER TABLE {table}_away RENAME TO {table}")

    def __post_init__(self) -> None:
        self.secrets |= {self.password, *self.keys}
        self.secrets |= {self.service.environment[name] for name in HIDDEN_SETTINGS}
        self.secrets |= {self.service.environment[name].partition(":")[2] for name in KEYSETS}


@pytest.fixture(scope="module")
def tour(tmp_path_factory) -> Iterator[Tour]:
    provider = ScriptedProvider()
    service = Service(
        tmp_path_factory.mktemp("canaries"),
        REDIS_URL=os.environ["TEST_REDIS_URL"],
        AIPROXY_OPENAI_BASE_URL=provider.base_url,
        AIPROXY_ANTHROPIC_BASE_URL=provider.base_url.removesuffix("/v1"),
        AIPROXY_LOG_LEVEL="DEBUG",
        AIPROXY_METRICS_TOKEN=canary("metrics"),
        AIPROXY_BODY_IDLE_TIMEOUT="1",
        AIPROXY_FIRST_BYTE_TIMEOUT="1",
        AIPROXY_GRACE="2",
    )
    try:
        service.migrate()
        service.set_plan(rpm=None, tpm=None, max_parallel=None, max_api_keys=100)
        service.start()
        with httpx2.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            tour = Tour(service, provider, client)
            for part in (sign_in, exchange, fail, look_around):
                part(tour)
            yield tour
    finally:
        if service.process is not None:
            service.stop()
        provider.stop()


def sign_in(tour: Tour) -> None:
    who = {"email": "canary@example.com", "password": tour.password}
    pair = ("token", "refresh")
    tour.ask("POST", "/auth/signup", who, reveals=pair)
    tour.ask("POST", "/auth/signup", who)
    tour.ask("POST", "/auth/login", {**who, "password": tour.password + "x", "nonsense": tour.password})
    tour.ask("POST", "/auth/login", who, reveals=pair)
    signed = tour.ask("POST", "/auth/login", who, reveals=pair).json()
    again = tour.ask("POST", "/auth/refresh", {"refresh": signed["refresh"]}, reveals=pair).json()
    tour.token = f"Bearer {again['token']}"
    tour.ask("POST", "/auth/refresh", {"refresh": "x" + signed["refresh"]})
    tour.ask("GET", "/auth/me", authorization=tour.token)
    tour.ask("GET", "/auth/me", authorization=tour.token + "x")
    tour.ask("GET", f"/auth/me?token={again['token']}", cookie=f"sessionid={tour.password.split()[1]}")


def exchange(tour: Tour) -> None:
    told = {"authorization": tour.token}
    stored = []
    for label, key in enumerate(tour.keys):
        for provider in ("openai", "anthropic"):
            body = {"provider": provider, "label": f"k{label}", "key": key}
            if (response := tour.ask("POST", "/api-keys", body, **told)).status_code == 201:
                stored.append(response.json()["id"])
            tour.ask("POST", "/api-keys", body, **told)
            tour.ask("POST", "/api-keys", {**body, "provider": "no-such", "nonsense": key}, **told)
            tour.ask("POST", "/api-keys", {"provider": provider, "label": key, "key": key + "\n"}, **told)
    assert len(stored) >= 4
    minted = tour.ask("POST", "/proxy-api-keys/generate", {"name": "c"}, reveals=("key",), **told).json()
    tour.key, tour.stored, tour.key_id = minted["key"], stored, minted["id"]
    tour.secrets.add(tour.key[17:51])
    for streamed in (False, True):
        tour.provider.play(stream(HELLO) if streamed else answer())
        assert chat(tour, stream=streamed).status_code == 200


def chat(tour: Tour, **fields: object):
    return tour.ask("POST", "/v1/chat/completions", {**CHAT, **fields}, authorization=f"Bearer {tour.key}")


def echo(status: int):
    """An answer that repeats the key it was asked with wherever it can."""

    async def play(request, writer):
        key = request.headers["authorization"].removeprefix("Bearer ")
        said = {"message": f"Incorrect API key provided: {key}.", "code": key, "param": f"x {key}", "type": key}
        await answer(status, {"error": said}, f"www-authenticate: {key}", f"x-key: {key}")(request, writer)

    return play


def fail(tour: Tour) -> None:
    """Everything that can go wrong, with a secret in the middle of it."""
    told = {"authorization": tour.token}
    for status in (400, 401, 402, 403, 404, 429, 500, 529):
        tour.provider.play(echo(status))
        chat(tour)
    for key in tour.keys:
        if key.startswith("sk-"):  # a stream is not held back to look for keys of another make
            tour.provider.play(stream([chunk("a"), b'data: {"error":{"message":"%b"}}\n\n' % key.encode()]))
        with suppress(httpx2.RemoteProtocolError):
            chat(tour, stream=True)
        for name in ("authorization", "x_api_key", "api_key", "x_goog_api_key", "openai_organization", "cookie"):
            tour.ask("POST", "/v1/chat/completions", CHAT, **{name: key})
        tour.ask("GET", f"/v1/models?key={key}", authorization=f"Basic {key}")
        tour.ask("POST", "/v1/chat/completions", key.encode(), authorization=f"Bearer {tour.key}")
        tour.ask("POST", "/api-keys", key.encode(), **told)
        tour.ask("PATCH", f"/api-keys/{tour.stored[0]}", {"nonsense": key, "label": "z" * 300 + key}, **told)
    for id in tour.stored:
        for status in (200, 401, 500):
            tour.provider.play(answer(status, {"error": {"message": " ".join(tour.keys[:2])}}))
            tour.ask("POST", f"/api-keys/{id}/test", **told)
    tour.provider.play()
    with tour.without("api_keys"):
        tour.ask("POST", "/api-keys", {"provider": "openai", "label": "away", "key": tour.keys[0] + "1"}, **told)
        tour.ask("GET", "/api-keys", accept="text/html", **told)
    with tour.without("users"):
        tour.ask("POST", "/auth/login", {"email": "canary@example.com", "password": tour.password})
    with tour.without("proxy_api_keys"):
        chat(tour)
    with sqlite3.connect(tour.database, timeout=20) as database:
        database.execute("UPDATE api_keys SET base_url = 'http://127.0.0.1:1' WHERE label = 'k0'")
    tour.ask("PATCH", f"/proxy-api-keys/{tour.key_id}", {"name": "renamed"}, **told)  # so that the row is read anew
    chat(tour)


def set_up_second_factor(tour: Tour) -> None:
    url = "/admin/second-factor/enrol/"
    page = tour.client.get(url).text
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page)[1]
    form = {"code": f"{totp(base64.b32decode(secret)):06d}"}
    form["csrfmiddlewaretoken"] = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    codes = re.findall(r"<code>([A-Z2-7-]{19})</code>", tour.client.post(url, data=form).text)
    assert len(codes) == 10
    tour.secrets |= {secret, *codes, *(code.replace("-", "") for code in codes)}


def look_around(tour: Tour) -> None:
    """As staff, at every page of the back-office; and as Prometheus."""
    manage(
        {**tour.service.environment, "DJANGO_SUPERUSER_PASSWORD": tour.password},
        *("createsuperuser", "--noinput", "--email", "root@example.com"),
    )
    page = tour.client.get("/admin/login/").text
    form = {"username": "root@example.com", "password": tour.password}
    form["csrfmiddlewaretoken"] = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    assert tour.client.post("/admin/login/?next=/admin/", data=form).status_code == 302
    set_up_second_factor(tour)
    seen, waiting = set(), ["/admin/", "/api", "/api-keys", "/proxy-api-keys", "/usage/requests", "/usage/summary"]
    while waiting and len(seen) < 150:
        path = waiting.pop()
        if path in seen or path.endswith(("/add/", "/history/", "/delete/")):
            continue
        seen.add(path)
        page = tour.ask("GET", path, accept="text/html").text
        waiting += re.findall(r'href="(/admin/(?:accounts|audit|staff|vault|usage)/[^"#?]*)"', page)
    assert {
        "/admin/vault/apikey/",
        "/admin/usage/proxyrequest/",
        "/admin/accounts/user/",
        "/admin/audit/event/",
    } <= seen
    assert len(seen) > 15
    metrics = tour.client.get("/metrics", headers={"authorization": f"Bearer {metrics_token(tour)}"})
    assert metrics.status_code == 200
    tour.shown.append(metrics.text)


def metrics_token(tour: Tour) -> str:
    return tour.service.environment["AIPROXY_METRICS_TOKEN"]


def forms(secret: str) -> list[bytes]:
    """As it is, without its last characters, and in the encodings that things are stored in."""
    return [
        secret.encode(),
        secret[:-4].encode(),
        base64.b64encode(secret.encode())[:-4],
        secret.encode().hex().encode(),
    ]


def assert_hidden(tour: Tour, where: str, data: bytes) -> None:
    for secret in tour.secrets:
        for form in forms(secret):
            place = data.find(form)
            assert place < 0, f"{where}: {data[max(0, place - 200) : place + 20]!r}"


def test_no_secret_is_in_an_answer_page_or_metric(tour):
    assert len(tour.shown) > 150
    for text in tour.shown:
        assert_hidden(tour, text.partition(" ")[0], text.encode())


def test_no_secret_is_in_a_log_at_its_most_talkative(tour):
    log = tour.service.log.read_bytes()
    assert b"DEBUG" in log and b"The database is away" in log  # it did say something, also of what failed
    assert_hidden(tour, "log", log)
    assert b"the canary's prompt" not in log


def test_no_secret_is_in_a_file_of_the_service(tour):
    until(lambda: len(rows(tour)) > 10, "the rows are shipped")
    seen = set()
    for path in (tour.service.directory / "data").rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # the shipper removes what it has shipped
            content = path.read_bytes()
            assert_hidden(tour, path.name, content)
            assert b"the canary's prompt" not in content
            assert path.stat().st_mode & 0o077 == 0 or path.suffix != ".journal"
            seen.add(path.name)
    assert {"aiproxy.sqlite3"} < seen


def rows(tour: Tour) -> list[tuple]:
    with sqlite3.connect(tour.database, timeout=20) as database:
        return database.execute("SELECT * FROM proxy_requests").fetchall()


def test_no_secret_is_in_the_database(tour):
    with sqlite3.connect(tour.database, timeout=20) as database:
        assert_hidden(tour, "database", "\n".join(database.iterdump()).encode())


def test_no_secret_is_in_redis(tour):
    client = redis.Redis.from_url(os.environ["TEST_REDIS_URL"])
    keys = client.keys("aiproxy:*")
    assert keys
    for key in keys:
        assert_hidden(tour, "redis", key + (client.dump(key) or b""))
    client.close()


def test_no_secret_is_on_a_command_line(tour):
    for pid in tour.service.family():
        assert_hidden(tour, "cmdline", Path(f"/proc/{pid}/cmdline").read_bytes())
