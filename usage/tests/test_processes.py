"""Real processes, really killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import connection

from usage.journal import Journal
from usage.models import ProxyRequest
from usage.tests.conftest import a_begin, exchange, rows, sums_match_rows, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ship(tmp_path):
    """Starts `manage.py ship_usage` on the test's database."""
    name = str(connection.settings_dict["NAME"])
    url = os.environ["DATABASE_URL"]
    url = f"sqlite:///{name}" if url.startswith("sqlite") else urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    environment = {**os.environ, "DATABASE_URL": url, "AIPROXY_DATA_DIR": str(tmp_path)}
    command = [sys.executable, str(Path(__file__).parents[2] / "manage.py"), "ship_usage"]
    started = []

    def ship():
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield ship
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_loses_and_doubles_nothing_when_the_shipper_is_killed_and_ships_the_rest_when_told_to_stop(ship, directory):
    journal = Journal(directory, segment_bytes=128 << 10)
    journal.open()
    journal.begin(begun := a_begin())
    ids = set()
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = ship()
        ids |= {exchange(journal) for _ in range(600)}
        before = ProxyRequest.objects.count()
        wait_until(lambda before=before: ProxyRequest.objects.count() > before)
        if kill == signal.SIGTERM:
            journal.close()
        process.send_signal(kill)
        process.wait()

    assert process.returncode == 0
    assert process.stdout.read() == "Stopped.\n"
    assert set(rows()) == ids | {begun.id}
    assert sums_match_rows()
