"""What docs/operations.md has an operator do, done: an upgrade and a roll-back under traffic, a backup, a restore."""

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from conftest import empty_postgres_database
from tests.environment import keyset
from tests.servers import postgres_program
from tests.service import PATIENCE, ROOT, Person, Service, mock_provider, running, until

pytestmark = pytest.mark.postgres


class Traffic:
    """Somebody who chats, plain and streamed, and somebody who changes keys, without a pause."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.seen: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(act,)) for act in (self._chat, self._keys)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def goes_on(self) -> None:
        before = self.seen.copy()
        until(lambda: all(self.seen[name] > before[name] + 3 for name in ("chat", "keys")), "traffic goes on")

    def _repeat(self, act) -> None:
        while not self._over.is_set():
            try:
                act()
            except Exception as error:
                self.seen[f"failed: {error!r}"] += 1

    def _chat(self) -> None:
        for stream in (False, True):
            answer = self.person.chat(stream=stream)
            whole = answer.status == 200 and (not stream or answer.body.rstrip().endswith(b"[DONE]"))
            self.seen["chat" if whole else f"{answer.status} {answer.body!r}"] += 1

    def _keys(self) -> None:
        service, token = self.person.service, self.person.token
        made = service.call("/proxy-api-keys/generate", {"name": "short-lived"}, token=token)
        gone = service.call(f"/proxy-api-keys/{made.json()['id']}", token=token, method="DELETE")
        listed = service.call("/api-keys", token=token)
        statuses = (made.status, gone.status, listed.status)
        self.seen["keys" if statuses == (201, 204, 200) else str(statuses)] += 1


@pytest.fixture(scope="module")
def person(tmp_path_factory, module_postgres_database) -> Iterator[Person]:
    """With a service on PostgreSQL and Redis that limits nothing."""
    settings = {
        "DATABASE_URL": module_postgres_database,
        "REDIS_URL": os.environ["TEST_REDIS_URL"],
        "AIPROXY_PROXY_KEYS_RATE": "100000/minute",
    }
    with (
        mock_provider() as provider,
        running(tmp_path_factory.mktemp("live"), AIPROXY_OPENAI_BASE_URL=provider, **settings) as service,
    ):
        service.set_plan(rpm=None, tpm=None, max_parallel=None, max_proxy_keys=1000)
        yield service.sign_up()


def migrate(service: Service, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0", *arguments]
    environment = service.environment | settings
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


NEXT_RELEASE = {"DJANGO_SETTINGS_MODULE": "tests.next_release.settings"}


def test_the_schema_of_the_next_release_is_applied_under_traffic(person):
    service = person.service
    with psycopg.connect(service.environment["DATABASE_URL"]) as reader, Traffic(person) as traffic:
        reader.execute("SELECT count(*) FROM users")  # as a dump, or a long report: it keeps its lock
        migration = migrate(service, "next_release", "0001", "--lock-timeout", "0.2", **NEXT_RELEASE)
        assert "trying again" in migration.stdout.readline()
        traffic.goes_on()
        reader.rollback()
        migration.communicate(timeout=PATIENCE)
        assert migration.returncode == 0
        traffic.goes_on()
    assert traffic.seen.keys() == {"chat", "keys"}
    until(lambda: len(person.requests()) == traffic.seen["chat"], "every row is in the log")
    assert {row["outcome"] for row in person.requests()} == {"ok"}

    # Rolled back: the release before starts on the new schema, and keeps its log.
    assert service.stop() == 0
    service.start()
    assert person.chat().status == 200
    until(lambda: len(person.requests()) == traffic.seen["chat"] + 1, "its row")


def test_a_migration_gives_way_to_a_request_before_they_wait_for_each_other(person):
    migrate(person.service, "next_release", "0001", **NEXT_RELEASE).communicate(timeout=PATIENCE)
    url = person.service.environment["DATABASE_URL"]
    with psycopg.connect(url) as request, psycopg.connect(url, autocommit=True) as watch:
        request.execute("SELECT count(*) FROM users")
        migration = migrate(person.service, **NEXT_RELEASE)
        until(lambda: watch.execute("SELECT FROM pg_locks WHERE NOT granted").fetchone() is not None, "it waits")
        assert request.execute("SELECT count(*) FROM plans").fetchone()  # which the migration has changed
        assert "trying again" in migration.stdout.readline()
    migration.communicate(timeout=PATIENCE)
    assert migration.returncode == 0


# --- A backup, and what it is worth --------------------------------------------------------------------------------


def runbook(title: str) -> list[list[str]]:
    """The commands of docs/operations.md under a title, block by block."""
    text = (ROOT / "docs/operations.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [re.findall(r"^ *\$ (.+)$", block, re.M) for block in re.findall(r"```console\n(.*?)```", text, re.S)]


@pytest.fixture
def shell(tmp_path, person):
    """Runs a line as the operator would, with what they have: `python` is ours, and so are PostgreSQL's programs."""
    path = [Path(sys.executable).parent, Path(postgres_program("pg_dump")).parent, os.environ["PATH"]]
    backup = tmp_path / "backup"
    backup.mkdir()

    def run(line: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = person.service.environment | {"PATH": ":".join(map(str, path)), "BACKUP": str(backup)}
        return subprocess.run(line, shell=True, cwd=ROOT, env=environment | settings, capture_output=True, text=True)

    return run


def succeeds(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def another_database() -> Iterator[str]:
    yield from empty_postgres_database()


def test_it_is_restored_from_a_dump_by_the_runbook(person, shell, another_database):
    service = person.service
    last = person.chat().headers["x-request-id"]
    until(lambda: last in {row["id"] for row in person.requests()}, "its row")
    rows = person.requests()
    back_up, restore = (lines for lines in runbook("Back up, restore") if "pg_" in lines[0])
    assert service.stop() == 0
    for line in back_up:
        succeeds(shell(line))
    destroy(service.environment["DATABASE_URL"])

    service.environment["DATABASE_URL"] = another_database
    for line in restore:
        succeeds(shell(line))
    wrong = shell("python manage.py backup_check", AIPROXY_MASTER_KEYS=keyset())
    assert wrong.returncode == 1
    assert "does not open: master key 1 is missing or another one" in wrong.stderr
    service.start()
    assert person.requests() == rows
    assert person.chat().status == 200


def destroy(url: str) -> None:
    with psycopg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")), autocommit=True) as server:
        server.execute(f'DROP DATABASE "{urlsplit(url).path[1:]}" WITH (FORCE)')
