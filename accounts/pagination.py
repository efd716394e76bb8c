"""Owns how lists are cut into pages: by the last row seen, never by counting. Knows no model."""

import base64
import binascii
import datetime as dt
from typing import Any
from uuid import UUID

from django.db.models import Model, Q, QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView


class Keyset(BasePagination):
    """`?limit=50&cursor=…` → `{"results": […], "next": URL or null}`, newest first.

    The rows need `created_at` and a UUID `id`. Rows added or removed meanwhile neither repeat nor hide others, and a
    page far back costs what the first one does (with an index on the filter and `created_at`).
    """

    page_size = 50
    max_page_size = 200

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: APIView | None = None
    ) -> list[Any] | None:
        size = self._size(request.query_params.get("limit"))
        if cursor := request.query_params.get("cursor"):
            created_at, id = _decode(cursor)
            # The first condition alone lets the index (and the partitions) be entered at the right place.
            older = Q(created_at__lt=created_at) | Q(created_at=created_at, id__lt=id)
            queryset = queryset.filter(Q(created_at__lte=created_at) & older)
        rows = list(queryset.order_by("-created_at", "-id")[: size + 1])
        self.next_link: str | None = None
        if len(rows) > size:
            rows = rows[:size]
            self.next_link = replace_query_param(request.build_absolute_uri(), "cursor", _encode(rows[-1]))
        self._rows = rows
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        self._rows.clear()  # a serializer knows itself, in circles: they would stay until the collector comes
        return Response({"results": data, "next": self.next_link})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        following = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {"results": schema, "next": following},
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        size = {"type": "integer", "minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return [
            {"name": "limit", "in": "query", "schema": size, "description": "Rows a page."},
            {"name": "cursor", "in": "query", "schema": {"type": "string"}, "description": "Taken from `next`."},
        ]

    def _size(self, text: str | None) -> int:
        if text is None:
            return self.page_size
        if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= self.max_page_size):
            raise ValidationError({"limit": [f"Must be a number from 1 to {self.max_page_size}."]})
        return int(text)


def _encode(row: Model) -> str:
    created_at, id = row.created_at, row.id  # type: ignore[attr-defined]  # as the class asks of its rows
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {id.hex}".encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[dt.datetime, UUID]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, _, id = text.partition(" ")
        time = dt.datetime.fromisoformat(created_at)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return time.astimezone(dt.UTC), UUID(id)
    except (binascii.Error, ValueError, OverflowError) as error:  # in UTC it may be before the year 1, or after 9999
        raise ValidationError({"cursor": ["Not a cursor of ours: take `next` as it came."]}) from error
