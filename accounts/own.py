"""Owns what people do to their own account, whether by a call or on a page. Raises what the API answers."""

from django.conf import settings
from django.contrib.auth import update_session_auth_hash
from django.db import IntegrityError, transaction
from django.utils.translation import get_language_from_request
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework_simplejwt.tokens import Token

from accounts import mail
from accounts.errors import Conflict
from accounts.lockout import check_password
from accounts.models import User
from accounts.throttles import check_recipient


def sign_up(request: Request, email: str, password: str) -> User:
    """A new account, and a mail that verifies its address where mail is sent: no more of them than of others, since who
    deletes the account may sign up again."""
    taken = Conflict({"email": ["There is an account with this e-mail address. Sign in instead."]})
    if User.objects.filter(email=email).exists():
        raise taken
    if settings.EMAIL_URL:
        check_recipient(request)
    try:
        with transaction.atomic():
            user = User.objects.create_user(email, password, language=get_language_from_request(request._request))
    except IntegrityError as error:
        raise taken from error
    if settings.EMAIL_URL:
        mail.send_verification(request._request, user)
    return user


def confirmed(request: Request, password: str, *, field: str = "password") -> User:
    """Who is signed in, once they have shown their password again."""
    assert isinstance(request.user, User)
    user = check_password(request, request.user.email, password)
    if user is None:
        raise ValidationError({field: ["Wrong password."]})
    return user


def change_password(request: Request, current: str, new: str) -> tuple[User, int]:
    """Ends every sign-in but the browser's that did it, and revokes every proxy key; how many keys that were."""
    user = confirmed(request, current, field="current")
    revoked = user.change_password(new)
    if not isinstance(request.auth, Token) and request.session.session_key:
        update_session_auth_hash(request._request, user)
    return user, revoked


def send_verification(request: Request) -> None:
    assert isinstance(request.user, User)
    if request.user.email_verified:
        raise Conflict("Your address is verified already.")
    mail.send_verification(request._request, request.user)
