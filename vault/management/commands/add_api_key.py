"""`manage.py add_api_key`: stores a provider's key for a user; the key comes by standard input."""

import sys
from getpass import getpass
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.epoch import EpochNotPublished
from accounts.management import user_of
from vault import store
from vault.check import check_api_key
from vault.models import ApiKey
from vault.providers import PROVIDERS
from vault.secret import Secret


class Command(BaseCommand):
    help = (
        "Stores a user's key at a provider, sealed. The key is read from standard input, or asked for at a terminal: "
        "as an argument it would stand in the list of processes and in the shell's history."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="Whose key it is.")
        parser.add_argument("provider", choices=sorted(PROVIDERS))
        parser.add_argument("--label", default="", help="What the owner calls it.")
        parser.add_argument("--priority", type=int, default=100, metavar="N", help="Lower ones are used first.")
        parser.add_argument("--base-url", default="", metavar="URL", help="The address of its region, for Alibaba.")
        parser.add_argument("--test", action="store_true", help="Ask the provider about it, once it is stored.")

    def handle(self, *args: Any, **options: Any) -> str:
        user, provider = user_of(options["email"]), options["provider"]
        for name in ("label", "priority"):
            try:
                ApiKey._meta.get_field(name).clean(options[name], None)  # type: ignore[union-attr]
            except ValidationError as error:
                raise CommandError(f"--{name}: {' '.join(error.messages)}") from error
        key = getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline()
        try:
            chosen = {"priority": options["priority"], "base_url": options["base_url"].rstrip("/")}
            row = store.add(user.pk, provider, options["label"], Secret(key.strip()), **chosen)
        except (store.NotStored, EpochNotPublished, ValueError) as error:
            raise CommandError(str(error)) from error
        told = f"Stored {row} for {user.email}."
        if not options["test"]:
            return told
        verdict = check_api_key(row)
        if verdict.valid is False:
            raise CommandError(f"{told} Its provider refuses it: {verdict.error}")
        return f"{told} {'Its provider takes it.' if verdict.valid else f'Nobody can tell yet: {verdict.error}'}"
