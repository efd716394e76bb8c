"""`manage.py reset_second_factor`: for staff who have lost their phone and their recovery codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from staff.models import Authenticator


class Command(BaseCommand):
    help = (
        "Removes the second factor of a member of staff, who sets up a new one at the next sign-in. Make sure that it "
        "is really they who ask. With --all: of everybody, as after a change of SECRET_KEY."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("email", nargs="?", help="Their e-mail address.")
        whose.add_argument("--all", action="store_true", help="Of everybody.")
        parser.add_argument("--dry-run", action="store_true", help="Say whose would be reset, and reset none.")

    def handle(self, *args: Any, **options: Any) -> str:
        rows = Authenticator.objects.select_related("user")
        if not options["all"]:
            rows = rows.filter(user__email=options["email"].strip().lower())
        found = list(rows)
        if not found and not options["all"]:
            raise CommandError(f"{options['email']} has no second factor (or there is no such user).")
        if options["dry_run"]:
            return "\n".join([*(row.user.email for row in found), f"{len(found)} would be reset."])
        for row in found:
            row.reset("reset by an operator")
        return f"{len(found)} reset. They are asked to set up a new one when they sign in."
