"""`manage.py rotate_master_key`: re-wraps all stored keys under the primary master key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from vault import keyring
from vault.models import ApiKey
from vault.rewrap import Rewrap


class Command(BaseCommand):
    help = (
        "Re-wraps all API keys that are not under the primary master key. Add the new key everywhere first, then make "
        "it the primary everywhere, then run this; it can be stopped and run again. Then the old key can be dropped."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Open what would be re-wrapped, write nothing.")
        parser.add_argument("--batch", type=int, default=200, help="Rows in a transaction (default: %(default)s).")

    def handle(self, *args: Any, **options: Any) -> str:
        if options["batch"] < 1:
            raise CommandError("--batch must be at least 1.")
        rewrap = Rewrap(keyring.current(), batch=options["batch"], write=not options["dry_run"])
        for done in rewrap.run():
            self.stdout.write(f"{done} re-wrapped" if rewrap.write else f"{done} opened")
        for row_id in rewrap.broken:
            self.stderr.write(f"API key {row_id} does not open; it stays as it is.")
        for key_id in keyring.ids_in_use():
            self.stdout.write(f"master key {key_id}: {ApiKey.objects.filter(master_key_id=key_id).count()} API keys")
        verb = "re-wrapped" if rewrap.write else "to be re-wrapped"
        sentence = f"{rewrap.done} API keys {verb} under master key {rewrap.keys.primary}"
        if rewrap.broken:
            raise CommandError(f"{sentence}; {len(rewrap.broken)} do not open.")
        return f"{sentence}."
