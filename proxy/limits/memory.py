"""Limits inside one process: for a service without Redis, and for the time while Redis is away.

Owns the buckets and slots of this process and nothing that outlives it. Must not know Redis or epochs (it never says
"stale"). The same rules as admit.lua, held to them by the same tests.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from proxy.limits import PARALLEL_RETRY_MS, SLOT_SECONDS, UNITS, Admission, Ask, Kind, Limit

# A new account makes us look at this many others and drop the idle ones: faster than they come, so memory is bounded.
_LOOKED_OVER = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """The levels that a common limiter left a scope at (None: no such bucket), and when, in ms of our clock."""

    requests: int | None
    tokens: int | None
    at: int


@dataclass(slots=True)
class _Account:
    """The state of one scope: our share of its limit (None: unlimited) and the levels of its buckets."""

    limit: Limit
    rpm: int | None
    tpm: int | None
    parallel: int | None
    requests: int
    tokens: int
    at: int
    # Request id -> when its slot expires. All live equally long, so the order of arrival is the order of expiry.
    slots: dict[Hashable, int] = field(default_factory=dict)

    def refill(self, now: int) -> None:
        elapsed = now - self.at
        if not elapsed:
            return
        self.at = now
        if self.rpm is not None:
            self.requests = min(self.rpm * UNITS, self.requests + elapsed * self.rpm)
        if self.tpm is not None:
            self.tokens = min(self.tpm * UNITS, self.tokens + elapsed * self.tpm)

    def give_back(self, tokens: int, now: int) -> None:
        """`at` stays when somebody was last let in: what another limiter left since then is news all the same."""
        assert self.tpm is not None
        full, refilled = self.tpm * UNITS, (now - self.at) * self.tpm
        self.tokens = min(full, min(full, self.tokens + refilled) + tokens) - refilled

    def live(self) -> int:
        """Slots that count."""
        expired = 0
        for expiry in self.slots.values():
            if expiry > self.at:
                break
            expired += 1
        return len(self.slots) - expired

    def full_at(self) -> int:
        requests = _until_full(self.requests, self.rpm) if self.rpm else 0
        tokens = _until_full(self.tokens, self.tpm) if self.tpm else 0
        return self.at + max(requests, tokens)


def _nothing(scope: str) -> int:
    return 0


class MemoryLimiter:
    """Enforces each limit divided by `share`, at least 1 of it: `share` workers go on without a common count."""

    tells_epochs = False

    def __init__(
        self,
        share: int = 1,
        *,
        slot_seconds: float = SLOT_SECONDS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.share = max(1, share)
        self._slot_ms = int(slot_seconds * 1000)
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._seen: Callable[[str], Seen | None] | None = None
        self._under_way: Callable[[str], int] = _nothing
        self._taken_over_at = -1

    def __len__(self) -> int:
        """Scopes held in memory."""
        return len(self._accounts)

    def now_ms(self) -> int:
        return self._clock() // 1_000_000

    def take_over(self, seen: Callable[[str], Seen | None], under_way: Callable[[str], int] = _nothing) -> None:
        """Go on, now, from the levels that another limiter left, beside what it let in here and goes on: a switch to
        this one hands out no second burst."""
        self._seen, self._under_way = seen, under_way
        self._taken_over_at = self.now_ms()

    async def admit(self, ask: Ask) -> Admission:
        ask.owner = self
        now = self.now_ms()
        held = len(self._accounts)
        accounts = [self._open(limit, now) for limit in ask.limits]
        admission = _denial(ask, accounts, self._under_way)
        if admission is None:
            admission = Admission("ok")
            for account in accounts:
                self._charge(ask, account)
        _describe(admission, accounts)
        if len(self._accounts) > held:
            self._drop_idle(now)
        return admission

    def settle(self, ask: Ask, tokens: int) -> None:
        now, back = self.now_ms(), (ask.tokens - tokens) * UNITS
        for limit in ask.limits:
            account = self._accounts.get(limit.scope)
            if account is None or account.slots.pop(ask.request_id, None) is None:
                continue
            if limit.tpm is None or account.tpm is None:  # nothing was taken, or there is nothing to give back to
                continue
            account.give_back(back, now)

    async def read_epochs(self, keys: Sequence[str]) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        self._accounts.clear()

    def _open(self, limit: Limit, now: int) -> _Account:
        account = self._accounts.get(limit.scope)
        if account is None or (account.limit is not limit and account.limit != limit):
            account = self._accounts[limit.scope] = self._account(limit, account)
        if account.at < self._taken_over_at:
            self._catch_up(account)
        account.refill(now)
        # An expired slot is kept as long again: until then a late settle still corrects its tokens.
        while account.slots and (oldest := next(iter(account.slots.items())))[1] <= now - self._slot_ms:
            del account.slots[oldest[0]]
        return account

    def _account(self, limit: Limit, before: _Account | None) -> _Account:
        """A full one, or what is left of the one that was under another limit."""
        rpm, tpm, parallel = self._part(limit.rpm), self._part(limit.tpm), self._part(limit.max_parallel)
        account = _Account(limit, rpm, tpm, parallel, (rpm or 0) * UNITS, (tpm or 0) * UNITS, at=-1)
        if before is not None:
            account.at, account.slots = before.at, before.slots
            if before.rpm is not None:
                account.requests = min(account.requests, before.requests)
            if before.tpm is not None:
                account.tokens = min(account.tokens, before.tokens)
        return account

    def _catch_up(self, account: _Account) -> None:
        seen = self._seen(account.limit.scope) if self._seen is not None else None
        if seen is None or seen.at <= account.at:
            return
        account.at = seen.at
        if seen.requests is not None:
            account.requests = seen.requests // self.share
        if seen.tokens is not None:
            account.tokens = seen.tokens // self.share

    def _charge(self, ask: Ask, account: _Account) -> None:
        if account.rpm is not None:
            account.requests -= UNITS
        if account.tpm is not None:
            account.tokens -= ask.tokens * UNITS
        if account.tpm is not None or account.parallel is not None:
            account.slots[ask.request_id] = account.at + self._slot_ms

    def _part(self, limit: int | None) -> int | None:
        return max(1, limit // self.share) if limit else limit

    def _drop_idle(self, now: int) -> None:
        """Look at the next accounts in turn: drop those that equal no account at all, put the others at the end."""
        for _ in range(min(_LOOKED_OVER, len(self._accounts))):
            scope = next(iter(self._accounts))
            account = self._accounts.pop(scope)
            newest = next(reversed(account.slots.values()), None)
            if now < account.full_at() or (newest is not None and newest > now - self._slot_ms):
                self._accounts[scope] = account


def _denial(ask: Ask, accounts: list[_Account], under_way: Callable[[str], int]) -> Admission | None:
    tokens = ask.tokens
    for account in accounts:
        if account.limit.tpm is not None and tokens > account.limit.tpm:
            return Admission("too_large", kind="tokens", scope=account.limit.scope)
    denial: Admission | None = None
    for account in accounts:
        if account.rpm is not None and account.requests < UNITS:
            denial = _longer(denial, account, "requests", _until(UNITS, account.requests, account.rpm))
        if account.tpm is not None and tokens:
            # What fits the whole limit but not our share of it may take the whole share, and leaves a debt.
            need = (tokens if tokens < account.tpm else account.tpm) * UNITS
            if account.tokens < need:
                denial = _longer(denial, account, "tokens", _until(need, account.tokens, account.tpm))
        if account.parallel is not None and account.live() + under_way(account.limit.scope) >= account.parallel:
            denial = _longer(denial, account, "parallel", PARALLEL_RETRY_MS)
    return denial


def _longer(denial: Admission | None, account: _Account, kind: Kind, wait: int) -> Admission:
    """Of what does not fit now, that which will last."""
    if denial is not None and denial.retry_after_ms >= wait:
        return denial
    return Admission("limited", kind=kind, scope=account.limit.scope, retry_after_ms=wait)


def _describe(admission: Admission, accounts: list[_Account]) -> None:
    for account in accounts:
        if account.rpm is not None:
            remaining = max(0, account.requests // UNITS)
            if admission.remaining_requests is None or remaining < admission.remaining_requests:
                admission.limit_requests, admission.remaining_requests = account.rpm, remaining
                admission.reset_requests_ms = _until_full(account.requests, account.rpm)
        if account.tpm is not None:
            remaining = max(0, account.tokens // UNITS)
            if admission.remaining_tokens is None or remaining < admission.remaining_tokens:
                admission.limit_tokens, admission.remaining_tokens = account.tpm, remaining
                admission.reset_tokens_ms = _until_full(account.tokens, account.tpm)


def _until(goal: int, level: int, rate: int) -> int:
    """Milliseconds, rounded up; a bucket that never refills is worth asking again in a minute."""
    return -((level - goal) // rate) if rate else UNITS


def _until_full(level: int, rate: int) -> int:
    return _until(rate * UNITS, level, rate) if rate else 0
