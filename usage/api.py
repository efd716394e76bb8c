"""Owns `/usage/*`: what a user may see of their own traffic. Nobody else's rows are ever in reach of a query here."""

from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from accounts.pagination import Keyset
from usage import queries
from usage.filters import RequestsQuery, SeriesQuery, SummaryQuery
from usage.models import ProxyRequest, ProxyRequestQuerySet


class AttemptSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField()
    model = serializers.CharField()
    api_key_id = serializers.UUIDField(allow_null=True)
    result = serializers.CharField(help_text="`ok` or another outcome, else the code of the error.")
    status = serializers.IntegerField()
    ms = serializers.IntegerField()


class RequestRow(serializers.ModelSerializer[ProxyRequest]):
    attempts = AttemptSerializer(
        many=True, read_only=True, allow_null=True, help_text="If several models or keys were tried; else null."
    )

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
            "attempts",
        ]
        read_only_fields = fields


class OwnRows(generics.GenericAPIView[ProxyRequest]):
    permission_classes = [IsAuthenticated]
    serializer_class = RequestRow

    def own(self) -> ProxyRequestQuerySet:
        assert isinstance(self.request.user, User)
        return ProxyRequest.objects.filter(user_id=self.request.user.pk)


@extend_schema_view(
    get=extend_schema(operation_id="listRequests", summary="The log of your requests", parameters=[RequestsQuery])
)
class Requests(generics.ListAPIView[ProxyRequest], OwnRows):
    """The log, newest first, a page at a time."""

    pagination_class = Keyset

    def get_queryset(self) -> ProxyRequestQuerySet:
        query = RequestsQuery.read(self.request.query_params)
        return self.own().between(query.pop("from"), query.pop("to")).filter(**query)


class RequestDetail(OwnRows):
    @extend_schema(operation_id="getRequest", summary="One of them")
    def get(self, request: Request, id: UUID) -> Response:
        row = self.own().recorded(id).first()
        if row is None:
            raise Http404
        return Response(self.get_serializer(row).data)


class SumsSerializer(serializers.Serializer[Any]):
    """The sums of a period, as its readers are told. A group has one field more: what it is of."""

    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF takes declared fields off the class
    tokens_input = serializers.IntegerField()
    tokens_output = serializers.IntegerField()
    tokens_total = serializers.IntegerField()
    tokens_cached = serializers.IntegerField()
    tokens_reasoning = serializers.IntegerField()
    cost = serializers.CharField(allow_null=True, help_text="US dollars; null: not known.")
    unpriced = serializers.IntegerField(help_text="Requests whose cost is not known.")
    outcomes = serializers.DictField(
        child=serializers.IntegerField(), help_text="How many ended how; what never happened is left out."
    )
    latency_mean_ms = serializers.IntegerField(allow_null=True)
    latency_p50_ms = serializers.IntegerField(allow_null=True)
    latency_p95_ms = serializers.IntegerField(allow_null=True)
    latency_p99_ms = serializers.IntegerField(allow_null=True)


class GroupSerializer(SumsSerializer):
    model = serializers.CharField(required=False)
    provider = serializers.CharField(required=False)
    key = serializers.UUIDField(required=False, allow_null=True)
    day = serializers.DateTimeField(required=False)
    hour = serializers.DateTimeField(required=False)
    month = serializers.DateTimeField(required=False)


class SummarySerializer(serializers.Serializer[Any]):
    to = serializers.DateTimeField()
    group_by = serializers.ChoiceField(list(queries.GROUPS))
    totals = SumsSerializer()
    groups = GroupSerializer(many=True)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {"from": serializers.DateTimeField(), **super().get_fields()}  # a word of Python's


class UsageSummary(APIView):
    """Sums over a period, in all and by group."""

    permission_classes = [IsAuthenticated]

    @extend_schema(
        operation_id="getUsage", summary="Sums over a period", parameters=[SummaryQuery], responses=SummarySerializer
    )
    def get(self, request: Request) -> Response:
        query = SummaryQuery.read(request.query_params)
        assert isinstance(request.user, User)
        summary = queries.summary(
            request.user.pk, query["from"], query["to"], query["group_by"], rank=query.get("rank", "requests")
        )
        return Response(
            {
                "from": summary.since,
                "to": summary.until,
                "group_by": summary.group_by,
                "totals": money(summary.totals),
                "groups": [money(group) for group in summary.groups[: query.get("top")]],
            }
        )


class PointSerializer(SumsSerializer):
    time = serializers.DateTimeField()


class LineSerializer(serializers.Serializer[Any]):
    """With `group_by` it has the name of its group, null for all others together."""

    model = serializers.CharField(required=False, allow_null=True)
    provider = serializers.CharField(required=False, allow_null=True)
    key = serializers.UUIDField(required=False, allow_null=True)
    points = PointSerializer(many=True)


class SeriesSerializer(serializers.Serializer[Any]):
    to = serializers.DateTimeField()
    step = serializers.ChoiceField(queries.BY_TIME)
    group_by = serializers.ChoiceField(queries.BY_NAME, allow_null=True)
    series = LineSerializer(many=True)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {"from": serializers.DateTimeField(), **super().get_fields()}  # a word of Python's


class UsageSeries(APIView):
    """Sums by the hour, day or month, in all or of each of the first groups; times without traffic are there too."""

    permission_classes = [IsAuthenticated]

    @extend_schema(
        operation_id="getUsageOverTime",
        summary="Sums over time",
        parameters=[SeriesQuery],
        responses=SeriesSerializer,
    )
    def get(self, request: Request) -> Response:
        query = SeriesQuery.read(request.query_params)
        assert isinstance(request.user, User)
        period, group_by = (request.user.pk, query["from"], query["to"], query["step"]), query.get("group_by")
        if group_by is None:
            found = queries.lines(*period)
        else:
            rank = query.get("rank", "requests")
            found = queries.grouped_lines(*period, group_by=group_by, rank=rank, most=query["top"])
        series = [
            {**({group_by: line.name} if group_by else {}), "points": [money(point) for point in line.points]}
            for line in found
        ]
        return Response(
            {"from": query["from"], "to": query["to"], "step": query["step"], "group_by": group_by, "series": series}
        )


def money(sums: dict[str, Any]) -> dict[str, Any]:
    """As in a row: dollars are a string, which no reader rounds."""
    return {**sums, "cost": None if sums["cost"] is None else f"{sums['cost']:.8f}"}
