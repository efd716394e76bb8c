"""The production entry: workers, what runs beside them, and an end that leaves nothing running, nothing unshipped."""

import logging
import os
import socket
import threading
from argparse import ArgumentTypeError
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor

from aiproxy import metrics_directory

logger = logging.getLogger(__name__)

METRICS_HINT = "Stop what uses it, or choose another: AIPROXY_METRICS_PORT, AIPROXY_METRICS_HOST."


def port_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ArgumentTypeError(f"{text!r} is not a port: it must be a number from 0 to 65535.")
    return int(text)


def worker_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= settings.MOST_WORKERS):
        raise ArgumentTypeError(f"{text!r} is not a number of workers: it must be from 1 to {settings.MOST_WORKERS}.")
    return int(text)


def grace_time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 1 <= value <= 86_400:
        raise ArgumentTypeError(f"{text!r} is not a grace time: it must be from 1 to 86400 seconds.")
    return value


def refuse_taken(*wanted: tuple[str, int, str]) -> None:
    """Address, port and what to do of each. They are held at the same time: no two of them may be the same."""
    with ExitStack() as held:
        for host, port, hint in wanted:
            try:
                family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                probe = held.enter_context(socket.socket(family, kind))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no name"
                raise CommandError(f"Cannot listen on {host}:{port} ({reason}). {hint}") from error


class Command(BaseCommand):
    help = "Serves the proxy: workers, and what ships usage rows and makes exports, until SIGTERM or Ctrl-C."
    requires_system_checks: list[str] = []  # they run once the options are settings

    def add_arguments(self, parser: CommandParser) -> None:
        count = str(settings.AIPROXY_WORKERS)
        parser.add_argument("--workers", type=worker_count, default=count, help="processes (default: %(default)s)")
        host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
        parser.add_argument("--host", default=host, help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=port_number, default=port, help="port to listen on (default: %(default)s)")
        parser.add_argument("--no-shipper", action="store_true", help="another process runs `ship_usage`")
        grace = str(settings.AIPROXY_GRACE)
        parser.add_argument(
            "--grace", type=grace_time, default=grace, help="seconds for open streams at the end (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._run(options)
        finally:
            metrics_directory.remove()

    def _run(self, options: dict[str, Any]) -> None:
        if options["workers"] > 1 and not settings.REDIS_URL:
            raise CommandError(
                f"--workers {options['workers']} needs Redis: without it workers cannot share rate limits or learn of"
                " revoked keys at once. Set REDIS_URL, or serve with --workers 1."
            )
        if not metrics_directory.is_ours():
            raise CommandError(
                "Start it as `manage.py serve`: where metrics are added up is chosen before Django is loaded."
            )
        settings.AIPROXY_WORKERS, settings.AIPROXY_GRACE = options["workers"], options["grace"]
        self.check()
        self._warn_of_migrations()
        self._serve(options)

    def _warn_of_migrations(self) -> None:
        """A warning only: /readyz answers 503 until they are made, and says so."""
        try:
            executor = MigrationExecutor(connection)
            pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except Error as error:
            self.stderr.write(f"The database cannot be asked for pending migrations: {error}")
        else:
            if pending:
                self.stderr.write(
                    f"{len(pending)} migrations are pending: run `manage.py migrate`. Until then /readyz answers 503."
                )
        finally:
            close_database()

    def _serve(self, options: dict[str, Any]) -> None:
        from aiproxy.supervisor import Service, SideProcess
        from usage import exporter

        wanted = [(options["host"], options["port"], "Stop what uses it, or choose another: --host, --port.")]
        if settings.AIPROXY_METRICS_PORT:
            wanted.append((settings.AIPROXY_METRICS_HOST, settings.AIPROXY_METRICS_PORT, METRICS_HINT))
        if "GUNICORN_FD" not in os.environ:  # else they are our predecessor's, who told us to start and ends later
            refuse_taken(*wanted)
        side_processes = [SideProcess("exporter", exporter.open_channel().serve)]
        if not options["no_shipper"]:
            side_processes.append(SideProcess("shipper", ship))
        if settings.AIPROXY_METRICS_PORT:
            side_processes.append(SideProcess("metrics", serve_metrics))
        Service(options["host"], options["port"], workers=options["workers"], side_processes=side_processes).run()


def close_database() -> None:
    """So that no connection, and no thread of a pool, is there when the master forks."""
    connection.close()
    if hasattr(connection, "close_pool"):
        connection.close_pool()


def ship(stop: threading.Event) -> None:
    from usage.shipper import Shipper, ShipperBusy
    from usage.telemetry import telling

    try:
        with telling() as tell:
            Shipper(Path(settings.AIPROXY_DATA_DIR) / "journal", tell=tell).run(stop)
    except ShipperBusy:
        if not stop.is_set():
            raise


def serve_metrics(stop: threading.Event) -> None:
    from aiproxy.metrics import serve_port

    try:
        server = serve_port(settings.AIPROXY_METRICS_PORT)
    except OSError as error:  # since the start somebody else has taken it
        where = f"{settings.AIPROXY_METRICS_HOST}:{settings.AIPROXY_METRICS_PORT}"
        logger.error("Nobody can read metrics: cannot listen on %s (%s). %s", where, error.strerror, METRICS_HINT)
        return
    stop.wait()
    server.shutdown()
