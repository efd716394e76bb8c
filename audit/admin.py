"""Owns how staff read the audit log: nobody writes here, and nothing counts all of it."""

from contextlib import suppress
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit.models import Event

if TYPE_CHECKING:
    EventModelAdmin = admin.ModelAdmin[Event]
    EventPaginator = Paginator[Event]
else:
    EventModelAdmin = admin.ModelAdmin
    EventPaginator = Paginator


class BoundedPaginator(EventPaginator):
    MOST = 10_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return rows.order_by()[: self.MOST].count()


@admin.register(Event)
class EventAdmin(EventModelAdmin):
    list_display = ["created_at", "who", "action", "what", "differences", "note", "address"]
    list_filter = ["action"]
    ordering = ["-id"]
    date_hierarchy = "created_at"
    search_fields = ["id"]  # shows the box; get_search_results knows what is looked for
    search_help_text = "A whole e-mail address, address, request id, or id of an object or user."
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 200
    actions = None
    readonly_fields = ["created_at", "who", "address", "request_id", "action", "what", "differences", "note"]
    fields = tuple(readonly_fields)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        term = search_term.strip().replace("\0", "")
        return (queryset.filter(_exactly(term)) if term else queryset), False

    @admin.display(description="who", ordering="actor")
    def who(self, event: Event) -> str:
        return event.actor or "(not signed in)"

    @admin.display(description="what", ordering="object_name")
    def what(self, event: Event) -> str | SafeString:
        kind = event.object_type.partition(".")[2]
        if not event.object_id:
            return event.object_name
        query = urlencode({"object_type": event.object_type, "object_id": event.object_id})
        everything = f"{reverse(f'{self.admin_site.name}:audit_event_changelist')}?{query}"
        shown = format_html(
            '{} <a href="{}" title="All that was done to it">{}</a>', kind, everything, event.object_name
        )
        try:
            name = f"{self.admin_site.name}:{event.object_type.replace('.', '_')}_change"
            return format_html('{} (<a href="{}">open</a>)', shown, reverse(name, args=[event.object_id]))
        except NoReverseMatch:  # of a kind that has no page
            return shown

    @admin.display(description="changes", empty_value="")
    def differences(self, event: Event) -> SafeString:
        """As JSON has the values, so that an empty text can be told from none."""
        rows = ((name, _shown(old), _shown(new)) for name, (old, new) in sorted(event.changes.items()))
        return format_html_join("", "<div><b>{}</b>: {} → {}</div>", rows)


def _shown(value: Any) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _exactly(term: str) -> Q:
    """Never a pattern: each comparison is one that an index or the order of rows serves."""
    with suppress(ValueError):
        id = UUID(term)
        return Q(actor_id=id) | Q(object_id=str(id)) | Q(request_id=str(id))
    with suppress(ValueError):
        return Q(address=str(ip_address(term)))
    return Q(actor=term) | Q(object_name=term)
