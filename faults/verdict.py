"""Owns the verdict: what every client saw against what the service recorded, and nothing excused without a fault.

A request is found in the record by the id that its client was given, or by a model name of its own. What the client
saw decides what its row must say; a fault that happened at the same time widens that to what it can have done, and no
further. Knows no sockets and no processes.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from faults.clients import Sighting
from faults.columns import impossible, unlike
from faults.provider import ERROR, MODEL, Visit, usage_of
from faults.rows import UNKNOWN, Claims, Row, possible_costs, request_id, unpaired
from faults.script import ACTS
from faults.stand import Ledger
from faults.sums import Stored, judge_sums

# A request that ended this long before a fault, or began this long after it, has nothing to do with it (seconds).
NEAR = 1.0
# Until a worker has heard what its client said before it left, at most: one may be frozen for a second.
HEARD_AFTER = 2.0

# What a worker that dies can leave of what it was doing; what a stop can.
DEATH = frozenset({"kill_worker", "kill_on_sight", "power_cut", "damage"})
STOP = frozenset({"sigterm"})
SERVICE = DEATH | STOP | {"freeze_worker"}


@dataclass(slots=True)
class Evidence:
    sightings: list[Sighting]
    visits: dict[str, list[Visit]]
    rows: list[Row]
    sums: Stored
    ledger: Ledger


@dataclass(slots=True)
class Verdict:
    violations: list[str]
    visits: dict[str, list[Visit]]
    counts: Counter[str] = field(default_factory=Counter)

    def blame(self, sighting: Sighting, what: str) -> None:
        script, way = sighting.script, f" left at {sighting.leave}" if sighting.left else ""
        saw = f"{sighting.status} {sighting.code or sighting.trouble}".strip()
        kind = f"{sighting.tenant.name}, {'stream' if sighting.streamed else 'plain'}"
        asked = ", ".join(f"{visit.at:.2f}" for visit in self.visits.get(script.nonce, ()))
        self.violations.append(
            f"{what}: request {sighting.request_id or script.nonce} of {kind} {script}{way}; saw"
            f" {saw}, from {sighting.began:.2f} to {sighting.ended:.2f}; the provider was asked at {asked or 'no time'}"
        )


def judge(evidence: Evidence) -> Verdict:
    verdict = Verdict(list(evidence.ledger.violations), evidence.visits)
    _Requests(evidence, verdict).judge()
    verdict.violations += judge_sums(evidence.rows, evidence.sums)
    _billing(evidence, verdict)
    return verdict


class _Requests:
    """Every sighting against its row, and every row against its sighting."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self._evidence = evidence
        self._verdict = verdict
        self._ledger = evidence.ledger
        self._claims = Claims(evidence.rows)
        self._damaged_ids = {str(id) for id in self._ledger.damaged}
        # Of names of their own: the one that half of all requests have would excuse them all.
        self._damaged_models = set(self._ledger.damaged.values()) - {MODEL}
        self._silent: list[Sighting] = []  # heard, perhaps, but without an id or a row that is theirs by name
        self._to_wall_clock = time.time() - time.monotonic()

    def judge(self) -> None:
        if len({row.id for row in self._evidence.rows}) != len(self._evidence.rows):
            self._verdict.violations.append("two rows have one id")
        sightings = self._evidence.sightings
        ended, began = max((s.ended for s in sightings), default=0.0), min((s.began for s in sightings), default=0.0)
        longest = (ended - began + HEARD_AFTER) * 1000
        keys = {sighting.tenant.user_id: sighting.tenant.provider_keys.values() for sighting in sightings}
        for row in self._evidence.rows:
            for what in impossible(row, keys.get(str(row.user_id), ()), longest):
                self._verdict.violations.append(f"a row {what}: {row}")
            if row.cost not in (costs := possible_costs(row)):
                self._verdict.violations.append(f"a cost of {row.cost}, not {'/'.join(map(str, costs))}: {row}")
        for sighting in sightings:
            self._one(sighting)
        self._rest()

    def _one(self, sighting: Sighting) -> None:
        verdict = self._verdict
        verdict.counts[_kind(sighting)] += 1
        if sighting.hung:
            verdict.blame(sighting, "hung")
        rows = self._claims.of(sighting)
        if len(rows) > 1:
            verdict.blame(sighting, f"has {len(rows)} rows")
        if not rows and not sighting.request_id and (sighting.sent or sighting.left):
            self._silent.append(sighting)
        if not rows and not _nameless(sighting):
            if not self._may_lack_row(sighting):
                verdict.blame(sighting, "has no row")
            return
        for row in rows[:1]:
            self._compare(sighting, row)
        self._excused_silence(sighting)

    # --- What a row must say ---------------------------------------------------------------------------

    def _compare(self, sighting: Sighting, row: Row) -> None:
        def blame(what: str) -> None:
            self._verdict.blame(sighting, f"its row {what}")

        if sighting.request_id not in {"", str(row.id)}:
            blame(f"has another id, {row.id}")
        if row.outcome not in (expected := self._expected(sighting)):
            blame(f"says {row.outcome} ({row.error_message}), not {'/'.join(sorted(expected))}")
        if not _is_of(row, sighting, asked=bool(self._evidence.visits.get(sighting.script.nonce))):
            blame(f"is another request's: {row}")
        if row.outcome == "interrupted":  # nobody knew what came of it
            return
        if row.status_code != (sighting.status or (200 if row.outcome == "ok" else row.status_code)):
            blame(f"says status {row.status_code}")
        for what in unlike(row, sighting, self._evidence.visits.get(sighting.script.nonce, ())):
            blame(what)
        if sighting.complete:
            self._compare_usage(sighting, row)
        elif row.usage_source == "provider":
            said = usage_of(sighting.script) or {}
            if row.tokens_total != said.get("total_tokens"):
                blame(f"has {row.tokens_total} tokens, the provider said {said}")

    def _compare_usage(self, sighting: Sighting, row: Row) -> None:
        """What the client was told, the record says too."""
        used = sighting.usage
        if row.provider_request_id != request_id(sighting):
            self._verdict.blame(sighting, f"its row names the provider's request {row.provider_request_id or 'not'}")
        if used is not None:
            recorded = (row.tokens_input, row.tokens_output, row.tokens_total, row.usage_source)
            told = (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"], "provider")
            if recorded != told:
                self._verdict.blame(sighting, f"its row has {recorded}, the client {told}")
            if "cost" in used and row.cost != Decimal(str(used["cost"])).quantize(Decimal("1e-8")):
                self._verdict.blame(sighting, f"its row has a cost of {row.cost}, the client {used['cost']}")
        elif row.usage_source != "estimated" and sighting.script.act == "mute":
            self._verdict.blame(sighting, f"nobody counted, yet its row says {row.usage_source}")

    def _expected(self, sighting: Sighting) -> set[str]:
        """The outcomes that what this client saw leaves possible."""
        return self._possible(sighting) | ({"interrupted"} if self._is_damaged(sighting) else set())

    def _is_damaged(self, sighting: Sighting) -> bool:
        return sighting.request_id in self._damaged_ids or sighting.model in self._damaged_models

    def _possible(self, sighting: Sighting) -> set[str]:
        near = self._near(sighting)
        if sighting.complete:
            return {"ok"}
        if sighting.code == "shutting_down":
            return {"drained"}
        if sighting.refused or sighting.code:
            return {_told(sighting)} | ({"interrupted"} if near & DEATH else set())
        cut = {"interrupted", "ok"} if near & DEATH else set()
        if near & STOP:
            cut |= {"drained", "client_gone"}
        if sighting.left:
            cut |= {"client_gone"}
        # It may have been served, refused or failed by the provider before its leaving, or ours, was noticed.
        if cut and not sighting.status and (sighting.tenant.name in {"limited", "narrow"} or near):
            cut |= {"refused"}
        return cut | {_scripted(sighting)}

    def _may_lack_row(self, sighting: Sighting) -> bool:
        """Who was not identified, was not heard, or could not be written down has none; nobody else."""
        near = self._near(sighting)
        if self._is_damaged(sighting):
            return True
        if self._evidence.visits.get(sighting.script.nonce):
            return False
        if sighting.code in {"key_lookup_unavailable", "record_unavailable"}:
            return bool(near)
        if sighting.code == "shutting_down":  # its key was still being looked up
            return bool(near & STOP)
        if sighting.status == 401:
            return sighting.tenant.name == "revoked"
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
        if sighting.tenant.name in {"limited", "narrow"}:
            allowed.add(429)
        if near:
            allowed.add(503)
        if sighting.tenant.name == "revoked":
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

    # --- The rows that nothing names -------------------------------------------------------------------

    def _rest(self) -> None:
        """Each is of one of the requests whose client was told nothing, and no two are of the same."""
        rest = self._claims.rest()
        for row in unpaired(rest, self._silent, self._may_be):
            self._verdict.violations.append(f"a row of no request: {row}")
        # What a provider was asked is on record, also when its client was never told anything.
        asked = [s for s in self._silent if _nameless(s) and self._evidence.visits.get(s.script.nonce)]
        missing = unpaired(asked, rest, lambda sighting, row: row.model == MODEL and self._may_be(row, sighting))
        known = {str(row.id) for row in self._evidence.rows} | {s.request_id for s in self._evidence.sightings}
        lost = sum(model == MODEL and str(id) not in known for id, model in self._ledger.damaged.items())
        if len(missing) > lost:
            for sighting in missing:
                self._verdict.blame(sighting, f"reached the provider, and has no row ({lost} of its model are lost)")

    def _may_be(self, row: Row, sighting: Sighting) -> bool:
        arrived = row.created_at.timestamp() - self._to_wall_clock
        return (
            sighting.began - 0.05 < arrived < sighting.ended + HEARD_AFTER
            and _is_of(row, sighting, asked=bool(self._evidence.visits.get(sighting.script.nonce)))
            and row.outcome
            in self._expected(sighting) | ({"interrupted"} if str(row.id) in self._damaged_ids else set())
        )


def _is_of(row: Row, sighting: Sighting, *, asked: bool) -> bool:
    """Whether whose it is, and what was asked of whom, is what this client sent."""
    tenant = sighting.tenant
    if (str(row.user_id), str(row.proxy_key_id)) != (tenant.user_id, tenant.key_id):
        return False
    if row.model == UNKNOWN:  # it ended before anybody was to be asked
        of_nobody = not asked and not row.provider and not row.provider_request_id and not row.tokens_total
        heard = sighting.status and sighting.code != "shutting_down"  # its body was read
        streamed = {sighting.streamed} if heard else {sighting.streamed, False}
        return of_nobody and row.streamed in streamed and row.outcome != "ok"
    what, ids = (row.model, row.provider, row.streamed), {"", request_id(sighting)}
    return what == (sighting.model, "openai", sighting.streamed) and row.provider_request_id in ids


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
    if sighting.source == "provider" or sighting.code in {ERROR, "provider_broken"}:
        return "provider_error"
    return "refused"


def _scripted(sighting: Sighting) -> str:
    return "refused" if sighting.model.startswith("nobody") else ACTS[sighting.script.act].outcome


def _billing(evidence: Evidence, verdict: Verdict) -> None:
    """No request reaches a provider again after it may have been billed, nor ever with the same key or another's."""
    keys = {sighting.script.nonce: sighting.tenant.provider_keys for sighting in evidence.sightings}
    for nonce, visits in evidence.visits.items():
        for earlier in visits[:-1]:
            if earlier.billable:
                verdict.violations.append(f"request {nonce} was sent again after it may have been billed: {visits}")
        if len({visit.key for visit in visits}) != len(visits):
            verdict.violations.append(f"request {nonce} was sent twice with one key: {visits}")
        if not {visit.key for visit in visits} <= set(keys.get(nonce, ())):
            verdict.violations.append(f"request {nonce} was sent with somebody else's key: {visits}")
