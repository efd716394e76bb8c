"""Owns the links that are sent by mail: signed, of one purpose, good for a while, and good once.

A token names a user and carries a keyed hash of what using it changes: once used, or once the address or the password
is another one, it fits no longer. Nothing of it is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.password_validation import validate_password
from django.core import signing
from django.db import transaction
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext as _

from accounts.models import User

# Unlike Django's ":" it is encoded by nobody: some mail clients encode a second time what was encoded already.
_SEPARATOR = "."


class LinkRefused(Exception):
    """One text for every reason, so that nobody learns from it whether there is such an account."""

    def __init__(self) -> None:
        super().__init__(_("This link is wrong, was used already, or has expired. Ask for a new one."))


@dataclass(frozen=True, slots=True)
class Purpose:
    """`path` is its page, `max_age` in seconds; `state` is what makes a token fit: using it must change that."""

    name: str
    path: str
    max_age: int
    state: Callable[[User], tuple[Any, ...]]

    def token(self, user: User) -> str:
        return self._signer().sign_object([user.pk.hex, self._mark(user)])

    def user(self, token: str) -> User:
        """Whose token it is; LinkRefused. Who acts on it checks it again under the lock of the row."""
        try:
            pk, _ = self._read(token, max_age=self.max_age)
            user = User.objects.get(pk=UUID(pk))
        except (signing.BadSignature, User.DoesNotExist, ValueError) as error:
            raise LinkRefused from error
        self._check(token, user)
        return user

    def locked_user(self, token: str, user: User) -> User:
        """The row, locked, while the token still fits it: of two uses at once the second is refused."""
        locked = User.objects.select_for_update(no_key=True).filter(pk=user.pk).first()
        if locked is None:
            raise LinkRefused
        self._check(token, locked)
        return locked

    def _check(self, token: str, user: User) -> None:
        _, mark = self._read(token)
        if not (user.is_active and constant_time_compare(mark, self._mark(user))):
            raise LinkRefused

    def _read(self, token: str, *, max_age: int | None = None) -> Any:
        # Links mailed by earlier releases have Django's own separator.
        return self._signer(_SEPARATOR if _SEPARATOR in token else ":").unsign_object(token, max_age=max_age)

    def _signer(self, separator: str = _SEPARATOR) -> signing.TimestampSigner:
        return signing.TimestampSigner(salt=self._salt, sep=separator)

    def _mark(self, user: User) -> str:
        return salted_hmac(self._salt, repr(self.state(user)), algorithm="sha256").hexdigest()

    @property
    def _salt(self) -> str:
        return f"accounts.links.{self.name}"


VERIFY = Purpose("verify", "/auth/link/verify", 3 * 24 * 3600, lambda user: (user.email, user.email_verified))
RESET = Purpose("reset", "/auth/link/reset", 3600, lambda user: (user.email, user.password, user.last_login))
# Good for as long as the period that a mail is about, and some more.
STOP_LIMIT_MAILS = Purpose(
    "limit-mails", "/auth/link/limit-mails", 62 * 24 * 3600, lambda user: (user.email, user.limit_mails)
)


def stop_limit_mails(token: str) -> User:
    """No more mails about limits, until they ask for them again."""
    return _set(STOP_LIMIT_MAILS, token, "limit_mails", False)


def verify_email(token: str) -> User:
    """The address is theirs: they may proxy from their next request on."""
    return _set(VERIFY, token, "email_verified", True)


def _set(purpose: Purpose, token: str, field: str, value: bool) -> User:
    with transaction.atomic():
        user = purpose.locked_user(token, purpose.user(token))
        setattr(user, field, value)
        user.save(update_fields=[field])
    return user


def reset_password(token: str, password: str) -> User:
    """Ends every sign-in and revokes every proxy key; who read the mail has the address too, so it counts as verified.

    Raises LinkRefused, and ValidationError for a password that is too weak.
    """
    user = RESET.user(token)
    validate_password(password, user)
    user.set_password(password)  # slow: before the lock
    with transaction.atomic():
        RESET.locked_user(token, user)
        user.email_verified = True
        user.save(update_fields=["password", "email_verified"])
    return user
