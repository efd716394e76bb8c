"""Owns what `manage.py doctor` looks at: everything the service stands on, asked for real. Changes nothing."""

import fcntl
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core import checks
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from accounts.keyset import parse_keyset
from accounts.models import ProxyKey
from aiproxy import health
from audit import guard
from usage import disk, partitions, rebuild
from vault import canary
from vault.providers import PROVIDERS

MAX_SKEW = 5.0  # seconds
TIMEOUT = 5.0
OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True, slots=True)
class Finding:
    level: str
    subject: str
    text: str
    hint: str = ""


def check_settings() -> Iterator[Finding]:
    serious = [message for message in checks.run_checks() if message.level >= checks.WARNING]
    for message in serious:
        level = ERROR if message.level >= checks.ERROR else WARNING
        yield Finding(level, "settings", f"{message.id}: {message.msg}", message.hint or "")
    if not serious:
        yield Finding(OK, "settings", "the system checks find nothing wrong")


def check_database() -> Iterator[Finding]:
    before = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_TIMESTAMP")
        moment = cursor.fetchone()[0]
    yield Finding(OK, "database", f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}")
    if connection.vendor == "postgresql":  # SQLite's clock is ours
        yield _skew("database", before, moment.timestamp())
    executor = MigrationExecutor(connection)
    pending = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if pending:
        yield Finding(ERROR, "database", f"{pending} migrations are pending", "Run `manage.py migrate`.")
        return
    yield Finding(OK, "database", "every migration is applied")
    yield from _check_partitions()
    yield from _check_audit_log()
    yield from _check_sums()


def _check_partitions() -> Iterator[Finding]:
    if connection.vendor != "postgresql":
        return
    missing = set(partitions.coming_months(datetime.now(UTC).date())) - set(partitions.attached(connection))
    if missing:
        months = ", ".join(f"{month:%Y-%m}" for month in sorted(missing))
        yield Finding(WARNING, "database", f"no partition for {months}", "The shipper makes them: is it running?")
    else:
        yield Finding(OK, "database", "the partitions of the coming months exist")


def _check_audit_log() -> Iterator[Finding]:
    missing = ", ".join(sorted(guard.missing_triggers()))
    if missing:
        hint = 'Anybody may have changed it since. docs/staff.md, "The audit log", says how to have it guarded again.'
        yield Finding(ERROR, "database", f"the audit log is not guarded: no trigger {missing}", hint)
    else:
        yield Finding(OK, "database", "nobody can change the audit log")


def _check_sums() -> Iterator[Finding]:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    differing = ", ".join(rebuild.differing(today - 7 * rebuild.DAY, today + rebuild.DAY))
    if differing:
        hint = "`manage.py rebuild_usage` makes them anew: a release before this one may have shipped rows meanwhile."
        yield Finding(ERROR, "database", f"{differing}: not the sums of usage_hours, in the last week", hint)
    else:
        yield Finding(OK, "database", "sums by hour, by day and over all users agree")


def check_keys() -> Iterator[Finding]:
    problems = canary.problems()
    for problem in problems:
        yield Finding(ERROR, "keys", problem, "Without it these API keys are lost: their owners must store them anew.")
    if not problems:
        yield Finding(OK, "keys", "the master keys open what is stored")
    peppers = parse_keyset(settings.AIPROXY_PEPPERS)
    rows = ProxyKey.objects.live().values_list("verifier", flat=True)
    unknown = sum(1 for verifier in rows.iterator() if not verifier or bytes(verifier)[0] not in peppers)
    if unknown:
        hint = "Put the old pepper back into AIPROXY_PEPPERS, after the first one."
        yield Finding(ERROR, "keys", f"{unknown} live proxy keys were signed by a pepper that is missing", hint)
    else:
        yield Finding(OK, "keys", "every live proxy key can be verified")


def check_redis() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        yield Finding(OK, "redis", "not configured: one worker, limits in its memory")
        return
    with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT) as client:
        before = time.time()
        seconds, microseconds = client.time()
        yield Finding(OK, "redis", f"Redis {client.info('server')['redis_version']}")
    yield _skew("redis", before, seconds + microseconds / 1e6)


def _skew(subject: str, before: float, theirs: float) -> Finding:
    """Their clock against ours, which is somewhere between asking and now."""
    now = time.time()
    skew = max(before - theirs, theirs - now, 0.0)
    if skew > MAX_SKEW:
        return Finding(WARNING, subject, f"its clock is {skew:.0f} s away from ours", "Let NTP set both.")
    return Finding(OK, subject, "its clock agrees with ours")


def check_journal() -> Iterator[Finding]:
    directory = health.journal_directory()
    kind = disk.file_system(directory)
    if kind in disk.NETWORK:
        hint = "Point AIPROXY_DATA_DIR at a local disk."
        yield Finding(ERROR, "journal", f"it is on a network file system ({kind}): its locks do not hold there", hint)
    if not disk.is_writable(directory):
        yield Finding(ERROR, "journal", "its directory cannot be written", "Give this user AIPROXY_DATA_DIR.")
        return
    if not _locks_hold(disk.nearest(directory)):
        yield Finding(ERROR, "journal", "flock does not exclude there", "Point AIPROXY_DATA_DIR at a local disk.")
    free, needed = disk.free_bytes(directory), 2 * settings.AIPROXY_JOURNAL_SEGMENT * settings.AIPROXY_WORKERS
    level = OK if free > 4 * needed else WARNING if free > needed else ERROR
    hint = "" if level == OK else "Requests are refused once the journal cannot reserve its space."
    yield Finding(level, "journal", f"{kind or 'unknown file system'}, {free >> 20} MiB free", hint)
    yield from _check_backlog(directory)


def _locks_hold(directory: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=directory) as first, open(first.name, "rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _check_backlog(directory: Path) -> Iterator[Finding]:
    dead = sum(1 for file in (directory / "dead").glob("*") if file.is_file())
    if dead:
        hint = "Move the files back into the journal once the cause, which the shipper's log tells, is gone."
        yield Finding(WARNING, "journal", f"{dead} records were laid aside: the database refused them", hint)
    waiting = sum(1 for _ in directory.glob("*.sealed"))
    if waiting and disk.is_locked(directory / "shipper.lock") is False:
        hint = "`manage.py serve` runs one; `manage.py ship_usage` does too."
        yield Finding(WARNING, "journal", f"{waiting} segments wait, and no shipper is running", hint)


def check_providers() -> Iterator[Finding]:
    for provider in PROVIDERS.values():
        parts = urlsplit(provider.base_url)
        try:
            _connect(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), parts.scheme)
        except OSError as error:  # TLS errors and time-outs are such, too
            hint = f"Is {provider.setting} right, and may this machine connect there?"
            yield Finding(ERROR, "providers", f"{provider.title}: {error.strerror or type(error).__name__}", hint)
        else:
            yield Finding(OK, "providers", f"{provider.title}: reached {parts.hostname}")


def _connect(host: str, port: int, scheme: str) -> None:
    """Connects, and shakes hands where it is TLS. Through a CONNECT proxy only the proxy itself is tried."""
    through = urlsplit(settings.AIPROXY_UPSTREAM_PROXY)
    if through.hostname:
        socket.create_connection((through.hostname, through.port or 80), TIMEOUT).close()
        return
    with socket.create_connection((host, port), TIMEOUT) as connected:
        if scheme == "https":
            context = ssl.create_default_context()
            if settings.AIPROXY_UPSTREAM_CA_FILE:
                context.load_verify_locations(settings.AIPROXY_UPSTREAM_CA_FILE)
            context.wrap_socket(connected, server_hostname=host).close()


def examine(*, providers: bool) -> Iterator[Finding]:
    """All findings. What cannot be asked at all is a finding of its own, and the rest goes on."""
    subjects: dict[str, Callable[[], Iterator[Finding]]] = {
        "settings": check_settings,
        "database": check_database,
        "keys": check_keys,
        "redis": check_redis,
        "journal": check_journal,
    }
    if providers:
        subjects["providers"] = check_providers
    for subject, check in subjects.items():
        try:
            yield from check()
        except (DatabaseError, redis.RedisError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()
            yield Finding(ERROR, subject, f"could not be asked: {reason[0] if reason else type(error).__name__}")
