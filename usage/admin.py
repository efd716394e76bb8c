"""Owns how staff look at the log and its sums: read-only, and never by counting or scanning all of it.

And how they enter prices: what requests were billed by stays as it was, in the list and in the audit log.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from accounts.backoffice import QueryGuard
from accounts.ids import made_at
from accounts.keys import PREFIX
from accounts.models import ProxyKey, User
from audit.models import Action
from audit.read_only import ReadOnlyAdmin
from audit.trail import record
from usage import export, log_pages, partitions, periods
from usage.models import Outcome, Price, ProxyRequest, ProxyRequestQuerySet, UsageHour
from usage.overrides import STALE_AT_MOST
from usage.pricing import Prices
from vault.models import ApiKey

if TYPE_CHECKING:
    PriceModelAdmin = admin.ModelAdmin[Price]
else:
    PriceModelAdmin = admin.ModelAdmin

EXPORT = "usage.export_proxyrequest"
_PREFIX_LENGTH = len(PREFIX) + 8
_SHORT = 32  # characters of an error that are shown without being asked for
# How an outcome looks: see .tag in the style sheet.
_LOOKS = {Outcome.OK: "good", Outcome.CLIENT_GONE: "calm", Outcome.REFUSED: "warn", Outcome.DRAINED: "warn"}


class ShippedAdmin(ReadOnlyAdmin):
    """Only the shipper writes these rows."""

    filters: dict[str, type[admin.ListFilter]]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return list(self.filters.values())

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:  # type: ignore[override]
        """By the filters alone: any other look-up would read the table."""
        return lookup in self.filters

    @admin.display(description="User")
    def who(self, row: ProxyRequest | UsageHour) -> SafeString:
        if not row.email:
            return format_html('<span class="quiet" title="This user is gone">{}</span>', row.user_id)
        url = reverse("admin:accounts_user_change", args=[row.user_id])
        return format_html('<a href="{}">{}</a>', url, row.email)


def _filters(*filters: Any) -> dict[str, type[admin.ListFilter]]:
    return {filter.parameter_name: filter for filter in filters}


@admin.register(ProxyRequest)
class ProxyRequestAdmin(ShippedAdmin):
    list_display = ["time", "result", "who", "what", "tokens", "dollars", "latency", "trouble"]
    filters = _filters(
        log_pages.PeriodFilter,
        log_pages.OutcomeFilter,
        log_pages.ProviderFilter,
        log_pages.ModelFilter,
        log_pages.UserFilter,
        log_pages.ProxyKeyFilter,
        log_pages.ApiKeyFilter,
        log_pages.SlowerFilter,
    )
    # By id, which is by time: its index is the primary key's. No other order has one.
    ordering = ["-id"]
    sortable_by = ()
    search_fields = ["id"]
    search_help_text = (
        "A whole request id (x-request-id) or the provider's own, a user's e-mail or id, a proxy key's id or first"
        f" {_PREFIX_LENGTH} characters."
    )
    fieldsets = [
        (None, {"fields": ["id", "created_at", "result", "status_code", "error_message"]}),
        ("Who", {"fields": ["who", "proxy_key", "provider_key"]}),
        ("What", {"fields": ["endpoint", "model", "provider", "streamed", "provider_request_id"]}),
        (
            "Tokens",
            {
                "fields": [
                    ("tokens_input", "tokens_cached"),
                    ("tokens_output", "tokens_reasoning"),
                    ("tokens_total", "usage_source"),
                    "cost",
                ]
            },
        ),
        ("Attempts", {"fields": ["tries"]}),
        ("Time", {"fields": [("latency_ms", "ttft_ms", "overhead_ms"), "writer"]}),
    ]
    readonly_fields = ["result", "who", "proxy_key", "provider_key", "tries"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[log_pages.LogPages]:
        return log_pages.LogPages

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ProxyRequest | None:
        try:
            row = ProxyRequest.objects.recorded(UUID(object_id)).first()
        except ValueError:
            return None
        if row is not None:
            log_pages.name_people([row])
            row.shows_keys = request.user.has_perm("vault.view_apikey")
        return row

    # --- Columns ------------------------------------------------------------------------------------

    @admin.display(description="Time (UTC)")
    def time(self, row: ProxyRequest) -> SafeString:
        return format_html(
            '<time datetime="{}">{}</time>', row.created_at.isoformat(), f"{row.created_at:%d %b %H:%M:%S}"
        )

    @admin.display(description="Outcome")
    def result(self, row: ProxyRequest) -> SafeString:
        look = _LOOKS.get(Outcome(row.outcome), "bad") if row.outcome in Outcome.values else "bad"
        label = row.get_outcome_display()
        return format_html(
            '<span class="tag tag-{}" title="{}">{} {}</span>', look, label, row.status_code, row.outcome
        )

    @admin.display(description="Model")
    def what(self, row: ProxyRequest) -> SafeString:
        several = f" {len(row.attempts)} attempts" if row.attempts else ""
        quiet = f"{row.provider}{' stream' * row.streamed}{several}"
        return format_html('{} <span class="quiet">{}</span>', row.model, quiet)

    @admin.display(description="Tokens in → out")
    def tokens(self, row: ProxyRequest) -> str:
        return f"{row.tokens_input:,} → {row.tokens_output:,}"

    @admin.display(description="Cost")
    def dollars(self, row: ProxyRequest) -> str:
        return "unknown" if row.cost is None else f"${row.cost:.6f}"

    @admin.display(description="Latency")
    def latency(self, row: ProxyRequest) -> SafeString:
        first = "" if row.ttft_ms is None else f"first byte {row.ttft_ms:,} ms"
        return format_html('<span title="{}">{}</span>', first, f"{row.latency_ms:,} ms")

    @admin.display(description="Error", empty_value="")
    def trouble(self, row: ProxyRequest) -> SafeString | str:
        if len(row.error_message) <= _SHORT:
            return row.error_message
        start = row.error_message[:_SHORT]
        return format_html("<details><summary>{}…</summary>{}</details>", start, row.error_message)

    # --- Fields of one row --------------------------------------------------------------------------

    @admin.display(description="Proxy key")
    def proxy_key(self, row: ProxyRequest) -> SafeString:
        return _key_link(ProxyKey, row.proxy_key_id)

    @admin.display(description="Provider key")
    def provider_key(self, row: ProxyRequest) -> SafeString | str:
        if row.api_key_id is None or not row.shows_keys:
            return str(row.api_key_id or "-")
        return _key_link(ApiKey, row.api_key_id)

    @admin.display(description="Tried in order")
    def tries(self, row: ProxyRequest) -> SafeString | str:
        """Each with its key, by one query for all of them; only its id to who may not see keys."""
        if not row.attempts:
            return "once"
        ids = {attempt["api_key_id"] for attempt in row.attempts} - {None}
        keys = ApiKey.objects.in_bulk([UUID(id) for id in ids]) if row.shows_keys else None
        lines = ({**attempt, "key": _key_shown(keys, attempt["api_key_id"])} for attempt in row.attempts)
        shown = "<li>{provider}/{model}, {key}: <b>{result}</b> ({status}), {ms} ms</li>"
        return format_html("<ol>{}</ol>", mark_safe("".join(format_html(shown, **line) for line in lines)))  # noqa: S308

    # --- Search ---------------------------------------------------------------------------------------

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ProxyRequest], search_term: str
    ) -> tuple[QuerySet[ProxyRequest], bool]:
        term = search_term.strip()
        assert isinstance(queryset, ProxyRequestQuerySet)
        return (self._find(queryset, term) if term else queryset), False

    def _find(self, rows: ProxyRequestQuerySet, term: str) -> ProxyRequestQuerySet:
        """One index at a time: asked with OR, the database would read the table. A request's own id is found
        whenever it was; what is somebody's, within the filters."""
        if "@" in term:
            user = User.objects.filter(email=User.objects.normalize_email(term)).first()
            return rows.of_user(user.pk) if user else rows.none()
        if term.startswith(PREFIX):
            key = ProxyKey.objects.filter(key_prefix=term[:_PREFIX_LENGTH]).first()
            return rows.of_user(key.user_id).filter(proxy_key_id=key.pk) if key else rows.none()
        try:
            id = UUID(term)
        except ValueError:
            return ProxyRequest.objects.filter(provider_request_id=term).order_by("-id")
        exact = ProxyRequest.objects.recorded(id)
        if exact.exists():
            return exact
        key = ProxyKey.objects.filter(pk=id).first()
        return rows.of_user(key.user_id).filter(proxy_key_id=id) if key else rows.of_user(id)

    # --- Pages ----------------------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With the calendar above the list: the parts of the period, and what it is a part of."""
        context = {
            "calendar": _calendar(request.GET.get("when", "")),
            "exports": {name: self._export_url(name, request) for name in export.FORMATS}
            if self.has_export_permission(request)
            else {},
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/<str:format>", view, name="usage_proxyrequest_export"), *super().get_urls()]

    def has_export_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm(EXPORT)

    def _export_url(self, format: str, request: HttpRequest) -> str:
        query = request.GET.copy()
        for name in (log_pages.BEFORE, log_pages.AFTER):
            query.pop(name, None)
        return f"{reverse('admin:usage_proxyrequest_export', args=[format])}?{query.urlencode()}"

    def export_view(self, request: HttpRequest, format: str) -> StreamingHttpResponse | HttpResponse:
        """The rows that the list shows with the same query string, all pages of them."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        if format not in export.FORMATS:
            raise Http404
        content_type, make = export.FORMATS[format]
        try:
            rows = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(reverse("admin:usage_proxyrequest_changelist") + "?e=1")
        record(Action.EXPORT, name="requests", note=f"{format}, {request.GET.urlencode() or 'no filter'}")
        name = f"requests-{timezone.now():%Y%m%d-%H%M%S}.{format}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return export.Download(make, rows.query, content_type=content_type, headers=headers)


def _key_shown(keys: dict[UUID, ApiKey] | None, id: str | None) -> SafeString | str:
    if id is None:
        return "no key"
    if keys is None:
        return id
    key = keys.get(UUID(id))
    if key is None:
        return format_html("{} (gone)", id)
    return format_html('<a href="{}">{}</a>', reverse("admin:vault_apikey_change", args=[id]), key)


def _key_link(model: type[ProxyKey | ApiKey], id: UUID) -> SafeString:
    key = model._default_manager.filter(pk=id).first()
    if key is None:
        return format_html('<span class="quiet">{} (gone)</span>', id)
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[id])
    return format_html('<a href="{}">{}</a>', url, key)


def _calendar(when: str) -> dict[str, Any] | None:
    """What the period is a part of and divides into, as (word, label); without one of the calendar: its months."""
    now = timezone.now()
    try:
        period = periods.parse(when, now)
    except (ValueError, OverflowError):
        period = periods.Period(None, None)
    if not period.unit:
        first = ProxyRequest.objects.order_by("id").values_list("id", flat=True).first()
        start = partitions.month_of(made_at(first) if first else now)
        # Back from now: one row of a clock that was wrong may be decades before the others.
        months = (partitions.add_months(partitions.month_of(now), -back) for back in reversed(range(13)))
        parts = [(periods.name(month, "month"), f"{month:%b %Y}") for month in months if month >= start]
        return {"above": [], "parts": parts}
    assert period.since is not None
    units = ["year", "month", "day", "hour"]
    labels = {"year": "%Y", "month": "%b", "day": "%d", "hour": "%H:00"}
    above = units[: units.index(period.unit) + 1]
    below = units[len(above)] if len(above) < len(units) else ""
    return {
        "above": [(periods.name(period.since, unit), f"{period.since:{labels[unit]}}") for unit in above],
        "parts": [
            (periods.name(part, below), f"{part:{labels[below]}}") for part in periods.parts(period) if part <= now
        ],
    }


@admin.register(UsageHour)
class UsageHourAdmin(ShippedAdmin):
    list_display = ["start", "who", "provider", "model", "log", "errors", "tokens_total", "cost", "unpriced"]
    filters = _filters(log_pages.HoursFilter, log_pages.ProviderFilter, log_pages.ModelFilter, log_pages.UserFilter)
    ordering = ["-hour", "-id"]
    sortable_by = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[log_pages.HourPages]:
        return log_pages.HourPages

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> UsageHour | None:
        row: UsageHour | None = super().get_object(request, object_id, from_field)
        if row is not None:
            log_pages.name_people([row])
        return row

    @admin.display(description="Hour (UTC)")
    def start(self, row: UsageHour) -> str:
        return f"{row.hour:%d %b %H:00}"

    @admin.display(description="Requests")
    def log(self, row: UsageHour) -> SafeString:
        """The rows behind the number."""
        query = {"when": periods.name(row.hour, "hour"), "user": row.user_id, "proxy_key": row.proxy_key_id}
        query |= {"model": row.model, "provider": row.provider}
        url = f"{reverse('admin:usage_proxyrequest_changelist')}?{urlencode(query)}"
        return format_html('<a href="{}">{}</a>', url, f"{row.requests:,}")


@admin.register(Price)
class PriceAdmin(QueryGuard, PriceModelAdmin):
    list_display = ["provider", "model", "input", "output", "book", "valid_from", "until", "holds", "note"]
    list_filter = ["provider"]
    search_fields = ["model", "note"]
    date_hierarchy = "valid_from"
    actions = None  # deleting many would ask for each whether it may
    fieldsets = [
        (
            None,
            {
                "fields": ["provider", "model", "valid_from", "until", "note"],
                "description": "Before the book's price, in dollars a million tokens. Workers know it "
                f"{STALE_AT_MOST:.0f} seconds after it is saved at the latest. One that has begun can only be ended.",
            },
        ),
        ("Text", {"fields": ["input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoned"]}),
        (
            "Sound and images",
            {"fields": ["audio_input", "audio_cached", "audio_output", "image_input", "image_output"]},
        ),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Price | None = None) -> list[str]:
        if obj is None or not obj.has_begun:
            return []
        return [field.name for field in Price._meta.fields if field.editable and field.name not in {"until", "note"}]

    def has_delete_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not obj.has_begun)

    @admin.display(boolean=True, description="holds now")
    def holds(self, price: Price) -> bool:
        return price.holds

    @admin.display(description="book: input, output")
    def book(self, price: Price) -> str:
        """What the book says of the same name, for comparison."""
        found = Prices().of(price.provider, price.model)
        if found is None:
            return "unknown"
        dollars: Any = found.dollars[""][0]
        return f"{dollars.input:f}, {dollars.output:f}"
