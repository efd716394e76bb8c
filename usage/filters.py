"""Owns what may be asked of the log and its sums, and in which words it is refused. Knows no rows."""

import datetime as dt
from typing import Any

from django.http import QueryDict
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from usage.models import Outcome
from usage.queries import BY_NAME, BY_TIME, GROUPS, RANKS
from vault.models import Provider

PERIOD = dt.timedelta(days=30)
# The most that is summed by the hour at once: about 2,200 groups.
BY_HOUR = dt.timedelta(days=92)
# The most points of all lines together: about 0.8 MB.
MOST_POINTS = 2_000
MOST_LINES = 20
_AT_LEAST = {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1), "month": dt.timedelta(days=28)}
# Read elsewhere: by the page, and by the browsable API.
_NOT_FILTERS = {"limit", "cursor", "format"}


def parse_moment(text: str, *, closes: bool = False) -> dt.datetime:
    """An ISO 8601 date or time; without an offset it is UTC. A date that closes a period is in it as a whole.

    Raises ValueError.
    """
    try:
        day = parse_date(text)
        moment = parse_datetime(text) if day is None else dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
        if moment is None:
            raise ValueError
        if day is not None and closes:
            moment += dt.timedelta(days=1)
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("Give a date or a time in ISO 8601, as in 2026-01-31 or 2026-01-31T15:00:00Z.") from None


@extend_schema_field({"type": "string", "examples": ["2026-01-31", "2026-01-31T15:00:00Z"]})
class Moment(serializers.Field[dt.datetime, str, str, Any]):
    def __init__(self, *, closes: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._closes = closes

    def to_internal_value(self, data: str) -> dt.datetime:
        try:
            return parse_moment(data, closes=self._closes)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class Query(serializers.Serializer[Any]):
    """A query string. Names that are not known are refused: a misspelt filter would show too much."""

    to = Moment(closes=True, required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {"from": Moment(required=False), **super().get_fields()}  # a word of Python's

    @classmethod
    def read(cls, query: QueryDict) -> dict[str, Any]:
        """Raises ValidationError that names each filter that is wrong."""
        wrong = {name: ["There is no such filter."] for name in query if name not in {*cls().fields, *_NOT_FILTERS}}
        wrong |= {name: ["Give it once."] for name, values in query.lists() if len(values) > 1}
        if wrong:
            raise serializers.ValidationError(wrong)
        form = cls(data=query.dict())
        form.is_valid(raise_exception=True)
        return dict(form.validated_data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        until = attrs.setdefault("to", timezone.now())
        try:
            since = attrs.setdefault("from", until - PERIOD)
        except OverflowError:
            since = attrs["from"] = until
        if since > until:
            raise serializers.ValidationError({"from": ["It is after `to`."]})
        return attrs


class RequestsQuery(Query):
    model = serializers.CharField(required=False, max_length=100)
    provider = serializers.ChoiceField(Provider.choices, required=False)
    outcome = serializers.ChoiceField(Outcome.choices, required=False)
    status = serializers.IntegerField(required=False, min_value=100, max_value=599, source="status_code")
    proxy_key = serializers.UUIDField(required=False, source="proxy_key_id")
    api_key = serializers.UUIDField(required=False, source="api_key_id")


class SummaryQuery(Query):
    group_by = serializers.ChoiceField(list(GROUPS), default="model")
    rank = serializers.ChoiceField(RANKS, required=False)
    top = serializers.IntegerField(required=False, min_value=1, max_value=1_000)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        if attrs["group_by"] in BY_TIME and (ranking := attrs.keys() & {"rank", "top"}):
            raise serializers.ValidationError(
                {name: ["Hours, days and months are in their own order."] for name in ranking}
            )
        if attrs["group_by"] == "hour" and attrs["to"] - attrs["from"] > BY_HOUR:
            raise serializers.ValidationError({"group_by": [f"By the hour, ask for at most {BY_HOUR.days} days."]})
        return attrs


class SeriesQuery(Query):
    step = serializers.ChoiceField(BY_TIME, default="day")
    group_by = serializers.ChoiceField(BY_NAME, required=False)
    rank = serializers.ChoiceField(RANKS, required=False)
    top = serializers.IntegerField(required=False, min_value=1, max_value=MOST_LINES)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        if "group_by" not in attrs and (ranking := attrs.keys() & {"rank", "top"}):
            raise serializers.ValidationError({name: ["It needs a `group_by`."] for name in ranking})
        lines = attrs.setdefault("top", 5) + 1 if "group_by" in attrs else 1
        steps = (attrs["to"] - attrs["from"]) // _AT_LEAST[attrs["step"]] + 1
        if lines * steps > MOST_POINTS:
            wrong = f"{lines * steps:,} points, of at most {MOST_POINTS:,}: ask for less time, days, or fewer groups."
            raise serializers.ValidationError({"step": [wrong]})
        return attrs
