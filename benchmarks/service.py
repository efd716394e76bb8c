"""This service as a target: with everything on, on its embedded default, and with TLS to the provider.

`serve --no-shipper` is the measured proxy, alone on its core; the shipper (`manage.py ship_usage`, which may run
anywhere) has its place with the load, and its own account. Knows the tests' Service, which starts and fills one.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.client import Endpoint
from benchmarks.machine import LOAD, ROOT, TARGET, in_the_background, on_core
from benchmarks.processes import OPENER, Running, resident_mb
from benchmarks.targets import CACHE, Target, install
from tests.servers import Servers, free_port
from tests.service import Person, Service

PLENTY = 1_000_000_000  # limits that are checked and never reached


class Backends(Servers):
    """A PostgreSQL and a Redis of this run alone, unless TEST_DATABASE_URL and TEST_REDIS_URL name others."""

    def begin(self) -> None:
        self.redis = os.environ.get("TEST_REDIS_URL") or self.start_redis()
        begun = len(self.started)
        self.database = os.environ.get("TEST_DATABASE_URL") or self.start_postgres()
        for server in self.started[begun:]:  # it serves the shipper: what clients wait for comes first
            in_the_background(server.pid)


def production_python() -> Path:
    """Of an environment like the peers', with what an installation has and no more: requirements/prod.txt."""
    wanted = ROOT / "requirements" / "prod.txt"
    home = CACHE / f"aiproxy-{sha256(wanted.read_bytes()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    install([sys.executable, "-m", "venv", home], python, directory=CACHE)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", wanted]
    install(pip, home / "bin" / "gunicorn", directory=home)
    return python


class Aiproxy(Target):
    """`settings` say what is on. The owner's plan and key have limits on everything."""

    def __init__(
        self, directory: Path, provider: int, *, name: str, title: str, workers: int = 1, **settings: str
    ) -> None:
        self.name, self.title, self.workers = name, title, workers
        super().__init__(directory, provider)
        home = directory / name
        home.mkdir()
        quick = {"AIPROXY_SIGNUP_RATE": "1000/minute", "AIPROXY_LOGIN_RATE": "100000/minute"}
        quick |= {"AIPROXY_REDIS_TIMEOUT": "0.05", "AIPROXY_DATABASE_TIMEOUT": "1"}  # as unless set; tests wait longer
        upstream = {"AIPROXY_OPENAI_BASE_URL": f"http://127.0.0.1:{provider}/v1"}
        self.service = Service(home, **{**upstream, **quick, **settings})  # type: ignore[arg-type]
        self.service.port = self.port
        self.shipper: Running | None = None
        self.owner: Person | None = None

    def start(self) -> float:
        if self.owner is None:
            with on_core(LOAD):
                self.service.migrate()
                self.service.set_plan(rpm=PLENTY, tpm=PLENTY, max_parallel=PLENTY)
        manage = [str(production_python()), str(ROOT / "manage.py")]
        command = [*manage, "serve", "--workers", str(self.workers), "--no-shipper", "--port", str(self.port)]
        self.running = Running(command, self.log, core=TARGET, environment=self.service.environment)
        seconds = self.running.wait_for(self.url("/health"))
        self.service.process = self.running.process
        if self.owner is None:
            self.owner = self._owner()
        self.endpoint = Endpoint(self.port, headers=(("authorization", f"Bearer {self.owner.key}"),))
        self.shipper = Running([*manage, "ship_usage"], self.directory / f"{self.name}-shipper.log", core=LOAD,
                               environment=self.service.environment)  # fmt: skip
        in_the_background(self.shipper.process.pid)
        return seconds

    def _owner(self) -> Person:
        owner = self.service.sign_up()
        limits = {"rpm": PLENTY, "tpm": PLENTY, "max_parallel": PLENTY}
        minted = self.service.call("/proxy-api-keys/generate", {"name": "bench", **limits}, token=owner.token)
        assert minted.status == 201, minted.body
        return Person(self.service, owner.token, minted.json()["id"], minted.json()["key"])

    def stop(self) -> None:
        super().stop()
        if self.shipper is not None:
            self.shipper.stop()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The shipper pauses. The journal holds what is recorded meanwhile."""
        assert self.shipper is not None
        self.shipper.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.shipper.process.send_signal(signal.SIGCONT)

    def worker(self) -> int:
        [pid] = self.service.worker_pids()
        return pid

    def worker_mb(self) -> float:
        return resident_mb(self.worker())

    def respawn_seconds(self) -> float:
        """From kill -9 of the worker to the answer of the next one, which waits in the backlog meanwhile."""
        os.kill(self.worker(), signal.SIGKILL)
        begun = time.perf_counter()
        while time.perf_counter() - begun < 10:
            with contextlib.suppress(OSError), OPENER.open(self.url("/livez"), timeout=10):
                return time.perf_counter() - begun
        raise AssertionError("no worker came back")

    def rows(self) -> int:
        with psycopg.connect(self.service.environment["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT count(*) FROM proxy_requests").fetchone()
        assert row is not None
        return int(row[0])

    def shipper_cpu_seconds(self) -> float:
        return self.shipper.cpu_seconds() if self.shipper else 0.0

    def shipped(self, patience: float) -> float:
        """Waits until the journal is in the database: how many rows there were left to move a second."""
        begun, before = time.perf_counter(), self.rows()
        rows, elapsed = before, 0.0
        while time.perf_counter() - begun < patience:
            time.sleep(1.5)
            last, rows = rows, self.rows()
            if rows == last:
                break
            elapsed = time.perf_counter() - begun
        return (rows - before) / elapsed if elapsed else 0.0

    def metric(self, pattern: str) -> dict[str, float]:
        """Samples of /metrics whose name and labels match."""
        token = self.service.environment.get("AIPROXY_METRICS_TOKEN", "")
        text = self.service.call("/metrics", token=token).body.decode()
        found = re.findall(rf"^({pattern}) (\S+)$", text, re.MULTILINE)
        return {match[0]: float(match[-1]) for match in found}


def with_everything(
    directory: Path,
    provider: int,
    backends: Backends,
    *,
    name: str = "aiproxy",
    title: str = "aiproxy, everything on",
    workers: int = 1,
    **settings: str,
) -> Aiproxy:
    database = backends.database.rpartition("/")[0] + f"/bench_{name}_{os.getpid()}"
    create_database(backends.database, database.rpartition("/")[2])
    return Aiproxy(
        directory, provider, name=name, title=title, workers=workers,
        DATABASE_URL=database, REDIS_URL=backends.redis, AIPROXY_METRICS_TOKEN="m" * 8 + os.urandom(24).hex(),
        **settings,
    )  # fmt: skip


def embedded(directory: Path, provider: int) -> Aiproxy:
    return Aiproxy(directory, provider, name="aiproxy_embedded", title="aiproxy, embedded (SQLite, memory)")


def create_database(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def start_provider(directory: Path, *, tls: bool = False) -> tuple[Running, int, int, Path]:
    """The process, its port, its TLS port (0: none), and the root to trust."""
    port, tls_port, certificate, root = free_port(), 0, directory / "provider.pem", directory / "root.pem"
    command = [sys.executable, "-m", "benchmarks.provider", str(port)]
    if tls:
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(root))
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        tls_port = free_port()
        command += ["--tls-port", str(tls_port), "--certificate", str(certificate)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = Running(command, directory / "provider.log", core=LOAD, environment=environment)
    return running, port, tls_port, root
