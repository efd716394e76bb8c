"""`manage.py serve` and what it starts: real processes, real signals."""

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from aiproxy.management.commands.serve import refuse_taken, serve_metrics
from aiproxy.metrics_directory import PREFIX, remove_left
from proxy.tests.raw_http import RawClient
from tests.servers import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 30  # seconds; a limit, not an expectation
GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (met := condition()):
        assert time.monotonic() < deadline, "it did not happen"
    return met


class Served:
    """A process with what it printed, line by line."""

    def __init__(self, *arguments, stdout=None, **environment):
        kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**kept, **environment},
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._output = self.process.stderr if stdout else self.process.stdout
        self.lines = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._output:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        self._output.close()

    def line(self, pattern, count=1):
        """The match in the `count`th line that has one."""

        def found():
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._more:
            assert self._more.wait_for(lambda: len(found()) >= count, PATIENCE), self.lines
        return found()[count - 1]

    def client(self):
        return RawClient(int(self.line(r"^Ready at http://127\.0\.0\.1:(\d+) ")[1]))

    def ask(self, path):
        with self.client() as client:
            return client.send(GET % path).answer()

    def children(self):
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def signal(self, number, pid=None):
        os.kill(pid or self.process.pid, number)
        return self

    def end(self):
        """The exit code, once everything that could print has ended."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), "a process was left behind"
        return code


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments, stdout=None, **environment):
        environment = {"AIPROXY_DATA_DIR": str(tmp_path), "AIPROXY_ENV_FILE": str(tmp_path / "none"), **environment}
        started.append(Served(*arguments, stdout=stdout, **environment))
        return started[-1]

    yield start
    for served in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(served.process.pid, signal.SIGKILL)
        served.end()


@pytest.fixture
def stage(start, tmp_path):
    def stage(workers=1, grace=5):
        module = "aiproxy.tests.serve_stage"
        return start("-m", module, str(workers), str(tmp_path / "flag"), AIPROXY_GRACE=str(grace))

    return stage


@pytest.fixture
def serve(start):
    return lambda *options, **environment: start("manage.py", "serve", "--port", "0", *options, **environment)


# --- The command ---------------------------------------------------------------------------------------


def test_it_serves_warns_of_migrations_and_ends_without_a_trace(serve):
    port = free_port()
    served = serve("--grace", "5", AIPROXY_METRICS_PORT=str(port))
    assert served.ask(b"livez").status == 200
    assert served.ask(b"readyz").status == 503
    served.line("migrations are pending: run `manage.py migrate`")
    for name in ("exporter", "shipper", "metrics"):
        served.line(f"The {name} process has begun")
    family = served.children()
    assert len(family) == 4
    until(lambda: answers(port, b"metrics"))
    open_files = map(os.readlink, Path(f"/proc/{served.process.pid}/fd").iterdir())
    [metrics] = {Path(name).parent for name in open_files if PREFIX in name}
    assert list(metrics.glob("counter_*.db"))

    with served.client() as client:
        client.send(b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: 2\r\n\r\n{")
        assert served.ask(b"livez").status == 200
        served.signal(signal.SIGTERM)
        until(lambda: refuses(served))
        answer = client.send(b"}").answer()
        assert answer.headers["connection"] == "close"
        assert b"email" in answer.body
    assert served.end() == 0
    assert not any(map(alive, family))
    assert not metrics.exists()
    assert not [line for line in served.lines if "ERROR" in line or "closing socket" in line], served.lines


def answers(port, path):
    try:
        with RawClient(port) as client:
            return client.send(GET % path).head()[0] == 200
    except ConnectionError:
        return False


def refuses(served):
    try:
        served.client().close()
    except ConnectionError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


def test_it_serves_where_nobody_hears_that_it_does(start):
    port = free_port()
    with open("/dev/full", "w") as full:
        served = start("manage.py", "serve", "--port", str(port), stdout=full)
    until(lambda: answers(port, b"livez"))
    assert served.signal(signal.SIGTERM).end() == 0
    assert not [line for line in served.lines if "ERROR" in line or "Traceback" in line], served.lines


def test_it_refuses_several_workers_without_redis(settings):
    settings.REDIS_URL = ""
    with pytest.raises(CommandError, match="Set REDIS_URL, or serve with --workers 1"):
        call_command("serve", "--workers", "2")


@pytest.mark.parametrize("options", [("--port", "http"), ("--workers", "0"), ("--grace", "-1")])
def test_it_refuses_options_that_make_no_sense(options):
    with pytest.raises(CommandError, match="it must be"):
        call_command("serve", *options)


def test_it_refuses_to_start_without_secrets_and_says_how_to_make_them(serve):
    served = serve(SECRET_KEY="")
    served.line("SECRET_KEY is not set")
    served.line("HINT: Generate one")
    assert served.end() == 1


@pytest.mark.parametrize("options", [["--port={}"], ["--port=0"]], ids=["own", "metrics"])
def test_it_refuses_to_start_where_it_cannot_listen(serve, options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(*(option.format(port) for option in options), AIPROXY_METRICS_PORT=str(port))
        served.line(rf"Cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)\. Stop what uses it, or choose")
        assert served.end() == 1


def test_it_refuses_one_port_for_two_of_its_own():
    wanted = ("127.0.0.1", free_port(), "Choose another.")
    with pytest.raises(CommandError, match=r"Address already in use\)\. Choose another\."):
        refuse_taken(wanted, wanted)


@pytest.mark.parametrize("host", ["no..name", "192.0.2.1"])
def test_it_refuses_a_host_that_is_not_here(host):
    with pytest.raises(CommandError, match=f"Cannot listen on {host}:0 "):
        refuse_taken((host, 0, ""))


def test_it_says_in_a_line_that_the_port_of_the_metrics_is_taken_meanwhile(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.AIPROXY_METRICS_PORT = taken.getsockname()[1]
        serve_metrics(threading.Event())
    (record,) = caplog.records
    assert f"cannot listen on 127.0.0.1:{settings.AIPROXY_METRICS_PORT}" in record.getMessage()
    assert record.exc_info is None


# --- Processes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "grace"), [(signal.SIGTERM, "5.0"), (signal.SIGINT, "1.0")])
def test_it_lets_an_open_stream_finish(stage, number, grace):
    served = stage()
    with served.client() as client:
        client.send(GET % b"stream").head()
        assert client.chunk() == b"begin"
        served.signal(number)
        assert client.chunk().decode() == grace
        assert client.chunk() == b""
    assert served.end() == 0


def test_it_gives_a_stream_the_whole_grace_and_ends_a_stuck_one_after_it(stage):
    served = stage(grace=1)
    with served.client() as long, served.client() as stuck:
        stuck.send(GET % b"stuck").head()
        long.send(GET % b"long").head()
        served.signal(signal.SIGTERM)
        assert b"".join(iter(long.chunk, b"")) == b"beginend"
        assert stuck.chunk() == b"begin"
        assert stuck.is_closed()
    assert served.end() == 0


def test_it_hurries_when_told_again(stage):
    served = stage(grace=20)
    with served.client() as client:
        client.send(GET % b"stuck").head()
        served.signal(signal.SIGTERM)
        until(lambda: refuses(served))
        served.signal(signal.SIGINT)
        assert client.chunk() == b"begin"
        assert client.is_closed()
    assert served.end() == 0


def test_it_replaces_a_killed_worker_while_the_other_serves(stage):
    served = stage(workers=2)
    pids = until(lambda: both(served))
    served.signal(signal.SIGKILL, pids.pop())
    assert served.ask(b"pid").status == 200
    assert len(until(lambda: both(served)) - pids) == 1


def both(served):
    pids = {int(served.ask(b"pid").body) for _ in range(8)}
    return pids if len(pids) == 2 else None


def test_it_stops_when_the_first_worker_cannot_start(stage, tmp_path):
    (tmp_path / "flag").touch()
    served = stage()
    served.line("the flag is up")
    assert served.end() == 3


def test_it_keeps_serving_when_a_later_worker_cannot_start(stage, tmp_path):
    served = stage(workers=2)
    pids = until(lambda: both(served))
    (tmp_path / "flag").touch()
    served.signal(signal.SIGKILL, pids.pop())
    served.line("the flag is up")
    assert int(served.ask(b"pid").body) in pids
    (tmp_path / "flag").unlink()
    assert until(lambda: both(served))


def test_it_starts_another_side_process_when_one_dies(stage):
    served = stage()
    first = int(served.line(r"^side (\d+)")[1])
    served.signal(signal.SIGKILL, first)
    served.line("The side process ended")
    assert int(served.line(r"^side (\d+)", 2)[1]) != first
    assert served.signal(signal.SIGTERM).end() == 0


def test_no_process_of_it_leaves_a_dump_with_keys(stage):
    served = stage()
    served.line("^side ")
    assert served.ask(b"pid").status == 200
    for pid in (served.process.pid, *served.children()):
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)


def test_it_ends_the_side_process_after_the_workers_even_if_all_are_told_at_once(stage):
    served = stage(workers=2)
    served.line("^side ")
    until(lambda: both(served))
    os.killpg(served.process.pid, signal.SIGTERM)
    assert served.end() == 0
    assert [line for line in served.lines if line.endswith("ended")] == ["worker ended"] * 2 + ["side ended"]


def test_it_leaves_no_orphans_when_the_master_is_killed(stage):
    served = stage(workers=2)
    served.line("^side ")
    with served.client() as client:
        client.send(GET % b"stream").head()
        family = served.children()
        served.signal(signal.SIGKILL)
        assert b"".join(iter(client.chunk, b"")) == b"begin5.0"
    assert served.end() == -signal.SIGKILL
    assert len(family) == 3
    until(lambda: not any(map(alive, family)))


def test_a_worker_told_alone_is_replaced(stage):
    served = stage()
    pid = int(served.ask(b"pid").body)
    served.signal(signal.SIGTERM, pid)
    served.line("worker ended")
    assert until(lambda: not alive(pid)) and int(served.ask(b"pid").body) != pid
    assert served.signal(signal.SIGTERM).end() == 0


def test_refusals_of_the_server_have_the_shape_of_the_api(stage):
    with stage().client() as client:
        answer = client.send(b"GET / HTTP/1.1\r\n\r\n").answer()
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


def test_it_removes_what_killed_services_left_and_nothing_else(tmp_path):
    for name in ("left", "held", "new"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
    (tmp_path / f"{PREFIX}left" / "lock").touch()
    with open(tmp_path / f"{PREFIX}held" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_left(tmp_path)
    assert {entry.name.removeprefix(PREFIX) for entry in tmp_path.iterdir()} == {"held", "new"}
