"""Owns the console's first page: what was used today and this month, what is left, and what to do next."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import ProxyKey, User
from console.pages import Page
from proxy.limit_list import allowed
from usage import charts, periods, queries
from usage.models import ProxyRequest
from usage.quotas import standings
from vault.models import ApiKey

DAYS = 30
METRICS = {"requests": gettext_lazy("Requests"), "tokens_total": gettext_lazy("Tokens"), "cost": gettext_lazy("Cost")}
_LAST = 8


class Overview(Page):
    template_name = "console/overview.html"
    section = "console:overview"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        today = periods.beginning(timezone.now(), "day")
        metric = self.request.GET.get("by", "")
        metric = metric if metric in METRICS else "requests"
        tomorrow = today + dt.timedelta(days=1)
        month = queries.summary(self.user.pk, today.replace(day=1), tomorrow, "day")
        last = list(ProxyRequest.objects.of_user(self.user.pk)[:_LAST])
        steps = self._steps(bool(last))
        return super().get_context_data(
            **kwargs,
            periods=[(_("Today"), _today(month, today)), (_("This month"), with_rate(month.totals))],
            bars=list(bars(self.user)),
            metrics=METRICS,
            metric=metric,
            money=metric == "cost",
            chart=chart(
                queries.grouped_lines(
                    *(self.user.pk, tomorrow - dt.timedelta(days=DAYS), tomorrow, "day"),
                    group_by="model",
                    rank=metric,
                    most=charts.MOST_SERIES - 1,
                ),
                metric,
            ),
            last=last,
            steps=steps,
            is_new=not all(step.is_done for step in steps),
        )

    def _steps(self, has_asked: bool) -> list["Step"]:
        return [
            Step(
                ApiKey.objects.filter(user=self.user).exists(),
                "console:add-provider-key",
                _("Add a provider key"),
                _("Your own key at OpenAI, Anthropic, Google or Alibaba. It is encrypted; nobody can read it back."),
            ),
            Step(
                ProxyKey.objects.live().filter(user=self.user).exists(),
                "console:create-proxy-key",
                _("Create a proxy key"),
                _("What your programs send in its place, with limits of its own."),
            ),
            Step(
                has_asked,
                "console:playground",
                _("Try it"),
                _("Ask a model in the playground, or from your own code."),
            ),
        ]


@dataclass(frozen=True, slots=True)
class Step:
    is_done: bool
    url: str  # its name
    title: str
    text: str


def with_rate(sums: dict[str, Any]) -> dict[str, Any]:
    return {**sums, "error_rate": sums["errors"] / sums["requests"] if sums["requests"] else 0.0}


def _today(month: queries.Summary, today: dt.datetime) -> dict[str, Any]:
    """Its sums; those of nothing if nothing was asked yet."""
    group = next((group for group in month.groups if group["day"] == today), None)
    return with_rate(group or queries.nothing())


def chart(
    lines: Sequence[queries.Line], metric: str, *, step: str = "day", names: Mapping[Any, str] | None = None
) -> charts.Chart:
    """Stacked, a colour for each line; `names` of those whose own tell nothing."""
    if not lines:
        return charts.stacked([])
    moments = []
    for place, point in enumerate(lines[0].points):
        label = f"{point['time']:%d %b}" if step == "day" else f"{point['time']:%d %b %H:00}"
        values = {_called(line.name, names or {}): float(line.points[place][metric] or 0) for line in lines}
        moments.append(charts.Moment(label, "", values))
    return charts.stacked(moments)


def _called(name: Any, names: Mapping[Any, str]) -> str:
    if name is None:
        return _("others")
    return names.get(name) or str(name) or _("no model")


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of a limit is used; `used` is None where that is not known."""

    title: str
    used: int | None
    limit: int
    reset: str

    @property
    def percent(self) -> int:
        return min(100, round(100 * (self.used or 0) / self.limit)) if self.limit else 100


def bars(user: User) -> Iterator[Bar]:
    """Of the plan: what all proxy keys share."""
    plan = allowed(user, [])[1]
    titles = {
        "requests": _("Requests a minute"),
        "tokens": _("Tokens a minute"),
        "parallel": _("Requests at once"),
    }
    for name, title in titles.items():
        if (part := plan[name]) is not None:
            left, reset_ms = part["remaining"], part.get("reset_ms")
            used = None if left is None else max(0, part["limit"] - left)
            reset = _("all of it back in %d s") % -(-reset_ms // 1000) if reset_ms else ""
            yield Bar(title, used, part["limit"], reset)
    for standing in standings([user]).get(user.pk, []):
        reset = _("all of it back on %s UTC") % date_format(standing.until.astimezone(dt.UTC), "j F, H:i")
        yield Bar(capfirst(str(standing.quota.what)), standing.used, standing.allowed, reset)
