"""Says what is wrong with an installation, and what to do about it."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from aiproxy import diagnosis
from aiproxy.logs import scrub


class Command(BaseCommand):
    help = "Examines settings, keys, database, Redis and journal; exits with 1 when something is an error."
    requires_system_checks = []  # they are among what is examined

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--providers", action="store_true", help="connect to each provider, too")

    def handle(self, *args: Any, **options: Any) -> str:
        styles = {diagnosis.OK: self.style.SUCCESS, diagnosis.WARNING: self.style.WARNING}
        counts = dict.fromkeys((diagnosis.OK, diagnosis.WARNING, diagnosis.ERROR), 0)
        for finding in diagnosis.examine(providers=options["providers"]):
            counts[finding.level] += 1
            level = styles.get(finding.level, self.style.ERROR)(f"{finding.level:8}")
            self.stdout.write(scrub(f"{level} {finding.subject:10} {finding.text}"))
            if finding.hint:
                self.stdout.write(f"{'':19} → {finding.hint}")
        if counts[diagnosis.ERROR]:
            raise CommandError(f"{counts[diagnosis.ERROR]} errors, {counts[diagnosis.WARNING]} warnings.")
        return f"Nothing is broken; {counts[diagnosis.WARNING]} warnings."
