import fcntl
import os
import threading
import time

import pytest
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from aiproxy import health
from aiproxy.health import Probe
from proxy.tests.limits_redis import RedisServer
from vault.models import ApiKey


@pytest.fixture(autouse=True)
def fresh(settings, tmp_path):
    """Each test asks anew, of a data directory of its own."""
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    (tmp_path / "journal").mkdir()
    for probe in health.PROBES:
        probe.forget()
    yield
    for probe in health.PROBES:
        probe.forget()


@pytest.fixture
def states(monkeypatch):
    """The probes answer what the test puts here; all is well otherwise."""
    said = dict.fromkeys((probe.name for probe in health.PROBES), "ok")
    for probe in health.PROBES:
        monkeypatch.setattr(probe, "_ask", lambda name=probe.name: said[name])
    return said


@pytest.fixture
def client():
    return Client()


def never(*args):
    raise AssertionError("this must not be asked")


def test_it_is_healthy(client, states):
    response = client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "healthy", "db": "ok", "redis": "ok"})


@pytest.mark.django_db(transaction=True)
def test_it_asks_the_real_database_and_no_redis_when_there_is_none(client, settings):
    settings.REDIS_URL = ""
    assert client.get("/health").json() == {"status": "healthy", "db": "ok", "redis": "off"}


def test_it_asks_the_real_redis(settings):
    settings.REDIS_URL = os.environ["TEST_REDIS_URL"]
    assert health.REDIS.state() == "ok"


@pytest.fixture
def redis_server():
    server = RedisServer()
    yield server
    server.close()


@pytest.mark.parametrize("fault", [("REPLICAOF", "127.0.0.1", "1"), ("CONFIG", "SET", "maxmemory", "1")])
def test_it_says_that_redis_is_down_when_it_takes_no_keys(settings, redis_server, fault):
    settings.REDIS_URL = redis_server.url
    with redis_server.client() as client:
        client.execute_command(*fault)
    assert health.REDIS.state() == "down"


def test_it_says_that_redis_is_down(settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert health.REDIS.state() == "down"


@pytest.mark.parametrize("name", ["db", "redis"])
def test_it_is_unhealthy_when_one_is_down(client, states, name):
    states[name] = "timeout"
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unhealthy", "db": "ok", "redis": "ok", name: "down"}


def test_it_is_alive_whatever_is_away(client, monkeypatch):
    for probe in health.PROBES:
        monkeypatch.setattr(probe, "_ask", never)
    monkeypatch.setattr(health, "draining", True)
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_it_answers_whatever_host_is_asked_for(client, states, path):
    """An orchestrator asks by the pod's address, which is in nobody's ALLOWED_HOSTS."""
    assert client.get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_it_takes_reads_only(client, states, path):
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405


def test_it_is_ready(client, states):
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready", "degraded": []})


@pytest.mark.parametrize(("name", "state"), [("redis", "down"), ("db", "timeout"), ("shipper", "stuck")])
def test_it_stays_in_rotation_while_degraded(client, states, name, state):
    states[name] = state
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "degraded", "degraded": [f"{name}: {state}"]})


@pytest.mark.parametrize(
    ("name", "state"),
    [("migrations", "pending"), ("vault", "key missing"), ("journal", "full"), ("migrations", "down")],
)
def test_it_is_not_ready_when_it_could_serve_nobody(client, states, name, state):
    states[name] = state
    response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "unready")
    assert response.json()["degraded"] == [f"{name}: {state}"]


def test_it_is_not_ready_before_the_database_was_ever_seen(client, states):
    states.update(db="down", migrations="down", vault="down")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["degraded"] == ["db: down", "migrations: unknown", "vault: unknown"]


@pytest.mark.parametrize("path", ["/health", "/readyz"])
def test_it_leaves_the_rotation_when_told_to_stop(client, states, monkeypatch, path):
    monkeypatch.setattr(health, "draining", True)
    assert client.get(path).status_code == 503


def test_it_tells_strangers_no_reason(client, states, monkeypatch):
    def fail():
        raise OperationalError("connection to db.internal failed for user admin")

    monkeypatch.setattr(health.DATABASE, "_ask", fail)
    said = client.get("/health").text + client.get("/readyz").text
    assert '"db": "down"' in said
    assert "internal" not in said


def test_it_does_not_log_each_answer(client, states, caplog):
    states["migrations"] = "pending"
    for _ in range(3):
        client.get("/readyz")
    assert [record.getMessage() for record in caplog.records if record.name == "django.request"] == []


# --- The probes ------------------------------------------------------------------------------------------


def test_it_asks_once_for_many_who_want_to_know():
    asked = []
    probe = Probe("x", lambda: asked.append(1) or "ok", max_age=60)
    assert {probe.state() for _ in range(100)} == {"ok"}
    assert len(asked) == 1


def test_it_asks_again_when_the_answer_is_old():
    answers = iter(["down", "ok"])
    probe = Probe("x", lambda: next(answers), max_age=0)
    assert [probe.state(), probe.state()] == ["down", "ok"]


def test_it_does_not_wait_for_what_hangs(monkeypatch):
    monkeypatch.setattr(health, "TIMEOUT", 0.01)
    release, asked = threading.Event(), []
    probe = Probe("x", lambda: asked.append(1) or (release.wait(30) and "ok"), max_age=0)
    assert {probe.state() for _ in range(50)} == {"timeout"}
    assert len(asked) == 1
    release.set()
    probe._answer.result(30)
    assert probe._answer.result() == "ok"


def test_it_logs_a_change_once(caplog):
    answers = iter(["ok", "down", "down", "ok"])
    probe = Probe("thing", lambda: next(answers), max_age=0)
    with caplog.at_level("INFO", logger="aiproxy.health"):
        for _ in range(4):
            probe.state()
    assert [record.getMessage() for record in caplog.records] == [
        f"Probe of thing: {state}" for state in ("ok", "down", "ok")
    ]


@pytest.mark.django_db
def test_it_sees_pending_migrations(monkeypatch):
    monkeypatch.setattr(health, "_migrated", set())
    assert health._ask_migrations() == "ok"
    monkeypatch.setattr(health, "_migrated", set())
    (newest,) = MigrationLoader(connection).graph.leaf_nodes("usage")
    MigrationRecorder(connection).record_unapplied(*newest)
    assert health._ask_migrations() == "pending"


def test_it_does_not_ask_about_migrations_again(monkeypatch):
    monkeypatch.setattr(health, "_migrated", {str(connection.settings_dict["NAME"])})
    monkeypatch.setattr(health, "MigrationExecutor", never)
    assert health._ask_migrations() == "ok"


@pytest.mark.django_db
def test_it_sees_a_master_key_that_is_missing(owner):
    assert health._ask_vault() == "ok"
    row = {"last4": "abcd", "fingerprint": b"f" * 32, "encrypted_key": "AA==", "iv": b"i" * 12}
    ApiKey.objects.create(user=owner, provider="openai", master_key_id=77, **row)
    assert health._ask_vault() == "key missing"


def test_it_sees_a_full_disk(settings):
    assert health._ask_journal() == "ok"
    settings.AIPROXY_JOURNAL_SEGMENT = 1 << 60
    assert health._ask_journal() == "full"


def test_it_sees_that_nothing_is_shipped(settings, tmp_path):
    settings.AIPROXY_TOTAL_TIMEOUT = 10
    segment = tmp_path / "journal" / "w-00000001.sealed"
    segment.touch()
    assert health._ask_shipper() == "ok"
    age(segment, health.SHIPPER_ABSENT + 1)
    assert health._ask_shipper() == "absent"
    with open(tmp_path / "journal" / "shipper.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert health._ask_shipper() == "ok"
        age(segment, 10 + health.SHIPPER_STUCK + 1)
        assert health._ask_shipper() == "stuck"


def age(segment, seconds):
    moment = time.time() - seconds
    os.utime(segment, (moment, moment))
