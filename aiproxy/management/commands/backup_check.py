"""`manage.py backup_check`: shows that a restored database is whole, and that its secrets still open."""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Count, Sum

from accounts.keyset import parse_keyset
from accounts.models import Plan, ProxyKey, User
from usage import rebuild
from usage.models import ProxyRequest, UsageHour
from vault.models import ApiKey

SUMS = ("tokens_input", "tokens_output", "cost")


class Command(BaseCommand):
    help = (
        "Opens every stored API key, looks for the pepper of every proxy key, and sums the log. Write the sums beside "
        "a backup (--write), compare with them after a restore (--compare). Changes nothing and shows no secret."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--write", type=Path, metavar="FILE", help="Put the sums there, as JSON.")
        parser.add_argument("--compare", type=Path, metavar="FILE", help="Fail if the sums are not those in FILE.")

    def handle(self, *args: Any, **options: Any) -> str:
        wrong = [*closed_api_keys(), *proxy_keys_without_pepper(), *sums_that_differ()]
        sums = totals()
        for name, value in sums.items():
            self.stdout.write(f"{name:28} {value}")
        if options["compare"]:
            before = sums_in(options["compare"])
            wrong += [
                f"{name}: {before.get(name)} in the backup, {sums.get(name)} here"
                for name in sorted(before.keys() | sums.keys())
                if before.get(name) != sums.get(name)
            ]
        if wrong:
            raise CommandError("\n".join(wrong))
        if options["write"]:
            try:
                options["write"].write_text(json.dumps(sums, indent=2) + "\n")
            except OSError as error:
                raise CommandError(f"{options['write']} cannot be written: {error.strerror}.") from error
        return "Every stored key opens, every proxy key can be verified."


def sums_in(path: Path) -> dict[str, str]:
    """The sums that --write put there."""
    try:
        sums = json.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError:
        sums = None
    if not isinstance(sums, dict):
        raise CommandError(f"{path} holds no sums: give a file that --write made.")
    return sums


def closed_api_keys() -> list[str]:
    """What says which stored keys no master key opens."""
    return [
        f"API key {row.pk} does not open: master key {row.master_key_id} is missing or another one."
        for row in ApiKey.objects.order_by("id").iterator(chunk_size=500)
        if not row.opens()
    ]


def proxy_keys_without_pepper() -> list[str]:
    known = parse_keyset(settings.AIPROXY_PEPPERS).keys()
    lost = ProxyKey.objects.filter(revoked_at=None).only("key_prefix", "verifier")
    return [
        f"Proxy key {row} cannot be used: AIPROXY_PEPPERS has no pepper {bytes(row.verifier)[:1].hex() or 'for it'}."
        for row in lost.iterator(chunk_size=500)
        if not row.verifier or bytes(row.verifier)[0] not in known
    ]


def sums_that_differ() -> list[str]:
    days = rebuild.days()
    tables = rebuild.differing(days[0], days[-1] + rebuild.DAY) if days else []
    return [
        f"{table} does not add up to usage_hours: `manage.py rebuild_usage --check` tells the days." for table in tables
    ]


def totals() -> dict[str, str]:
    """By name; as text, so that no decimal is rounded on its way through JSON."""
    counts = {model._meta.db_table: model._default_manager.count() for model in (User, Plan, ApiKey, ProxyKey)}
    log = ProxyRequest.objects.aggregate(rows=Count("pk"), **{name: Sum(name) for name in SUMS})
    hours = UsageHour.objects.aggregate(requests=Sum("requests"), **{name: Sum(name) for name in SUMS})
    found = {**counts, **_named("proxy_requests", log), **_named("usage_hours", hours)}
    return {name: str(value if value is not None else 0) for name, value in found.items()}


def _named(table: str, sums: dict[str, Any]) -> dict[str, Any]:
    return {f"{table}.{name}": value for name, value in sums.items()}
