"""Owns the command that gives a service made-up people and traffic to look at."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from aiproxy import demo_data


class Command(BaseCommand):
    help = "Adds made-up people and a month of their traffic, to look at. Refuses where real people have accounts."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--requests", type=int, default=12_000, help="how many (default: %(default)s)")
        parser.add_argument("--people", type=int, default=24, help="1 to 24 (default: %(default)s)")
        parser.add_argument("--days", type=int, default=40, help="how far back, at most 365 (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        requests, people, days = options["requests"], options["people"], options["days"]
        if requests < 1 or not 1 <= people <= 24 or not 1 <= days <= 365:
            raise CommandError("--requests must be 1 or more, --people 1 to 24, --days 1 to 365.")
        try:
            demo_data.seed(requests=requests, people=people, days=days, now=timezone.now())
        except demo_data.InUse:
            raise CommandError(
                "There are accounts here already: made-up people are never mixed with others, nor added twice."
                " Take an empty database (DATABASE_URL)."
            ) from None
        self.stdout.write(f"Made {people} people and {requests:,} requests of the last {days} days.")
