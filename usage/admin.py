"""Owns how staff look at the log and its sums: read-only, and never by counting or scanning all of it."""

import datetime as dt
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from usage.models import ProxyRequest, UsageHour, first_id
from vault.models import Provider

if TYPE_CHECKING:
    ModelAdminBase = admin.ModelAdmin[Any]
    PaginatorBase = Paginator[Model]
else:
    ModelAdminBase = admin.ModelAdmin
    PaginatorBase = Paginator


class BoundedPaginator(PaginatorBase):
    """Counts to 1,000 and no further: whoever needs more narrows the filters."""

    MOST = 1_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return rows.order_by()[: self.MOST].count()


class ReadOnly(ModelAdminBase):
    """Only the shipper writes these rows."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 200
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class PeriodFilter(admin.SimpleListFilter):
    """The last day unless more is asked for: a list without a bound would look into every month."""

    title = "time"
    parameter_name = "last"
    _days = {"7": 7, "30": 30, "all": None}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("7", "Last 7 days"), ("30", "Last 30 days"), ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        yield {**first, "display": "Last 24 hours"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        days = self._days.get(self.value() or "", 1)
        return queryset if days is None else self.since(queryset, timezone.now() - dt.timedelta(days=days))

    def since(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        # Ids are in order of time, and are what the list is sorted by.
        return queryset.filter(created_at__gte=moment, id__gte=first_id(moment))


class HoursFilter(PeriodFilter):
    def since(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(hour__gte=moment)


class ProviderFilter(admin.SimpleListFilter):
    """Fixed choices: finding them in the log would read all of it."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(label)) for value, label in Provider.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


@admin.register(ProxyRequest)
class ProxyRequestAdmin(ReadOnly):
    list_display = [
        "created_at",
        "outcome",
        "status_code",
        "user_id",
        "provider",
        "model",
        "tokens_input",
        "tokens_output",
        "cost",
        "latency_ms",
        "ttft_ms",
    ]
    list_filter = [PeriodFilter, "outcome", ProviderFilter, "streamed"]
    # By id, which is by time: its index is the primary key's.
    ordering = ["-id"]
    search_fields = ["id"]
    search_help_text = "The whole id of a request (as in x-request-id), of a user, or of a proxy key."
    fieldsets = [
        (None, {"fields": ["id", "created_at", "outcome", "status_code", "error_message"]}),
        ("Who", {"fields": ["user_id", "proxy_key_id", "api_key_id"]}),
        ("What", {"fields": ["endpoint", "model", "provider", "streamed", "provider_request_id"]}),
        (
            "Tokens",
            {
                "fields": [
                    "tokens_input",
                    "tokens_output",
                    "tokens_total",
                    "tokens_cached",
                    "tokens_reasoning",
                    "usage_source",
                    "cost",
                ]
            },
        ),
        ("Time", {"fields": ["latency_ms", "ttft_ms", "overhead_ms", "writer"]}),
    ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ProxyRequest], search_term: str
    ) -> tuple[QuerySet[ProxyRequest], bool]:
        if not search_term:
            return queryset, False
        try:
            id = UUID(search_term.strip())
        except ValueError:
            self.message_user(request, "Search for a whole id.", "warning")
            return queryset.none(), False
        # One index at a time: asked with OR, the database would read the table.
        exact = ProxyRequest.objects.recorded(id)
        if exact.exists():
            return exact, False
        owned = queryset.filter(user_id=id)
        return (owned if owned.exists() else queryset.filter(proxy_key_id=id)), False


@admin.register(UsageHour)
class UsageHourAdmin(ReadOnly):
    list_display = ["hour", "user_id", "provider", "model", "requests", "errors", "tokens_total", "cost", "unpriced"]
    list_filter = [HoursFilter, ProviderFilter]
    ordering = ["-hour", "-id"]
