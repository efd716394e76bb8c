"""How much and how long a client may take of a worker, and the one timer that sees to it.

Time-outs cost a request nothing: a connection only notes when its time is up, and the worker's timer looks round.
Knows no HTTP and no Django.
"""

import asyncio
import logging
import resource
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

# Descriptors kept for the journal, the database, Redis, logs and listeners.
RESERVED_DESCRIPTORS = 64


def connection_cap() -> int:
    """How many clients the descriptor limit allows, when each may need one more descriptor for its provider."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(1, (soft - RESERVED_DESCRIPTORS) // 2)


@dataclass(slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    head: int = 65_536
    fields: int = 100
    target: int = 8_192
    header_timeout: float = 10
    body_idle_timeout: float = 30
    write_timeout: float = 30
    keepalive_timeout: float = 75
    linger: int = 1 << 20
    linger_timeout: float = 2
    tick: float = 0.5
    connections: int = field(default_factory=connection_cap)

    @property
    def connections_refused(self) -> int:
        """How many more connections may be open only to be told 503."""
        return min(64, self.connections // 4)


class Watch:
    """The one timer of a worker: ends what is overdue on every connection, and says once when they are too many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Collection[Any]) -> None:
        self._loop = loop
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._cap = 0  # the number that was exceeded, until there is room again

    def start(self, tick: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(tick, self._look, tick)

    def full(self, cap: int) -> None:
        if not self._cap:
            self._cap = cap
            logger.warning("More than %d connections: new ones get 503", cap)

    def _look(self, tick: float) -> None:
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check_time(now)
        if self._cap and len(self._connections) < self._cap:
            self._cap = 0
            logger.warning("New connections are accepted again")
        self._timer = self._loop.call_later(tick, self._look, tick) if self._connections else None
