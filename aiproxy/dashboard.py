"""Owns what staff see first: how the service does now, against the period before. Reads sums, never the log.

The sums are shared by all who look and are up to a minute old; what of them is shown depends on who looks.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.core.cache import cache
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from aiproxy import health
from usage import charts, periods, queries
from usage.figures import compact, dollars, milliseconds

PERIODS = {"24h": ("24 hours", 24, "hour"), "7d": ("7 days", 168, "hour"), "30d": ("30 days", 720, "day")}
METRICS = {"requests": "Requests", "errors": "Errors", "tokens_total": "Tokens", "cost": "Cost"}
CACHED = 60  # seconds
_ROWS = 6
_NONE, _SAME = "none before", "as before"
# Fewer requests say nothing about a model's latency or errors.
_TELLING = 20

Sums = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums of a period and of the one before it, which is as long."""

    since: dt.datetime
    until: dt.datetime
    now: Sums
    before: Sums
    models: Sequence[Sums]
    series: list[queries.Point]
    users: list[queries.Spender]
    active: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tile:
    """One number. `is_worse` is None where more is neither good nor bad."""

    title: str
    value: str
    change: str
    is_worse: bool | None
    url: str
    note: str = ""


def context(request: HttpRequest) -> dict[str, Any]:
    """What the page shows to this person."""
    period = request.GET.get("period", "")
    metric = request.GET.get("by", "")
    period, metric = period if period in PERIODS else "24h", metric if metric in METRICS else "requests"
    shown: dict[str, Any] = {
        "title": "Overview",
        "readiness": health.readiness(),
        "backlog": health.backlog(),
        "period": period,
        "period_words": PERIODS[period][0],
        "periods": {key: words for key, (words, _, _) in PERIODS.items()},
        "metric": metric,
        "metrics": METRICS,
    }
    if not request.user.has_perm("usage.view_usagehour"):
        return shown
    traffic = cache.get_or_set(f"dashboard:{period}", lambda: read(period), CACHED)
    assert isinstance(traffic, Traffic)
    links = Links(request, period)
    return shown | {
        "traffic": traffic,
        "tiles": tiles(traffic, links),
        "charts": {
            "provider": chart(traffic, metric, "provider", PERIODS[period][2], links),
            "model": chart(traffic, metric, "model", PERIODS[period][2], links),
        },
        "money": metric == "cost",
        "slowest": _ranked(traffic, links, lambda sums: sums["latency_p95_ms"] or 0),
        "failing": _ranked(traffic, links, _error_share),
        "users": _named(traffic.users, links) if request.user.has_perm("accounts.view_user") else None,
    }


def read(period: str) -> Traffic:
    """Whole hours, with the one that has begun; the period before has the same hours, a period ago."""
    _, hours, step = PERIODS[period]
    until = periods.beginning(timezone.now(), "hour") + dt.timedelta(hours=1)
    since = until - dt.timedelta(hours=hours)
    before = since - dt.timedelta(hours=hours)
    present = queries.summary(None, since, until, "model")
    return Traffic(
        since,
        until,
        present.totals,
        queries.summary(None, before, since, "provider").totals,
        present.groups,
        queries.series(since, until, step),
        queries.top_users(since, until, most=_ROWS),
        (queries.active_users(since, until), queries.active_users(before, since)),
    )


class Links:
    """To the rows behind a number; '' for who may not see them."""

    def __init__(self, request: HttpRequest, period: str) -> None:
        self._may_see_log = request.user.has_perm("usage.view_proxyrequest")
        self._period = period

    def log(self, **query: Any) -> str:
        if not self._may_see_log:
            return ""
        return f"{reverse('admin:usage_proxyrequest_changelist')}?{urlencode({'when': self._period, **query})}"

    def hours(self) -> str:
        return f"{reverse('admin:usage_usagehour_changelist')}?{urlencode({'when': self._period})}"


def tiles(traffic: Traffic, links: Links) -> list[Tile]:
    now, before = traffic.now, traffic.before
    unpriced = f"{compact(now['unpriced'])} without a price" if now["unpriced"] else ""
    points = round((_error_share(now) - _error_share(before)) * 100, 1) if before["requests"] else None
    trend = _NONE if points is None else f"{points:+} points" if points else _SAME

    def tile(title: str, name: str, shown: Callable[[Any], str], url: str, note: str = "") -> Tile:
        change = _change(now[name], before[name])
        is_worse = change[0] == "+" if name.startswith("latency") and change[0] in "+-" else None
        return Tile(title, shown(now[name]), change, is_worse, url, note)

    return [
        tile("Requests", "requests", compact, links.log()),
        Tile(
            "Error rate", f"{_error_share(now):.1%}", trend, points > 0 if points else None, links.log(outcome="failed")
        ),
        tile("Tokens", "tokens_total", compact, links.hours()),
        tile("Cost", "cost", dollars, links.hours(), unpriced),
        tile("Latency, median", "latency_p50_ms", milliseconds, links.log(outcome="ok")),
        tile("Latency, p95", "latency_p95_ms", milliseconds, links.log(slower_than=now["latency_p95_ms"] or 0)),
        Tile("Active users", compact(traffic.active[0]), _change(*traffic.active), None, links.hours()),
    ]


def _change(now: Any, before: Any) -> str:
    if not before:
        return _NONE
    change = round((float(now or 0) / float(before) - 1) * 100)
    return f"{change:+d}%" if change else _SAME


def _error_share(sums: Sums) -> float:
    return sums["errors"] / sums["requests"] if sums["requests"] else 0.0


def chart(traffic: Traffic, metric: str, by: str, step: str, links: Links) -> charts.Chart:
    values: dict[dt.datetime, dict[str, float]] = {}
    for point in traffic.series:
        at = values.setdefault(point.time, {})
        name = getattr(point, by) or "(not routed)"
        at[name] = at.get(name, 0.0) + float(getattr(point, metric))
    moments = []
    query = {"outcome": "failed"} if metric == "errors" else {}
    for time in queries.times(traffic.since, traffic.until, step):
        label = f"{time:%d %b}" if step == "day" else f"{time:%d %b %H:00}"
        moments.append(charts.Moment(label, links.log(**query, when=periods.name(time, step)), values.get(time, {})))
    return charts.stacked(moments)


def _ranked(traffic: Traffic, links: Links, key: Callable[[Sums], float]) -> list[dict[str, Any]]:
    telling = [sums for sums in traffic.models if sums["requests"] >= _TELLING and key(sums)]
    return [
        {**sums, "error_rate": _error_share(sums), "url": links.log(model=sums["model"]),
         "errors_url": links.log(model=sums["model"], outcome="failed"),
         "slow_url": links.log(model=sums["model"], slower_than=sums["latency_p95_ms"] or 0)}
        for sums in sorted(telling, key=key, reverse=True)[:_ROWS]
    ]  # fmt: skip


def _named(spenders: list[queries.Spender], links: Links) -> list[dict[str, Any]]:
    emails = dict(User.objects.filter(pk__in=[user.user_id for user in spenders]).values_list("pk", "email"))
    return [
        {**user._asdict(), "email": emails.get(user.user_id, ""), "url": links.log(user=user.user_id)}
        for user in spenders
    ]
