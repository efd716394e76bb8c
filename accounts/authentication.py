"""Owns who a control-plane request comes from; knows nothing of how tokens are made or of the data plane."""

from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.tokens import Token

from accounts import tokens
from accounts.keys import PREFIX
from accounts.models import User

# RFC 6750 §3: the scheme is followed by at least one parameter.
CHALLENGE = 'Bearer realm="aiproxy"'


class TokenAuthentication(JWTAuthentication):
    """`Authorization: Bearer <access token>`; a refused one is 401, never an anonymous request."""

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE

    def get_raw_token(self, header: bytes) -> bytes | None:
        scheme, _, token = header.strip().partition(b" ")
        if scheme.lower() != b"bearer":  # RFC 9110 §11.1: schemes have no case
            return None
        token = token.strip()
        if not token or b" " in token:
            raise AuthenticationFailed("The Authorization header must read 'Bearer <access token>'.")
        if token.startswith(PREFIX.encode()):
            raise AuthenticationFailed(
                "This is a proxy key: it opens /v1 only. Here, send the access token that POST /auth/login gives."
            )
        return token

    def get_user(self, validated_token: Token) -> User:  # type: ignore[override]  # there a free type variable
        user = tokens.user_of(validated_token)
        if not tokens.is_going_on(validated_token, user):
            raise AuthenticationFailed("This sign-in has ended. Sign in again.")
        return user
