"""Owns the verdict: what every client saw against what the service recorded, and nothing excused without a fault.

A request is found in the record by the id that its client was given, or by a model name of its own. What the client
saw decides what its row must say; a fault that happened at the same time widens that to what it can have done, and no
further. Knows no sockets and no processes.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from faults.clients import Sighting
from faults.provider import MODEL, Visit, usage_of
from faults.script import ACTS
from faults.stand import Fault, Ledger

# A request that ended this long before a fault, or began this long after it, has nothing to do with it (seconds).
NEAR = 1.0

ROWS = (
    "SELECT id, user_id, proxy_key_id, provider, model, outcome, status_code, tokens_input, tokens_output,"
    " tokens_total, usage_source, writer, created_at, latency_ms, error_message FROM proxy_requests"
)
HOURS = "SELECT user_id, hour, proxy_key_id, provider, model, requests, errors, {sums} FROM usage_hours"
SUMS = ("tokens_input", "tokens_output", "tokens_total")

# What a worker that dies can leave of what it was doing; what a stop can.
DEATH = frozenset({"kill_worker", "kill_on_sight", "power_cut", "damage"})
STOP = frozenset({"sigterm"})
SERVICE = DEATH | STOP | {"freeze_worker"}


class Row(NamedTuple):
    id: UUID
    user_id: UUID
    proxy_key_id: UUID
    provider: str
    model: str
    outcome: str
    status_code: int
    tokens_input: int
    tokens_output: int
    tokens_total: int
    usage_source: str
    writer: str
    created_at: datetime
    latency_ms: int
    error_message: str


@dataclass(slots=True)
class Evidence:
    sightings: list[Sighting]
    visits: dict[str, list[Visit]]
    rows: list[Row]
    hours: list[tuple[Any, ...]]
    ledger: Ledger


@dataclass(slots=True)
class Verdict:
    violations: list[str]
    visits: dict[str, list[Visit]]
    counts: Counter[str] = field(default_factory=Counter)

    def blame(self, sighting: Sighting, what: str) -> None:
        script, way = sighting.script, f" left at {sighting.leave}" if sighting.left else ""
        saw = f"{sighting.status} {sighting.code or sighting.trouble}".strip()
        kind = "stream" if sighting.streamed else "plain"
        asked = ", ".join(f"{visit.at:.2f}" for visit in self.visits.get(script.nonce, ()))
        self.violations.append(
            f"{what}: request {sighting.request_id or script.nonce} of {sighting.tenant}, {kind} {script}{way}; saw"
            f" {saw}, from {sighting.began:.2f} to {sighting.ended:.2f}; the provider was asked at {asked or 'no time'}"
        )


def judge(evidence: Evidence) -> Verdict:
    verdict = Verdict(list(evidence.ledger.violations), evidence.visits)
    _Requests(evidence, verdict).judge()
    _hours(evidence, verdict)
    _billing(evidence, verdict)
    return verdict


class _Requests:
    """Every sighting against its row, and every row against its sighting."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self._evidence = evidence
        self._verdict = verdict
        self._ledger = evidence.ledger
        self._by_id = {str(row.id): row for row in evidence.rows}
        self._by_model: dict[str, list[Row]] = defaultdict(list)
        for row in evidence.rows:
            self._by_model[row.model].append(row)
        self._damaged_ids = {str(id) for id in self._ledger.damaged}
        # Of names of their own: the one that half of all requests have would excuse them all.
        self._damaged_models = set(self._ledger.damaged.values()) - {MODEL}
        self._claimed: set[UUID] = set()
        self._anonymous: list[Sighting] = []  # whose row, if any, cannot be told from others

    def judge(self) -> None:
        if len({row.id for row in self._evidence.rows}) != len(self._evidence.rows):
            self._verdict.violations.append("two rows have one id")
        for sighting in self._evidence.sightings:
            self._one(sighting)
        self._rest()

    def _one(self, sighting: Sighting) -> None:
        verdict = self._verdict
        verdict.counts[_kind(sighting)] += 1
        if sighting.hung:
            verdict.blame(sighting, "hung")
        row = self._row_of(sighting)
        if row is not None:
            self._claimed.add(row.id)
        elif _nameless(sighting):
            self._anonymous.append(sighting)
            self._excused_silence(sighting)
            return
        if row is None:
            if not self._may_lack_row(sighting):
                verdict.blame(sighting, "has no row")
            return
        expected = self._expected(sighting)
        if row.outcome not in expected:
            verdict.blame(
                sighting, f"its row says {row.outcome} ({row.error_message}), not {'/'.join(sorted(expected))}"
            )
        self._compare(sighting, row)
        self._excused_silence(sighting)

    def _row_of(self, sighting: Sighting) -> Row | None:
        if sighting.request_id and (row := self._by_id.get(sighting.request_id)):
            return row
        if sighting.model == MODEL or not (named := self._by_model.get(sighting.model)):
            return None
        if len(named) > 1:
            self._verdict.blame(sighting, f"has {len(named)} rows")
            self._claimed |= {row.id for row in named}
        if sighting.request_id:
            self._verdict.blame(sighting, f"its row has another id, {named[0].id}")
        return named[0]

    # --- What a row must say ---------------------------------------------------------------------------

    def _compare(self, sighting: Sighting, row: Row) -> None:
        damaged = str(row.id) in self._damaged_ids
        if sighting.complete and not damaged:
            used = sighting.usage
            recorded = (row.tokens_input, row.tokens_output, row.tokens_total, row.usage_source)
            if used is not None:
                told = (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"], "provider")
                if recorded != told:
                    self._verdict.blame(sighting, f"its row has {recorded}, the client {told}")
            elif row.usage_source != "estimated" and sighting.script.act == "mute":
                self._verdict.blame(sighting, f"nobody counted, yet its row says {row.usage_source}")
        elif row.outcome == "ok" and row.usage_source == "provider":
            said = usage_of(sighting.script) or {}
            if row.tokens_total != said.get("total_tokens"):
                self._verdict.blame(sighting, f"its row has {row.tokens_total} tokens, the provider said {said}")
        if sighting.refused and row.status_code != sighting.status and row.outcome != "interrupted":
            self._verdict.blame(sighting, f"its row says status {row.status_code}")

    def _expected(self, sighting: Sighting) -> set[str]:
        """The outcomes that what this client saw leaves possible."""
        near = self._near(sighting)
        if str(sighting.request_id) in self._damaged_ids or sighting.model in self._damaged_models:
            return {"interrupted", "ok", "refused", "provider_error", "timeout", "client_gone", "drained"}
        if sighting.complete:
            return {"ok"}
        if sighting.code == "shutting_down":
            return {"drained"}
        if sighting.refused or sighting.code:
            return {_told(sighting)} | ({"interrupted"} if near & DEATH else set())
        cut = {"interrupted", "ok", _scripted(sighting)} if near & DEATH else set()
        if near & STOP:
            cut |= {"drained", "client_gone"}
        if sighting.left:
            # It may have been served, refused or failed by the provider before its leaving was noticed.
            late = {"client_gone", _scripted(sighting)} | (
                {"refused"} if sighting.tenant in {"limited", "narrow"} or near else set()
            )
            return cut | late
        return cut or {_scripted(sighting)}

    def _may_lack_row(self, sighting: Sighting) -> bool:
        """Who was not identified, was not heard, or could not be written down has none; nobody else."""
        near = self._near(sighting)
        if sighting.request_id in self._damaged_ids or sighting.model in self._damaged_models:
            return True
        if self._evidence.visits.get(sighting.script.nonce):
            return False
        if sighting.code in {"key_lookup_unavailable", "record_unavailable"}:
            return bool(near)
        if sighting.code == "shutting_down":  # its key was still being looked up
            return bool(near & STOP)
        if sighting.status == 401:
            return sighting.tenant == "revoked"
        if sighting.refused and "disk_full" in near and sighting.source == "proxy":
            return True
        if sighting.left or not sighting.sent:
            return sighting.leave in {"connect", "head", "body", "sent"} or bool(near & SERVICE)
        return not sighting.status and bool(near & SERVICE)

    def _excused_silence(self, sighting: Sighting) -> None:
        """An answer that is not what the script says needs a fault at the same time."""
        near, script = self._near(sighting), sighting.script
        if sighting.left or sighting.hung:
            return
        if not sighting.status:
            if not near & SERVICE:
                self._verdict.blame(sighting, "was not answered, and nothing had happened")
            return
        allowed = {404} if sighting.model.startswith("nobody") else set(script.statuses(streamed=sighting.streamed))
        if sighting.tenant in {"limited", "narrow"}:
            allowed.add(429)
        if near:
            allowed.add(503)
        if sighting.tenant == "revoked":
            allowed.add(401)
        if sighting.status not in allowed:
            self._verdict.blame(sighting, f"was answered {sighting.status}, not {sorted(allowed)}")
        elif sighting.ended_cleanly and not sighting.complete:
            self._verdict.blame(sighting, "was cut, but its stream ended as a whole one does")
        elif sighting.status == 200 and not sighting.complete and not sighting.code and not near & (DEATH | STOP):
            self._verdict.blame(sighting, "was cut without an error event")

    def _near(self, sighting: Sighting) -> frozenset[str]:
        return frozenset(
            fault.kind
            for fault in self._ledger.faults
            if fault.began - NEAR < sighting.ended and sighting.began < fault.ended + NEAR
        )

    # --- The rows that nobody claimed ------------------------------------------------------------------

    def _rest(self) -> None:
        rest = [row for row in self._evidence.rows if row.id not in self._claimed]
        unnamed = [row for row in rest if row.model in {MODEL, "(unknown)"}]
        for row in rest:
            if row.model not in {MODEL, "(unknown)"}:
                self._verdict.violations.append(f"a row of no request: {row}")
        silent = len(self._anonymous) + sum(s.left and s.leave in {"head", "body"} for s in self._evidence.sightings)
        if len(unnamed) > silent:
            self._verdict.violations.append(
                f"{len(unnamed)} rows that no client knows of, for {silent} silent requests"
            )
        if wrong := [row for row in unnamed if row.outcome in {"error"}]:
            self._verdict.violations += [f"failed inside the proxy: {row}" for row in wrong]
        # What a provider was asked is on record, also when its client was never told anything.
        asked = sum(bool(self._evidence.visits.get(s.script.nonce)) for s in self._anonymous)
        written = sum(row.model == MODEL for row in unnamed)
        lost = sum(model == MODEL for model in self._ledger.damaged.values())
        if written + lost < asked:
            self._verdict.violations.append(f"{asked} silent requests reached the provider, {written} have rows")


def _nameless(sighting: Sighting) -> bool:
    """Whether its row, if it has one, looks like any other's: it was heard, but never told its id."""
    unnamed = sighting.model == MODEL or sighting.model.startswith("nobody")
    return unnamed and sighting.sent and not sighting.request_id


def _kind(sighting: Sighting) -> str:
    if sighting.complete:
        return "complete"
    if sighting.left:
        return "left"
    return "refused" if sighting.status >= 400 else "cut" if sighting.status else "unanswered"


def _told(sighting: Sighting) -> str:
    """The outcome that belongs to the error which the client was told."""
    if sighting.code == "provider_timeout":
        return "timeout"
    if sighting.source == "provider" or sighting.code in {"scripted", "provider_broken"}:
        return "provider_error"
    return "refused"


def _scripted(sighting: Sighting) -> str:
    return "refused" if sighting.model.startswith("nobody") else ACTS[sighting.script.act].outcome


def _hours(evidence: Evidence, verdict: Verdict) -> None:
    """The sums of the hours are the sums of the rows."""
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for row in evidence.rows:
        hour = row.created_at.replace(minute=0, second=0, microsecond=0)
        held = sums[row.user_id, hour, row.proxy_key_id, row.provider, row.model]
        failed = row.outcome not in {"ok", "client_gone"}
        for place, value in enumerate((1, failed, row.tokens_input, row.tokens_output, row.tokens_total)):
            held[place] += value
    stored = {tuple(hour[:5]): [int(Decimal(value)) for value in hour[5:]] for hour in evidence.hours}
    for key in sums.keys() | stored.keys():
        if sums.get(key) != stored.get(key):
            verdict.violations.append(f"usage_hours has {stored.get(key)} for {key}, the rows {sums.get(key)}")


def _billing(evidence: Evidence, verdict: Verdict) -> None:
    """No request reaches a provider again after it may have been billed, nor ever with the same key."""
    for nonce, visits in evidence.visits.items():
        for earlier in visits[:-1]:
            if earlier.billable:
                verdict.violations.append(f"request {nonce} was sent again after it may have been billed: {visits}")
        if len({visit.key for visit in visits}) != len(visits):
            verdict.violations.append(f"request {nonce} was sent twice with one key: {visits}")


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
