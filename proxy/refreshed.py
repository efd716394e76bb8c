"""Owns values that cost a call: kept while they are young, then given once more while they are asked for anew.

Knows neither what they are nor who is asked. Use it in one event loop.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")
# Given what is known so far: the value, and for how many seconds it is young.
Ask = Callable[[V | None], Awaitable[tuple[V, float]]]


class Refreshed(Generic[K, V]):
    """At most `size` values, the least recently used ones leave first. A key is asked for by one call at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[K, tuple[V, float]] = OrderedDict()  # and until when it is young
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, ask: Ask[V]) -> V:
        """Waits for the first value only. Who is cancelled meanwhile leaves the call to the others."""
        known = self._known.get(key)
        if known is None:
            return await asyncio.shield(self._asking.get(key) or self._start(key, ask, None))
        self._known.move_to_end(key)
        value, until = known
        if time.monotonic() >= until and key not in self._asking:
            self._start(key, ask, value)
        return value

    def close(self) -> None:
        for task in self._asking.values():
            task.cancel()

    def _start(self, key: K, ask: Ask[V], known: V | None) -> "asyncio.Task[V]":
        task = self._asking[key] = asyncio.create_task(self._ask(key, ask, known))
        task.add_done_callback(partial(self._asked, key))
        return task

    async def _ask(self, key: K, ask: Ask[V], known: V | None) -> V:
        value, seconds = await ask(known)
        self._known[key] = value, time.monotonic() + seconds
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return value

    def _asked(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._asking[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A value could not be renewed; its next use asks again", exc_info=error)
