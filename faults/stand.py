"""Owns what is under test: a PostgreSQL, a Redis and the service with two workers, and the handles to hurt them by.

Every handle says in a `Fault` when it began to hurt and when it was over; the verdict excuses nothing else. Processes
are found by the locks they hold, as an operator would.
"""

import asyncio
import contextlib
import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis
from psycopg.rows import dict_row

from faults.clients import Tenant
from faults.script import FIRST_BYTE_TIMEOUT, IDLE_TIMEOUT
from proxy.limits import LEASE_SECONDS
from proxy.tests.limits_redis import sessions
from tests.servers import Server, Servers
from tests.service import Person, Service, until

WORKERS = 2
GRACE = 1.5  # of which a second is for last words: some streams are cut off
TOTAL_TIMEOUT = 15.0
JOURNAL_DISK = "24m"
# Small, so that a run turns over many; at the least size that the journal takes.
SEGMENT = 40_960
RPM = 30
PARALLEL = 3
# What a worker needs after a server is back: the limiter's longest pause, the policies' probe.
RECOVERY = 1.5


@dataclass(slots=True)
class Fault:
    kind: str
    began: float
    ended: float = float("inf")
    detail: str = ""
    dice: random.Random = field(default_factory=random.Random, repr=False)  # how long, which one, where


@dataclass(slots=True)
class Ledger:
    """What was done to the service, for the verdict."""

    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)  # found on the way
    damaged: dict[UUID, str] = field(default_factory=dict)  # ids of damaged journal records, and the model they name
    killed_writers: set[str] = field(default_factory=set)
    worker_starts: list[float] = field(default_factory=list)
    respawns: list[float] = field(default_factory=list)  # seconds until a killed worker's successor took requests
    skipped: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def fault(self, kind: str) -> Any:
        fault = Fault(kind, time.monotonic())
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.ended = time.monotonic()


class Stand:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = Ledger()
        self.servers = Servers(directory)
        self.postgres: Server
        self.redis: Server
        self.service: Service
        self.people: dict[str, Person] = {}
        self.tenants: dict[str, Tenant] = {}
        self.has_small_disk = False

    # --- Up and down -----------------------------------------------------------------------------------

    def start(self, provider_port: int) -> None:
        database = self.servers.start_postgres()
        self.postgres = self.servers.started[-1]
        limits = self.servers.start_redis()
        self.redis = self.servers.started[-1]
        self.service = Service(
            self.directory,
            workers=WORKERS,
            DATABASE_URL=database,
            REDIS_URL=limits,
            AIPROXY_REDIS_TIMEOUT="0.25",  # a machine that is busy with the faults is no outage
            AIPROXY_OPENAI_BASE_URL=f"http://127.0.0.1:{provider_port}/v1",
            AIPROXY_FIRST_BYTE_TIMEOUT=str(FIRST_BYTE_TIMEOUT),
            AIPROXY_STREAM_IDLE_TIMEOUT=str(IDLE_TIMEOUT),
            AIPROXY_TOTAL_TIMEOUT=str(TOTAL_TIMEOUT),
            AIPROXY_GRACE=str(GRACE),
            # The provider fails on purpose here, and each request is to meet what its script says, once a key.
            AIPROXY_BREAKER_FAILURES="0",
            AIPROXY_RETRY_AFTER_WAIT="0",
            AIPROXY_JOURNAL_SEGMENT=str(SEGMENT),
            AIPROXY_ACCESS_TOKEN_MINUTES="600",
            AIPROXY_PROXY_KEYS_RATE="1000/minute",
        )
        self._mount_small_disk()
        self.service.migrate()
        self.service.start()
        self.service.set_plan(rpm=None, tpm=100_000_000, max_parallel=1000)
        self._sign_up()

    def _mount_small_disk(self) -> None:
        """A disk that can be full without harm to anything else; only root can have one."""
        self.journal.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={JOURNAL_DISK},mode=700", "aiproxy-faults", str(self.journal)]
        done = subprocess.run(command, capture_output=True, text=True)
        self.has_small_disk = done.returncode == 0
        if not self.has_small_disk:
            self.ledger.skipped.append(f"disk_full: no small disk could be mounted ({done.stderr.strip()})")

    def _sign_up(self) -> None:
        for name, limits in {
            "owner": {},
            "second": {},
            "limited": {"rpm": RPM},
            "narrow": {"max_parallel": PARALLEL},
        }.items():
            person = self.service.sign_up(f"{name}@example.com", provider_key=provider_key(name))
            if limits:
                minted = self.service.call(
                    "/proxy-api-keys/generate", {"name": "limited", **limits}, token=person.token
                )
                assert minted.status == 201, minted.body
                person = Person(self.service, person.token, minted.json()["id"], minted.json()["key"])
            if name == "owner":
                spare = {"provider": "openai", "label": "spare", "key": provider_key("spare")}
                assert self.service.call("/api-keys", spare, token=person.token).status == 201
            me = self.service.call("/auth/me", token=person.token).json()
            self.people[name] = person
            stored = self.service.call("/api-keys", token=person.token).json()["results"]
            keys = {provider_key("spare" if key["label"] == "spare" else name): key["id"] for key in stored}
            self.tenants[name] = Tenant(name, person.key, person.key_id, me["id"], keys)

    def stop(self) -> None:
        if hasattr(self, "service") and self.service.process is not None and self.service.process.poll() is None:
            self.service.kill()
        self.servers.stop()
        if self.has_small_disk:
            subprocess.run(["umount", "-l", self.journal], capture_output=True)

    # --- What is where ---------------------------------------------------------------------------------

    @property
    def journal(self) -> Path:
        return self.directory / "data" / "journal"

    def workers(self) -> dict[int, str]:
        """Process id -> the name it writes its journal under."""
        return {pid: writer for pid in self.service.worker_pids() if (writer := self.writer_of(pid))}

    def writer_of(self, pid: int) -> str:
        for link in _open_files(pid):
            if found := re.search(r"/journal/([0-9a-f]+)\.lock", link):
                return found[1]
        return ""

    def shipper(self) -> int:
        """0: there is none now."""
        assert self.service.process is not None
        for pid in self.service.children(self.service.process.pid):
            if any(link.endswith("/shipper.lock") for link in _open_files(pid)):
                return pid
        return 0

    def descriptors(self) -> dict[int, int]:
        """Open files of each worker, but for those to the provider: those are counted there."""
        return {pid: len(_open_files(pid)) for pid in self.workers()}

    def memory(self) -> dict[int, int]:
        """Resident MiB of each worker."""
        found = {}
        for pid in self.workers():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found[pid] = int(status.split("VmRSS:")[1].split()[0]) >> 10
        return found

    def segments(self) -> list[str]:
        return sorted(path.name for path in self.journal.iterdir() if path.suffix in {".open", ".sealed"})

    # --- Servers ---------------------------------------------------------------------------------------

    def redis_answers(self) -> bool:
        with redis.Redis.from_url(self.service.environment["REDIS_URL"], socket_timeout=0.3) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def postgres_answers(self) -> bool:
        try:
            psycopg.connect(self.service.environment["DATABASE_URL"], connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True

    def let_write(self, *, may: bool) -> None:
        """Whether connections may write, from now on; those there are end."""
        with psycopg.connect(self.service.environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if may else 'on'}")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid != pg_backend_pid()"
            )

    def slots(self) -> list[tuple[str, int, float]]:
        """Concurrency slots that are held: of whose account, how many, and when they were last heard of (monotonic)."""
        with redis.Redis.from_url(self.service.environment["REDIS_URL"]) as client:
            now, offset = time.time(), time.monotonic() - time.time()
            return [
                (key.decode(), slots, expiry / 1000 - LEASE_SECONDS + offset)
                for key in client.scan_iter("aiproxy:limits:*:*")
                for _, expiry, slots, *_ in sessions(client, key)
                if slots and expiry / 1000 > now
            ]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.service.environment["DATABASE_URL"]) as connection:
            return connection.execute(query).fetchall()

    def table(self, name: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.service.environment["DATABASE_URL"], row_factory=dict_row) as connection:
            return connection.execute(f"SELECT * FROM {name}").fetchall()


def provider_key(tenant: str) -> str:
    return f"demo-{tenant}-" + "k" * 20


def _open_files(pid: int) -> list[str]:
    links = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(os.readlink(link))
    return links


async def eventually(condition: Callable[[], object], what: str) -> Any:
    """`until`, without holding up the clients and the provider."""
    return await asyncio.to_thread(until, condition, what)
