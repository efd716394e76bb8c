"""Owns the numbers that the shipper shows to Prometheus. No label: one shipper serves one journal."""

from prometheus_client import Counter, Gauge

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
SHIPPED = Counter("aiproxy_usage_rows_shipped", "Rows put into the database")
REPLAYED = Counter("aiproxy_usage_rows_replayed", "Rows of the journal that the database had already")
INTERRUPTED = Counter("aiproxy_usage_rows_interrupted", "Requests whose worker died before they ended")
DEAD = Counter("aiproxy_usage_rows_dead", "Records laid aside because the database refuses them one by one")
TORN = Counter("aiproxy_journal_torn_records", "Damaged records that were skipped")
RETRIES = Counter("aiproxy_shipper_retries", "Batches that had to be tried again")
