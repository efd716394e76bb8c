"""Owns the numbers that the shipper shows to Prometheus. The only label is the provider: it serves one journal."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from usage.records import End

BACKLOG_BYTES = Gauge(
    "aiproxy_journal_backlog_bytes",
    "Bytes of the journal that are not in the database yet",
    multiprocess_mode="mostrecent",
)
OLDEST_SECONDS = Gauge(
    "aiproxy_journal_oldest_seconds",
    "Age of the oldest row that is not in the database yet",
    multiprocess_mode="mostrecent",
)
STUCK = Gauge(
    "aiproxy_journal_stuck_segments",
    "Segments of the journal that cannot be read or removed",
    multiprocess_mode="mostrecent",
)
SHIPPED = Counter("aiproxy_usage_rows_shipped", "Rows put into the database")
REPLAYED = Counter("aiproxy_usage_rows_replayed", "Rows of the journal that the database had already")
INTERRUPTED = Counter("aiproxy_usage_rows_interrupted", "Requests whose worker died before they ended")
DEAD = Counter("aiproxy_usage_rows_dead", "Records laid aside because the database refuses them one by one")
TORN = Counter("aiproxy_journal_torn_records", "Damaged records that were skipped")
COST = Counter("aiproxy_cost_usd", "US dollars that stored requests have cost, as far as known", ["provider"])
UNPRICED = Counter("aiproxy_requests_unpriced", "Stored requests whose cost is not known", ["provider"])
RETRIES = Counter("aiproxy_shipper_retries", "Batches that had to be tried again")


def count_cost(ends: Iterable[End]) -> None:
    """Those that are stored for the first time."""
    for end in ends:
        if end.cost is None:
            UNPRICED.labels(end.provider).inc()
        elif end.cost:
            COST.labels(end.provider).inc(float(end.cost))
