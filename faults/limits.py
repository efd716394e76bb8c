"""Owns the judgement of limits: what two tenants were let through, against what they may have. Pure.

While Redis is there, a window of t seconds lets at most `limit + t * limit / 60` requests through, however many workers
there are and whatever happens to them. While it is away each worker enforces its share, from the level it last knew; a
worker that starts meanwhile knows none, so each such start adds one share.
"""

from itertools import pairwise

from faults.provider import Visit
from faults.stand import PARALLEL, RECOVERY, RPM, WORKERS, Fault, Ledger
from faults.verdict import DEATH

REDIS = frozenset({"kill_redis", "freeze_redis"})
ACQUAINTANCE = 5.0  # seconds until a new worker has served the tenant, and so heard of its level
SLACK = 2  # requests that were under way when the window was cut


def admitted(visits: dict[str, list[Visit]], key: str) -> list[float]:
    """When each of a tenant's requests came to the provider."""
    return sorted(seen[0].at for seen in visits.values() if seen[0].key == key)


def judge_rate(times: list[float], ledger: Ledger, began: float, ended: float) -> list[str]:
    """Windows end where Redis came back empty: a burst is had once in each, and never at the switch to the shares."""
    away = [fault for fault in ledger.faults if fault.kind in REDIS]
    edges = sorted({began, ended, *(fault.ended - RECOVERY for fault in away if fault.kind == "kill_redis")})
    violations = []
    for start, stop in pairwise(edges):
        seen = sum(start <= at < stop for at in times)
        allowed = RPM + (stop - start) * RPM / 60 + SLACK
        for fault in away:
            if fault.began < stop and start < fault.ended:
                fresh = sum(fault.began - ACQUAINTANCE <= at < fault.ended for at in ledger.worker_starts)
                # Shares refill while a frozen Redis does too, and a new worker has not heard of any level yet.
                allowed += (fault.ended - fault.began) * RPM / 60 + fresh * RPM / WORKERS
        if seen > allowed:
            violations.append(f"{seen} requests were let through in {stop - start:.1f} s, {allowed:.0f} may be")
    return violations


def judge_parallel(peaks: list[tuple[float, int]], ledger: Ledger, began: float, ended: float) -> list[str]:
    calm = quiet_windows(ledger.faults, REDIS, began, ended)
    return [
        f"{number} requests ran at once, {PARALLEL} may"
        for at, number in peaks
        if number > PARALLEL and any(start <= at < stop for start, stop in calm)
    ]


def judge_slots(slots: list[tuple[str, int, float]], ledger: Ledger) -> list[str]:
    """Only a worker that was killed leaves slots behind, until they expire; a live one counts what it holds."""
    deaths = [fault.ended for fault in ledger.faults if fault.kind in DEATH]
    return [
        f"{number} slots are left in {scope}, though nobody has died since they were heard of"
        for scope, number, heard_at in slots
        if not any(heard_at < ended for ended in deaths)
    ]


def quiet_windows(faults: list[Fault], kinds: frozenset[str], began: float, ended: float) -> list[tuple[float, float]]:
    """The time between these faults."""
    windows, since = [], began
    for fault in sorted((fault for fault in faults if fault.kind in kinds), key=lambda fault: fault.began):
        if fault.began > since:
            windows.append((since, fault.began))
        since = max(since, fault.ended)
    if since < ended:
        windows.append((since, ended))
    return windows
