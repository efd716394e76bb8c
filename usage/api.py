"""Owns `/usage/*`: what a user may see of their own traffic. Nobody else's rows are ever in reach of a query here."""

from typing import Any
from uuid import UUID

from django.http import Http404
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from accounts.pagination import Keyset
from usage import queries
from usage.filters import RequestsQuery, SummaryQuery
from usage.models import ProxyRequest, ProxyRequestQuerySet


class RequestRow(serializers.ModelSerializer[ProxyRequest]):
    class Meta:
        model = ProxyRequest
        fields = [
            "id",
            "created_at",
            "proxy_key_id",
            "api_key_id",
            "provider",
            "model",
            "endpoint",
            "streamed",
            "outcome",
            "status_code",
            "error_message",
            "tokens_input",
            "tokens_output",
            "tokens_total",
            "tokens_cached",
            "tokens_reasoning",
            "usage_source",
            "cost",
            "latency_ms",
            "ttft_ms",
            "overhead_ms",
            "provider_request_id",
        ]
        read_only_fields = fields


class OwnRows(generics.GenericAPIView[ProxyRequest]):
    permission_classes = [IsAuthenticated]
    serializer_class = RequestRow

    def own(self) -> ProxyRequestQuerySet:
        assert isinstance(self.request.user, User)
        return ProxyRequest.objects.filter(user_id=self.request.user.pk)


class Requests(generics.ListAPIView[ProxyRequest], OwnRows):
    """The log, newest first, a page at a time."""

    pagination_class = Keyset

    def get_queryset(self) -> ProxyRequestQuerySet:
        query = RequestsQuery.read(self.request.query_params)
        return self.own().between(query.pop("from"), query.pop("to")).filter(**query)


class RequestDetail(OwnRows):
    def get(self, request: Request, id: UUID) -> Response:
        row = self.own().recorded(id).first()
        if row is None:
            raise Http404
        return Response(self.get_serializer(row).data)


class UsageSummary(APIView):
    """Sums over a period, in all and by group."""

    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        query = SummaryQuery.read(request.query_params)
        assert isinstance(request.user, User)
        summary = queries.summary(request.user.pk, query["from"], query["to"], query["group_by"])
        return Response(
            {
                "from": summary.since,
                "to": summary.until,
                "group_by": summary.group_by,
                "totals": _money(summary.totals),
                "groups": [_money(group) for group in summary.groups],
            }
        )


def _money(sums: dict[str, Any]) -> dict[str, Any]:
    """As in a row: dollars are a string, which no reader rounds."""
    return {**sums, "cost": None if sums["cost"] is None else f"{sums['cost']:.8f}"}
