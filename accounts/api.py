"""Owns the HTTP face of accounts: sign-up, sign-in, the own account, proxy keys. Rules live in the models."""

from typing import Any

from django.contrib.auth import logout
from django.core.exceptions import ObjectDoesNotExist
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import generics, status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, NotFound
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework_simplejwt.tokens import Token

from accounts import keys, own, tokens
from accounts.authentication import CHALLENGE
from accounts.lockout import check_password
from accounts.models import ProxyKey, User
from accounts.pagination import Keyset
from accounts.serializers import (
    IssuedKeySerializer,
    LoginSerializer,
    LogoutSerializer,
    PasswordChangedSerializer,
    PasswordSerializer,
    ProxyKeySerializer,
    RefreshSerializer,
    SignedInSerializer,
    SignupSerializer,
    TokensSerializer,
    UserSerializer,
)
from accounts.throttles import KeyThrottle, LoginThrottle, PasswordThrottle, SignupThrottle


def _secret_response(data: dict[str, Any], status_code: int = status.HTTP_200_OK) -> Response:
    """An answer that holds a token or a key: nothing between us and the client may keep it."""
    return Response(data, status=status_code, headers={"Cache-Control": "no-store"})


def _signed_in(request: Request, user: User, pair: tokens.Pair) -> dict[str, Any]:
    shown = UserSerializer(user, context={"request": request}).data
    return {"user": shown, "token": pair.token, "refresh": pair.refresh}


def validated(view: generics.GenericAPIView[Any], request: Request) -> dict[str, Any]:
    serializer = view.get_serializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    data: dict[str, Any] = serializer.validated_data
    return data


class Open(generics.GenericAPIView[Any]):
    """For whoever is not signed in yet; a stale token that comes along does no harm."""

    authentication_classes: list[type[BaseAuthentication]] = []
    permission_classes = [AllowAny]

    def get_authenticate_header(self, request: Request) -> str:
        return CHALLENGE  # without one DRF would answer 403 instead of 401


class Signup(Open):
    serializer_class = SignupSerializer
    throttle_classes = [SignupThrottle]

    @extend_schema(operation_id="signUp", summary="Sign up", responses={201: SignedInSerializer})
    def post(self, request: Request) -> Response:
        data = validated(self, request)
        user = own.sign_up(request, data["email"], data["password"])
        return _secret_response(_signed_in(request, user, tokens.sign_in(user)), status.HTTP_201_CREATED)


class Login(Open):
    serializer_class = LoginSerializer
    throttle_classes = [LoginThrottle]

    @extend_schema(operation_id="signIn", summary="Sign in", responses=SignedInSerializer)
    def post(self, request: Request) -> Response:
        data = validated(self, request)
        user = check_password(request, data["email"], data["password"])
        if user is None:
            raise AuthenticationFailed("Wrong e-mail address or password.")
        return _secret_response(_signed_in(request, user, tokens.sign_in(user)))


class Refresh(Open):
    serializer_class = RefreshSerializer
    throttle_classes = [LoginThrottle]

    @extend_schema(operation_id="refresh", summary="Trade the refresh token for a new pair", responses=TokensSerializer)
    def post(self, request: Request) -> Response:
        _, pair = tokens.rotate(validated(self, request)["refresh"])
        return _secret_response({"token": pair.token, "refresh": pair.refresh})


class Logout(generics.GenericAPIView[Any]):
    """Ends the sign-in of the access token, of the refresh token in the body, and the browser's session."""

    serializer_class = LogoutSerializer
    permission_classes = [AllowAny]

    @extend_schema(operation_id="signOut", summary="Sign out", responses={204: None})
    def post(self, request: Request) -> Response:
        refresh = validated(self, request).get("refresh")
        if not (refresh or request.user.is_authenticated):
            raise NotAuthenticated("Send the access token, or the refresh token as `refresh`.")
        if refresh:
            tokens.end_by_refresh(refresh)
        if isinstance(request.auth, Token):
            tokens.end_by_access(request.auth)
        elif request.user.is_authenticated:
            logout(request)
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema_view(
    get=extend_schema(operation_id="getMe", summary="Who you are, and what your plan allows"),
    patch=extend_schema(operation_id="changeMe", summary="Change your name, language or limit mails"),
)
class Me(generics.RetrieveUpdateAPIView[User]):
    serializer_class = UserSerializer
    http_method_names = ["get", "patch", "head", "options"]

    def get_object(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def perform_update(self, serializer: BaseSerializer[User]) -> None:
        self.get_object().change(**serializer.validated_data)


class Password(generics.GenericAPIView[Any]):
    serializer_class = PasswordSerializer
    throttle_classes = [PasswordThrottle]

    @extend_schema(operation_id="changePassword", summary="Change the password", responses=PasswordChangedSerializer)
    def post(self, request: Request) -> Response:
        data = validated(self, request)
        user, revoked = own.change_password(request, data["current"], data["new"])
        answer = _signed_in(request, user, tokens.sign_in(user))
        return _secret_response({**answer, "proxy_keys_revoked": revoked})


class ProxyKeyGenerate(generics.GenericAPIView[ProxyKey]):
    serializer_class = ProxyKeySerializer
    throttle_classes = [KeyThrottle]

    @extend_schema(operation_id="createProxyKey", summary="Create a proxy key", responses={201: IssuedKeySerializer})
    def post(self, request: Request) -> Response:
        assert isinstance(request.user, User)
        row, key = keys.issue(request.user, **validated(self, request))
        return _secret_response({**self.get_serializer(row).data, "key": key}, status.HTTP_201_CREATED)


class OwnProxyKeys(generics.GenericAPIView[ProxyKey]):
    """Somebody else's key is no key at all: 404."""

    serializer_class = ProxyKeySerializer

    def get_queryset(self) -> QuerySet[ProxyKey]:
        assert isinstance(self.request.user, User)
        return ProxyKey.objects.filter(user=self.request.user).select_related("user__plan")

    def handle_exception(self, exc: Exception) -> Response:
        # deleted meanwhile, or its owner
        return super().handle_exception(NotFound() if isinstance(exc, ObjectDoesNotExist) else exc)


@extend_schema_view(
    get=extend_schema(operation_id="listProxyKeys", summary="Your proxy keys"),
)
class ProxyKeyList(OwnProxyKeys, generics.ListAPIView[ProxyKey]):
    pagination_class = Keyset


@extend_schema_view(
    get=extend_schema(operation_id="getProxyKey", summary="One of them"),
    patch=extend_schema(operation_id="changeProxyKey", summary="Change its name or its bounds"),
    delete=extend_schema(operation_id="revokeProxyKey", summary="Revoke it"),
)
class ProxyKeyDetail(OwnProxyKeys, generics.RetrieveUpdateDestroyAPIView[ProxyKey]):
    lookup_field = "id"
    http_method_names = ["get", "patch", "delete", "head", "options"]

    def perform_update(self, serializer: BaseSerializer[ProxyKey]) -> None:
        assert isinstance(serializer.instance, ProxyKey)
        serializer.instance.change(**serializer.validated_data)

    def perform_destroy(self, instance: ProxyKey) -> None:
        instance.revoke()
