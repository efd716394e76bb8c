"""Owns the record of every request. Rows outlive what they point at.

Rows are written by usage/shipper.py alone, from the journal; everybody else reads. Staff write prices.
"""

import datetime as dt
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from accounts.ids import made_at, uuid7
from audit.trail import watch
from usage.pricing import CLASSES, Dollars, Override
from usage.sums import TotalDay as TotalDay
from usage.sums import TotalHour as TotalHour
from usage.sums import UsageDay as UsageDay
from usage.sums import UsageHour as UsageHour
from usage.sums import UserDay as UserDay
from usage.sums import UserHour as UserHour
from vault.models import Provider


class Outcome(models.TextChoices):
    OK = "ok", "complete"
    REFUSED = "refused", "refused by us"
    PROVIDER_ERROR = "provider_error", "refused or failed by the provider"
    TIMEOUT = "timeout", "provider too slow"
    CLIENT_GONE = "client_gone", "client left"
    INTERRUPTED = "interrupted", "worker died"
    DRAINED = "drained", "cut off by a shutdown"
    ERROR = "error", "failed inside the proxy"


# All else counts as an error in sums and rates.
NOT_ERRORS = (Outcome.OK, Outcome.CLIENT_GONE)


class UsageSource(models.TextChoices):
    PROVIDER = "provider", "as the provider says"
    ESTIMATED = "estimated", "our estimate"
    NONE = "none", "nothing was used"


def first_id(moment: dt.datetime) -> UUID:
    """The smallest id that a request of this millisecond can have: ids are in order of time, which begins in 1970."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


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

    def of_user(self, user_id: UUID) -> "ProxyRequestQuerySet":
        """Newest first, in the order of their index."""
        return self.filter(user_id=user_id).order_by("-created_at", "-id")

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
    endpoint = models.CharField(max_length=40, help_text="What was called, as in `chat.completions`.")
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
    cost = models.DecimalField(max_digits=12, decimal_places=8, null=True, help_text="US dollars; empty: not known.")
    latency_ms = models.PositiveIntegerField(default=0, help_text="From its arrival to the last byte.")
    ttft_ms = models.PositiveIntegerField(null=True, help_text="From its arrival to the first answer byte.")
    overhead_ms = models.FloatField(null=True, help_text="Our own part, before the provider was asked.")
    provider_request_id = models.CharField(
        max_length=80, blank=True, default="", help_text="The provider's own id of it, to ask them about."
    )
    attempts = models.JSONField(
        null=True, help_text="If several models or keys were tried: each in order, with what came of it."
    )
    writer = models.CharField(max_length=40, blank=True, default="", help_text="Which process recorded it.")

    objects: ClassVar[ProxyRequestQuerySet] = ProxyRequestQuerySet.as_manager()  # type: ignore[assignment]

    email: str  # of its user; set by who lists rows for staff
    shows_keys: bool  # whether its page may say more of provider keys than their ids; set likewise

    class Meta:
        db_table = "proxy_requests"
        verbose_name = "request"
        ordering = ["-created_at", "-id"]
        indexes = [
            # serves: the owner's list and its keyset pages
            models.Index(fields=["user_id", "-created_at"], name="idx_requests_user_date"),
            # serves: the staff's search by it; a hash index on PostgreSQL, half as large
            models.Index(
                fields=["provider_request_id"],
                condition=~models.Q(provider_request_id=""),
                name="proxy_requests_provider_id",
            ),
            # serves: the staff's list of one outcome, however rare it is
            models.Index(fields=["outcome", "-id"], condition=~models.Q(outcome="ok"), name="proxy_requests_not_ok"),
        ]
        permissions = [("export_proxyrequest", "Can export requests")]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_error(self) -> bool:
        """Whether sums count it as one."""
        return self.outcome not in NOT_ERRORS


class PriceQuerySet(models.QuerySet["Price"]):
    def overrides(self) -> list[Override]:
        """Those that hold or are to come, for usage/pricing.py."""
        now = timezone.now()
        return [price.override() for price in self.filter(models.Q(until=None) | models.Q(until__gt=now))]


def _dollars(help_text: str, **options: Any) -> "models.DecimalField[Decimal, Decimal]":
    # Six decimals: pricing counts in millionths of them.
    return models.DecimalField(
        max_digits=12, decimal_places=6, validators=[MinValueValidator(0)], help_text=help_text, **options
    )


def _part(help_text: str) -> "models.DecimalField[Decimal | None, Decimal | None]":
    return _dollars(help_text, null=True, blank=True)  # type: ignore[return-value]


@watch("provider", "model", *CLASSES, "valid_from", "until", "note", ignored=["created_at"])
class Price(models.Model):
    """A price of staff's: before the book's, from a date on. Dollars a million tokens.

    Of several that hold, a whole name comes before a beginning, a longer beginning before a shorter one, then the one
    that began last. A price that has begun is never changed, only ended: requests were billed by it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=20, choices=Provider.choices, help_text="Whose model.")
    model = models.CharField(
        max_length=100,
        validators=[
            RegexValidator(r"^[a-z0-9][a-z0-9._:/@+-]*\*?\Z", "A name in lower case, or its beginning and `*`.")
        ],
        help_text="The provider's name of it, in lower case; with a `*` at its end, every name that begins like this.",
    )
    input = _dollars("Input tokens, as text and neither read from nor written to a cache.")
    output = _dollars("Output tokens, reasoning included; 0 for a model that has none, as for embeddings.")
    cache_read = _part("Input read from a cache. Empty: as input.")
    cache_write = _part("Input written to a cache, for five minutes where there is a choice. Empty: as input.")
    cache_write_1h = _part("Input written to a cache for an hour. Empty: as other writing.")
    reasoned = _part("All output of an answer with reasoning in it, where that differs. Empty: as output.")
    audio_input = _part("Audio input. Empty: not known, and so is the cost of requests with it.")
    audio_cached = _part("Audio input read from a cache. Empty: as audio input.")
    audio_output = _part("Audio output. Empty: not known, and so is the cost of requests with it.")
    image_input = _part("Image input. Empty: as input.")
    image_output = _part("Image output. Empty: as output.")
    valid_from = models.DateTimeField(
        default=timezone.now, help_text="From when on it holds, UTC; requests before it is entered keep their cost."
    )
    until = models.DateTimeField(
        null=True, blank=True, help_text="When it ends, and the book's price holds again. Empty: it does not end."
    )
    note = models.CharField(max_length=200, blank=True, default="", help_text="Why; where the price is published.")
    created_at = models.DateTimeField(default=timezone.now, editable=False, help_text="When it was entered.")

    objects = PriceQuerySet.as_manager()

    class Meta:
        db_table = "prices"
        ordering = ["provider", "model", "-valid_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "model", "valid_from"],
                name="prices_one_at_a_time",
                violation_error_message="There is a price of this model from this moment on already.",
            ),
            models.CheckConstraint(
                condition=models.Q(until=None) | models.Q(until__gt=models.F("valid_from")),
                name="prices_end_after_they_begin",
                violation_error_message="It would end before it begins.",
            ),
            models.CheckConstraint(
                condition=models.Q(*((f"{name}__gte", 0) for name in CLASSES)),
                name="prices_not_negative",
                violation_error_message="A price is not negative.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} from {self.valid_from:%Y-%m-%d %H:%M}"

    @property
    def has_begun(self) -> bool:
        """Whether requests may have been billed by it."""
        return self.valid_from <= timezone.now()

    @property
    def holds(self) -> bool:
        now = timezone.now()
        return self.valid_from <= now and (self.until is None or now < self.until)

    def override(self) -> Override:
        dollars = Dollars(**{name: getattr(self, name) for name in CLASSES})
        return Override(self.provider, self.model, self.valid_from, self.until, dollars)


class LimitNotice(models.Model):
    """That somebody has used so much of a limit of their plan in a day or month; at most one mail each."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="+")
    quota = models.CharField(max_length=16, help_text="The plan's limit, as in `tpd`.")
    since = models.DateTimeField(help_text="When the period began, UTC.")
    until = models.DateTimeField(help_text="When it ends, and the limit is whole again.")
    percent = models.PositiveSmallIntegerField(help_text="What was reached.")
    allowed = models.PositiveBigIntegerField(help_text="The limit then.")
    used = models.PositiveBigIntegerField(help_text="How much was used when it was seen.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    due_at = models.DateTimeField(
        null=True, help_text="When its mail is tried; empty: sent, being sent, or not wanted."
    )
    tries = models.PositiveSmallIntegerField(default=0, help_text="Failures of the mail server so far.")
    sent_at = models.DateTimeField(null=True, help_text="When the mail server took its mail.")

    class Meta:
        db_table = "limit_notices"
        constraints = [
            models.UniqueConstraint(fields=["user", "quota", "since", "percent"], name="limit_notices_once"),
        ]
        indexes = [
            # serves: what is to be sent
            models.Index(fields=["due_at"], condition=models.Q(due_at__isnull=False), name="limit_notices_due"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.quota} {self.percent} %"

    def is_wanted(self) -> bool:
        return self.user.limit_mails and self.user.is_active and timezone.now() < self.until
