"""Exports of a whole service, which are made beside its workers."""

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.service import Service, manage, running, until

ROWS = 6_000  # twelve pages: more than fit between an exporter and a client that does not read
FILL = f"""
from accounts.ids import made_at, uuid7
from accounts.models import User
from usage.models import ProxyRequest
owner, ids = User.objects.get().pk, [uuid7() for _ in range({ROWS})]
ProxyRequest.objects.bulk_create(ProxyRequest(
    id=id, user_id=owner, proxy_key_id=owner, created_at=made_at(id), status_code=200, latency_ms=1, writer="test",
    error_message="e" * 200) for id in ids)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("exports"), AIPROXY_GRACE="1") as service:
        yield service


@pytest.fixture(scope="module")
def owner(service):
    owner = service.sign_up()
    manage(service.environment, "shell", "-c", FILL)
    return owner


def exporter(service):
    """The process of the last one that began."""
    begun = r"The exporter process has begun, pid (\d+)"
    return int(until(lambda: re.findall(begun, service.log.read_text()), "an exporter")[-1])


def export(service, owner):
    return json.loads(service.call("/auth/me/export", token=owner.token).body)


def begin_export(service, owner):
    """By a client that takes little at once."""
    client = http.client.HTTPConnection("127.0.0.1", service.port)
    client.sock = socket.socket()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sock.settimeout(30)
    client.sock.connect(("127.0.0.1", service.port))
    client.request("GET", "/auth/me/export", headers={"Authorization": f"Bearer {owner.token}"})
    return client, client.getresponse()


def test_an_export_is_whole(service, owner):
    found = export(service, owner)
    assert found["account"]["email"] == "owner@example.com"
    assert len({row["id"] for row in found["requests"]}) == ROWS


def test_an_export_whose_maker_is_killed_is_seen_to_be_broken_and_the_next_is_whole(service, owner):
    client, broken = begin_export(service, owner)
    os.kill(exporter(service), signal.SIGKILL)
    with pytest.raises(http.client.IncompleteRead):
        broken.read()
    client.close()
    assert len(export(service, owner)["requests"]) == ROWS


def test_an_export_that_was_not_begun_is_made_by_the_next_exporter(service, owner):
    first, found = exporter(service), []
    os.kill(first, signal.SIGSTOP)
    asking = threading.Thread(target=lambda: found.append(export(service, owner)))
    asking.start()
    os.kill(first, signal.SIGKILL)
    asking.join()
    assert len(found[0]["requests"]) == ROWS
    until(lambda: exporter(service) != first, "the next exporter")


def test_an_export_that_outlives_the_grace_time_leaves_no_trace_in_the_log(service, owner):
    client, broken = begin_export(service, owner)
    assert service.stop() == 0
    with pytest.raises(http.client.IncompleteRead):
        broken.read()
    client.close()
    assert "Exception ignored" not in service.log.read_text()
