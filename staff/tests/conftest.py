"""Staff with a phone: a browser that has shown a password, and the codes that an app would show."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django_otp.oath import totp

from accounts.models import User
from staff.models import Authenticator, new_salt


@pytest.fixture(autouse=True)
def _no_throttle_history() -> None:
    cache.clear()


@pytest.fixture
def enforced(settings: Any) -> None:
    settings.AIPROXY_ADMIN_SECOND_FACTOR = True


@pytest.fixture
def member(owner: User) -> User:
    """The owner, as staff who may do everything."""
    User.objects.filter(pk=owner.pk).update(is_staff=True, is_superuser=True)
    return User.objects.get(pk=owner.pk)


@pytest.fixture
def signed_in() -> Callable[[User], Client]:
    """A browser that has shown the password, and no more."""

    def browser(user: User) -> Client:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return browser


@pytest.fixture
def app(member: User) -> Authenticator:
    """The member's enrolled app."""
    return Authenticator.objects.create(user=member, salt=new_salt())


def code(app: Authenticator, *, steps: int = 0) -> str:
    """What the app shows now, or so many half minutes later."""
    return f"{totp(app.secret, t0=-30 * steps):06d}"
