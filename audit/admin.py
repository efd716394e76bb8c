"""Owns how staff read the audit log."""

import datetime as dt
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit.models import Event
from audit.read_only import ReadOnlyAdmin

# Around the time in a request's id: clocks of several machines differ, and a request takes its time.
_MINUTE, _LONGEST = dt.timedelta(minutes=1), dt.timedelta(hours=1)

_FIELDS = 2  # so many are shown without being asked for


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "who", "action", "what", "differences", "note", "address"]
    list_filter = ["action"]
    ordering = ["-id"]
    date_hierarchy = "created_at"
    search_fields = ["id"]  # shows the box; get_search_results knows what is looked for
    search_help_text = "A whole e-mail address, address, request id, or id of an object or user."
    readonly_fields = ["created_at", "who", "address", "request_id", "action", "what", "differences", "note"]
    fields = tuple(readonly_fields)

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
        rows = [(name, _shown(old), _shown(new)) for name, (old, new) in sorted(event.changes.items())]
        shown = format_html_join("", "<div><b>{}</b>: {} → {}</div>", rows)
        if len(rows) <= _FIELDS:
            return shown
        return format_html("<details><summary>{} fields</summary>{}</details>", len(rows), shown)


def _shown(value: Any) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _exactly(term: str) -> Q:
    """Never a pattern: each comparison is one that an index or the order of rows serves."""
    with suppress(ValueError):
        id = UUID(term)
        return Q(actor_id=id) | Q(object_id=str(id)) | _of_request(id)
    with suppress(ValueError):
        return Q(address=str(ip_address(term)))
    return Q(actor=term) | Q(object_name=term)


def _of_request(id: UUID) -> Q:
    """By the index on `created_at`: a request's id is a UUIDv7, which tells when it came, and none takes an hour."""
    try:
        came = dt.datetime.fromtimestamp((id.int >> 80) / 1000, tz=dt.UTC)
        return Q(request_id=str(id), created_at__range=(came - _MINUTE, came + _LONGEST))
    except (ValueError, OverflowError):  # of another kind: its time is beyond the year 9999
        return Q(pk=None)
