"""Moves the journal into the database; beside `serve` this runs by itself."""

import signal
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage.shipper import Shipper, ShipperBusy
from usage.telemetry import telling


class Command(BaseCommand):
    help = "Moves usage rows from the journal into the database until it is told to stop (SIGTERM, Ctrl-C)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="ship what there is, then end")

    def handle(self, *args: Any, **options: Any) -> str:
        with telling() as tell:
            return self._ship(Shipper(Path(settings.AIPROXY_DATA_DIR) / "journal", tell=tell), once=options["once"])

    def _ship(self, shipper: Shipper, *, once: bool) -> str:
        stop = threading.Event()
        try:
            if once:
                return f"Shipped {shipper.run_once()} rows."
            for number in (signal.SIGTERM, signal.SIGINT):
                # On a thread of its own: the handler may have interrupted `wait`, which holds the event's lock.
                signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())
            shipper.run(stop)
        except ShipperBusy as error:
            if stop.is_set():
                return "Stopped before it was this shipper's turn."
            raise CommandError(f"{error} Stop that one first, or let it work.") from error
        return "Stopped."
