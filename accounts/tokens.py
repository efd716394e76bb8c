"""Owns the tokens of the control plane: a short access token, and a refresh token that works once.

A sign-in is a family: each refresh replaces its refresh token. Whoever presents one that was replaced already is either
its owner or a thief, and nobody can tell which, so the whole family ends, access tokens too (RFC 9700 §4.14.2).
Nothing here can be turned back into a token: the database keeps ids only.
"""

import datetime as dt
import logging
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import update_last_login
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import AccessToken, Token

from accounts.keys import AccountChanged
from accounts.models import SignIn, User
from audit import origin
from audit.models import Action
from audit.trail import record

_log = logging.getLogger(__name__)

FAMILY_CLAIM = "sid"  # the session id claim of OpenID Connect Front-Channel Logout 1.0 §3


class RefreshToken(Token):
    """Not simplejwt's own, whose block list keeps every refresh token readable in the database."""

    token_type = "refresh"  # noqa: S105  the kind, not a secret
    lifetime = api_settings.REFRESH_TOKEN_LIFETIME


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    token: str
    refresh: str


def sign_in(user: User) -> Pair:
    """Starts a family for somebody who has just shown their password. AccountChanged if it, or they, are gone since."""
    user.sign_ins.filter(expires_at__lt=timezone.now()).delete()
    refresh = RefreshToken.for_user(user)
    with transaction.atomic():
        rows = User.objects.select_for_update(no_key=True)
        same = rows.filter(pk=user.pk, password=user.password, is_active=True)
        if not same.exists():  # what ends sign-ins comes before us, or sees us
            raise AccountChanged
        family = SignIn.objects.create(
            user=user, jti=refresh["jti"], expires_at=_expiry(refresh), address=origin.columns(user)["address"]
        )
        update_last_login(User, user)
        record(Action.SIGN_IN, user, note="tokens", actor=user)
    return _pair(refresh, family.pk)


def rotate(encoded: str) -> tuple[User, Pair]:
    """Trades a refresh token for the next pair; InvalidToken (401) for one that is wrong, old or used before."""
    old = _decode(encoded)
    user = user_of(old)
    refresh = RefreshToken.for_user(user)
    family = _family(old)
    # One statement that names the old id: of several at once the database lets exactly one through.
    taken = SignIn.objects.filter(pk=family, user=user, jti=old["jti"], ended_at=None).update(
        jti=refresh["jti"], expires_at=_expiry(refresh)
    )
    if not taken:
        if end(family):
            _log.warning("A used refresh token of user %s came again: sign-in %s has ended", user.pk, family)
            record(Action.SIGN_IN_FAILED, user, note="a used refresh token came again: that sign-in has ended")
        raise InvalidToken("This refresh token was used before, or its sign-in has ended. Sign in again.")
    return user, _pair(refresh, family)


def end(family: UUID) -> bool:
    """Whether it was still going on."""
    return SignIn.objects.filter(pk=family, ended_at=None).update(ended_at=timezone.now()) > 0


def end_by_hand(sign_in: SignIn) -> None:
    """By its owner, who looked at the list."""
    with transaction.atomic():
        if end(sign_in.pk):
            record(Action.REVOKE, sign_in)


def end_by_refresh(encoded: str) -> None:
    """Ends the family of a refresh token, current or not; InvalidToken for one that is not ours."""
    end(_family(_decode(encoded)))


def end_by_access(token: Token) -> None:
    end(_family(token))


def is_going_on(token: Token, user: User) -> bool:
    return user.sign_ins.filter(pk=_family(token), ended_at=None).exists()


def user_of(token: Token) -> User:
    """AuthenticationFailed if they are gone, disabled, or have another password now."""
    try:
        # what JWTAuthentication checks of an access token holds for a refresh token as well
        user = JWTAuthentication().get_user(token)
    except (ValueError, ValidationError) as error:
        raise InvalidToken("This token names no user.") from error
    assert isinstance(user, User)
    return user


def _decode(encoded: str) -> RefreshToken:
    try:
        return RefreshToken(encoded)  # type: ignore[arg-type]  # simplejwt declares Token, and takes the text
    except TokenError as error:
        raise InvalidToken("This is not a valid refresh token, or it has expired. Sign in again.") from error


def _family(token: Token) -> UUID:
    try:
        return UUID(token[FAMILY_CLAIM])
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InvalidToken("This token belongs to no sign-in.") from error


def _expiry(token: Token) -> dt.datetime:
    return dt.datetime.fromtimestamp(token["exp"], tz=dt.UTC)


def _pair(refresh: RefreshToken, family: UUID) -> Pair:
    access = AccessToken()
    refresh[FAMILY_CLAIM] = str(family)
    for claim in (api_settings.USER_ID_CLAIM, api_settings.REVOKE_TOKEN_CLAIM, FAMILY_CLAIM):
        access[claim] = refresh[claim]
    return Pair(token=str(access), refresh=str(refresh))
