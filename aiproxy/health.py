"""Owns what load balancers and orchestrators are told: /health, /livez and /readyz.

A probe is asked in a thread of its own, once a second at most and never twice at a time; who asks meanwhile shares the
answer. So hammering costs nothing, and a dependency that hangs is reported after two seconds at the latest, and at once
from then on. Anonymous callers see states only; the log has the reasons.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, time

import redis
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from proxy.limits.redis import PREFIX
from usage import disk
from vault import canary

MAX_AGE = 1.0  # seconds
TIMEOUT = 2.0
# The shipper moves rows within a second or two; a sealed segment this old was left behind.
SHIPPER_ABSENT = 60.0
SHIPPER_STUCK = 300.0

# Set when the process has been told to stop: new connections belong elsewhere.
draining = False

logger = logging.getLogger(__name__)


class Probe:
    """The state of one dependency. `ask` returns it, or raises: then it is `down`."""

    def __init__(self, name: str, ask: Callable[[], str], *, max_age: float = MAX_AGE) -> None:
        self.name, self._ask, self._max_age = name, ask, max_age
        self._lock = threading.Lock()
        self._answer: Future[str] | None = None
        self._asked_at = self._answered_at = 0.0
        self._last = ""

    def state(self) -> str:
        answer = self._current()
        try:
            state = answer.result(max(0.0, self._asked_at + TIMEOUT - monotonic()))
        except TimeoutError:
            state = "timeout"
        if state != self._last:
            logger.log(logging.INFO if state in ("ok", "off") else logging.WARNING, "Probe of %s: %s", self.name, state)
            self._last = state
        return state

    def begin(self) -> None:
        self._current()

    def forget(self) -> None:
        with self._lock:
            self._answer = None

    def _current(self) -> Future[str]:
        with self._lock:
            answer = self._answer
            if answer is None or (answer.done() and monotonic() - self._answered_at >= self._max_age):
                self._answer = answer = Future()
                self._asked_at = monotonic()
                threading.Thread(target=self._run, args=(answer,), name=f"probe {self.name}", daemon=True).start()
            return answer

    def _run(self, answer: Future[str]) -> None:
        try:
            try:
                state = self._ask()
            finally:
                connection.close()
        except Exception as exc:
            logger.warning("Probe of %s failed: %s: %s", self.name, type(exc).__name__, exc)
            state = "down"
        self._answered_at = monotonic()
        answer.set_result(state)


def _ask_database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _ask_redis() -> str:
    """Whether it takes a key: one that may only be read, or is full, answers a ping all the same."""
    if not settings.REDIS_URL:
        return "off"
    with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1, socket_timeout=1) as client:
        client.set(f"{PREFIX}probe", "1", px=1000)
    return "ok"


_migrated: set[str] = set()


def _ask_migrations() -> str:
    """Once applied, they stay applied as long as this code runs."""
    database = str(connection.settings_dict["NAME"])
    if database not in _migrated:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return "pending"
        _migrated.add(database)
    return "ok"


def _ask_vault() -> str:
    problems = canary.problems()
    for problem in problems:
        logger.error("Probe of vault: %s", problem)
    return "key missing" if problems else "ok"


def journal_directory() -> Path:
    return Path(settings.AIPROXY_DATA_DIR) / "journal"


def _ask_journal() -> str:
    directory = journal_directory()
    if not directory.is_dir():
        return "absent"
    return "full" if disk.free_bytes(directory) < 2 * settings.AIPROXY_JOURNAL_SEGMENT else "ok"


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of this machine's journal is not in the database yet: sealed segments, and records laid aside for good."""

    segments: int
    size: int  # bytes
    oldest: float  # seconds
    laid_aside: int


def backlog() -> Backlog:
    sizes, oldest = [], 0.0
    for segment in journal_directory().glob("*.sealed"):
        with contextlib.suppress(FileNotFoundError):  # shipped meanwhile
            found = segment.stat()
            sizes.append(found.st_size)
            oldest = max(oldest, time() - found.st_mtime)
    laid_aside = sum(1 for _ in journal_directory().glob("dead/*.sealed"))
    return Backlog(len(sizes), sum(sizes), oldest, laid_aside)


def _ask_shipper() -> str:
    """Sealed segments wait for it; one may stay as long as an exchange that began in it."""
    oldest = backlog().oldest
    if oldest > SHIPPER_STUCK + settings.AIPROXY_TOTAL_TIMEOUT:
        return "stuck"
    absent = disk.is_locked(journal_directory() / "shipper.lock") is False
    return "absent" if absent and oldest > SHIPPER_ABSENT else "ok"


DATABASE = Probe("db", _ask_database)
REDIS = Probe("redis", _ask_redis)
MIGRATIONS = Probe("migrations", _ask_migrations)
# Opens rows and lists files: asked less often.
VAULT = Probe("vault", _ask_vault, max_age=10.0)
JOURNAL = Probe("journal", _ask_journal)
SHIPPER = Probe("shipper", _ask_shipper, max_age=10.0)
PROBES = (DATABASE, REDIS, MIGRATIONS, VAULT, JOURNAL, SHIPPER)

# Without these nothing can be served or recorded. The others are degraded modes: a worker that still serves known keys
# must stay in rotation, or one absent dependency would become an outage.
_ESSENTIAL = {"migrations": ("pending", "unknown", "down", "timeout"), "vault": ("key missing",), "journal": ("full",)}
_WELL = ("ok", "off")


def _states(probes: tuple[Probe, ...]) -> dict[str, str]:
    for probe in probes:
        probe.begin()
    return {probe.name: probe.state() for probe in probes}


@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """The process answers. Nothing else is asked: restarting it would mend no dependency."""
    return JsonResponse({"status": "alive"})


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    states = _states((DATABASE, REDIS))
    healthy = not draining and all(state in _WELL for state in states.values())
    shown = {name: state if state in _WELL else "down" for name, state in states.items()}
    return JsonResponse({"status": "healthy" if healthy else "unhealthy", **shown}, status=200 if healthy else 503)


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready`, `degraded` or `unready`; `degraded` lists what is not well, as `name: state`."""

    status: str
    degraded: list[str]


def readiness() -> Readiness:
    states = _states(PROBES)
    if states["db"] not in _WELL:
        states |= {name: "unknown" for name in ("migrations", "vault") if states[name] not in _WELL}
    if draining:
        states["process"] = "draining"
    degraded = [f"{name}: {state}" for name, state in states.items() if state not in _WELL]
    blocked = draining or any(states[name] in fatal for name, fatal in _ESSENTIAL.items())
    return Readiness("unready" if blocked else "degraded" if degraded else "ready", degraded)


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 unless nobody could be served."""
    answer = readiness()
    return JsonResponse(asdict(answer), status=503 if answer.status == "unready" else 200)
