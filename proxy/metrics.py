"""Owns the data plane's metrics. Labels come from closed sets only.

A request adds to plain numbers; four times a second `flush` moves them into Prometheus, whose every step takes a lock.
"""

from bisect import bisect_right
from collections import defaultdict
from itertools import pairwise
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge, Histogram

_T = TypeVar("_T")
Tally = defaultdict[_T, int]  # adding to a Counter takes three times as long

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class BulkHistogram(Histogram):
    """A histogram that takes many observations in one step."""

    def add(self, counts: list[int], total: float) -> None:
        """`counts`: observations a bucket, in the order of the bounds, the last one beyond them all."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Series:
    """The observations of one histogram child since the last flush: append to them."""

    __slots__ = ("_bounds", "_child", "values")

    def __init__(self, child: BulkHistogram, bounds: tuple[float, ...]) -> None:
        self._child, self._bounds = child, bounds
        self.values: list[float] = []  # sorted out later, all at once

    def flush(self) -> None:
        values = self.values
        if not values:
            return
        values.sort()
        at_most = [0, *(bisect_right(values, bound) for bound in self._bounds), len(values)]
        self._child.add([more - less for less, more in pairwise(at_most)], sum(values))
        values.clear()


_exchanges = Counter(
    "aiproxy_exchanges_total", "Ended exchanges of known clients.", ["endpoint", "provider", "outcome", "status"]
)
_tokens = Counter("aiproxy_tokens_total", "Tokens of ended exchanges.", ["provider", "direction"])
_refused = Counter("aiproxy_anonymous_refusals_total", "Requests refused before they were anybody's.", ["status"])
_attempts = Counter("aiproxy_upstream_attempts_total", "Calls to providers, by outcome.", ["provider", "result"])
_breaker = Counter("aiproxy_breaker_changes_total", "Stored keys left alone, and used again.", ["provider", "change"])
_LABELS = ["endpoint", "provider"]
_seconds = BulkHistogram("aiproxy_exchange_seconds", "From arrival to the last byte.", _LABELS, buckets=_SECONDS)
_first_byte = BulkHistogram("aiproxy_first_byte_seconds", "From arrival to the first.", _LABELS, buckets=_SECONDS)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0)
_overhead = BulkHistogram("aiproxy_overhead_seconds", "From the request's last byte to the call.", buckets=_OVERHEAD)
open_exchanges = Gauge("aiproxy_open_exchanges", "Exchanges under way.", multiprocess_mode="livesum")
body_bytes = Gauge("aiproxy_body_bytes", "Request bodies in memory, bytes.", multiprocess_mode="livesum")
limiter_degraded = Gauge(
    "aiproxy_limiter_degraded", "Workers that enforce limits without Redis.", multiprocess_mode="livesum"
)
loop_lag = Histogram(
    "aiproxy_event_loop_lag_seconds",
    "How late a timer of the event loop fires.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)


class Served:
    """What was counted of one endpoint at one provider since the last flush."""

    def __init__(self, endpoint: str, provider: str) -> None:
        self._endpoint, self._provider = endpoint, provider
        self.ended: Tally[tuple[str, int]] = defaultdict(int)  # by outcome and status
        self.tokens_input = self.tokens_output = 0
        if provider:
            self.seconds = Series(_seconds.labels(endpoint, provider), _SECONDS)
            self.first_byte = Series(_first_byte.labels(endpoint, provider), _SECONDS)

    def flush(self) -> None:
        for (outcome, status), count in self.ended.items():
            _exchanges.labels(self._endpoint, self._provider, outcome, str(status)).inc(count)
        self.ended.clear()
        if not self._provider:
            return
        self.seconds.flush()
        self.first_byte.flush()
        if self.tokens_input or self.tokens_output:
            _tokens.labels(self._provider, "input").inc(self.tokens_input)
            _tokens.labels(self._provider, "output").inc(self.tokens_output)
            self.tokens_input = self.tokens_output = 0


_served: dict[tuple[str, str], Served] = {}


def served(endpoint: str, provider: str) -> Served:
    try:
        return _served[endpoint, provider]
    except KeyError:
        return _served.setdefault((endpoint, provider), Served(endpoint, provider))


# What has been counted since the last flush, by labels.
refused: Tally[tuple[str]] = defaultdict(int)
attempts: Tally[tuple[str, str]] = defaultdict(int)
breaker: Tally[tuple[str, str]] = defaultdict(int)  # change: opened, closed
overhead = Series(_overhead, _OVERHEAD)


def flush() -> None:
    for served in _served.values():
        served.flush()
    _drain(_refused, refused)
    _drain(_attempts, attempts)
    _drain(_breaker, breaker)
    overhead.flush()


def _drain(counter: Counter, tally: Tally[Any]) -> None:
    for labels, count in tally.items():
        counter.labels(*labels).inc(count)
    tally.clear()
