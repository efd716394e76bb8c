"""`manage.py create_proxy_key`: mints a proxy key for a user and prints it, this once."""

from contextlib import suppress
from datetime import UTC
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from accounts.epoch import EpochNotPublished
from accounts.hashers import HashingBusy
from accounts.keys import AccountChanged, PlanLimitReached, issue_row
from accounts.management import user_of
from accounts.models import ProxyKey

LIMITS = {
    "rpm": "Requests a minute (default: the plan's).",
    "tpm": "Tokens a minute (default: the plan's).",
    "max_parallel": "Requests under way at once (default: the plan's).",
    "max_tokens": "The most output tokens one request may ask for (default: no cap).",
}
# Of a row that has no key yet.
NOT_YET = ["key_prefix", "key_hash", "verifier"]


class Command(BaseCommand):
    help = (
        "Mints a proxy key. The key alone goes to standard output, where it is seen this once and stored nowhere: "
        "`KEY=$(manage.py create_proxy_key owner@example.com --name laptop)`."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="Whose key it is.")
        parser.add_argument("--name", default="", help="What it is for.")
        parser.add_argument("--expires", metavar="WHEN", help="A date or moment (ISO 8601) from which it is refused.")
        parser.add_argument("--model", dest="allowed_models", action="append", default=[], metavar="PATTERN",
                            help="A model it may ask for (`gpt-4o*`: a prefix); may be repeated.")  # fmt: skip
        parser.add_argument("--network", dest="ip_allowlist", action="append", default=[], metavar="CIDR",
                            help="A network it may be used from; may be repeated.")  # fmt: skip
        for name, meaning in LIMITS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=int, metavar="N", help=meaning)

    def handle(self, *args: Any, **options: Any) -> None:
        user = user_of(options["email"])
        if not user.is_active:
            raise CommandError(f"{user.email} is disabled: enable the account first.")
        fields = {name: options[name] for name in ("name", "allowed_models", "ip_allowlist", *LIMITS)}
        row = ProxyKey(user=user, expires_at=moment(options["expires"]), **fields)
        try:
            row.full_clean(exclude=NOT_YET)
            key = issue_row(row)
        except ValidationError as error:
            wrong = error.message_dict.items()
            raise CommandError("; ".join(f"{field}: {' '.join(said)}" for field, said in wrong)) from error
        except (PlanLimitReached, AccountChanged, HashingBusy) as error:
            raise CommandError(str(error) or "The account was changed meanwhile; try again.") from error
        try:
            self.stderr.write(f"{row} of {user.email} is live; what follows is shown this once.")
            self.stdout.write(key)
            self.stdout.flush()
        except BaseException as error:
            with suppress(EpochNotPublished):  # no worker knows a key that nobody has used
                ProxyKey.objects.filter(pk=row.pk).revoke()
            if not isinstance(error, OSError):
                raise
            raise CommandError(f"Nobody has seen {row}, so it is revoked: {error.strerror}.") from error


def moment(text: str | None) -> Any:
    """A date (its beginning) or moment in UTC unless it says otherwise; None for none."""
    if text is None:
        return None
    try:
        date = parse_date(text)
        found = parse_datetime(f"{text}T00:00:00" if date else text)
        if found is not None:
            return found.astimezone(UTC) if timezone.is_aware(found) else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    raise CommandError(f"--expires: {text!r} is no date or moment; write 2030-12-31 or 2030-12-31T18:00:00Z.")
