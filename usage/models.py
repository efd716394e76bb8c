"""Owns the record of every request, and its hourly sums. Rows outlive what they point at.

Rows are written by usage/shipper.py alone, from the journal; everybody else reads.
"""

import datetime as dt
from typing import ClassVar
from uuid import UUID

from django.db import models

from accounts.ids import made_at, uuid7


class Outcome(models.TextChoices):
    OK = "ok", "complete"
    REFUSED = "refused", "refused by us"
    PROVIDER_ERROR = "provider_error", "refused or failed by the provider"
    TIMEOUT = "timeout", "provider too slow"
    CLIENT_GONE = "client_gone", "client left"
    INTERRUPTED = "interrupted", "worker died"
    DRAINED = "drained", "cut off by a shutdown"
    ERROR = "error", "failed inside the proxy"


class UsageSource(models.TextChoices):
    PROVIDER = "provider", "as the provider says"
    ESTIMATED = "estimated", "our estimate"
    NONE = "none", "nothing was used"


def first_id(moment: dt.datetime) -> UUID:
    """The smallest id that a request of this millisecond can have: ids are in order of time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


class ProxyRequestQuerySet(models.QuerySet["ProxyRequest"]):
    """Ids and `created_at` tell the same time: naming both lets PostgreSQL skip the other months."""

    def recorded(self, id: UUID) -> "ProxyRequestQuerySet":
        """The row of this id, if there is one."""
        try:
            return self.filter(id=id, created_at=made_at(id))
        except (ValueError, OverflowError):  # not an id of ours: its time is beyond the year 9999
            return self.none()

    def between(self, since: dt.datetime, until: dt.datetime) -> "ProxyRequestQuerySet":
        """Arrived at `since` or later, and before `until`."""
        return self.filter(created_at__gte=since, created_at__lt=until)

    def before(self, day: dt.date) -> "ProxyRequestQuerySet":
        """Arrived before this day (UTC) began; found by the primary key alone."""
        midnight = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
        return self.filter(id__lt=first_id(midnight))


class ProxyRequest(models.Model):
    """One exchange, ended. References are plain ids: a row never fails because its user or key is gone.

    On PostgreSQL the table is partitioned by month of `created_at`, and its primary key is (id, created_at).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(help_text="When it arrived: the time inside its id.")
    user_id = models.UUIDField(help_text="Whose proxy key was used.")
    proxy_key_id = models.UUIDField(help_text="The proxy key it came with.")
    api_key_id = models.UUIDField(null=True, help_text="The provider key that served it.")
    provider = models.CharField(max_length=20, blank=True, help_text="Who answered; empty: nobody was asked.")
    model = models.CharField(max_length=100, help_text="As the client asked; `(unknown)` if unrouted.")
    endpoint = models.CharField(max_length=40, help_text="What was called, as in `/v1/chat/completions`.")
    streamed = models.BooleanField(default=False, help_text="Whether the answer was asked for as a stream.")
    outcome = models.CharField(max_length=16, choices=Outcome.choices, help_text="How it ended.")
    status_code = models.PositiveSmallIntegerField(
        help_text="What the client was sent; 499: it left before; 500 if the worker died."
    )
    error_message = models.CharField(max_length=200, blank=True, default="", help_text="What went wrong, if anything.")
    tokens_input = models.PositiveIntegerField(default=0, help_text="All input tokens, cached ones included.")
    tokens_output = models.PositiveIntegerField(default=0, help_text="All output tokens, reasoning included.")
    tokens_total = models.PositiveIntegerField(default=0, help_text="Input and output.")
    tokens_cached = models.PositiveIntegerField(default=0, help_text="Input tokens read from a cache.")
    tokens_reasoning = models.PositiveIntegerField(default=0, help_text="Output tokens spent on reasoning.")
    usage_source = models.CharField(
        max_length=10, choices=UsageSource.choices, default=UsageSource.NONE, help_text="Who counted the tokens."
    )
    cost = models.DecimalField(
        max_digits=12, decimal_places=8, null=True, help_text="US dollars; empty: the price is unknown."
    )
    latency_ms = models.PositiveIntegerField(default=0, help_text="From its arrival to the last byte.")
    ttft_ms = models.PositiveIntegerField(null=True, help_text="From its arrival to the first answer byte.")
    overhead_ms = models.FloatField(null=True, help_text="Our own part, before the provider was asked.")
    provider_request_id = models.CharField(
        max_length=80, blank=True, default="", help_text="The provider's own id of it, to ask them about."
    )
    writer = models.CharField(max_length=40, blank=True, default="", help_text="Which process recorded it.")

    objects: ClassVar[ProxyRequestQuerySet] = ProxyRequestQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "proxy_requests"
        verbose_name = "request"
        ordering = ["-created_at", "-id"]
        indexes = [
            # serves: the owner's list and its keyset pages
            models.Index(fields=["user_id", "-created_at"], name="idx_requests_user_date"),
        ]

    def __str__(self) -> str:
        return str(self.id)


def _count(help_text: str = "") -> "models.PositiveBigIntegerField[int, int]":
    return models.PositiveBigIntegerField(default=0, help_text=help_text)


class UsageHour(models.Model):
    """The sums of one hour; every chart and summary reads these, never the log.

    `latency_100` to `latency_more` count complete requests, each in one bucket: more than the bound before, at most
    this many milliseconds.
    """

    hour = models.DateTimeField(help_text="Its start, UTC.")
    user_id = models.UUIDField(help_text="Whose requests.")
    proxy_key_id = models.UUIDField(help_text="The proxy key they came with.")
    provider = models.CharField(max_length=20, blank=True, help_text="Who answered; empty: nobody was asked.")
    model = models.CharField(max_length=100, help_text="As the client asked.")
    requests = _count("All that ended.")
    errors = _count("Those that ended neither complete nor by the client's leaving.")
    tokens_input = _count("All input tokens, cached ones included.")
    tokens_output = _count("All output tokens, reasoning included.")
    tokens_total = _count("Input and output.")
    tokens_cached = _count("Input tokens read from a cache.")
    tokens_reasoning = _count("Output tokens spent on reasoning.")
    cost = models.DecimalField(max_digits=18, decimal_places=8, default=0, help_text="US dollars, as far as known.")
    unpriced = _count("Requests that used tokens at an unknown price.")
    latency_ms_sum = _count("Of the complete requests.")
    latency_100 = _count("At most 0.1 s.")
    latency_250 = _count("At most 0.25 s.")
    latency_500 = _count("At most 0.5 s.")
    latency_1000 = _count("At most 1 s.")
    latency_2000 = _count("At most 2 s.")
    latency_4000 = _count("At most 4 s.")
    latency_8000 = _count("At most 8 s.")
    latency_15000 = _count("At most 15 s.")
    latency_30000 = _count("At most 30 s.")
    latency_60000 = _count("At most a minute.")
    latency_120000 = _count("At most two minutes.")
    latency_more = _count("More than two minutes.")

    class Meta:
        db_table = "usage_hours"
        verbose_name = "hour of usage"
        verbose_name_plural = "hours of usage"
        ordering = ["-hour"]
        constraints = [
            # serves also: an owner's sums over a period
            models.UniqueConstraint(
                fields=["user_id", "hour", "proxy_key_id", "provider", "model"], name="usage_hours_unique"
            ),
        ]
        indexes = [
            # serves: the staff's sums over all users
            models.Index(fields=["hour"], name="usage_hours_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.model}"
