"""Owns `/api-keys`: what an owner may see and do with stored keys. A key goes in and never comes out."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle

from accounts.errors import Conflict
from accounts.pagination import Keyset
from accounts.strict import StrictSerializerMixin
from vault import store
from vault.models import ApiKey
from vault.providers import MAX_KEY_LENGTH, PROVIDERS
from vault.secret import Secret


class SecretField(serializers.CharField):
    """Takes text, gives a Secret, and is never rendered with what was typed."""

    def __init__(self, **options: Any) -> None:
        style = {"input_type": "password", "autocomplete": "off"}
        super().__init__(write_only=True, trim_whitespace=False, max_length=MAX_KEY_LENGTH, style=style, **options)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        value = super().run_validation(data)
        return Secret(value) if isinstance(value, str) else value


class ApiKeySerializer(StrictSerializerMixin, serializers.ModelSerializer[ApiKey]):
    key = SecretField(help_text="The key itself. It cannot be read back.")
    masked = serializers.CharField(read_only=True)
    base_url = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=200,
        help_text="Which of its vendor's addresses the key is sent to; it works in one region only. Empty: the usual. "
        + "; ".join(f"{one.title}: {', '.join(one.addresses)}" for one in PROVIDERS.values() if one.addresses),
    )

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "provider",
            "label",
            "key",
            "masked",
            "base_url",
            "priority",
            "is_valid",
            "created_at",
            "last_used_at",
            "last_tested_at",
            "last_error",
        ]
        read_only_fields = ["is_valid"]

    def get_initial(self) -> Any:
        """A refused form is shown again without the key that was in it."""
        return {name: value for name, value in super().get_initial().items() if name != "key"}

    def validate_base_url(self, value: str) -> str:
        return value.rstrip("/")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        # A key of another provider is another key.
        fields["provider"].read_only = isinstance(self.instance, ApiKey)
        return fields

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        provider = attrs["provider"] if self.instance is None else self.instance.provider
        if "key" in attrs and (wrong := PROVIDERS[provider].check_shape(attrs["key"].reveal())):
            raise ValidationError({"key": [wrong]})
        stored_url = self.instance.base_url if self.instance else ""
        url = attrs.get("base_url", stored_url)
        if url and (url != stored_url or "key" in attrs) and (wrong := PROVIDERS[provider].check_address(url)):
            raise ValidationError({"base_url": [wrong]})
        if self.instance is not None and url != stored_url and "key" not in attrs:
            raise ValidationError({"base_url": ["Send the key with it: a stored key is sealed for one address."]})
        return attrs


class VerdictSerializer(serializers.Serializer[Any]):
    """What a test answers, as its readers are told."""

    valid = serializers.BooleanField(allow_null=True, help_text="null: the provider could not say.")
    status = serializers.IntegerField(allow_null=True, help_text="The provider's.")
    latency_ms = serializers.IntegerField()
    error = serializers.CharField()


class KeyTestThrottle(UserRateThrottle):
    """Each test is a call to a provider from our address."""

    scope = "api-key-test"
    rate = "10/min"


class OwnKeys(generics.GenericAPIView[ApiKey]):
    """What the views of stored keys share: only the caller's own exist."""

    permission_classes = [IsAuthenticated]
    serializer_class: type[serializers.BaseSerializer[Any]] = ApiKeySerializer
    pagination_class = Keyset

    def get_queryset(self) -> QuerySet[ApiKey]:
        owner = self.request.user
        return ApiKey.objects.filter(user_id=owner.pk) if owner.pk else ApiKey.objects.none()

    @property
    def owner_id(self) -> UUID:
        return UUID(str(self.request.user.pk))

    @method_decorator(sensitive_post_parameters("key"))
    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(*args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(as_answer(exc))


def as_answer(error: Exception) -> Exception:
    """The API's error for one of the vault's; any other as it is."""
    if isinstance(error, ObjectDoesNotExist):  # deleted meanwhile, or its owner
        return NotFound()
    if isinstance(error, store.TooManyKeys):
        return Conflict(error.message, code="plan_limit")
    if isinstance(error, store.NotStored):
        return Conflict(error.message)
    return error


class ApiKeyList(OwnKeys):
    """The caller's stored keys; a new one is sealed at once."""

    @extend_schema(operation_id="listApiKeys", summary="Your provider keys", responses=ApiKeySerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @extend_schema(operation_id="storeApiKey", summary="Store one", responses={201: ApiKeySerializer})
    def post(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        api_key = store.add(
            self.owner_id,
            asked["provider"],
            asked.get("label", ""),
            asked["key"],
            priority=asked.get("priority", 100),
            base_url=asked.get("base_url", ""),
        )
        return Response(self.get_serializer(api_key).data, status=status.HTTP_201_CREATED)


class ApiKeyDetail(OwnKeys):
    """One stored key. A PATCH with `key` replaces the key and declares it valid again."""

    @extend_schema(operation_id="getApiKey", summary="One of them")
    def get(self, request: Request, pk: UUID) -> Response:
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(operation_id="changeApiKey", summary="Change or replace it")
    def patch(self, request: Request, pk: UUID) -> Response:
        serializer = self.get_serializer(self.get_object(), data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        asked = dict(serializer.validated_data)
        api_key = store.change(self.owner_id, pk, asked.pop("key", None), **asked)
        return Response(self.get_serializer(api_key).data)

    @extend_schema(operation_id="deleteApiKey", summary="Delete it")
    def delete(self, request: Request, pk: UUID) -> Response:
        store.remove(self.owner_id, pk)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ApiKeyTest(OwnKeys):
    """Asks the provider for its models with the stored key, now."""

    throttle_classes = [KeyTestThrottle]
    serializer_class = serializers.Serializer

    @extend_schema(operation_id="testApiKey", summary="Test it", request=None, responses=VerdictSerializer)
    def post(self, request: Request, pk: UUID) -> Response:
        return Response(asdict(self.get_object().ask_provider()))
