"""Owns the HTTP face of an account's life: verifying its address, a forgotten password, where it is signed in."""

from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import generics, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.tokens import Token

from accounts import links, mail, own, tokens
from accounts.api import Open, validated
from accounts.models import SignIn, User
from accounts.pagination import Keyset
from accounts.serializers import (
    DetailSerializer,
    EmailSerializer,
    NothingSerializer,
    ResetSerializer,
    SignInSerializer,
    TokenSerializer,
)
from accounts.throttles import LoginThrottle, MailThrottle, RecipientThrottle


def _sent(text: str) -> Response:
    return Response({"detail": text}, status=status.HTTP_202_ACCEPTED)


class Verification(generics.GenericAPIView[Any]):
    """Sends a link to your address; opening it and pressing its button shows that the address is yours."""

    serializer_class = NothingSerializer
    throttle_classes = [MailThrottle, RecipientThrottle]

    @extend_schema(
        operation_id="sendVerification",
        summary="Send a link that verifies your address",
        responses={202: DetailSerializer},
    )
    def post(self, request: Request) -> Response:
        validated(self, request)
        own.send_verification(request)
        return _sent("A link is on its way to your address. It is good for three days.")


class VerificationConfirm(Open):
    """Takes the token of the link in place of its page."""

    serializer_class = TokenSerializer
    throttle_classes = [LoginThrottle]

    @extend_schema(operation_id="verify", summary="Verify an address", responses=DetailSerializer)
    def post(self, request: Request) -> Response:
        token = validated(self, request)["token"]
        try:
            links.verify_email(token)
        except links.LinkRefused as error:
            raise ValidationError({"token": [str(error)]}) from error
        return Response({"detail": "Your address is verified."})


class PasswordReset(Open):
    """Sends a link to a new password. The answer is the same whether or not there is such an account."""

    serializer_class = EmailSerializer
    throttle_classes = [MailThrottle, RecipientThrottle]

    @extend_schema(operation_id="sendReset", summary="Send a link to a new password", responses={202: DetailSerializer})
    def post(self, request: Request) -> Response:
        mail.send_reset(request._request, validated(self, request)["email"])
        return _sent("If there is an account with this address, a link is on its way to it. It is good for an hour.")


class PasswordResetConfirm(Open):
    """Sets the password: every sign-in ends, every proxy key is revoked, and the address counts as verified."""

    serializer_class = ResetSerializer
    throttle_classes = [LoginThrottle]

    @extend_schema(operation_id="resetPassword", summary="Set a new password", responses=DetailSerializer)
    def post(self, request: Request) -> Response:
        data = validated(self, request)
        try:
            links.reset_password(data["token"], data["new"])
        except links.LinkRefused as error:
            raise ValidationError({"token": [str(error)]}) from error
        except DjangoValidationError as error:
            raise ValidationError({"new": error.messages}) from error
        return Response({"detail": "Your password is set. Sign in with it."})


class OwnSignIns(generics.GenericAPIView[SignIn]):
    """Only the caller's own exist."""

    serializer_class = SignInSerializer

    def get_queryset(self) -> QuerySet[SignIn]:
        assert isinstance(self.request.user, User)
        return SignIn.objects.filter(user=self.request.user)

    def get_serializer_context(self) -> dict[str, Any]:
        auth = self.request.auth
        current = UUID(auth[tokens.FAMILY_CLAIM]) if isinstance(auth, Token) else None
        return {**super().get_serializer_context(), "current": current}


@extend_schema_view(get=extend_schema(operation_id="listSignIns", summary="Your sign-ins"))
class SignIns(OwnSignIns, generics.ListAPIView[SignIn]):
    """Where you are signed in with tokens, and were of late; those that have expired are forgotten."""

    pagination_class = Keyset


@extend_schema_view(
    get=extend_schema(operation_id="getSignIn", summary="One of them"),
    delete=extend_schema(operation_id="endSignIn", summary="End it"),
)
class SignInDetail(OwnSignIns, generics.RetrieveDestroyAPIView[SignIn]):
    """DELETE ends it: its tokens are refused at once."""

    lookup_field = "id"

    def perform_destroy(self, instance: SignIn) -> None:
        tokens.end_by_hand(instance)
