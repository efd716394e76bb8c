"""How the service ends when it is told to, and how it bears running out of descriptors."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.service import PATIENCE, Person, Service, mock_provider, running, until

CLIENTS = 200


@pytest.fixture(scope="module")
def slow_provider_url() -> Iterator[str]:
    with mock_provider(pace_ms=100) as url:
        yield url


@contextlib.asynccontextmanager
async def streams(person: Person, number: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many clients at once, each with a streamed request under way."""
    body = '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {person.key}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()
    opened = []
    try:
        for _ in range(number):
            with contextlib.suppress(ConnectionError):  # refused at once, like those that are reset later
                opened.append(await asyncio.open_connection("127.0.0.1", person.service.port))
                opened[-1][1].write(request)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    """0: the connection was reset."""
    with contextlib.suppress(ConnectionError):
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        return int(line.split()[1]) if line else 0
    return 0


def test_it_answers_503_when_descriptors_run_short_and_recovers(tmp_path, slow_provider_url):
    with running(tmp_path, descriptors=256, AIPROXY_OPENAI_BASE_URL=slow_provider_url) as service:
        service.set_plan(rpm=None, tpm=None, max_parallel=None)
        person, before = service.sign_up(), service.worker_pids()
        statuses = asyncio.run(_crowd(person))
        assert {200, 503} <= set(statuses) <= {200, 503, 0}
        until(lambda: person.chat().status == 200, "an answer after the crowd has left")
        assert service.worker_pids() == before
        assert "Too many open files" not in service.log.read_text()


async def _crowd(person: Person) -> list[int]:
    async with streams(person, CLIENTS) as readers:
        return await asyncio.gather(*map(status_of, readers))


def test_it_is_not_ready_from_the_moment_it_is_told_to_stop(tmp_path, slow_provider_url):
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=slow_provider_url, AIPROXY_GRACE="20") as service:
        assert asyncio.run(_ask_while_stopping(service.sign_up())) == (503, True, True)
        assert service.process.wait(PATIENCE) == 0


async def _ask_while_stopping(person: Person) -> tuple[int, bool, bool]:
    """What a probe under way is told, whether new connections are refused, whether a stream goes on to its end."""
    service = person.service
    assert service.process is not None
    probe, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n")
    async with streams(person, 1) as (stream,):
        await asyncio.wait_for(stream.readuntil(b"data: "), PATIENCE)
        service.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: not _accepts(service), "the end of new connections")
        writer.write(b"\r\n")
        told = await status_of(probe)
        writer.close()
        rest = await asyncio.wait_for(stream.read(), PATIENCE)
    return told, not _accepts(service), rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def _accepts(service: Service) -> bool:
    with contextlib.suppress(OSError):
        service.call("/livez")
        return True
    return False


def test_it_tells_streams_that_outlive_the_grace_time_and_records_them(tmp_path, slow_provider_url):
    with running(tmp_path, AIPROXY_OPENAI_BASE_URL=slow_provider_url, AIPROXY_GRACE="1.2") as service:
        person = service.sign_up()
        received = asyncio.run(_outlive_the_grace(person))
        assert b'"code":"shutting_down"' in received
        assert not received.endswith(b"0\r\n\r\n")
        service.start()
        assert [row["outcome"] for row in person.requests()] == ["drained"]


async def _outlive_the_grace(person: Person) -> bytes:
    async with streams(person, 1) as (stream,):
        head = await asyncio.wait_for(stream.readuntil(b"data: "), PATIENCE)
        stopping = asyncio.create_task(asyncio.to_thread(person.service.stop))
        received = head + await asyncio.wait_for(stream.read(), PATIENCE)
        assert await stopping == 0
    return received
