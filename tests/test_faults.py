"""Nothing is lost: each fault here is real, on processes and servers that were started for it."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Servers
from tests.service import PATIENCE, Person, Service, mock_provider, running, until


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    with mock_provider(pace_ms=0) as url:
        yield url


@pytest.fixture(scope="module")
def slow_provider_url() -> Iterator[str]:
    with mock_provider(pace_ms=200) as url:
        yield url


async def _chat_raw(person: Person, *, stream: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", person.service.port)
    flag = "true" if stream else "false"
    body = f'{{"model":"gpt-4o-mini","stream":{flag},"messages":[{{"role":"user","content":"hi"}}]}}'
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {person.key}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    return reader, writer


async def _statuses(person: Person, number: int) -> list[int]:
    """The answers to this many requests at once, each on a connection of its own."""

    async def one() -> int:
        reader, writer = await _chat_raw(person)
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    return list(await asyncio.gather(*(one() for _ in range(number))))


def test_it_has_a_row_for_every_answer_after_everything_was_killed(tmp_path, provider_url):
    service = Service(tmp_path, AIPROXY_OPENAI_BASE_URL=provider_url)
    service.migrate()
    service.start()
    service.set_plan(rpm=None, tpm=None, max_parallel=None)
    person = service.sign_up()
    answered = [person.chat().headers["x-request-id"] for _ in range(200)]
    service.kill()
    service.start()
    try:
        until(lambda: len(person.requests()) >= 200, "200 rows")
        rows = [row["id"] for row in person.requests()]
        assert (len(rows), set(rows)) == (200, set(answered))
    finally:
        service.stop()


def test_it_marks_what_a_killed_worker_was_doing_and_replaces_it(tmp_path, slow_provider_url):
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=slow_provider_url) as service:
        person = service.sign_up()
        asyncio.run(_kill_mid_stream(service, person))
        rows = until(person.requests, "the row of the interrupted stream")
        assert [row["outcome"] for row in rows] == ["interrupted"]
        assert person.chat().status == 200


async def _kill_mid_stream(service: Service, person: Person) -> None:
    reader, writer = await _chat_raw(person, stream=True)
    await asyncio.wait_for(reader.readuntil(b"data: "), PATIENCE)
    (worker,) = service.worker_pids()
    os.kill(worker, signal.SIGKILL)
    assert not (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()
    await asyncio.to_thread(until, lambda: service.worker_pids() not in ([], [worker]), "a new worker")


def test_it_lets_streams_finish_on_sigterm_and_ships_their_rows(tmp_path, slow_provider_url):
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=slow_provider_url, AIPROXY_GRACE="20") as service:
        person = service.sign_up()
        received, code = asyncio.run(_stop_mid_stream(service, person))
        assert (received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), code) == (True, 0)
        service.start()
        assert [row["outcome"] for row in person.requests()] == ["ok"]


async def _stop_mid_stream(service: Service, person: Person) -> tuple[bytes, int]:
    reader, writer = await _chat_raw(person, stream=True)
    head = await asyncio.wait_for(reader.readuntil(b"data: "), PATIENCE)
    stopping = asyncio.create_task(asyncio.to_thread(service.stop))
    rest = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return head + rest, await stopping


@pytest.mark.postgres
def test_it_admits_what_the_limit_allows_whatever_the_number_of_workers(tmp_path, provider_url, postgres_database):
    settings = {
        "AIPROXY_OPENAI_BASE_URL": provider_url,
        "DATABASE_URL": postgres_database,
        "REDIS_URL": os.environ["TEST_REDIS_URL"],
        "AIPROXY_REDIS_TIMEOUT": "10",  # a slow machine is no outage
    }
    with running(tmp_path, workers=4, **settings) as service:
        service.set_plan(rpm=100, tpm=None, max_parallel=None)
        person = service.sign_up()
        began = time.monotonic()
        statuses = asyncio.run(_statuses(person, 1000))
        refilled = int((time.monotonic() - began) * 100 / 60) + 1
        assert set(statuses) == {200, 429}
        assert 100 <= statuses.count(200) <= 100 + refilled


@pytest.fixture
def servers() -> Iterator[Servers]:
    """In a directory that `nobody` can reach: PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="aiproxy-servers-") as directory:
        servers = Servers(Path(directory))
        yield servers
        servers.stop()


def test_it_serves_its_share_while_redis_is_stopped(tmp_path, provider_url, servers):
    url = servers.start_redis()
    redis = servers.started[-1]
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=provider_url, REDIS_URL=url) as service:
        person = service.sign_up()
        assert person.chat().status == 200
        redis.stop()
        assert {person.chat().status for _ in range(5)} == {200}
        until(lambda: service.call("/health").status == 503, "health says that Redis is away")
        redis.start()
        until(lambda: service.call("/health").json()["redis"] == "ok", "Redis is back")
        assert person.chat().status == 200
        assert service.call(f"/proxy-api-keys/{person.key_id}", token=person.token, method="DELETE").status == 204
        assert person.chat().status == 401
        redis.stop()


@pytest.mark.postgres
def test_it_serves_known_keys_while_postgresql_is_stopped_and_ships_later(tmp_path, provider_url, servers):
    url = servers.start_postgres()
    postgres = servers.started[-1]
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=provider_url, DATABASE_URL=url) as service:
        person = service.sign_up()
        unused = service.call("/proxy-api-keys/generate", {"name": "new"}, token=person.token).json()["key"]
        assert person.chat().status == 200
        postgres.stop()
        assert {person.chat().status for _ in range(10)} == {200}
        assert Person(service, "", "", unused).chat().status == 503
        assert service.call("/usage/requests", token=person.token).status == 503
        postgres.start()
        rows = until(lambda: _rows_when_back(person, 11), "11 rows after the outage")
        assert [row["outcome"] for row in rows] == ["ok"] * 11
        # The worker looks for itself whether the database is back.
        until(lambda: Person(service, "", "", unused).chat().status == 200, "the new key is served")
        postgres.stop()


def _rows_when_back(person: Person, number: int) -> list[dict]:
    if person.service.call("/usage/requests", token=person.token).status != 200:
        return []
    rows = person.requests()
    return rows if len(rows) >= number else []
