"""`make run` on a bare checkout: what it prints works, what it made stays, what it started ends."""

import itertools
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60  # seconds; a limit, not an expectation


class Run:
    """One start of the demo. `text` is what it has printed."""

    def __init__(self, directory: Path, **environment: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "quickstart"],
            cwd=ROOT,
            env=kept
            | {"AIPROXY_DATA_DIR": str(directory / "var"), "AIPROXY_ENV_FILE": str(directory / ".env")}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.text = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._grown:
                    self.text += line
                    self._grown.notify_all()
        self.process.wait()
        with self._grown:
            self._grown.notify_all()

    def wait_for(self, sentence: str) -> "Run":
        def settled() -> bool:
            return sentence in self.text or self.process.poll() is not None

        with self._grown:
            assert self._grown.wait_for(settled, PATIENCE), self.text
        if self.process.poll() is not None:
            self._reader.join(PATIENCE)
        assert sentence in self.text, self.text
        return self

    def children(self) -> list[int]:
        tree = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = [tuple(map(int, line.split())) for line in tree.splitlines()]
        family = [self.process.pid]
        for pid in family:
            family += [child for child, parent in parents if parent == pid]
        return family

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self.join()
        return status

    def join(self) -> None:
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), self.text

    def curl(self) -> list[str]:
        """The line to paste, as a shell would split it."""
        return shlex.split(next(line for line in self.text.splitlines() if line.startswith("curl -N ")))


def paste(line: list[str]) -> str:
    """Runs the line with curl, or, where there is none, sends what it says."""
    if shutil.which("curl"):
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout
    values = [value for option, value in itertools.pairwise(line) if option == "-H"]
    headers = dict(value.split(": ", 1) for value in values)
    request = urllib.request.Request(line[2], line[line.index("-d") + 1].encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read().decode()


def spoken(stream: str) -> str:
    events = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", stream, re.M)]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid: int) -> bool:
    """Waits for the end of a process that is not our child."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], PATIENCE)[0])
    finally:
        os.close(process)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def started(**environment: str) -> Run:
        runs.append(Run(tmp_path, **environment))
        return runs[-1]

    yield started
    for run in runs:
        run.stop()


def test_the_demo_streams_and_a_second_start_keeps_its_data(start, tmp_path):
    port = str(free_port())
    first = start(PORT=port).wait_for("Ctrl-C stops it.")
    stream = paste(first.curl())
    assert "Who are you?" in spoken(stream)
    assert stream.rstrip().endswith("data: [DONE]")
    family = first.children()
    assert len(family) > 2
    assert first.stop(signal.SIGINT) == 0, first.text
    assert [pid for pid in family if alive(pid)] == []
    for private in (tmp_path / ".env", tmp_path / "var" / "demo.json"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600

    second = start(PORT=port).wait_for("Ctrl-C stops it.")
    assert second.curl() == first.curl()
    assert paste(second.curl()).rstrip().endswith("data: [DONE]")
    assert second.stop(signal.SIGTERM) == 0, second.text


@pytest.mark.postgres
def test_the_demo_runs_on_the_database_and_redis_it_is_given(start, postgres_database, redis_url):
    run = start(PORT=str(free_port()), DATABASE_URL=postgres_database, REDIS_URL=redis_url)
    assert paste(run.wait_for("Ctrl-C stops it.").curl()).rstrip().endswith("data: [DONE]")
    assert run.stop() == 0, run.text
    with psycopg.connect(postgres_database) as connection:
        rows = connection.execute("select status_code, streamed from proxy_requests").fetchall()
    assert rows == [(200, True)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_it_leaves_nothing_behind_when_it_is_killed(start):
    run = start(PORT=str(free_port())).wait_for("Ctrl-C stops it.")
    family = run.children()
    run.process.kill()
    run.join()
    assert family
    assert all(ends(pid) for pid in family)


def test_it_says_so_when_the_port_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start(PORT=str(taken.getsockname()[1]))
        assert run.wait_for("choose another: make run PORT=").process.wait(PATIENCE) == 1
    assert "Traceback" not in run.text


def test_it_says_so_when_the_port_is_no_port(start):
    run = start(PORT="http")
    assert run.wait_for("must be a number from 1 to 65535").process.wait(PATIENCE) == 1
