"""Owns how passwords and proxy keys are hashed: Argon2id at OWASP's parameters (Password Storage Cheat Sheet: 19 MiB,
t=2, p=1), a few at a time. Never to be called on the event loop: one run takes tens of milliseconds.

They are hashed in threads of their own, at a lower priority: on a core that is shared, whoever holds the interpreter's
lock has to be let in before them, or the event loop waits for both (docs/decisions/0012).
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import argon2
from django.contrib.auth.hashers import Argon2PasswordHasher

_log = logging.getLogger(__name__)

T = TypeVar("T")

TIME_COST = 2
MEMORY_COST = 19 * 1024  # KiB
PARALLELISM = 1
_LONGEST_HASH = 64

_key_hasher = argon2.PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_COST, parallelism=PARALLELISM)


class HashingBusy(Exception):
    """Too many hashes are waiting for their turn."""

    retry_after = 2  # seconds


class Turns:
    """Lets `slots` callers run at once and `queue` wait, for `patience` seconds at most; all others are refused."""

    def __init__(self, slots: int, queue: int, *, patience: float) -> None:
        self._room = threading.BoundedSemaphore(slots + queue)
        self._slots = threading.BoundedSemaphore(slots)
        self._patience = patience

    @contextmanager
    def turn(self) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            raise HashingBusy
        try:
            if not self._slots.acquire(timeout=self._patience):
                raise HashingBusy
            try:
                yield
            finally:
                self._slots.release()
        finally:
            self._room.release()


# One core each: more at once would only be slower, and each holds 19 MiB. The queue is about two seconds of work.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
turns = Turns(_cores, 32 * _cores, patience=10)
_threads: ThreadPoolExecutor


def _step_back() -> None:
    """A tenth of the core while others want it. Linux counts niceness by thread, and does not give it back."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + 10))


def _make_threads() -> None:
    global _threads
    _threads = ThreadPoolExecutor(_cores, thread_name_prefix="hash", initializer=_step_back)


_make_threads()
os.register_at_fork(after_in_child=_make_threads)  # the parent's are not there


def _in_turn(work: Callable[[], T]) -> T:
    with turns.turn():
        return _threads.submit(work).result()


class Argon2id(Argon2PasswordHasher):
    time_cost = TIME_COST
    memory_cost = MEMORY_COST
    parallelism = PARALLELISM

    def encode(self, password: str, salt: str) -> str:
        hash = super().encode
        return _in_turn(lambda: hash(password, salt))

    def verify(self, password: str, encoded: str) -> bool:
        check = super().verify
        if _affordable(encoded.removeprefix("argon2")):
            return _in_turn(lambda: check(password, encoded))
        _log.error("A stored password hash asks for more than our own parameters, or is damaged: refused")
        # the same time as a wrong password, so that the refusal cannot be told from one
        self.encode(password, self.salt())
        return False

    def must_update(self, encoded: str) -> bool:
        try:
            return super().must_update(encoded)
        except (argon2.exceptions.InvalidHashError, ValueError):
            return True


def _affordable(encoded: str) -> bool:
    """Whether a stored PHC string costs no more to check than one of ours: whoever can write a row must not
    be able to make us spend 4 GiB on it."""
    try:
        asked = argon2.extract_parameters(encoded)
    except argon2.exceptions.InvalidHashError:
        return False
    return (
        asked.type is argon2.Type.ID
        and asked.time_cost <= TIME_COST
        and asked.memory_cost <= MEMORY_COST
        and asked.parallelism <= PARALLELISM
        and asked.hash_len <= _LONGEST_HASH
    )


def hash_key(key: str) -> str:
    """A PHC string (`$argon2id$…`) of a proxy key."""
    return _in_turn(lambda: _key_hasher.hash(key))


def check_key(key: str, encoded: str) -> bool:
    try:
        return _in_turn(lambda: _affordable(encoded) and _key_hasher.verify(encoded, key))
    except argon2.exceptions.VerificationError:
        return False
