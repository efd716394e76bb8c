"""Owns what the data plane knows of the database: one frozen policy a proxy key, loaded on demand.

A policy is labelled with the epochs read before its database read. The limiter's answer brings the current ones: a
policy with old epochs is never used (a revoked key is refused on its very next request, on every worker). The cache
is filled from the database only, never from a finished request.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from accounts import epoch
from accounts.keys import PREFIX
from accounts.models import ProxyKey, User
from proxy.eager import Waiter, waiter
from proxy.errors import Unavailable
from proxy.limits import Limit
from proxy.models import ModelAlias
from usage.quotas import Standing, used_up
from vault.crypto import Context, Sealed, Unlocked, unlock
from vault.keyring import Keyring
from vault.models import ApiKey
from vault.secret import Secret

if TYPE_CHECKING:
    from proxy.lanes import Lane

logger = logging.getLogger(__name__)

T = TypeVar("T")
ReadEpochs = Callable[[Sequence[str]], Awaitable[tuple[str, ...]]]
RowEpochs = tuple[int, int, int]
Answer = Waiter[RowEpochs | None] | asyncio.Future[RowEpochs | None]
Question = tuple[UUID, Answer]  # whose epochs

# A made-up key of the right shape costs one read; then its absence is known for this long (seconds).
ABSENT_FOR = 5.0
# Changes made behind our back (by SQL) are seen after this long even though no epoch tells (seconds).
REFRESH_AFTER = 60.0
CACHE_SIZE = 50_000
# How long a request waits for the database, and how often a database that is away is tried again (seconds).
PATIENCE = 1.0
PROBE_EVERY = 0.25


@dataclass(slots=True)
class Credential:
    """A stored provider key, still sealed."""

    api_key_id: UUID
    sealed: Sealed
    context: Context
    _unlocked: Unlocked | None = field(default=None, repr=False, compare=False)

    def secret(self, keyring: Keyring) -> Secret:
        """The key in the clear, for one use. Raises Unsealable."""
        if self._unlocked is None:
            self._unlocked = unlock(self.sealed, self.context, keyring)
        return self._unlocked.open()


# By endpoint, model and fallbacks asked for.
Lanes = dict[tuple[str, str, tuple[str, ...] | None], "Sequence[Lane]"]


@dataclass(frozen=True, slots=True)
class Policy:
    key_id: str
    proxy_key_id: UUID
    user_id: UUID
    plan: str
    verifier: bytes
    usable: bool  # neither revoked nor of a disabled user
    may_proxy: bool  # their e-mail address is verified, or need not be
    expires_at: float | None  # unix seconds
    allowed_models: tuple[str, ...]  # empty: all; a trailing `*` matches a prefix
    networks: tuple[IPv4Network | IPv6Network, ...]  # empty: anywhere
    max_tokens: int | None
    limits: tuple[Limit, ...]
    credentials: dict[str, tuple[Credential, ...]]  # by provider, in the order they are tried
    aliases: dict[str, tuple[str, ...]]  # names that stand for models, in the order they are tried
    epoch_keys: tuple[str, ...]
    row_epochs: tuple[int, int, int]  # of key, user and plan, as the database counts them
    loaded_at: float  # monotonic seconds
    used_up: Standing | None  # a limit of the plan's that keeps them from proxying until its end
    epochs: tuple[str, ...] | None = None  # as Redis had them before the read; None: Redis was not asked
    lanes: Lanes = field(default_factory=dict, compare=False, repr=False)  # found so far; as old as the rest

    def allows(self, model: str) -> bool:
        return not self.allowed_models or any(
            model.startswith(name[:-1]) if name.endswith("*") else model == name for name in self.allowed_models
        )

    def unlabel(self) -> None:
        """Nothing else of it ever changes. In place: to copy 50,000 at once would hold up the loop for a second."""
        object.__setattr__(self, "epochs", None)


class Database:
    """The ORM, on four threads of its own: the event loop never waits for it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="policy")

    async def run(self, read: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, read, *args)

    @staticmethod
    def probe() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    @staticmethod
    def _call(read: Callable[..., T], *args: Any) -> T:
        try:
            result = read(*args)
        except Exception:
            connection.close()
            raise
        # PostgreSQL's go back to their pool; SQLite's is a file handle of this thread, worth keeping.
        if connection.vendor == "postgresql":
            connection.close()
        return result

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Policies:
    """The cache: `known` answers from memory, `load` reads, `is_current` asks the database for the row epochs."""

    def __init__(self, *, read_epochs: ReadEpochs | None, max_age: float, patience: float = PATIENCE) -> None:
        """`patience`: seconds until a database that does not answer counts as away."""
        self._read_epochs = read_epochs
        self._max_age = max_age
        self._patience = patience
        self._database = Database()
        self._policies: OrderedDict[str, Policy] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._generation = 0  # of labels: a read that began before a flush gets none
        self._loading: dict[str, asyncio.Task[Policy | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None  # set: the database is away
        self._questions: list[Question] = []

    def known(self, key_id: str) -> Policy | None:
        policy = self._policies.get(key_id)
        if policy is not None and time.monotonic() - policy.loaded_at > REFRESH_AFTER and key_id not in self._loading:
            self._start(key_id)
        return policy

    async def load(self, key_id: str) -> Policy | None:
        """A fresh policy; None if there is no such key. Unavailable when the database cannot be asked."""
        if self._absent.get(key_id, 0) > time.monotonic():
            return None
        try:
            if self._returning is not None:
                raise OperationalError("the database is away")
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(self._loading.get(key_id) or self._start(key_id))
        except (DatabaseError, InterfaceError, TimeoutError) as error:
            self._away(error)
            raise Unavailable(
                "The proxy cannot look up this key now; the key itself may be fine. Try again.",
                code="key_lookup_unavailable",
                retry_after_ms=2000,
            ) from error

    async def is_current(self, policy: Policy) -> bool:
        """Whether the database still counts the same epochs; all questions of a moment are one read.

        While the database is away a policy may be used until it is `max_age` old.
        """
        if self._returning is not None:
            return self.young_enough(policy)
        answer: Answer = waiter(asyncio.get_running_loop())
        self._questions.append((policy.proxy_key_id, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            return await answer == policy.row_epochs
        except (DatabaseError, InterfaceError, TimeoutError) as error:
            self._away(error)
            return self.young_enough(policy)

    def young_enough(self, policy: Policy) -> bool:
        """Whether a policy may be used that nothing contradicts: the database may be away this long."""
        return time.monotonic() - policy.loaded_at < self._max_age

    def flush(self) -> None:
        """Forget the labels: after a reconnect Redis may have lost the epochs that were to contradict them."""
        self._generation += 1
        for policy in self._policies.values():
            policy.unlabel()

    def close(self) -> None:
        for task in (*self._loading.values(), self._asking, self._returning):
            if task is not None:
                task.cancel()
        self._database.close()

    def _away(self, error: Exception) -> None:
        """From now on nobody waits for the database, until it answers again."""
        if self._returning is None:
            logger.warning("The database is away (%s): known keys are served, new ones get 503", type(error).__name__)
            self._returning = asyncio.create_task(self._come_back())

    async def _come_back(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROBE_EVERY)
            try:
                await self._database.run(Database.probe)
            except (DatabaseError, InterfaceError):
                continue
            logger.warning("The database is back after %.1f s", time.monotonic() - began)
            self._returning = None
            return

    def _start(self, key_id: str) -> asyncio.Task[Policy | None]:
        task = asyncio.create_task(self._load(key_id))
        self._loading[key_id] = task
        task.add_done_callback(lambda _: self._loading.pop(key_id, None))
        task.add_done_callback(_retrieve)
        return task

    async def _load(self, key_id: str) -> Policy | None:
        known = self._policies.get(key_id) or await self._database.run(read_policy, key_id)
        while known is not None:
            # The epochs first, then the row: what changes in between is seen as a difference at the next admission.
            generation = self._generation
            epochs = await self._read_epochs(known.epoch_keys) if self._read_epochs else None
            policy = await self._database.run(read_policy, key_id)
            if policy is None or policy.epoch_keys == known.epoch_keys:
                label = epochs if epochs and generation == self._generation else None
                return self._keep(key_id, policy and replace(policy, epochs=label))
            known = policy
        return self._keep(key_id, None)

    def _keep(self, key_id: str, policy: Policy | None) -> Policy | None:
        if policy is None:
            self._policies.pop(key_id, None)
            self._absent[key_id] = time.monotonic() + ABSENT_FOR
            if len(self._absent) > CACHE_SIZE:
                self._absent.popitem(last=False)
        else:
            self._policies[key_id] = policy
            self._policies.move_to_end(key_id)
            if len(self._policies) > CACHE_SIZE:
                self._policies.popitem(last=False)
        return policy

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._questions:
                questions, self._questions = self._questions, []
                try:
                    async with asyncio.timeout(self._patience):
                        found = await self._database.run(read_row_epochs, {key for key, _ in questions})
                except Exception as error:
                    questions += self._questions  # who asked meanwhile waits no longer than the others
                    self._questions = []
                    loop.call_soon(_fail, questions, error)
                else:
                    loop.call_soon(_tell, questions, found)
        finally:
            self._asking = None


def _tell(questions: list[Question], found: dict[UUID, RowEpochs]) -> None:
    for key, answer in questions:
        if not answer.done():
            answer.set_result(found.get(key))


def _fail(questions: list[Question], error: Exception) -> None:
    for _, answer in questions:
        if not answer.done():
            answer.set_exception(error)


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """A read may fail that nobody waits for: the policy at hand serves on, or who asked has left."""
    if not task.cancelled():
        task.exception()


# By hand: this is asked at every turn of the loop where there is no Redis, and the ORM takes 0.3 ms to write it down.
_ROW_EPOCHS = """
    SELECT k.id, k.epoch, u.epoch, p.epoch FROM proxy_api_keys k
    JOIN users u ON u.id = k.user_id JOIN plans p ON p.code = u.plan WHERE k.id IN ({})
"""


def read_row_epochs(proxy_key_ids: set[UUID]) -> dict[UUID, RowEpochs]:
    as_stored = {ProxyKey._meta.pk.get_db_prep_value(id, connection): id for id in proxy_key_ids}
    with connection.cursor() as cursor:
        cursor.execute(_ROW_EPOCHS.format(",".join(["%s"] * len(as_stored))), list(as_stored))
        return {as_stored[row[0]]: row[1:] for row in cursor.fetchall()}


def read_policy(key_id: str) -> Policy | None:
    """Reads the key, its user, their plan, their provider keys and the aliases it sees (three queries).

    A fourth adds up what is used, for a plan with limits of a day or a month.
    """
    key = ProxyKey.objects.select_related("user__plan").filter(key_prefix=PREFIX + key_id).first()
    if key is None:
        return None
    user, plan = key.user, key.user.plan
    return Policy(
        key_id=key_id,
        proxy_key_id=key.id,
        user_id=user.id,
        plan=plan.code,
        verifier=bytes(key.verifier),
        usable=key.revoked_at is None and user.is_active,
        may_proxy=user.email_verified or settings.AIPROXY_UNVERIFIED_MAY_PROXY,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        allowed_models=tuple(key.allowed_models),
        networks=tuple(ip_network(network) for network in key.ip_allowlist),
        max_tokens=key.max_tokens,
        limits=_limits(key),
        credentials=_credentials(user.id),
        aliases=ModelAlias.objects.seen_by(key),
        epoch_keys=(epoch.key_name(key.id), epoch.user_name(user.id), epoch.plan_name(plan.code)),
        row_epochs=(key.epoch, user.epoch, plan.epoch),
        loaded_at=time.monotonic(),
        used_up=used_up(user),
    )


def _limits(key: ProxyKey) -> tuple[Limit, ...]:
    both = (plan_limit(key.user), key_limit(key))
    return tuple(limit for limit in both if (limit.rpm, limit.tpm, limit.max_parallel) != (None, None, None))


def plan_limit(user: User) -> Limit:
    """The plan's, shared by all keys of the user."""
    return Limit(f"user:{user.id}", user.plan.rpm, user.plan.tpm, user.plan.max_parallel)


def key_limit(key: ProxyKey) -> Limit:
    """The key's own, where it has any."""
    return Limit(f"key:{key.id}", key.rpm, key.tpm, key.max_parallel)


def _credentials(user_id: UUID) -> dict[str, tuple[Credential, ...]]:
    credentials: dict[str, tuple[Credential, ...]] = {}
    for row in ApiKey.objects.usable().filter(user_id=user_id):
        credential = Credential(
            row.id,
            Sealed(row.encrypted_key, bytes(row.iv), row.master_key_id),
            Context(row.id, row.user_id, row.provider, row.base_url),
        )
        credentials[row.provider] = (*credentials.get(row.provider, ()), credential)
    return credentials
