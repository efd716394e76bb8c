"""Owns `GET /limits`: what the caller's plan and proxy keys allow, and what of it is left now.

Levels are read where all workers count together. What a worker counts by itself, without Redis or while it is away, is
known to that worker only: then the levels are said to be unknown, and the limits are shown without them.
"""

import logging
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import ProxyKey, User
from accounts.pagination import Keyset
from proxy.limits import Limit, LimiterAway
from proxy.limits.levels import Level, read
from proxy.policy import key_limit, plan_limit
from usage.quotas import QUOTAS, standings

logger = logging.getLogger(__name__)


class BucketSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(help_text="A minute.")
    remaining = serializers.IntegerField(allow_null=True, help_text="Now; null: not known.")
    reset_ms = serializers.IntegerField(allow_null=True, help_text="Until all of it is there again; null: not known.")


class SlotsSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(help_text="At once.")
    remaining = serializers.IntegerField(allow_null=True, help_text="Now; null: not known.")


class AllowedSerializer(serializers.Serializer[Any]):
    """Null: not limited."""

    requests = BucketSerializer(allow_null=True)
    tokens = BucketSerializer(allow_null=True)
    parallel = SlotsSerializer(allow_null=True)


class QuotaSerializer(serializers.Serializer[Any]):
    name = serializers.ChoiceField([quota.name for quota in QUOTAS], help_text="The plan's limit.")
    limit = serializers.IntegerField(help_text="A day or a calendar month, UTC.")
    used = serializers.IntegerField(help_text="By the requests that have ended.")
    remaining = serializers.IntegerField()
    resets_at = serializers.DateTimeField(help_text="When all of it is there again.")


class PlanLimitsSerializer(AllowedSerializer):
    code = serializers.CharField()
    quotas = QuotaSerializer(many=True, help_text="Its limits of a day and of a month.")


class KeyLimitsSerializer(AllowedSerializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    key_prefix = serializers.CharField()


class LimitsSerializer(serializers.Serializer[Any]):
    levels = serializers.ChoiceField(["current", "unknown"])
    plan = PlanLimitsSerializer()
    results = KeyLimitsSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class Limits(generics.GenericAPIView[ProxyKey]):
    """The plan's limits, which all proxy keys share, and those of each live key; with what is left of them."""

    permission_classes = [IsAuthenticated]
    pagination_class = Keyset
    serializer_class = LimitsSerializer

    def get_queryset(self) -> QuerySet[ProxyKey]:
        assert isinstance(self.request.user, User)
        return ProxyKey.objects.live().filter(user=self.request.user)

    @extend_schema(
        operation_id="getLimits",
        summary="Your limits, and what is left of them",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor", str)],
    )
    def get(self, request: Request) -> Response:
        assert isinstance(request.user, User)
        user = request.user
        keys = self.paginate_queryset(self.get_queryset()) or []
        levels, plan, of_keys = allowed(user, keys)
        shown = self.get_paginated_response(
            [
                {"id": key.id, "name": key.name, "key_prefix": key.key_prefix, **allowed}
                for key, allowed in zip(keys, of_keys, strict=True)
            ]
        )
        shown.data = {
            "levels": levels,
            "plan": {"code": user.plan.code, **plan, "quotas": _quotas(user)},
            **shown.data,
        }
        shown["Cache-Control"] = "no-store"
        return shown


def allowed(user: User, keys: Sequence[ProxyKey]) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Whether levels are `current` or `unknown`; what the plan allows, then each key; and what of it is left."""
    limits = [plan_limit(user), *map(key_limit, keys)]
    levels = _levels(limits)
    plan, *of_keys = map(_shown, limits, levels or repeat(None))
    return "current" if levels else "unknown", plan, of_keys


def _levels(limits: Sequence[Limit]) -> list[Level] | None:
    if not settings.REDIS_URL:
        return None
    try:
        return read(settings.REDIS_URL, limits)
    except LimiterAway as error:
        logger.warning("The levels of limits cannot be read: %s", error)
        return None


def _shown(limit: Limit, level: Level | None) -> dict[str, Any]:
    requests = (level.remaining_requests, level.reset_requests_ms) if level else (None, None)
    tokens = (level.remaining_tokens, level.reset_tokens_ms) if level else (None, None)
    slots = None if level is None or limit.max_parallel is None else max(0, limit.max_parallel - level.under_way)
    return {
        "requests": _bucket(limit.rpm, *requests),
        "tokens": _bucket(limit.tpm, *tokens),
        "parallel": None if limit.max_parallel is None else {"limit": limit.max_parallel, "remaining": slots},
    }


def _quotas(user: User) -> list[dict[str, Any]]:
    return [
        {
            "name": standing.quota.name,
            "limit": standing.allowed,
            "used": standing.used,
            "remaining": max(0, standing.allowed - standing.used),
            "resets_at": standing.until.isoformat().replace("+00:00", "Z"),
        }
        for standing in standings([user]).get(user.pk, [])
    ]


def _bucket(limit: int | None, remaining: int | None, reset_ms: int | None) -> dict[str, int | None] | None:
    return None if limit is None else {"limit": limit, "remaining": remaining, "reset_ms": reset_ms}
