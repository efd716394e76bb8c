"""`manage.py check_api_keys`: asks the providers about all stored keys."""

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.epoch import EpochNotPublished
from accounts.management import user_of
from vault.check import check_api_key
from vault.models import ApiKey
from vault.providers import PROVIDERS

_WORDS = {True: "good", False: "refused", None: "unknown"}


class Command(BaseCommand):
    help = "Tests stored API keys at their providers, one after the other, and records each outcome."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--provider", choices=sorted(PROVIDERS), help="Only keys of this provider.")
        parser.add_argument("--user", metavar="EMAIL", help="Only keys of this user.")
        parser.add_argument("--fail", action="store_true", help="Exit with 1 when a provider refuses a key.")

    def handle(self, *args: Any, **options: Any) -> str:
        rows = ApiKey.objects.select_related("user").order_by("user__email", "provider", "priority", "id")
        if options["provider"]:
            rows = rows.filter(provider=options["provider"])
        if options["user"] is not None:
            rows = rows.filter(user=user_of(options["user"]))
        outcomes: Counter[str] = Counter()
        self.stdout.write(f"{'outcome':8} {'status':6} {'ms':>6}  {'provider':9} key, label, user, error")
        for row in rows:
            try:
                verdict = check_api_key(row)
            except EpochNotPublished as error:
                raise CommandError(str(error)) from error
            word = _WORDS[verdict.valid]
            outcomes[word] += 1
            what = ", ".join(part for part in (row.masked, row.label, row.user.email, verdict.error) if part)
            self.stdout.write(f"{word:8} {verdict.status or '-':<6} {verdict.latency_ms:>6}  {row.provider:9} {what}")
        told = ", ".join(f"{outcomes[word]} {word}" for word in _WORDS.values())
        told = f"{outcomes.total()} API keys tested: {told}."
        if options["fail"] and outcomes["refused"]:
            raise CommandError(told)
        return told
