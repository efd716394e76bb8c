"""Owns the limits of a plan that hold for a day or a month (UTC): how much of each the daily sums say is used.

They count what has ended, so what is under way as one is reached still ends. Knows no mail and no HTTP.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import F, Q, Sum
from django.db.models.expressions import Combinable
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import Plan, User
from usage.models import UserDay
from usage.periods import beginning, following


@dataclass(frozen=True, slots=True)
class Quota:
    """`name` is the plan's column, `unit` how long it holds, `sums` what of a day counts."""

    name: str
    unit: str
    what: Promise
    sums: Combinable


QUOTAS = (
    Quota("rpd", "day", _("requests a day"), F("requests") - F("errors")),
    Quota("tpd", "day", _("tokens a day"), F("tokens_total")),
    Quota("tokens_month", "month", _("tokens a month"), F("tokens_total")),
)
BY_NAME = {quota.name: quota for quota in QUOTAS}
# For whom there is anything to look at.
LIMITED = Q(*((f"plan__{quota.name}__isnull", False) for quota in QUOTAS), _connector=Q.OR)


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of one of them is used in the present period."""

    quota: Quota
    allowed: int
    used: int
    since: dt.datetime
    until: dt.datetime

    @property
    def is_used_up(self) -> bool:
        return self.used >= self.allowed

    def has_reached(self, percent: int) -> bool:
        return self.used > 0 and self.used * 100 >= self.allowed * percent


def standings(users: Iterable[User]) -> dict[UUID, list[Standing]]:
    """Of those whose plan has such limits; one query for all of them, none if there are none."""
    now = timezone.now().astimezone(dt.UTC)
    plans = {user.pk: user.plan for user in users if _quotas(user.plan)}
    if not plans:
        return {}
    oldest = min(beginning(now, quota.unit) for plan in plans.values() for quota in _quotas(plan))
    days = UserDay.objects.filter(user_id__in=plans, day__gte=oldest).order_by().values("user_id")
    sums = {quota.name: Sum(quota.sums, filter=Q(day__gte=beginning(now, quota.unit)), default=0) for quota in QUOTAS}
    used = {row["user_id"]: row for row in days.annotate(**sums)}
    return {
        id: [_standing(plan, quota, used.get(id, {}), now) for quota in _quotas(plan)] for id, plan in plans.items()
    }


def used_up(user: User) -> Standing | None:
    """What keeps them from proxying now; of several the one that ends last."""
    over = [standing for standing in standings([user]).get(user.pk, []) if standing.is_used_up]
    return max(over, key=lambda standing: standing.until, default=None)


def _quotas(plan: Plan) -> list[Quota]:
    return [quota for quota in QUOTAS if getattr(plan, quota.name) is not None]


def _standing(plan: Plan, quota: Quota, used: dict[str, int], now: dt.datetime) -> Standing:
    since = beginning(now, quota.unit)
    until = following(since, quota.unit)
    return Standing(quota, getattr(plan, quota.name), used.get(quota.name, 0), since, until)
