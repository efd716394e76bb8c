"""A client's trace: its place in the record, for a collector, and nowhere else."""

import asyncio

import pytest
from django.db import connection

from usage.shipper import Shipper

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
on = pytest.mark.data_plane(AIPROXY_OTLP_ENDPOINT="http://127.0.0.1:4318")
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def told(plane):
    """The traceparent of every record so far."""

    def ship():
        found = []
        try:
            Shipper(plane.runtime.journal.directory, tell=found.extend).run_once()
        finally:
            connection.close()  # this thread's own
        return [end.traceparent for end in found]

    return lambda: asyncio.to_thread(ship)


@on
async def test_it_keeps_the_clients_trace_to_itself(client, provider, told):
    await client.post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT, "tracestate": "vendor=1"})
    assert await told() == [PARENT]
    assert not {"traceparent", "tracestate"} & dict(provider.requests[0].headers).keys()


@on
@pytest.mark.parametrize("given", ["", "no trace", PARENT.upper(), f"01{PARENT[2:]}", f"00-{'0' * 32}{PARENT[35:]}"])
async def test_it_goes_on_without_a_trace_that_is_none(client, told, given):
    answer = await client.post("/v1/chat/completions", json=CHAT, headers={"traceparent": given})
    assert answer.status_code == 200
    assert await told() == [""]


async def test_nobody_is_told_unless_there_is_a_collector(client, told):
    await client.post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT})
    assert await told() == [""]
