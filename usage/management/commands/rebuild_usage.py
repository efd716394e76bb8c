"""Makes sums anew, or says which do not agree."""

import datetime as dt
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage import rebuild
from usage.filters import parse_moment
from usage.models import UsageHour
from usage.rollup import DERIVED


class Command(BaseCommand):
    help = (
        "Makes sums by day and over all users anew from those by hour, a day at a time, while the service runs. With"
        " --from-log the hours too, from the rows of the log; with --check it only says which days do not add up."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", dest="since", metavar="DAY", help="the first, as in 2026-01-31 (default: all)")
        parser.add_argument("--to", dest="until", metavar="DAY", help="the last (default: all)")
        parser.add_argument("--from-log", action="store_true", help="the hours too; the log must have all of the day")
        parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if sums differ")

    def handle(self, *args: Any, **options: Any) -> str:
        days = self._days(options["since"], options["until"])
        if options["check"]:
            return self._check(days)
        for day in days:
            try:
                with rebuild.shippers_waiting():
                    if options["from_log"]:
                        rebuild.from_log(day)
                    rebuild.from_hours(day, UsageHour, DERIVED)
            except rebuild.LogIncomplete as error:
                raise CommandError(f"{error} The sums of this day stay as they were.") from error
        return f"Made the sums of {len(days)} days anew."

    def _days(self, since: str | None, until: str | None) -> list[dt.datetime]:
        """Of which there are sums, or which were named: the log may have what the sums have lost."""
        try:
            if since is not None and until is not None:
                start, end = parse_moment(since), parse_moment(until, closes=True)
                if start >= end:  # the end of a day is the next one's beginning
                    raise CommandError("--from is after --to.")
                return rebuild.between(start, end)
            first, last = (parse_moment(text) if text is not None else None for text in (since, until))
        except ValueError as error:
            raise CommandError(f"--from or --to: {error}") from error
        return [day for day in rebuild.days() if (not first or day >= first) and (not last or day <= last)]

    def _check(self, days: list[dt.datetime]) -> str:
        wrong = [
            f"{day:%Y-%m-%d}: {', '.join(found)}"
            for day in days
            if (found := rebuild.differing(day, day + rebuild.DAY))
        ]
        if wrong:
            raise CommandError("These do not add up to usage_hours:\n" + "\n".join(wrong))
        return f"The sums of {len(days)} days agree."
