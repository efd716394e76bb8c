"""Owns what templates of the back-office need beside their context: all of `figures`, and what a user's page shows of
apps that know nothing of each other."""

import datetime as dt
from typing import Any

from django import template
from django.template.context import Context
from django.utils import timezone

from accounts.models import ProxyKey, User
from usage import charts, periods, queries
from usage.templatetags import figures
from vault.models import ApiKey

register = template.Library()
register.filters.update(figures.register.filters)

_DAYS = 30


@register.filter
def sparkline(values: list[float]) -> str:
    return charts.sparkline(values)


@register.inclusion_tag("admin/accounts/user/account.html", takes_context=True)
def account(context: Context, user: User) -> dict[str, Any]:
    """The user's last 30 days and their keys, as far as whoever looks may see them."""
    viewer = context["request"].user
    shown: dict[str, Any] = {"account": user, "days": _DAYS}
    if viewer.has_perm("usage.view_usagehour"):
        shown["usage"] = _usage(user)
        shown["may_see_log"] = viewer.has_perm("usage.view_proxyrequest")
    if viewer.has_perm("accounts.view_proxykey"):
        shown["proxy_keys"] = ProxyKey.objects.filter(user=user)[:20]
    if viewer.has_perm("vault.view_apikey"):
        shown["api_keys"] = ApiKey.objects.filter(user=user)[:20]
    return shown


def _usage(user: User) -> dict[str, Any]:
    today = periods.beginning(timezone.now(), "day")
    days = [today - dt.timedelta(days=back) for back in range(_DAYS - 1, -1, -1)]
    summary = queries.summary(user.pk, days[0], today + dt.timedelta(days=1), "day")
    requests = {group["day"]: group["requests"] for group in summary.groups}
    return {"totals": summary.totals, "daily": [requests.get(day, 0) for day in days]}
