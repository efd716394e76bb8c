"""Deletes old rows of the log. The hourly sums stay."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.utils import timezone

from usage import partitions
from usage.models import ProxyRequest

BATCH = 5_000


class Command(BaseCommand):
    help = "Deletes the log's rows of old months; hourly sums are kept. On PostgreSQL whole partitions are dropped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--keep-months", type=int, required=True, metavar="N", help="full months to keep, besides the present one"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, keep_months: int, dry_run: bool, **options: Any) -> str:
        today = timezone.now().date()
        if not 0 <= keep_months <= 12 * (today.year - 1):
            raise CommandError("--keep-months is the number of full months to keep: 0 or more.")
        before = partitions.add_months(partitions.month_of(today), -keep_months)
        if connection.vendor != "postgresql":
            return self._delete_rows(before, dry_run=dry_run)
        months = partitions.droppable(connection, before)
        if not dry_run:
            for month in months:
                partitions.drop(connection, month)
        names = ", ".join(partitions.name_of(month) for month in months) or "nothing"
        return f"{'Would drop' if dry_run else 'Dropped'} {names}: all from before {before}."

    def _delete_rows(self, before: Any, *, dry_run: bool) -> str:
        old = ProxyRequest.objects.before(before)
        if dry_run:
            return f"Would delete {old.count()} rows from before {before}."
        deleted = 0
        # In batches, oldest first: the database is never locked for long.
        while ids := list(old.order_by("id").values_list("id", flat=True)[:BATCH]):
            deleted += ProxyRequest.objects.filter(id__lte=ids[-1]).delete()[0]
        return f"Deleted {deleted} rows from before {before}."
