"""Owns the record of sign-ins by session, their failures and lock-outs: what Django and django-axes tell by signal.

Nobody is looked up here: a failure costs the same whether there is such an account or not.
"""

from typing import Any

from axes.helpers import get_client_username, get_failure_limit
from axes.signals import user_locked_out
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.dispatch import receiver

from audit.models import Action
from audit.trail import record


@receiver(user_logged_in)
def _signed_in(user: Any, **_: Any) -> None:
    record(Action.SIGN_IN, user, note="session", actor=user)


@receiver(user_logged_out)
def _signed_out(user: Any, **_: Any) -> None:
    if user is not None:
        record(Action.SIGN_OUT, user, note="session", actor=user)


@receiver(user_login_failed)
def _failed(credentials: dict[str, Any], request: Any = None, note: str = "", **_: Any) -> None:
    record(Action.SIGN_IN_FAILED, name=_address(get_client_username(request, credentials)), note=note)


@receiver(user_locked_out)
def _locked_out(request: Any, username: str | None, **_: Any) -> None:
    """Once, though every attempt while it lasts is told of."""
    if request.axes_failures_since_start == get_failure_limit(request, None):
        record(Action.LOCKED_OUT, name=_address(username))


def _address(given: Any) -> str:
    """What was typed, if it is an e-mail address: people type passwords into the wrong field."""
    try:
        validate_email(given)
    except ValidationError:
        return "(no e-mail address)"
    return str(given)
