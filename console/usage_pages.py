"""Owns the pages of usage: sums and charts of a period, the log by pages, one request, and the log as a file."""

import datetime as dt
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views import View
from rest_framework.exceptions import Throttled

from accounts.models import ProxyKey, User
from audit.models import Action
from audit.trail import record
from console.overview import METRICS, chart, with_rate
from console.pages import Page, check_throttles, one_page
from console.personal_data import ExportThrottle
from usage import charts, export, periods, queries
from usage.models import Outcome, ProxyRequest, ProxyRequestQuerySet
from vault.models import ApiKey, Provider

PERIODS = {
    "24h": (_("24 hours"), 24, "hour"),
    "7d": (_("7 days"), 7 * 24, "day"),
    "30d": (_("30 days"), 30 * 24, "day"),
    "90d": (_("90 days"), 90 * 24, "day"),
}
_ROWS = 50
_ANY = [("", _("Any"))]


class Filters(forms.Form):
    """What of the log is looked at. Sums are kept by key, provider and model: the outcome narrows the log alone."""

    period = forms.ChoiceField(label=_("Period"), choices=[(name, words[0]) for name, words in PERIODS.items()])
    model = forms.CharField(label=_("Model"), max_length=100, required=False)
    proxy_key = forms.TypedChoiceField(label=_("Proxy key"), required=False, coerce=UUID, empty_value=None)
    provider = forms.ChoiceField(label=_("Provider"), required=False, choices=[*_ANY, *Provider.choices])
    outcome = forms.ChoiceField(label=_("Outcome"), required=False, choices=[*_ANY, *Outcome.choices])

    def __init__(self, user: User, data: Any) -> None:
        super().__init__({"period": "7d", **data.dict()})
        self._user, self.names = user, key_names(user)
        self.fields["proxy_key"].choices = [*_ANY, *((str(id), name) for id, name in self.names.items())]  # type: ignore[attr-defined]
        self.is_valid()

    @property
    def only(self) -> dict[str, Any]:
        """What narrows the sums as well as the log. A filter that is wrong narrows to nothing."""
        asked = {"model": "model", "proxy_key": "proxy_key_id", "provider": "provider"}
        return {column: value for name, column in asked.items() if (value := self.cleaned_data.get(name))}

    @property
    def step(self) -> str:
        return PERIODS[self.cleaned_data["period"]][2]

    def bounds(self) -> tuple[dt.datetime, dt.datetime]:
        """Whole hours, or whole days; with the one that has begun."""
        _words, hours, step = PERIODS[self.cleaned_data["period"]]
        until = periods.following(periods.beginning(timezone.now(), step), step)
        return until - dt.timedelta(hours=hours), until

    def rows(self) -> ProxyRequestQuerySet:
        rows = ProxyRequest.objects.of_user(self._user.pk)
        if not self.is_valid():
            return rows.none()
        outcome = self.cleaned_data["outcome"]
        return rows.between(*self.bounds()).filter(**self.only, **({"outcome": outcome} if outcome else {}))


def key_names(user: User) -> dict[UUID, str]:
    """Of the user's proxy keys, the newest first."""
    rows = ProxyKey.objects.filter(user=user).only("id", "name", "key_prefix", "created_at")[:200]
    return {row.pk: f"{row.name} ({row.key_prefix}…)" if row.name else f"{row.key_prefix}…" for row in rows}


class Usage(Page):
    template_name = "console/usage.html"
    section = "console:usage"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        filters = Filters(self.user, self.request.GET)
        page, following = one_page(self.request, filters.rows(), _ROWS)
        query = _without(self.request.GET, "cursor", "by")
        sums = self._sums(filters) if filters.is_valid() else {}
        return super().get_context_data(
            **kwargs,
            filters=filters,
            rows=page,
            next=following,
            query=query,
            of_any_model=_without(self.request.GET, "cursor", "by", "model"),
            of_any_outcome=_without(self.request.GET, "cursor", "by", "outcome"),
            **sums,
        )

    def _sums(self, filters: Filters) -> dict[str, Any]:
        metric = self.request.GET.get("by", "")
        metric = metric if metric in METRICS else "requests"
        period = (self.user.pk, *filters.bounds())

        def lines(group_by: str) -> list[queries.Line]:
            most = charts.MOST_SERIES - 1
            return queries.grouped_lines(
                *period, filters.step, group_by=group_by, rank=metric, most=most, **filters.only
            )

        by_model = queries.summary(*period, "model", rank=metric, **filters.only)
        return {
            "totals": with_rate(by_model.totals),
            "endings": [(Outcome(outcome), count) for outcome, count in by_model.totals["outcomes"].items()],
            "models": [with_rate(group) for group in by_model.groups[:20]],
            "metrics": METRICS,
            "metric": metric,
            "money": metric == "cost",
            "charts": [
                (_("By model"), chart(lines("model"), metric, step=filters.step)),
                (_("By proxy key"), chart(lines("key"), metric, step=filters.step, names=filters.names)),
            ],
        }


def _without(query: QueryDict, *names: str) -> str:
    """The query string of a link to something else of the same filters."""
    kept = query.copy()
    for name in names:
        kept.pop(name, None)
    return kept.urlencode()


class OneRequest(Page):
    """What the log knows of it. Somebody else's is 404."""

    template_name = "console/request.html"
    section = "console:usage"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        row = ProxyRequest.objects.filter(user_id=self.user.pk).recorded(self.kwargs["id"]).first()
        if row is None:
            raise Http404
        attempts = row.attempts or []
        asked = {str(row.api_key_id), *(attempt["api_key_id"] for attempt in attempts)} - {None, "None"}
        keys = {str(key.pk): key for key in ApiKey.objects.filter(user=self.user, pk__in=asked)}
        return super().get_context_data(
            **kwargs,
            row=row,
            proxy_key=ProxyKey.objects.filter(user=self.user, pk=row.proxy_key_id).first(),
            api_key=keys.get(str(row.api_key_id)),
            attempts=[{**attempt, "key": keys.get(attempt["api_key_id"])} for attempt in attempts],
        )


class Csv(LoginRequiredMixin, View):
    """The rows that the filters leave, newest first."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        assert isinstance(request.user, User)
        try:
            check_throttles(request, [ExportThrottle])
        except Throttled as error:
            return HttpResponse(str(error.detail), status=429, content_type="text/plain")
        record(Action.EXPORT, request.user, note="own requests")
        name = f"aiproxy-requests-{timezone.now():%Y-%m-%d}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        rows = Filters(request.user, request.GET).rows()
        return export.Download(export.as_own_csv, rows.query, content_type="text/csv; charset=utf-8", headers=headers)
