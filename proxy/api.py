"""Owns `/model-aliases`: what an owner may see and do with their own names for models."""

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.exceptions import NotFound
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.errors import Conflict
from accounts.models import ProxyKey, User
from accounts.pagination import Keyset
from accounts.strict import LinesField, StrictSerializerMixin
from proxy.models import MOST_MODELS, AliasRefused, ModelAlias, validate_models


class OwnKeyField(serializers.PrimaryKeyRelatedField[ProxyKey]):
    """The id of one of the caller's proxy keys; somebody else's does not exist."""

    def get_queryset(self) -> QuerySet[ProxyKey]:
        return ProxyKey.objects.filter(user_id=self.context["request"].user.pk)


class ModelAliasSerializer(StrictSerializerMixin, serializers.ModelSerializer[ModelAlias]):
    proxy_key = OwnKeyField(
        allow_null=True, required=False, help_text="The one key that it holds for; null: all of yours."
    )
    models = LinesField(
        source="targets",
        child=serializers.CharField(),
        max_length=MOST_MODELS,
        validators=[validate_models],
        help_text="What is asked in its place, in this order.",
    )

    class Meta:
        model = ModelAlias
        fields = ["id", "name", "models", "proxy_key", "created_at"]
        validators: list[Any] = []  # the owner is not among the fields: the row itself says whether its name is taken

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        # For another key it is another alias.
        fields["proxy_key"].read_only = isinstance(self.instance, ModelAlias)
        return fields


class OwnAliases(generics.GenericAPIView[ModelAlias]):
    """Only the caller's own exist."""

    permission_classes = [IsAuthenticated]
    serializer_class: type[serializers.BaseSerializer[Any]] = ModelAliasSerializer
    pagination_class = Keyset

    def get_queryset(self) -> QuerySet[ModelAlias]:
        assert isinstance(self.request.user, User)
        return ModelAlias.objects.filter(user=self.request.user)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, ObjectDoesNotExist):  # deleted meanwhile, or its owner
            exc = NotFound()
        return super().handle_exception(Conflict(str(exc)) if isinstance(exc, AliasRefused) else exc)


@extend_schema_view(
    get=extend_schema(operation_id="listAliases", summary="Your names for models"),
    post=extend_schema(operation_id="createAlias", summary="Add one"),
)
class ModelAliasList(OwnAliases, generics.ListCreateAPIView[ModelAlias]):
    """The caller's names for models; each stands for a list that is tried in order."""

    def perform_create(self, serializer: serializers.BaseSerializer[ModelAlias]) -> None:
        assert isinstance(self.request.user, User)
        alias = ModelAlias(user=self.request.user, **serializer.validated_data)
        alias.add()
        serializer.instance = alias


@extend_schema_view(
    get=extend_schema(operation_id="getAlias", summary="One of them"),
    patch=extend_schema(operation_id="changeAlias", summary="Change it"),
    delete=extend_schema(operation_id="deleteAlias", summary="Delete it"),
)
class ModelAliasDetail(OwnAliases, generics.RetrieveUpdateDestroyAPIView[ModelAlias]):
    """One of them. Its proxy key stays as it is."""

    http_method_names = ["get", "patch", "delete", "head", "options"]

    def perform_update(self, serializer: serializers.BaseSerializer[ModelAlias]) -> None:
        assert serializer.instance is not None
        serializer.instance.change(**serializer.validated_data)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        ModelAlias.objects.remove(request.user.pk, kwargs["pk"])
        return Response(status=status.HTTP_204_NO_CONTENT)
