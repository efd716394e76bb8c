"""`manage.py check_prices`: finds models that are used without a price, and a price book that has grown old."""

import datetime as dt
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Sum
from django.utils import timezone

from usage.models import Price, UsageHour
from usage.pricing import Book, Prices


class Command(BaseCommand):
    help = (
        "Lists the models of late whose requests have no price, and says how old the price book is. Exits with 1 when "
        "there is something to do: enter a price in the back-office, or upgrade to a release with a newer book."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, default=7, metavar="N", help="How far back (default: %(default)s).")
        parser.add_argument(
            "--max-age", type=int, default=90, metavar="DAYS", help="How old the book may be (default: %(default)s)."
        )

    def handle(self, *args: Any, days: int, max_age: int, **options: Any) -> str:
        now = timezone.now()
        if not (0 < days <= 3650 and 0 < max_age <= 3650):
            raise CommandError("--days and --max-age are numbers of days: 1 to 3650.")
        wrong = []
        age = (now.date() - Book.read().made).days
        self.stdout.write(f"The price book is {age} days old.")
        if age > max_age:
            wrong.append(f"The price book is {age} days old: upgrade to a release with a newer one.")
        prices = Prices(Price.objects.overrides(), now)
        for provider, model, requests in unpriced(now - dt.timedelta(days=days)):
            if prices.of(provider, model) is None:
                wrong.append(f"{provider}/{model} has no price: {requests} requests in {days} days are without a cost.")
            else:
                self.stdout.write(
                    f"{provider}/{model}: {requests} requests are without a cost, though its price is known now: it "
                    "was entered since, or they used what it does not say (another service tier, audio, an estimate)."
                )
        if wrong:
            raise CommandError("\n".join([*wrong, "Staff enter prices in the back-office, under Prices."]))
        return f"Every model asked for in {days} days has a price."


def unpriced(since: dt.datetime) -> list[tuple[str, str, int]]:
    """Provider, model, and how many requests have no cost; the most first."""
    hours = UsageHour.objects.filter(hour__gte=since, unpriced__gt=0).exclude(provider="")
    sums = hours.values("provider", "model").annotate(requests=Sum("unpriced")).order_by("-requests", "model")
    return [(one["provider"], one["model"], one["requests"]) for one in sums]
