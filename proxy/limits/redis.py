"""Limits that all workers share, kept in Redis: one script call a request.

Owns the scripts, their arguments and replies, and settlements that wait for a connection. Must not know what to do
while Redis is away (`guarded` does) or what an epoch stands for.

Keys are `<prefix><scope>:bucket` and `<prefix><scope>:slots`; all of them expire by themselves. A script touches the
keys of a user and of a proxy key together, so this needs one Redis (or a primary with replicas), not Redis Cluster.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from struct import Struct
from typing import Any, Final

import hiredis

from proxy.limits import LEASE_SECONDS, Admission, Ask, Kind, Limit, LimiterAway, Verdict
from proxy.limits.connection import Address, Arguments, Connection, connect, pack
from proxy.limits.memory import Seen

PREFIX: Final = "aiproxy:limit:"
EPOCH_SECONDS: Final = 30 * 86_400
# Settlements kept for the next connection, and how many of them go out at once then.
BACKLOG: Final = 10_000
BATCH: Final = 200
# Prepared commands kept, about 1.5 KB each; a process has fewer policies in use.
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
_STALE: Final = 1
_HEAD: Final = 10
_LIMITS: Final = Struct("<qqq")  # requests a minute, tokens a minute, in parallel; -1: unlimited
_NONE: Final = (None, None, None)


class _Script:
    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(parts)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.load = pack(("SCRIPT", "LOAD", self.text))


def _own(one: str, two: str, three: str) -> bytes:
    """A request's own arguments as hiredis packs them, in a quarter of the time; all of them are ASCII."""
    packed = f"${len(one)}\r\n{one}\r\n${len(two)}\r\n{two}\r\n${len(three)}\r\n{three}\r\n"
    return packed.encode("ascii")


class _Command:
    """What a policy's requests send, packed but for what is their own."""

    __slots__ = ("admit", "epoch_keys", "epochs", "limits", "settle", "settles")

    def __init__(self, ask: Ask, admit: bytes, settle: bytes) -> None:
        self.limits, self.epoch_keys, self.epochs = ask.limits, ask.epoch_keys, ask.epochs
        self.admit = admit
        self.settle = settle
        # Requests a minute alone are spent for good: nothing to correct, nothing to free.
        self.settles = any(limit.tpm is not None or limit.max_parallel is not None for limit in ask.limits)

    def packed_admit(self, ask: Ask, token: str) -> bytes:
        return self.admit + _own(ask.request_id, str(ask.tokens), token)

    def packed_settle(self, ask: Ask, tokens: int) -> bytes:
        return self.settle + _own(ask.request_id, str(ask.tokens), str(tokens))


class _Settlement:
    """One settle under way. It survives its connection: settling twice changes nothing, so it may be sent again."""

    __slots__ = ("ask", "limiter", "reloaded", "tokens")

    def __init__(self, limiter: "RedisLimiter", ask: Ask, tokens: int) -> None:
        self.limiter = limiter
        self.ask = ask
        self.tokens = tokens
        self.reloaded = False

    def packed(self) -> bytes:
        return self.limiter.packed_settle(self.ask, self.tokens)

    def received(self, reply: Any) -> None:
        if not isinstance(reply, hiredis.ReplyError):
            return
        if _unknown_script(reply) and not self.reloaded:
            self.reloaded = True
            self.limiter.reload(self)
        else:
            self.limiter.dropped += 1

    def lost(self) -> None:
        self.limiter.keep(self)


class _Ignored:
    def received(self, reply: Any) -> None: ...

    def lost(self) -> None: ...


_IGNORED = _Ignored()


class RedisLimiter:
    """`timeout`: seconds until a missing reply means that Redis is away. `on_lost(reason)`: the connection went.

    `failures` counts what ended in LimiterAway, `dropped` the settlements that were given up.
    """

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
        self.dropped = 0
        self.on_lost: Callable[[str], None] | None = None
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._slot_ms = int(slot_seconds * 1000)
        self._prefix = prefix
        here = Path(__file__).parent
        bucket = (here / "bucket.lua").read_text()
        clock += f"\nlocal SLOT_LIFE, EPOCH_LIFE = {self._slot_ms}, {EPOCH_SECONDS}  -- ms, s"
        self._admit = _Script(clock, bucket, (here / "admit.lua").read_text())
        self._settle = _Script(clock, bucket, (here / "settle.lua").read_text())
        self._renew = _Script(clock, (here / "renew.lua").read_text())
        # Admitted here and not settled yet, by request id.
        self._held: dict[str, Ask] = {}
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._backlog: deque[_Settlement] = deque()
        self._fresh = _tokens()
        self._commands: dict[int, _Command] = {}
        # By scope: when a reply about it came, the limit, the reply and the place of its levels there.
        self._replies: dict[str, tuple[int, Limit, list[int], int]] = {}
        self._older_replies: dict[str, tuple[int, Limit, list[int], int]] = {}
        self._replies_since = 0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def slot_seconds(self) -> float:
        return self._slot_ms / 1000

    async def admit(self, ask: Ask) -> Admission:
        """One round trip. Cancelled or unanswered, it is given back as soon as Redis can be told."""
        ask.owner = self
        connection = self._connection or await self._ready()
        ask.prepared = command = self._command(ask)
        packed = command.packed_admit(ask, next(self._fresh))
        try:
            reply = await connection.call(packed)
            if type(reply) is not list:
                reply = await self._again(connection, packed, reply)
        except (LimiterAway, asyncio.CancelledError) as exc:
            self.failures += isinstance(exc, LimiterAway)
            self.settle(ask, 0)
            raise
        return self._admission(ask, reply)

    def settle(self, ask: Ask, tokens: int) -> None:
        self._held.pop(ask.request_id, None)
        if (ask.prepared or self._command(ask)).settles:
            self._post(_Settlement(self, ask, tokens))

    async def renew(self) -> None:
        """The slots of all requests under way live on; to be called well before `slot_seconds` are over."""
        for number, ask in enumerate(tuple(self._held.values()), 1):
            if self._connection is None:
                return
            if ask.request_id in self._held:
                slots = tuple(f"{self._prefix}{limit.scope}:slots" for limit in ask.limits)
                packed = pack(("EVALSHA", self._renew.sha, len(slots), *slots, ask.request_id))
                self._connection.post(packed, _IGNORED)
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
        requests, tokens = reply[place : place + 2]
        return Seen(None if limit.rpm is None else requests, None if limit.tpm is None else tokens, at)

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
                await connection.call(pack(("PING",)))
            connection.drop("closed")
        self.dropped += len(self._backlog)
        self._backlog.clear()

    def packed_settle(self, ask: Ask, tokens: int) -> bytes:
        command: _Command = ask.prepared or self._command(ask)
        return command.packed_settle(ask, tokens)

    def keep(self, settlement: _Settlement) -> None:
        """Remember it for the next connection; the oldest give way (their slots expire by themselves)."""
        if len(self._backlog) >= BACKLOG:
            self._backlog.popleft()
            self.dropped += 1
        self._backlog.append(settlement)

    def reload(self, settlement: _Settlement) -> None:
        """The server has forgotten the scripts (restart, SCRIPT FLUSH): teach it and send once more."""
        if self._connection is not None:
            self._load_scripts(self._connection)
        self._post(settlement)

    def _post(self, settlement: _Settlement) -> None:
        if self._connection is None:
            self.keep(settlement)
        else:
            self._connection.post(settlement.packed(), settlement)

    async def _ready(self) -> Connection:
        if self._connection is None:
            await self.connect()
        if self._connection is None:
            raise LimiterAway("connection lost")
        return self._connection

    async def _again(self, connection: Connection, packed: bytes, reply: Any) -> list[Any]:
        """After an error: once more if the server only forgot the scripts (restart, SCRIPT FLUSH)."""
        if _unknown_script(reply):
            self._load_scripts(connection)
            reply = await connection.call(packed)
        if isinstance(reply, list):
            return reply
        # READONLY, LOADING, OOM, MISCONF, NOPERM: it answers but can't count. A new connection may find one that can.
        reason = _refusal(reply)
        connection.drop(reason)
        raise LimiterAway(reason)

    async def _open(self) -> None:
        """Settlements that waited go out first, so that nobody is refused for a slot that is free."""
        connection = await connect(self.address, timeout=self._connect_timeout, on_lost=self._lost)
        try:
            self._load_scripts(connection)
            await self._write(connection)
            while self._backlog:
                batch = [self._backlog.popleft() for _ in range(min(BATCH, len(self._backlog)))]
                for settlement in batch:
                    connection.post(settlement.packed(), settlement)
                await connection.call(pack(("PING",)))
            connection.hurry(self._timeout)
            # Again, in the time that a request would have: a Redis that is slow is still away.
            await self._write(connection)
            if connection.closed:
                raise LimiterAway("connection lost")
        except BaseException:
            connection.drop("not used")
            raise
        self._connection = connection

    async def _write(self, connection: Connection) -> None:
        """LimiterAway if it is read-only, full or not allowed to us."""
        reply = await connection.call(pack(("SET", f"{self._prefix}probe", "1", "PX", 1000)))
        if isinstance(reply, hiredis.ReplyError):
            raise LimiterAway(_refusal(reply))

    def _attempted(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is not None:
            self.failures += 1

    def _lost(self, connection: Connection, reason: str) -> None:
        if connection is self._connection:
            self._connection = None
            if self.on_lost is not None:
                self.on_lost(reason)

    def _load_scripts(self, connection: Connection) -> None:
        connection.post(self._admit.load, _IGNORED)
        connection.post(self._settle.load, _IGNORED)
        connection.post(self._renew.load, _IGNORED)

    def _command(self, ask: Ask) -> "_Command":
        """By identity: comparing and hashing the tuples would cost what is saved. Entries hold what they stand for."""
        command = self._commands.get(id(ask.limits))
        if (
            command is None
            or command.limits is not ask.limits
            or command.epoch_keys is not ask.epoch_keys
            or command.epochs is not ask.epochs
        ):
            if len(self._commands) >= COMMANDS:
                self._commands.clear()
            command = self._commands[id(ask.limits)] = self._prepared(ask)
        return command

    def _prepared(self, ask: Ask) -> "_Command":
        keys: list[str] = []
        limits = b""
        for limit in ask.limits:
            keys += (f"{self._prefix}{limit.scope}:bucket", f"{self._prefix}{limit.scope}:slots")
            limits += packed_limits(limit)
        expected = " ".join(ask.epochs or ())
        names = (*ask.epoch_keys, *keys)
        admit: Arguments = ("EVALSHA", self._admit.sha, len(names), *names, limits, expected)
        settle: Arguments = ("EVALSHA", self._settle.sha, len(keys), *keys, limits)
        return _Command(ask, _open_ended(admit), _open_ended(settle))

    def _admission(self, ask: Ask, reply: list[Any]) -> Admission:
        end = _HEAD + len(ask.epoch_keys)
        epochs = tuple(reply[_HEAD:end])
        verdict, kind, place, retry = reply[:4]
        if verdict == _STALE:
            return Admission("stale", epochs)
        self._remember(ask, reply, end)
        # A limit of -1: there is none, and its two other numbers say nothing.
        requests = reply[4:7] if reply[4] >= 0 else _NONE
        tokens = reply[7:10] if reply[7] >= 0 else _NONE
        if verdict == _OK:
            if ask.prepared.settles:
                self._held[ask.request_id] = ask
            return Admission("ok", epochs, "", "", 0, *requests, *tokens)
        scope = ask.limits[place - 1].scope
        return Admission(_VERDICTS[verdict], epochs, _KINDS[kind], scope, retry, *requests, *tokens)

    def _remember(self, ask: Ask, reply: list[Any], place: int) -> None:
        at = time.monotonic_ns() // 1_000_000
        if at - self._replies_since > SEEN_MS:
            self._older_replies, self._replies, self._replies_since = self._replies, {}, at
        for limit in ask.limits:
            self._replies[limit.scope] = (at, limit, reply, place)
            place += 2


def _open_ended(arguments: Arguments) -> bytes:
    """A packed command that lacks its last three arguments: `_own` writes them."""
    packed = pack(arguments)
    return b"*%d\r\n" % (len(arguments) + 3) + packed[packed.index(b"\r\n") + 2 :]


def _unknown_script(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _refusal(reply: Any) -> str:
    """Before 7.0 Redis puts the place in the script before the error of the command that failed there."""
    text = str(reply)
    if text.startswith("ERR Error running script"):
        text = text.rpartition("@user_script")[2].partition(": -")[2] or text
    return f"it refused: {text[:80]}"


def packed_limits(limit: Limit) -> bytes:
    """As the scripts take them."""
    return _LIMITS.pack(*(-1 if number is None else number for number in (limit.rpm, limit.tpm, limit.max_parallel)))


def _tokens() -> Iterator[str]:
    """16 random hex digits at a time, from one system call for many."""
    while True:
        block = os.urandom(4096).hex()
        for start in range(0, len(block), 16):
            yield block[start : start + 16]
