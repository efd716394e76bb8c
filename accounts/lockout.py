"""Owns how a password is asked for: failures are counted by django-axes, per account and address."""

from copy import copy
from typing import Any

from axes.helpers import get_cool_off
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from axes.utils import reset
from django.contrib.auth import authenticate
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.http import HttpRequest, QueryDict
from rest_framework.exceptions import Throttled
from rest_framework.request import Request

from accounts.models import User


def check_password(request: Request, email: str, password: str) -> User | None:
    """The user, or None: an unknown address costs the same time as a wrong password. Throttled when locked out."""
    email = User.objects.normalize_email(email)
    attempt = _without_body(request)
    user = authenticate(attempt, email=email, password=password)
    if user is None:
        if getattr(attempt, "axes_locked_out", False):
            cool_off = get_cool_off(attempt)
            raise Throttled(
                wait=cool_off.total_seconds() if cool_off else None,
                detail="Too many wrong passwords for this account from your address.",
            )
        return None
    assert isinstance(user, User)
    # axes does this itself on Django's login signal, which would also open a session for every token
    reset(username=email, ip=request.META["REMOTE_ADDR"])
    return user


@receiver(pre_delete, sender=User)
def _forget_attempts(instance: User, **kwargs: Any) -> None:
    for attempts in (AccessAttempt, AccessFailureLog, AccessLog):
        attempts.objects.filter(username=instance.email).delete()


def _without_body(request: Request) -> HttpRequest:
    """axes writes the parameters of a failed attempt into its table, and masks those only whose name it knows."""
    attempt = copy(request._request)
    attempt.GET = attempt.POST = QueryDict()
    return attempt
