"""Limits that all workers share, kept in Redis: one script call for all that a policy's requests want at a time.

Owns the scripts, their arguments and replies, and what this worker holds. Must not know what to do while Redis is away
(`guarded` does) or what an epoch stands for.

Keys are `<prefix><scope>`; all of them expire by themselves. A script touches the keys of a user and of a proxy key
together, so this needs one Redis (or a primary with replicas), not Redis Cluster.

Every call counts exactly once. Those of one connection (a session) are numbered, and an account knows the last one that
touched it. When a connection is lost with calls under way, the next session tells each account what this worker really
holds of it (resume.lua), and the difference is given back.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from struct import Struct
from typing import Any, Final

import hiredis

from proxy.eager import Waiter, waiter
from proxy.limits import LEASE_SECONDS, Admission, Ask, Kind, Limit, LimiterAway, Verdict
from proxy.limits.connection import Address, Arguments, Connection, connect, pack
from proxy.limits.memory import Seen

PREFIX: Final = "aiproxy:limits:"
EPOCH_SECONDS: Final = 30 * 86_400
# Accounts that go out at once when there are many to renew, or to take over.
BATCH: Final = 200
# Prepared commands kept, about 1 KB each; a process has fewer policies in use.
COMMANDS: Final = 4_096
# How long the levels of a scope are remembered, at least; after a minute a bucket is full again.
SEEN_MS: Final = 60_000
# The Redis server's own clock: workers never compare theirs.
SERVER_CLOCK: Final = """
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
"""

_VERDICTS: Final[tuple[Verdict, ...]] = ("ok", "stale", "limited", "too_large")
_KINDS: Final[tuple[Kind, ...]] = ("", "requests", "tokens", "parallel")
_OK: Final = 0
_LIMITS: Final = Struct("<qqq")  # requests a minute, tokens a minute, in parallel; -1: unlimited
_BATCH: Final = Struct("<qqqqqq")
_BATCH_OF_ONE: Final = Struct("<qqqqqqq")
_ANSWER: Final = Struct("<10q")
_LEVELS: Final = Struct("<qq")
_SESSION: Final = Struct("<q")
_RESUMPTION: Final = Struct("<qqqqq")


def scripts(clock: str, slot_ms: int, *names: str) -> list[str]:
    """The text of each script, with what all of them know."""
    here = Path(__file__).parent
    common = f"{clock}\nlocal SLOT_LIFE, EPOCH_LIFE = {slot_ms}, {EPOCH_SECONDS}  -- ms, s\n"
    common += (here / "account.lua").read_text()
    return ["\n".join((common, (here / f"{name}.lua").read_text())) for name in names]


class _Script:
    """Loaded without anybody waiting for it: the first call that needs it says if it is not there."""

    def __init__(self, text: str) -> None:
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._load = pack(("SCRIPT", "LOAD", text))

    def packed(self) -> bytes:
        return self._load

    def received(self, reply: Any) -> None: ...

    def lost(self, reason: str) -> None: ...


class _Renewal:
    """Of what is held of one account. None of it is there? Then it was emptied: the next session tells it anew."""

    __slots__ = ("_command", "_limiter")

    def __init__(self, limiter: "RedisLimiter", command: Arguments) -> None:
        self._limiter = limiter
        self._command = command

    def packed(self) -> bytes:
        return pack(self._command)

    def received(self, reply: Any) -> None:
        if reply == 0:
            self._limiter.disconnect("FORGOTTEN what is under way is not known there")

    def lost(self, reason: str) -> None: ...


class _Command:
    """What a policy's requests send, packed but for what is a batch's own."""

    __slots__ = ("batch", "epoch_keys", "epochs", "holds", "limits", "packed", "under_way")

    def __init__(self, ask: Ask, packed: bytes) -> None:
        self.limits, self.epoch_keys, self.epochs = ask.limits, ask.epoch_keys, ask.epochs
        self.packed = packed
        self.batch: _Batch | None = None  # that may still grow
        self.under_way = 0  # of its requests that hold something
        # Requests a minute alone are spent for good: nothing to correct, nothing to free.
        self.holds = any(limit.holds for limit in ask.limits)


class _Batch:
    """What one policy's requests want of Redis in a turn of the loop: some want in, some have ended."""

    __slots__ = ("asks", "command", "freed", "left_over", "limiter", "number", "released", "reloaded", "waiting")

    def __init__(self, limiter: "RedisLimiter", command: _Command) -> None:
        self.limiter = limiter
        self.command = command
        self.asks: list[Ask] = []
        self.waiting: list[Waiter[Admission] | asyncio.Future[Admission]] = []
        self.left_over = self.released = self.freed = 0
        self.number = 0  # until it leaves
        self.reloaded = False

    def packed(self) -> bytes:
        self.command.batch = None
        self.number = self.limiter.next_number()
        under_way = self.command.under_way + self.freed
        own = (self.limiter.session, self.number, self.left_over, self.released, self.freed, under_way)
        if len(self.asks) == 1:
            packed = _BATCH_OF_ONE.pack(*own, self.asks[0].tokens)
        else:
            tokens = [ask.tokens for ask in self.asks]
            packed = _BATCH.pack(*own) + Struct(f"<{len(tokens)}q").pack(*tokens)
        return b"%b$%d\r\n%b\r\n" % (self.command.packed, len(packed), packed)

    def received(self, reply: Any) -> None:
        if type(reply) is bytes:
            self.limiter.answered(self, reply, self.command.epochs or ())
        elif type(reply) is list:
            self.limiter.answered(self, reply[0], tuple(epoch.decode() for epoch in reply[1:]))
        else:
            self.limiter.failed(self, reply)

    def lost(self, reason: str) -> None:
        self.command.batch = None
        self.limiter.lost(self, reason)


class _Hold:
    """What this worker holds of one account, and the calls of which it does not know whether they came to it."""

    __slots__ = ("calls", "limit", "reserved", "slots")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.slots = self.reserved = 0
        self.calls: list[tuple[int, int]] = []  # number, and the tokens used by those that ended in it

    def packed(self, session: int, before: int, last: int) -> bytes:
        calls = b"".join([_LEVELS.pack(*call) for call in self.calls])
        return _RESUMPTION.pack(session, before, last, self.slots, self.reserved) + calls


class RedisLimiter:
    """`timeout`: seconds until a missing reply means that Redis is away. `on_lost(reason)`: the connection went.

    `adopted()`: what another limiter let in meanwhile, and goes on; asked before a new connection is told what does.
    `failures` counts what ended in LimiterAway.
    """

    tells_epochs = True

    def __init__(
        self,
        url: str,
        timeout: float = 0.05,
        *,
        connect_timeout: float = 1.0,
        slot_seconds: float = LEASE_SECONDS,
        prefix: str = PREFIX,
        clock: str = SERVER_CLOCK,
    ) -> None:
        self.address = Address.parse(url)
        self.failures = 0
        self.on_lost: Callable[[str], None] | None = None
        self.adopted: Callable[[], Iterable[Ask]] = tuple
        self.session = _new_session()
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._slot_ms = int(slot_seconds * 1000)
        self._prefix = prefix
        self._admit, self._resume, self._renew = map(_Script, scripts(clock, self._slot_ms, "admit", "resume", "renew"))
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None  # held while it runs
        self._number = 0  # of the last call: a batch that left, or what could not
        self._commands: dict[int, _Command] = {}
        # Admitted here and not settled yet, by request id.
        self._held: dict[Hashable, Ask] = {}
        self._under_way: Counter[str] = Counter()  # of them, by scope; kept while there is no connection
        # What the next session has to know: its own number, lost calls, and what ended while there was no connection.
        self._next_session = _new_session()
        self._lost_batches: list[_Batch] = []
        self._ended: list[tuple[int, Ask, int]] = []
        # By scope: when a reply about it came, the limit, the reply and the place of its levels there.
        self._replies: dict[str, tuple[int, Limit, bytes, int]] = {}
        self._older_replies: dict[str, tuple[int, Limit, bytes, int]] = {}
        self._replies_since = 0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def slot_seconds(self) -> float:
        return self._slot_ms / 1000

    def admit(self, ask: Ask) -> Awaitable[Admission]:
        """One round trip. Unanswered, it is given back as soon as Redis can be told."""
        ask.owner = self
        connection = self._connection
        if connection is None:
            return self._admit_when_ready(ask)
        ask.prepared = command = self._command(ask)
        batch = command.batch or self._begin(connection, command)
        admission: Waiter[Admission] | asyncio.Future[Admission] = waiter(connection.loop)
        batch.asks.append(ask)
        batch.waiting.append(admission)
        connection.urge()
        return admission

    def settle(self, ask: Ask, tokens: int) -> None:
        if self._held.pop(ask.request_id, None) is None:
            self._give_up(ask)
            return
        ask.prepared.under_way -= 1
        if self._connection is None:
            self._ended.append((self.next_number(), ask, tokens))
            self._under_way.subtract(limit.scope for limit in ask.limits)
            return
        command: _Command = ask.prepared
        batch = command.batch or self._begin(self._connection, command)
        batch.left_over += ask.tokens - tokens
        batch.released += ask.tokens
        batch.freed += 1

    async def renew(self) -> None:
        """The slots of all requests under way live on; to be called well before `slot_seconds` are over."""
        limits = {limit.scope: limit for ask in self._held.values() for limit in ask.limits if limit.holds}
        if limits and self._connection is not None:
            self._connection.post(self._renew)  # a server that forgot it (SCRIPT FLUSH) would tell nobody
        for number, limit in enumerate(limits.values(), 1):
            if self._connection is None:
                return
            self._connection.post(_Renewal(self, self._call(self._renew, limit, _SESSION.pack(self.session))))
            if number % BATCH == 0:
                await asyncio.sleep(0)

    async def read_epochs(self, keys: Sequence[str]) -> tuple[str, ...]:
        if not keys:
            return ()
        return (await self.admit(Ask(request_id="", limits=(), tokens=0, epoch_keys=tuple(keys)))).epochs

    def seen(self, scope: str) -> Seen | None:
        """The levels in the newest reply about a scope, for about a minute."""
        entry = self._replies.get(scope) or self._older_replies.get(scope)
        if entry is None:
            return None
        at, limit, reply, place = entry
        requests, tokens = _LEVELS.unpack_from(reply, place)
        return Seen(None if limit.rpm is None else requests, None if limit.tpm is None else tokens, at)

    def under_way(self, scope: str) -> int:
        """How many requests that were admitted here go on, while there is no connection."""
        return self._under_way[scope]

    async def connect(self) -> None:
        """One attempt (for all who call meanwhile), unless connected. LimiterAway says why not."""
        if self._connection is not None:
            return
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_task(self._open())
            self._attempt.add_done_callback(self._attempted)
        await asyncio.shield(self._attempt)

    def disconnect(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.drop(reason)

    async def close(self) -> None:
        """What was settled before still goes out."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(LimiterAway):
                await connection.call("PING")
            connection.drop("closed")

    # What a batch tells.

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def answered(self, batch: _Batch, reply: bytes, epochs: tuple[str, ...]) -> None:
        command = batch.command
        if reply:
            self._remember(command.limits, reply, _ANSWER.size * len(batch.asks))
        size = _ANSWER.size
        admissions = [
            self._admission(ask, reply, size * place, epochs) if reply else Admission("stale", epochs)
            for place, ask in enumerate(batch.asks)
        ]
        # What these do now may be anything: it comes last.
        for waiting, admission in zip(batch.waiting, admissions, strict=True):
            if not waiting.done():
                waiting.set_result(admission)

    def failed(self, batch: _Batch, reply: Any) -> None:
        """An error: once more if the server only forgot the scripts (restart, SCRIPT FLUSH)."""
        batch.number = 0  # those that left after it may count: it does not
        connection = self._connection
        if connection is None:
            self.lost(batch, "connection lost")
        elif str(reply).startswith("NOSCRIPT") and not batch.reloaded:
            batch.reloaded = True
            self._load_scripts(connection)
            connection.post(batch)
            connection.urge()
        else:
            # READONLY, LOADING, OOM, MISCONF, NOPERM: it answers but can't count. Another connection may find one that
            # can. FORGOTTEN: the next session tells what is under way.
            reason = _refusal(reply)
            self.lost(batch, reason)
            connection.drop(reason)

    def lost(self, batch: _Batch, reason: str) -> None:
        self.failures += len(batch.asks)
        connection = self._connection
        if batch.asks and batch.freed and connection is not None and not connection.closed:
            # Its requests could not be sent, and what ended with them goes alone.
            ended = batch.command.batch or self._begin(connection, batch.command)
            ended.left_over += batch.left_over
            ended.released += batch.released
            ended.freed += batch.freed
        elif batch.command.holds:
            batch.number = batch.number or self.next_number()
            self._lost_batches.append(batch)
        for waiting in batch.waiting:
            asyncio.get_running_loop().call_soon(_tell_away, waiting, reason)

    # ---

    def _begin(self, connection: Connection, command: _Command) -> _Batch:
        batch = command.batch = _Batch(self, command)
        connection.post(batch)
        return batch

    def _hold(self, ask: Ask) -> None:
        self._held[ask.request_id] = ask
        ask.prepared.under_way += 1

    def _give_up(self, ask: Ask) -> None:
        """If it has yet to be answered, nobody waits for that any more: what it takes is given back."""
        ask.given_up = True
        batch: _Batch | None = ask.prepared.batch if ask.prepared is not None else None
        if batch is not None and ask in batch.asks:  # it has not left
            place = batch.asks.index(ask)
            del batch.asks[place], batch.waiting[place]

    async def _admit_when_ready(self, ask: Ask) -> Admission:
        await self.connect()
        if self._connection is None:
            raise LimiterAway("connection lost")
        return await self.admit(ask)

    async def _open(self) -> None:
        """What we hold is told first, so that nobody is refused for a slot that is free."""
        connection = await connect(
            self.address, timeout=self._connect_timeout, on_lost=self._lost, on_emptied=self._emptied
        )
        try:
            self._load_scripts(connection)
            await self._write(connection)
            for ask in self.adopted():
                self._adopt(ask)
            await self._take_over(connection)
            connection.hurry(self._timeout)
            # Again, in the time that a request would have: a Redis that is slow is still away.
            await self._write(connection)
            if connection.closed:
                raise LimiterAway("connection lost")
        except BaseException:
            connection.drop("not used")
            raise
        self.session, self._next_session = self._next_session, _new_session()
        self._connection = connection
        ended, self._ended = self._ended, []
        for _, ask, tokens in ended:  # since Redis was told that they are under way
            self._hold(ask)
            self.settle(ask, tokens)

    def _adopt(self, ask: Ask) -> None:
        ask.owner, ask.prepared = self, self._command(ask)
        if ask.prepared.holds:
            self._hold(ask)
            self._under_way.update(limit.scope for limit in ask.limits)

    async def _take_over(self, connection: Connection) -> None:
        """Until it succeeds the next session's number stays the same: an attempt may have come half way."""
        batches, ended = len(self._lost_batches), len(self._ended)
        sessions = self._next_session, self.session, self._number
        calls = [self._call(self._resume, hold.limit, hold.packed(*sessions)) for hold in self._holds()]
        for at in range(0, len(calls), BATCH):
            for reply in await asyncio.gather(*(connection.call(*call) for call in calls[at : at + BATCH])):
                if isinstance(reply, hiredis.ReplyError):
                    raise LimiterAway(_refusal(reply))
        del self._lost_batches[:batches], self._ended[:ended]

    def _holds(self) -> Iterable["_Hold"]:
        holds: dict[str, _Hold] = {}

        def of(limits: Iterable[Limit]) -> list[_Hold]:
            return [holds.setdefault(limit.scope, _Hold(limit)) for limit in limits if limit.holds]

        for ask in self._held.values():
            for hold in of(ask.limits):
                hold.slots += 1
                hold.reserved += ask.tokens
        for batch in self._lost_batches:
            for hold in of(batch.command.limits):
                hold.calls.append((batch.number, batch.released - batch.left_over))
        for number, ask, used in self._ended:
            for hold in of(ask.limits):
                hold.calls.append((number, used))
        return holds.values()

    async def _write(self, connection: Connection) -> None:
        """LimiterAway if it is read-only, full or not allowed to us."""
        reply = await connection.call("SET", f"{self._prefix}probe", "1", "PX", 1000)
        if isinstance(reply, hiredis.ReplyError):
            raise LimiterAway(_refusal(reply))

    def _attempted(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is not None:
            self.failures += 1

    def _lost(self, connection: Connection, reason: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._under_way = Counter(limit.scope for ask in self._held.values() for limit in ask.limits)
            if self.on_lost is not None:
                self.on_lost(reason)

    def _emptied(self) -> None:
        """If it was our database, nobody is to be let in beside what is under way before that is told anew."""
        self._renewal = asyncio.get_running_loop().create_task(self.renew())

    def _load_scripts(self, connection: Connection) -> None:
        for script in (self._admit, self._resume, self._renew):
            connection.post(script)

    def _call(self, script: _Script, limit: Limit, own: bytes) -> Arguments:
        return ("EVALSHA", script.sha, 1, f"{self._prefix}{limit.scope}", packed_limits(limit), own)

    def _command(self, ask: Ask) -> _Command:
        """By identity: comparing and hashing the tuples would cost what is saved. Entries hold what they stand for. No
        limits at all are one tuple for all policies, epoch keys are each one's own."""
        command = self._commands.get(id(ask.epoch_keys))
        if (
            command is None
            or command.limits is not ask.limits
            or command.epoch_keys is not ask.epoch_keys
            or command.epochs is not ask.epochs
        ):
            if len(self._commands) >= COMMANDS:
                self._commands.clear()
            command = self._commands[id(ask.epoch_keys)] = self._prepared(ask)
        return command

    def _prepared(self, ask: Ask) -> _Command:
        accounts = [f"{self._prefix}{limit.scope}" for limit in ask.limits]
        names = (*ask.epoch_keys, *accounts)
        limits = b"".join(map(packed_limits, ask.limits))
        arguments: Arguments = ("EVALSHA", self._admit.sha, len(names), *names, limits, " ".join(ask.epochs or ()))
        return _Command(ask, _open_ended(arguments))

    def _admission(self, ask: Ask, reply: bytes, at: int, epochs: tuple[str, ...]) -> Admission:
        answer: tuple[int, ...] = _ANSWER.unpack_from(reply, at)
        verdict, kind, place, wait, requests, left, full, tokens, tokens_left, tokens_full = answer
        scope = ask.limits[place - 1].scope if place else ""
        admission = Admission(
            _VERDICTS[verdict], epochs, _KINDS[kind], scope, wait,
            requests, left, full, tokens, tokens_left, tokens_full,
        )  # fmt: skip
        # A limit of -1: there is none, and its two other numbers say nothing.
        if requests < 0:
            admission.limit_requests = admission.remaining_requests = admission.reset_requests_ms = None
        if tokens < 0:
            admission.limit_tokens = admission.remaining_tokens = admission.reset_tokens_ms = None
        if verdict == _OK and ask.prepared.holds:
            self._hold(ask)
            if ask.given_up:
                self.settle(ask, 0)
        return admission

    def _remember(self, limits: tuple[Limit, ...], reply: bytes, place: int) -> None:
        at = time.monotonic_ns() // 1_000_000
        if at - self._replies_since > SEEN_MS:
            self._older_replies, self._replies, self._replies_since = self._replies, {}, at
        for limit in limits:
            self._replies[limit.scope] = (at, limit, reply, place)
            place += _LEVELS.size


def _tell_away(waiting: Waiter[Any] | asyncio.Future[Any], reason: str) -> None:
    if not waiting.done():
        waiting.set_exception(LimiterAway(reason))


def _new_session() -> int:
    """A whole number that Lua, which counts in doubles, keeps exact; nobody else has it."""
    return secrets.randbits(52) | 1


def _open_ended(arguments: Arguments) -> bytes:
    """A packed command that lacks its last argument: a batch adds its own."""
    packed = pack(arguments)
    return b"*%d\r\n" % (len(arguments) + 1) + packed[packed.index(b"\r\n") + 2 :]


def _refusal(reply: Any) -> str:
    """Before 7.0 Redis puts the place in the script before the error of the command that failed there."""
    text = str(reply)
    if text.startswith("ERR Error running script"):
        text = text.rpartition("@user_script")[2].partition(": -")[2] or text
    return f"it refused: {text[:80]}"


def packed_limits(limit: Limit) -> bytes:
    """As the scripts take them."""
    return _LIMITS.pack(*(-1 if number is None else number for number in (limit.rpm, limit.tpm, limit.max_parallel)))
