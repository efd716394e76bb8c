"""Owns what becomes of all that is held of a person, in every app: they may take it with them, or have it deleted."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.contrib.auth import logout
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from accounts import own
from accounts.errors import Conflict
from accounts.models import ProxyKey, SignIn, User
from accounts.serializers import PasswordField, ProxyKeySerializer, SignInSerializer, UserSerializer
from accounts.strict import StrictSerializerMixin
from accounts.throttles import PasswordThrottle
from audit.models import Action
from audit.trail import record
from proxy.api import ModelAliasSerializer
from proxy.models import ModelAlias
from usage import export, queries
from usage.api import money
from usage.models import ProxyRequest
from vault.api import ApiKeySerializer
from vault.models import ApiKey


class ExportThrottle(UserRateThrottle):
    """Each reads all there is."""

    scope = "export"
    rate = "10/hour"


class Export(APIView):
    """All that is held of you, as one JSON document: account, sign-ins, keys (masked), aliases, sums, every request."""

    throttle_classes = [ExportThrottle]

    @extend_schema(operation_id="exportMe", summary="All that is held of you", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> export.Download:
        assert isinstance(request.user, User)
        record(Action.EXPORT, request.user, note="own data")
        name = f"aiproxy-{timezone.now():%Y-%m-%d}.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return export.Download(_document, request.user.pk, content_type="application/json", headers=headers)


def _document(user_id: UUID) -> Iterator[bytes]:
    """Everything but the requests at once, then those page by page, newest first."""
    user = User.objects.get(pk=user_id)
    head = json.dumps(_without_requests(user), cls=DjangoJSONEncoder)
    yield head[:-1].encode() + b', "requests": ['
    comma = b""
    for page in export.pages(ProxyRequest.objects.of_user(user_id).query, export.OWN_FIELDS):
        yield comma + b",\n".join(export.json_of(export.OWN_FIELDS, row) for row in page)
        comma = b",\n"
    yield b"]}\n"


def _without_requests(user: User) -> dict[str, Any]:
    summary = queries.summary(user.pk, user.created_at, timezone.now(), "day")
    return {
        "account": UserSerializer(user).data,
        "sign_ins": SignInSerializer(SignIn.objects.filter(user=user), many=True, context={"current": None}).data,
        "api_keys": ApiKeySerializer(ApiKey.objects.filter(user=user), many=True).data,
        "proxy_keys": ProxyKeySerializer(ProxyKey.objects.filter(user=user), many=True).data,
        "model_aliases": ModelAliasSerializer(ModelAlias.objects.filter(user=user), many=True).data,
        "usage": {"totals": money(summary.totals), "days": [money(day) for day in summary.groups]},
    }


class DeleteSerializer(StrictSerializerMixin):
    password = PasswordField(help_text="Yours, once more: nothing brings the account back.")


class Delete(generics.GenericAPIView[Any]):
    """Deletes your account, at once and for good. Proxy keys are refused, provider keys destroyed, tokens end; of your
    requests the sums stay, with nothing that leads to you."""

    serializer_class = DeleteSerializer
    throttle_classes = [PasswordThrottle]

    @extend_schema(operation_id="deleteMe", summary="Delete your account", responses={204: None})
    def post(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        leave(request, serializer.validated_data["password"])
        return Response(status=status.HTTP_204_NO_CONTENT)


def leave(request: Request, password: str) -> None:
    """Deletes the account of whoever asks, once they have shown their password again."""
    user = own.confirmed(request, password)
    if user.is_staff or user.is_superuser:
        raise Conflict("This account may enter the back-office: another member of staff has to delete it.")
    delete_account(user)
    logout(request)


def delete_account(user: User) -> None:
    """All of it or nothing. The audit log keeps what it has: that somebody was here, and that they are gone.

    Raises AccountChanged when that has happened already, or they have another password since they showed theirs.
    """
    with transaction.atomic():
        user.locked(user.password)  # a key being issued comes before us, or sees us
        user.revoke_proxy_keys()
        user.delete()
