"""The whole service as an operator starts it, for tests: `manage.py serve` and everything it supervises."""

import atexit
import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.environment import PATIENT, fresh_secrets
from tests.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds; a limit, not an expectation


def until(condition: Callable[[], object], what: str) -> object:
    """Polls until the condition holds; fails saying what never came."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE:g} s")


def manage(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _migrated_sqlite() -> Path:
    """What `migrate` makes of no database: seconds of work that need to be done once a run."""
    directory = Path(tempfile.mkdtemp(prefix="aiproxy-migrated-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    service = Service(directory)
    manage(service.environment, "migrate", "--verbosity", "0")
    return directory / "data" / "aiproxy.sqlite3"


@dataclass
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """One installation: its settings, its database, and the processes of `serve` while it runs."""

    def __init__(self, directory: Path, *, workers: int = 1, descriptors: int = 0, **settings: str) -> None:
        """`descriptors`: how many files each process may have open, as by `ulimit -n`; 0: as many as we may."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
        self.directory = directory
        self.port = free_port()
        self.workers = workers
        self.descriptors = descriptors
        self.environment = {
            **kept,
            **fresh_secrets(),
            "AIPROXY_HTTPS": "false",
            "AIPROXY_ENV_FILE": str(directory / "no.env"),
            "AIPROXY_DATA_DIR": str(directory / "data"),
            "AIPROXY_GRACE": "5",
            **PATIENT,
            **settings,
        }
        (directory / "data").mkdir(exist_ok=True)
        self.log = directory / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def migrate(self) -> None:
        if "DATABASE_URL" in self.environment:
            manage(self.environment, "migrate", "--verbosity", "0")
        else:
            shutil.copy(_migrated_sqlite(), self.directory / "data" / "aiproxy.sqlite3")

    def start(self) -> "Service":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=self._limit_descriptors if self.descriptors else None,
            )  # fmt: skip
        until(self._is_ready, "the service is ready")
        return self

    def command(self) -> list[str]:
        return [sys.executable, "manage.py", "serve", "--port", str(self.port), "--workers", str(self.workers)]

    def _limit_descriptors(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return self.call("/readyz").status == 200
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """As after a power cut of the process tree: nobody says goodbye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # it would replace whom we kill
        for pid in [*self.family()[1:], self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def children(self, parent: int) -> list[int]:
        with contextlib.suppress(OSError):  # it may end while we look
            return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        return []

    def family(self) -> list[int]:
        """The master, and all processes under it."""
        assert self.process is not None
        family = [self.process.pid]
        for pid in family:
            family += self.children(pid)
        return family

    def worker_pids(self) -> list[int]:
        """The processes that accept requests."""
        return [pid for pid in self.family() if self._holds_journal(pid)]

    def _holds_journal(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # others come and go while we look
                    link = os.readlink(descriptor)
                    if "/journal/" in link and link.endswith(".lock") and "shipper" not in link:
                        return True
        return False

    def call(self, path: str, body: object = None, *, token: str = "", method: str = "") -> Reply:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, method=method or None)
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Reply(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read(), dict(error.headers))

    def sign_up(self, email: str = "owner@example.com", provider_key: str = "demo-" + "k" * 30) -> "Person":
        """A person with a stored OpenAI key and a proxy key, made over HTTP as anyone would."""
        signed = self.call("/auth/signup", {"email": email, "password": "correct horse battery"})
        assert signed.status == 201, signed.body
        token = signed.json()["token"]
        stored = self.call("/api-keys", {"provider": "openai", "label": "main", "key": provider_key}, token=token)
        assert stored.status == 201, stored.body
        minted = self.call("/proxy-api-keys/generate", {"name": "test"}, token=token)
        assert minted.status == 201, minted.body
        return Person(self, token, minted.json()["id"], minted.json()["key"])

    def set_plan(self, **limits: int | None) -> None:
        """The limits of everybody's plan, as staff would set them."""
        changes = "; ".join(f"plan.{name} = {value!r}" for name, value in limits.items())
        code = f"from accounts.models import Plan; plan = Plan.objects.get(code='free'); {changes}; plan.save()"
        manage(self.environment, "shell", "-c", code)


@dataclass
class Person:
    service: Service
    token: str
    key_id: str
    key: str

    def chat(self, **fields: object) -> Reply:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.service.call("/v1/chat/completions", body, token=self.key)

    def requests(self) -> list[dict]:
        """Every row of theirs, newest first."""
        rows, path = [], "/usage/requests?limit=200"
        while path:
            page = self.service.call(path, token=self.token).json()
            rows += page["results"]
            path = (page.get("next") or "").removeprefix(self.service.url)
        return rows


@contextlib.contextmanager
def running(directory: Path, *, workers: int = 1, descriptors: int = 0, **settings: str) -> Iterator[Service]:
    """A service with a migrated database, stopped at the end."""
    service = Service(directory, workers=workers, descriptors=descriptors, **settings)
    service.migrate()
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def mock_provider(pace_ms: float = 0) -> Iterator[str]:
    """The base URL of a demo provider in a process of its own."""
    port = free_port()
    command = [sys.executable, "manage.py", "mock_provider", "--port", str(port), "--pace", str(pace_ms)]
    environment = {**os.environ, **fresh_secrets()}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()
