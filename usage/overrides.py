"""Owns how staff's prices reach a process: read now and then on a thread of its own. Knows no request."""

import logging
import threading

from django.db import connection

from usage import pricing
from usage.models import Price

logger = logging.getLogger(__name__)

# The longest that a worker uses a price that is no longer right (seconds).
STALE_AT_MOST = 30.0
_PATIENCE = 2.0  # seconds that a start waits for the first reading, and an end for the last


class Overrides:
    """Keeps `pricing` up to date while it is open; open() comes after fork. An absent database changes nothing."""

    def __init__(self) -> None:
        self._closing = False
        self._wake = threading.Event()
        self._read = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prices", daemon=True)

    def open(self) -> None:
        """Blocks until the book is read, and staff's prices too if the database answers at once."""
        pricing.book()
        self._thread.start()
        self._read.wait(_PATIENCE)

    def read_again(self) -> None:
        """Now, instead of when it is time."""
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)  # a database that hangs must not hold up the end

    def _run(self) -> None:
        away = False
        while not self._closing:
            try:
                pricing.renew(Price.objects.overrides())
                away = False
            except Exception as error:  # whatever it is, the next reading tries again
                if not away:
                    logger.warning("Staff's prices cannot be read (%s); those known hold on", type(error).__name__)
                away = True
                pricing.renew()  # a day may have begun
            finally:
                connection.close()
            self._read.set()
            self._wake.wait(STALE_AT_MOST)
            self._wake.clear()
