"""Owns one run from start to verdict: the stand goes up, load and faults go on, all is whole again, all is counted."""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from faults import limits
from faults.clients import Client, Load, Sighting, Ways
from faults.injector import Injector
from faults.provider import Provider
from faults.rows import ROWS, Row
from faults.stand import WORKERS, Ledger, Stand, eventually, provider_key
from faults.sums import TABLES
from faults.verdict import Evidence, Verdict, judge

MEMORY = 250  # MiB, resident, of a worker; a few answers of 5 MB at once among it
# Descriptors that a worker may hold more than at first: pooled database connections, a probe, a spare segment.
DESCRIPTORS = 16
REVOKE_EVERY = 3.0  # seconds
# What is asked with a key that is about to be revoked.
BRIEF = Ways(0.0, stream=0.3, leave=0, wrong=0, acts=("ok",), pace=(0, 0))


@dataclass(slots=True)
class Result:
    seed: int
    seconds: float
    took: float = 0.0
    requests: int = 0
    rows: int = 0
    verdict: Verdict = field(default_factory=lambda: Verdict([], {}))
    ledger: Ledger = field(default_factory=Ledger)
    measured: dict[str, object] = field(default_factory=dict)

    @property
    def violations(self) -> list[str]:
        return self.verdict.violations


class Run:
    def __init__(self, directory: Path, *, seed: int, seconds: float, only: list[str] | None = None) -> None:
        self._seed = seed
        self._seconds = seconds
        self._only = only
        self._stand = Stand(directory)
        self._provider = Provider()
        self._load = Load([])
        self._result = Result(seed, seconds, ledger=self._stand.ledger)

    async def perform(self) -> Result:
        began = time.monotonic()
        try:
            await self._provider.start()
            await asyncio.to_thread(self._stand.start, self._provider.port)
            await self._warm_up()
            self._result.measured["start_s"] = round(time.monotonic() - began, 1)
            await self._strain()
            await self._settle()
            await self._count()
        finally:
            await asyncio.to_thread(self._stand.stop)
            await self._provider.stop()
        self._result.took = time.monotonic() - began
        return self._result

    def _dice(self, purpose: str) -> random.Random:
        """Each part has its own: how fast one is does not change what another draws."""
        return random.Random(f"{self._seed} {purpose}")

    def _client(self, tenant: str, number: int, ways: Ways) -> Client:
        port = self._stand.service.port
        return Client(port, self._stand.tenants[tenant], self._dice(f"{tenant} {number}"), ways=ways)

    async def _warm_up(self) -> None:
        """What a worker opens once is open before it is counted."""
        clients = [self._client("owner", -number, Ways(0.0, leave=0, wrong=0, acts=("ok",))) for number in range(1, 9)]
        for client in clients * 5:
            sighting = client.draw()
            self._load.sightings.append(sighting)
            await client.perform(sighting)
        for client in clients:
            client.hang_up()
        self._baseline = sum(self._stand.descriptors().values()) - self._provider.connections
        self._result.measured["descriptors_before"] = self._baseline
        self._result.measured["memory_before_mib"] = sorted(self._stand.memory().values())

    async def _strain(self) -> None:
        well, steady = ("ok", "split"), Ways(0.12, stream=0.0, leave=0, wrong=0, acts=("ok",), pace=(0, 10))
        self._load.clients = [
            *(self._client("owner", number, Ways(0.35)) for number in range(8)),
            *(self._client("second", number, Ways(0.35)) for number in range(6)),
            *(self._client("limited", number, steady) for number in range(2)),
            *(
                self._client("narrow", n, Ways(0.4, stream=1, leave=0, wrong=0, acts=well, pace=(40, 90)))
                for n in range(5)
            ),
        ]
        self._began = time.monotonic()
        load = asyncio.create_task(self._load.run())
        revoking = asyncio.create_task(self._revoke())
        watching = asyncio.create_task(self._watch_itself())
        injector = Injector(self._stand, self._dice("faults"), self._load, only=self._only)
        try:
            await injector.run(self._began + self._seconds)
        finally:
            self._load.stop.set()
        await asyncio.gather(load, revoking, watching)
        self._ended = time.monotonic()

    async def _watch_itself(self) -> None:
        """How late this process was at worst: on a machine that starves it, a time-out may be its own fault."""
        worst = 0.0
        while not self._load.stop.is_set():
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            worst = max(worst, time.monotonic() - due)
        self._result.measured["own_lag_worst_s"] = round(worst, 2)

    async def _revoke(self) -> None:
        """Keys come and go meanwhile; one whose revocation was acknowledged is never admitted again."""
        number = 0
        while not self._load.stop.is_set():
            number += 1
            await asyncio.sleep(REVOKE_EVERY)
            await self._revoke_one(number)

    async def _revoke_one(self, number: int) -> None:
        service, owner = self._stand.service, self._stand.people["owner"]
        try:
            minted = await asyncio.to_thread(
                service.call, "/proxy-api-keys/generate", {"name": f"brief {number}"}, token=owner.token
            )
            if minted.status != 201:
                return
            key, url = minted.json()["key"], f"/proxy-api-keys/{minted.json()['id']}"
            tenant = replace(self._stand.tenants["owner"], name="revoked", key=key, key_id=minted.json()["id"])
            clients = [Client(service.port, tenant, self._dice(f"revoked {number} {n}"), ways=BRIEF) for n in range(4)]
            await asyncio.gather(*(self._ask(client) for client in clients))
        except (OSError, ValueError):
            return  # the service was away: there is no such key
        if not await self._acknowledged(url, owner.token):
            return
        for sighting in await asyncio.gather(*(self._ask(client) for client in clients)):
            if sighting.complete:
                self._stand.ledger.violations.append(f"a revoked key was served: request {sighting.request_id}")

    async def _acknowledged(self, url: str, token: str) -> bool:
        """A revocation that could not be told to the workers is answered 503, and is to be repeated."""
        while not self._load.stop.is_set():
            with contextlib.suppress(OSError):
                answer = await asyncio.to_thread(self._stand.service.call, url, token=token, method="DELETE")
                if answer.status == 204:
                    return True
            await asyncio.sleep(0.3)
        return False

    async def _ask(self, client: Client) -> Sighting:
        sighting = client.draw()
        self._load.sightings.append(sighting)
        await client.perform(sighting)
        client.hang_up()
        return sighting

    # --- After the load ----------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Whole again, quiet, and nothing left behind; then an orderly stop."""
        stand, provider, measured = self._stand, self._provider, self._result.measured
        await eventually(lambda: stand.service.call("/readyz").status == 200, "ready again")
        await eventually(lambda: not provider.active.total(), "the end of every request at the provider")
        await eventually(lambda: self._descriptors() <= self._baseline + WORKERS * DESCRIPTORS, self._leak())
        measured["descriptors_after"] = self._descriptors()
        measured["memory_after_mib"] = memory = sorted(stand.memory().values())
        if memory[-1] > MEMORY:
            self._blame(f"a worker has {memory[-1]} MiB resident, more than {MEMORY}")
        began = time.monotonic()
        if (code := await asyncio.to_thread(stand.service.stop)) != 0:
            self._blame(f"the last SIGTERM: status {code}")
        measured["stop_s"] = round(time.monotonic() - began, 2)
        if left := stand.segments():
            self._blame(f"the journal was not shipped before the exit: {', '.join(left)}")
        if dead := list((stand.journal / "dead").glob("*")):
            self._blame(f"{len(dead)} records were laid aside")
        await eventually(lambda: not provider.connections, "the end of every connection to the provider")

    def _descriptors(self) -> int:
        return sum(self._stand.descriptors().values()) - self._provider.connections

    def _leak(self) -> str:
        return f"descriptors of the workers: {self._baseline} before, now more by over {DESCRIPTORS} each"

    def _blame(self, what: str) -> None:
        self._stand.ledger.violations.append(what)

    async def _count(self) -> None:
        stand, sightings = self._stand, self._load.sightings
        rows = [Row(*row) for row in await asyncio.to_thread(stand.rows, ROWS)]
        sums = {name: await asyncio.to_thread(stand.table, name) for name in TABLES}
        self._judge_limits()
        visits = dict(self._provider.visits)
        self._result.verdict = judge(Evidence(sightings, visits, rows, sums, stand.ledger))
        self._result.requests, self._result.rows = len(sightings), len(rows)

    def _judge_limits(self) -> None:
        ledger, provider, window = self._stand.ledger, self._provider, (self._began, self._ended)
        times = limits.admitted(provider.visits, provider_key("limited"))
        self._result.measured["admitted_of_limited"] = len(times)
        ledger.violations += limits.judge_rate(times, ledger, *window)
        ledger.violations += limits.judge_parallel(provider.peaks[provider_key("narrow")], ledger, *window)
        ledger.violations += limits.judge_slots(self._stand.slots(), ledger)
