"""Owns how long a session of staff lasts: shorter than others', and shorter still while nobody uses it; and how long it
is fresh enough for what is dangerous."""

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

_UNTIL, _SEEN, _PROVED = "staff.until", "staff.seen", "staff.proved"  # Unix seconds
_GRAIN = 60  # seconds; a session is written at most that often


@receiver(user_logged_in)
def _limit(request: HttpRequest, user: Any, **_: Any) -> None:
    if user.is_staff:
        request.session[_UNTIL] = time.time() + settings.AIPROXY_ADMIN_SESSION_HOURS * 3600
        proved(request)
        _go_on(request)


def proved(request: HttpRequest) -> None:
    """Somebody has just shown a password or a code: it is they who sit there."""
    request.session[_PROVED] = time.time()


def is_fresh(request: HttpRequest) -> bool:
    """Whether that was a moment ago, or the operator asks for it at the door alone."""
    minutes = settings.AIPROXY_ADMIN_PROOF_MINUTES
    return not minutes or time.time() - request.session.get(_PROVED, 0) < minutes * 60


def is_limited(request: HttpRequest) -> bool:
    """False for a session that began before its user became staff: it would last for weeks."""
    return _UNTIL in request.session


def middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def keep_alive(request: HttpRequest) -> HttpResponse:
        # Without the cookie there is no session to ask the database for.
        is_staffs = settings.SESSION_COOKIE_NAME in request.COOKIES and is_limited(request)
        if is_staffs and time.time() - request.session[_SEEN] > _GRAIN:
            _go_on(request)
        return get_response(request)

    return keep_alive


def _go_on(request: HttpRequest) -> None:
    now = time.time()
    request.session[_SEEN] = now
    left = request.session[_UNTIL] - now
    request.session.set_expiry(max(1, int(min(left, settings.AIPROXY_ADMIN_IDLE_MINUTES * 60))))
