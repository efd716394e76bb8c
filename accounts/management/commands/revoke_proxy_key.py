"""`manage.py revoke_proxy_key`: refuses proxy keys from their next request on, for good."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.epoch import EpochNotPublished
from accounts.keys import ID_LENGTH, PREFIX
from accounts.management import user_of
from accounts.models import ProxyKey, ProxyKeyQuerySet


class Command(BaseCommand):
    help = (
        "Revokes proxy keys: refused from their next request on, on every worker, for good. Name them by what the log "
        "shows of them (`sk-proxy-` and 8 characters, or those alone); of a leaked key never type more than that."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("prefix", nargs="*", help="The beginning of a key, as lists and logs show it.")
        parser.add_argument("--user", metavar="EMAIL", help="All keys of this user, too.")
        parser.add_argument("--dry-run", action="store_true", help="Say what would be revoked, and revoke nothing.")

    def handle(self, *args: Any, **options: Any) -> str:
        chosen = self._named(options["prefix"])
        if options["user"] is not None:
            chosen = chosen | ProxyKey.objects.filter(user=user_of(options["user"]))
        elif not options["prefix"]:
            raise CommandError("Name a key by its beginning, or a user by --user.")
        rows = list(chosen.select_related("user"))
        lines = [f"{row} {row.status:8} {row.user.email} {row.name}" for row in rows]
        if options["dry_run"]:
            return "\n".join([*lines, f"{sum(row.revoked_at is None for row in rows)} would be revoked."])
        try:
            # Before anything is said: who reads it may leave after the first line.
            revoked = ProxyKey.objects.filter(pk__in=[row.pk for row in rows]).revoke()
        except EpochNotPublished as error:
            raise CommandError(str(error)) from error
        return "\n".join([*lines, f"{revoked} revoked, {len(rows) - revoked} were already."])

    @staticmethod
    def _named(prefixes: list[str]) -> ProxyKeyQuerySet:
        wanted = {PREFIX + text.removeprefix(PREFIX)[:ID_LENGTH] for text in prefixes}
        found = ProxyKey.objects.filter(key_prefix__in=wanted)
        if missing := wanted - set(found.values_list("key_prefix", flat=True)):
            raise CommandError(f"There is no key {', '.join(sorted(missing))}.")
        return found
