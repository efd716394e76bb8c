"""Owns when a stored key is left alone because its provider fails: one circuit a key, in this process's memory.

Closed: the key is used. After so many failures in a row within a window the circuit opens: nobody uses the key until a
rest is over. Then one request may (half-open): its success closes the circuit, its failure is another rest. Pure: knows
no provider, no request and no error, and asks only a monotonic clock.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

# Keys that failed last and were never used again must not pile up.
MOST_CIRCUITS = 10_000


@dataclass(slots=True)
class Circuit:
    failed_at: deque[float]  # of the failures in a row, the last ones
    open_until: float | None = None  # None: closed
    probing: bool = False


Entered = Literal["closed", "open"] | Circuit  # a circuit that is half-open: this request finds out for it


class Breaker:
    def __init__(
        self, failures: int, *, window: float, rest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Opens after `failures` (0: never) within `window` seconds, for `rest` seconds."""
        self._failures = failures
        self._window = window
        self._rest = rest
        self._clock = clock
        self._circuits: dict[Hashable, Circuit] = {}  # of keys whose last use failed

    def enter(self, key: Hashable) -> Entered:
        """Whether a key may be used now: not if `open`. Who enters must `leave`, whatever happens."""
        circuit = self._circuits.get(key) if self._circuits else None
        if circuit is None or circuit.open_until is None:
            return "closed"
        if circuit.probing or self._clock() < circuit.open_until:
            return "open"
        circuit.probing = True
        return circuit

    def leave(self, key: Hashable, entered: Entered, *, alive: bool | None) -> Literal["opened", "closed"] | None:
        """How it went: `alive` says that the provider answered; None, that nobody can tell. What that changed."""
        circuit = self._circuits.get(key) if self._circuits or alive is False else None
        if alive:
            return self._close(key, circuit)
        if alive is None:
            if circuit is not None and entered is circuit:
                circuit.probing = False
            return None
        return self._fail(circuit or self._new(key), entered) if self._failures else None

    def wait(self, key: Hashable) -> float:
        """Seconds until it is worth asking again for a key that is `open`."""
        circuit = self._circuits.get(key)
        until = circuit.open_until if circuit is not None else None
        return max(0.0, until - self._clock()) if until is not None else 0.0

    def _close(self, key: Hashable, circuit: Circuit | None) -> Literal["closed"] | None:
        if circuit is None:
            return None
        del self._circuits[key]
        return "closed" if circuit.open_until is not None else None

    def _fail(self, circuit: Circuit, entered: Entered) -> Literal["opened"] | None:
        now = self._clock()
        if entered is circuit:  # not one that a late success has closed meanwhile
            circuit.open_until, circuit.probing = now + self._rest, False
            return None
        if circuit.open_until is not None:  # sent before it opened
            return None
        circuit.failed_at.append(now)
        if len(circuit.failed_at) < self._failures or now - circuit.failed_at[0] > self._window:
            return None
        circuit.open_until = now + self._rest
        return "opened"

    def _new(self, key: Hashable) -> Circuit:
        if len(self._circuits) >= MOST_CIRCUITS:
            del self._circuits[next(iter(self._circuits))]
        circuit = self._circuits[key] = Circuit(deque(maxlen=self._failures))
        return circuit
