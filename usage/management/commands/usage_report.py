"""Prints sums over a period."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.management import user_of
from usage import queries, tables
from usage.filters import PERIOD, parse_moment

FORMATS = {"table": tables.as_table, "csv": tables.as_csv, "json": tables.as_json}


class Command(BaseCommand):
    help = "Prints requests, tokens, cost and latency over a period, of all users or of one. Times are UTC."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", dest="since", metavar="WHEN", help="ISO 8601 (default: 30 days before --to)")
        parser.add_argument("--to", dest="until", metavar="WHEN", help="ISO 8601; a date is included (default: now)")
        parser.add_argument("--group-by", choices=list(queries.GROUPS), default="model")
        parser.add_argument("--format", choices=list(FORMATS), default="table")
        parser.add_argument("--user", metavar="EMAIL", help="only this user's")

    def handle(self, *args: Any, since: str | None, until: str | None, **options: Any) -> str:
        try:
            end = parse_moment(until, closes=True) if until is not None else timezone.now()
            start = parse_moment(since) if since is not None else end - PERIOD
        except (ValueError, OverflowError) as error:
            raise CommandError(f"--from or --to: {error}") from error
        if start >= end:  # the end of a day is the next one's beginning
            raise CommandError("--from is after --to.")
        user = user_of(options["user"]) if options["user"] is not None else None
        found = queries.summary(user.pk if user else None, start, end, options["group_by"])
        rows = found.groups
        if options["format"] == "table":
            rows = [*rows, {options["group_by"]: "total", **found.totals}]
        return FORMATS[options["format"]](rows).removesuffix("\n")
