"""Owns the tables of sums, by hour and by day: of each key and model of a user, of a user, and over all users.

Rows are added up by usage/rollup.py alone, in the transaction that inserts what they are of.
"""

from django.db import models


def _count(help_text: str = "") -> "models.PositiveBigIntegerField[int, int]":
    return models.PositiveBigIntegerField(default=0, help_text=help_text)


def _class_of_errors(help_text: str) -> "models.IntegerField[int, int]":
    # db_default: added to a large table at once, and a shipper of the release before does without
    return models.IntegerField(default=0, db_default=0, help_text=help_text)


class Sums(models.Model):
    """What requests add up to; every chart and summary reads such sums, never the log.

    `latency_100` to `latency_more` count complete requests, each in one bucket: more than the bound before, at most
    this many milliseconds. `errors_…` tell errors apart by their outcome.
    """

    requests = _count("All that ended.")
    errors = _count("Those that ended neither complete nor by the client's leaving.")
    tokens_input = _count("All input tokens, cached ones included.")
    tokens_output = _count("All output tokens, reasoning included.")
    tokens_total = _count("Input and output.")
    tokens_cached = _count("Input tokens read from a cache.")
    tokens_reasoning = _count("Output tokens spent on reasoning.")
    cost = models.DecimalField(
        max_digits=18, decimal_places=8, default=0, help_text="US dollars; of the requests whose cost is known."
    )
    unpriced = _count("Requests whose cost is not known.")
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
    errors_refused = _class_of_errors("Refused by us.")
    errors_provider_error = _class_of_errors("Refused or failed by the provider.")
    errors_timeout = _class_of_errors("The provider was too slow.")
    errors_interrupted = _class_of_errors("The worker died.")
    errors_drained = _class_of_errors("Cut off by a shutdown.")
    errors_error = _class_of_errors("Failed inside the proxy.")

    class Meta:
        abstract = True


class ModelSums(Sums):
    provider = models.CharField(max_length=20, blank=True, help_text="Who answered; empty: nobody was asked.")
    model = models.CharField(max_length=100, help_text="As the client asked.")

    class Meta:
        abstract = True


class UsageSums(ModelSums):
    user_id = models.UUIDField(help_text="Whose requests.")
    proxy_key_id = models.UUIDField(help_text="The proxy key they came with.")

    email: str  # as in ProxyRequest

    class Meta:
        abstract = True


class UsageHour(UsageSums):
    """The sums of one hour; those of the other tables can be made from these."""

    hour = models.DateTimeField(help_text="Its start, UTC.")

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


class UsageDay(UsageSums):
    """The sums of one day: of a long period, all but its ends is read here."""

    day = models.DateTimeField(help_text="Its start, UTC.")

    class Meta:
        db_table = "usage_days"
        default_permissions = ()
        constraints = [
            # serves also: an owner's sums over a period
            models.UniqueConstraint(
                fields=["user_id", "day", "proxy_key_id", "provider", "model"], name="usage_days_unique"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} {self.model}"


class UserHour(Sums):
    """The sums of one hour of one user, whatever keys and models they used."""

    hour = models.DateTimeField(help_text="Its start, UTC.")
    user_id = models.UUIDField(help_text="Whose requests.")

    class Meta:
        db_table = "usage_user_hours"
        default_permissions = ()
        constraints = [
            # serves also: an owner's sums over time
            models.UniqueConstraint(fields=["user_id", "hour"], name="usage_user_hours_unique"),
        ]
        indexes = [
            # serves: who was there, and who cost most, over all users
            models.Index(fields=["hour", "user_id"], name="usage_user_hours_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.user_id}"


class UserDay(Sums):
    """The sums of one day of one user."""

    day = models.DateTimeField(help_text="Its start, UTC.")
    user_id = models.UUIDField(help_text="Whose requests.")

    class Meta:
        db_table = "usage_user_days"
        default_permissions = ()
        constraints = [
            # serves also: an owner's sums over time
            models.UniqueConstraint(fields=["user_id", "day"], name="usage_user_days_unique"),
        ]
        indexes = [
            # serves: who was there, and who cost most, over all users
            models.Index(fields=["day", "user_id"], name="usage_user_days_day"),
        ]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} {self.user_id}"


class TotalHour(ModelSums):
    """The sums of one hour over all users: a few rows an hour, however many they are."""

    hour = models.DateTimeField(help_text="Its start, UTC.")

    class Meta:
        db_table = "usage_total_hours"
        default_permissions = ()
        constraints = [
            # serves also: the staff's sums over all users
            models.UniqueConstraint(fields=["hour", "provider", "model"], name="usage_total_hours_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.model}, all users"


class TotalDay(ModelSums):
    """The sums of one day over all users."""

    day = models.DateTimeField(help_text="Its start, UTC.")

    class Meta:
        db_table = "usage_total_days"
        default_permissions = ()
        constraints = [
            # serves also: the staff's sums over all users
            models.UniqueConstraint(fields=["day", "provider", "model"], name="usage_total_days_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} {self.model}, all users"
