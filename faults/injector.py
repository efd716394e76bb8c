"""Owns the faults: which, when, for how long, all drawn from the seed. Each is real, on a process or a file.

Two faults may overlap unless they need the same thing. What a fault found out on the way (an exit that was not clean,
rows left behind at a stop) goes to the ledger as a violation.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from faults.clients import Load
from faults.damage import inflict
from faults.stand import RECOVERY, Fault, Stand, eventually
from tests.servers import Server
from usage.segments import find

SIGHT_PATIENCE = 20.0  # seconds until some client has some answer
DISK_PATIENCE = 8.0  # seconds of a full disk, at most


class Injector:
    def __init__(self, stand: Stand, dice: random.Random, load: Load, *, only: list[str] | None) -> None:
        self._stand = stand
        self._ledger = stand.ledger
        self._dice = dice
        self._load = load
        self._sightings = load.sightings
        self._busy: dict[str, asyncio.Lock] = {
            name: asyncio.Lock() for name in ("service", "redis", "postgres", "disk")
        }
        # What each needs for itself, in this order.
        self._faults: dict[str, tuple[tuple[str, ...], Callable[[Fault], Awaitable[None]]]] = {
            "kill_worker": (("service",), self._kill_worker),
            "kill_on_sight": (("service",), self._kill_on_sight),
            "kill_shipper": (("service",), self._kill_shipper),
            "freeze_worker": (("service",), self._freeze_worker),
            "kill_redis": (("redis",), self._kill_redis),
            "freeze_redis": (("redis",), self._freeze_redis),
            "kill_postgres": (("postgres",), self._kill_postgres),
            "freeze_postgres": (("postgres",), self._freeze_postgres),
            "read_only_postgres": (("postgres",), self._read_only_postgres),
            "sigterm": (("service", "postgres"), self._sigterm),
            "power_cut": (("service", "postgres"), self._power_cut),
            "damage": (("service",), self._damage),
        }
        if stand.has_small_disk:
            self._faults["disk_full"] = (("disk",), self._fill_disk)
        if only:
            self._faults = {kind: self._faults[kind] for kind in only}

    async def run(self, until: float) -> None:
        """Every kind once in random order, then again, until then. Returns when all is whole again."""
        running: set[asyncio.Task[None]] = set()
        bag: list[str] = []
        while time.monotonic() < until:
            bag = bag or self._dice.sample(sorted(self._faults), len(self._faults))
            kind, dice = bag.pop(), random.Random(self._dice.getrandbits(64))
            await asyncio.sleep(self._dice.uniform(0.2, 1.5))
            running.add(asyncio.create_task(self._inject(kind, dice)))
            while len(running) >= 2:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*running)

    async def _inject(self, kind: str, dice: random.Random) -> None:
        needs, work = self._faults[kind]
        async with contextlib.AsyncExitStack() as held:
            for name in needs:
                await held.enter_async_context(self._busy[name])
            with self._ledger.fault(kind) as fault:
                fault.dice = dice
                await work(fault)

    # --- Processes -------------------------------------------------------------------------------------

    async def _kill_worker(self, fault: Fault) -> None:
        began = time.monotonic()
        writer = await self._kill_one_worker(fault)
        await self._replaced(writer)
        self._ledger.respawns.append(time.monotonic() - began)

    async def _kill_on_sight(self, fault: Fault) -> None:
        """Every worker, the moment that a client has its answer: the row must be there already."""
        workers = await asyncio.to_thread(self._stand.workers)
        self._ledger.killed_writers |= set(workers.values())
        seen = asyncio.Event()

        def strike() -> None:
            if not seen.is_set():
                for pid in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                seen.set()

        self._load.when_complete = strike
        try:
            await asyncio.wait_for(seen.wait(), SIGHT_PATIENCE)
        finally:
            self._load.when_complete = lambda: None
        for writer in workers.values():
            await self._replaced(writer)

    async def _kill_one_worker(self, fault: Fault) -> str:
        """The writer that died."""
        workers = await asyncio.to_thread(self._stand.workers)
        pid = fault.dice.choice(sorted(workers))
        self._ledger.killed_writers.add(workers[pid])
        fault.detail = f"worker {pid}"
        os.kill(pid, signal.SIGKILL)
        return workers[pid]

    async def _replaced(self, writer: str) -> None:
        def whole() -> bool:
            writers = self._stand.workers().values()
            return len(writers) == self._stand.service.workers and writer not in writers

        await eventually(whole, "as many workers as before")
        self._ledger.worker_starts.append(time.monotonic())

    async def _kill_shipper(self, fault: Fault) -> None:
        pid = await eventually(self._stand.shipper, "a shipper")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: self._stand.shipper() not in (0, pid), "a new shipper")

    async def _freeze_worker(self, fault: Fault) -> None:
        pid = fault.dice.choice(sorted(await asyncio.to_thread(self._stand.workers)))
        await _freeze([pid], fault.dice.uniform(0.2, 1.0))

    async def _sigterm(self, fault: Fault) -> None:
        """Everything that ran is shipped before the end: the database is there."""
        code = await asyncio.to_thread(self._stand.service.stop)
        if code != 0:
            self._ledger.violations.append(f"SIGTERM: the service ended with status {code}")
        if left := self._stand.segments():
            self._ledger.violations.append(f"SIGTERM: not shipped before the exit: {', '.join(left)}")
        await self._start()

    async def _power_cut(self, fault: Fault) -> None:
        self._ledger.killed_writers |= set((await asyncio.to_thread(self._stand.workers)).values())
        await asyncio.to_thread(self._stand.service.kill)
        await self._start()

    async def _start(self) -> None:
        await asyncio.to_thread(self._stand.service.start)
        await eventually(lambda: len(self._stand.workers()) == self._stand.service.workers, "every worker")
        self._ledger.worker_starts += [time.monotonic()] * self._stand.service.workers

    # --- Servers ---------------------------------------------------------------------------------------

    async def _kill_redis(self, fault: Fault) -> None:
        """It comes back empty: all limits, slots and epochs are gone."""
        await self._outage(self._stand.redis, fault, fault.dice.uniform(0.2, 3.0))
        await eventually(self._stand.redis_answers, "Redis")
        await asyncio.sleep(RECOVERY)

    async def _freeze_redis(self, fault: Fault) -> None:
        await _freeze([self._stand.redis.pid], fault.dice.uniform(0.1, 1.5))
        await asyncio.sleep(RECOVERY)

    async def _kill_postgres(self, fault: Fault) -> None:
        await self._outage(self._stand.postgres, fault, fault.dice.uniform(0.5, 4.0))
        await eventually(self._stand.postgres_answers, "PostgreSQL")
        await asyncio.sleep(RECOVERY)

    async def _freeze_postgres(self, fault: Fault) -> None:
        await _freeze(self._stand.postgres.family(), fault.dice.uniform(0.3, 2.5))
        await asyncio.sleep(RECOVERY)

    async def _read_only_postgres(self, fault: Fault) -> None:
        """As one that was failed over, and is not promoted yet: every connection ends, new ones may only read."""
        away = fault.dice.uniform(0.5, 4.0)
        fault.detail = f"{away:.1f} s"
        await asyncio.to_thread(self._stand.let_write, may=False)
        await asyncio.sleep(away)
        await asyncio.to_thread(self._stand.let_write, may=True)
        await asyncio.sleep(RECOVERY)

    async def _outage(self, server: Server, fault: Fault, away: float) -> None:
        fault.detail = f"{away:.1f} s"
        server.kill()
        await asyncio.sleep(away)
        server.start()

    # --- The journal -----------------------------------------------------------------------------------

    async def _fill_disk(self, fault: Fault) -> None:
        """Until a request is refused for it; then there is space again."""
        filler = self._stand.journal / "filler"
        seen = len(self._sightings)
        try:
            await asyncio.to_thread(_fill, filler)
            deadline = time.monotonic() + DISK_PATIENCE
            while time.monotonic() < deadline and not self._refused_for_space(seen):
                await asyncio.sleep(0.1)
                await asyncio.to_thread(_fill, filler)  # what the shipper freed meanwhile
            fault.detail = f"{sum(s.code == 'record_unavailable' for s in self._sightings[seen:])} refused"
            await asyncio.sleep(fault.dice.uniform(0.2, 1.0))
        finally:
            filler.unlink(missing_ok=True)

    def _refused_for_space(self, since: int) -> bool:
        return any(sighting.code == "record_unavailable" for sighting in self._sightings[since:])

    async def _damage(self, fault: Fault) -> None:
        """While the shipper is stopped, so that there is something left to damage."""
        shipper = await eventually(self._stand.shipper, "a shipper")
        os.kill(shipper, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.dice.uniform(0.5, 1.5))
            writer = await self._kill_one_worker(fault)
            await eventually(lambda: writer not in self._stand.workers().values(), "the end of the worker")
            segments = find(self._stand.journal).get(writer, {})
            # The newest that was written to: the older ones may be shipped already.
            for number in sorted(segments, reverse=True):
                fault.detail, hit = inflict(segments[number], fault.dice)
                self._ledger.damaged |= {span.id: span.model for span in hit if span.id is not None}
                if hit:
                    break
        finally:
            os.kill(shipper, signal.SIGCONT)
        await self._replaced(writer)


async def _freeze(pids: list[int], seconds: float) -> None:
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _fill(path: Path) -> None:
    """Writes until the disk has no byte left."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
