"""What is measured of one target. Every figure is a plain number in the unit its name ends with."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, sleep

from benchmarks import question, wrk
from benchmarks.client import Endpoint, chunk_delays, latencies, percentile
from benchmarks.load import Report, leave_midway, of_requests
from benchmarks.provider import CHUNKS
from benchmarks.service import Aiproxy
from benchmarks.targets import Target

CONNECTIONS = 32
SOAK_SECONDS = 120  # on a machine that is too busy, the soak asks less
SLOW_US = 5_000  # at one connection
Figures = dict[str, float]
Chore = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How long each part takes, in seconds; how much the soak asks."""

    rounds: int
    turns: int
    plain: float
    stream: float
    paced: float
    lone: float
    soak: int
    leavers: int
    starts: int
    mixed: float


FULL = Plan(rounds=3, turns=9, plain=4, stream=5, paced=5, lone=4, soak=200_000, leavers=2_000, starts=3, mixed=15)
QUICK = Plan(rounds=1, turns=2, plain=2, stream=2, paced=2, lone=1.5, soak=20_000, leavers=300, starts=1, mixed=4)


def measure(target: Target, plan: Plan) -> Figures:
    figures: Figures = {"memory_idle_mb": target.memory_mb()}
    with target.alone():
        figures |= lone(target.endpoint, plan)  # which warms it up, too
        load = Load(target, plan, slow=figures["p50_1_us"] > SLOW_US)
        figures |= plain(load) | long(load)
        if streams(target.endpoint):
            figures |= streamed(load) | burst(load) | paced(load)
    figures["memory_after_load_mb"] = target.memory_mb()
    return figures


@dataclass(frozen=True)
class Load:
    """A slow target gets a number of requests, not a time: what is cut off at the end would count."""

    target: Target
    plan: Plan
    slow: bool = False
    connections: int = CONNECTIONS

    def run(self, body: bytes, wanted: float) -> tuple[Report, float]:
        """The report, and the CPU seconds that the target used meanwhile."""
        cpu = self.target.cpu_seconds()
        if self.slow:
            count = int(wanted * (80 if body is question.PLAIN else 20))
            report = of_requests(self.target.endpoint, body, self.connections, count)
        else:
            report = wrk.run(self.target.endpoint, body, connections=self.connections, seconds=wanted)
        return report, self.target.cpu_seconds() - cpu


def streams(endpoint: Endpoint) -> bool:
    """Whether streams work at all; some peers' do not."""
    try:
        chunk_delays(endpoint, question.PACED, 0)
    except Exception as error:
        print(f"    streams fail: {str(error).splitlines()[-1][:200]}", flush=True)
        return False
    return True


def plain(load: Load) -> Figures:
    """The median round by rate, so that one disturbance does not count."""
    load.run(question.PLAIN, 1)
    rounds = []
    for _ in range(load.plan.rounds):
        report, cpu = load.run(question.PLAIN, load.plan.plain)
        rounds.append((report.rate, cpu, report))
    rate, cpu, report = sorted(rounds, key=lambda one: one[0])[len(rounds) // 2]
    return {
        "requests_per_second": rate,
        "requests_per_second_worst_round": min(one[0] for one in rounds),
        "requests_per_second_best_round": max(one[0] for one in rounds),
        "cpu_us_per_request": cpu / max(1, report.requests) * 1e6,
        "core_busy": cpu / report.seconds,
        "p50_32_us": report.p50,
        "p99_32_us": report.p99,
        "errors": sum(one[2].errors for one in rounds),
        "sent": sum(one[2].requests for one in rounds),
    }


def in_turns(loads: dict[str, Load]) -> dict[str, list[float]]:
    """Plain requests a second of each, one after the other, over and over: what a virtual machine's neighbours take
    changes by a tenth within minutes, and they take it from all."""
    for load in loads.values():
        load.run(question.PLAIN, 1)
    rates: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(min((load.plan.turns for load in loads.values()), default=0)):
        for name, load in loads.items():
            report, _ = load.run(question.PLAIN, load.plan.plain)
            rates[name].append(report.rate)
    return rates


def long(load: Load) -> Figures:
    """Prompts of an agent's size: what a request costs that is not the same for all of them."""
    report, cpu = load.run(question.LONG, load.plan.plain)
    return {
        "long_requests_per_second": report.rate,
        "long_cpu_us_per_request": cpu / max(1, report.requests) * 1e6,
        "long_errors": report.errors,
    }


def lone(endpoint: Endpoint, plan: Plan) -> Figures:
    times = latencies(endpoint, question.PLAIN, plan.lone)
    return {"p50_1_us": percentile(times, 0.5), "p99_1_us": percentile(times, 0.99), "slowest_1_us": times[-1] / 1e3}


def streamed(load: Load) -> Figures:
    """As providers send: each chunk in a write of its own. Here one follows the other at once."""
    report, cpu = load.run(question.STREAM, load.plan.stream)
    return {
        "streams_per_second": report.rate,
        "stream_cpu_us_per_chunk_unpaced": cpu / max(1, report.requests) / CHUNKS * 1e6,
        "stream_core_busy": cpu / report.seconds,
        "stream_errors": report.errors,
    }


def burst(load: Load) -> Figures:
    """The same stream in one piece: a proxy that does not look into it handles one piece where others see 64 chunks."""
    report, cpu = load.run(question.BURST, load.plan.stream)
    return {
        "bursts_per_second": report.rate,
        "stream_cpu_us_per_chunk_at_once": cpu / max(1, report.requests) / CHUNKS * 1e6,
        "burst_errors": report.errors,
    }


def paced(load: Load) -> Figures:
    """Chunks that come one by one: the CPU of each, the request's own share included, and how long it is under way."""
    first, _ = chunk_delays(load.target.endpoint, question.SHORT, load.plan.lone)
    rare, later = chunk_delays(load.target.endpoint, question.PACED, load.plan.lone)
    report, cpu = load.run(question.PACED, load.plan.paced)
    return {
        "first_chunk_p50_us": percentile(first, 0.5),
        "first_chunk_p99_us": percentile(first, 0.99),
        "first_chunk_rare_p50_us": percentile(rare, 0.5),  # one request in a seventh of a second
        "chunk_under_way_p50_us": percentile(later, 0.5),
        "chunk_under_way_p99_us": percentile(later, 0.99),
        "stream_cpu_us_per_chunk": cpu / max(1, report.requests) / CHUNKS * 1e6,
        "paced_core_busy": cpu / report.seconds,
        "paced_errors": report.errors,
    }


def shipping(target: Aiproxy, plan: Plan) -> Figures:
    """The same while the shipper works on the other core, on what was recorded before."""
    report, cpu = Load(target, plan).run(question.PLAIN, plan.plain)
    found = lone(target.endpoint, plan) | {
        "requests_per_second": report.rate,
        "cpu_us_per_request": cpu / max(1, report.requests) * 1e6,
    }
    return {f"shipping_{name}": value for name, value in found.items()}


def starts(target: Aiproxy, plan: Plan, first: float) -> Figures:
    times = [first]
    for _ in range(plan.starts - 1):
        target.stop()
        times.append(target.start())
    return {"start_seconds": statistics.median(times), "start_worst_seconds": max(times)}


def soak(target: Aiproxy, plan: Plan, rate: float) -> Figures:
    """Resident memory of the worker: after a tenth of the requests and of the clients that leave, after all requests,
    and after all clients that leave."""
    figures = {"worker_before_soak_mb": target.worker_mb()}
    tenth = max(1.0, plan.soak / 10 / rate)
    sent = wrk.run(target.endpoint, question.PLAIN, connections=CONNECTIONS, seconds=tenth).requests
    leave(target, plan.leavers // 10)
    figures["worker_after_tenth_mb"] = target.worker_mb()
    until = perf_counter() + SOAK_SECONDS
    while sent < plan.soak and perf_counter() < until:
        left = max(1.0, (plan.soak - sent) / rate)
        sent += wrk.run(target.endpoint, question.PLAIN, connections=CONNECTIONS, seconds=left).requests
    figures["worker_after_soak_mb"] = target.worker_mb()
    leave(target, plan.leavers - plan.leavers // 10)
    figures["worker_after_leavers_mb"] = target.worker_mb()
    figures["open_after_leavers"] = sum(target.metric("aiproxy_open_exchanges.*").values())
    return {**figures, "soak_requests": sent, "soak_leavers": plan.leavers}


def leave(target: Aiproxy, clients: int) -> None:
    asyncio.run(leave_midway(target.endpoint, question.PACED, clients))
    sleep(1.5)  # a client that left cancels the provider within a second


def mixed(target: Aiproxy, plan: Plan) -> Figures:
    """How late the event loop's timer is while people sign in, read their log and sum it up beside the traffic."""
    owner = target.owner
    assert owner is not None

    def get(path: str) -> Chore:
        return lambda: target.service.call(path, token=owner.token)

    def sign_in() -> object:
        return target.service.call("/auth/login", {"email": "owner@example.com", "password": "correct horse battery"})

    pages = [get("/usage/requests?limit=200"), get("/usage/summary?group_by=model"), get("/admin/login/")]
    return lateness(target, plan, "mixed", [sign_in, *pages], question.PLAIN) | lateness(
        target, plan, "exporting", [sign_in, get("/auth/me/export")], question.PACED
    )


def lateness(target: Aiproxy, plan: Plan, name: str, chores: list[Chore], body: bytes) -> Figures:
    """All of them over and over, each by a client of its own; 4 more ask for answers meanwhile."""
    done, until, before = [0] * len(chores), perf_counter() + plan.mixed, target.metric(LAG)

    def repeat(n: int) -> None:
        while perf_counter() < until:
            chores[n]()
            done[n] += 1

    threads = [threading.Thread(target=repeat, args=(n,)) for n in range(len(chores))]
    for thread in threads:
        thread.start()
    report = wrk.run(target.endpoint, body, connections=4, seconds=plan.mixed)
    for thread in threads:
        thread.join()
    after = target.metric(LAG)
    lag = {bucket: after[bucket] - before.get(bucket, 0) for bucket in after}
    samples = lag_at_most(lag, "+Inf")
    return {
        f"{name}_requests_per_second": report.rate,
        f"{name}_p99_us": report.p99,
        f"{name}_chores": sum(done),
        f"{name}_lag_samples": samples,
        f"{name}_lag_over_5_ms": samples - lag_at_most(lag, "0.005"),
        f"{name}_lag_over_50_ms": samples - lag_at_most(lag, "0.05"),
    }


LAG = r"aiproxy_event_loop_lag_seconds_bucket.*"


def lag_at_most(lag: Figures, bound: str) -> float:
    return sum(count for name, count in lag.items() if f'le="{bound}"' in name)
