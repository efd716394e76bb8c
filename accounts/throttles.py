"""Owns how often one address or user may ask for what is dear: hashes, new accounts. The rates are settings."""

import hashlib
import ipaddress
from collections.abc import Mapping

from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle, UserRateThrottle
from rest_framework.views import APIView

from accounts.models import User


class AddressThrottle(SimpleRateThrottle):
    """Counts by client address, an IPv6 one by its /64: that much a single household has."""

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return self.cache_format % {"scope": self.scope, "ident": self.get_ident(request)}

    def get_ident(self, request: Request) -> str:
        # Not DRF's own, which believes X-Forwarded-For.
        address = str(request.META.get("REMOTE_ADDR", ""))
        try:
            is_v6 = ipaddress.ip_address(address).version == 6
        except ValueError:
            return address
        return str(ipaddress.ip_network((address, 64), strict=False)) if is_v6 else address


class SignupThrottle(AddressThrottle):
    scope = "signup"


class LoginThrottle(AddressThrottle):
    """On top of the lock-out, which counts per account: one address may not try a password on all of them."""

    scope = "login"


class MailThrottle(AddressThrottle):
    """One address may not have mails sent to all the world."""

    scope = "mail"


class RecipientThrottle(SimpleRateThrottle):
    """Counts by the e-mail address that would be written to, whether or not it is anybody's."""

    scope = "mail_recipient"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        email = getattr(request.user, "email", None)
        if email is None and isinstance(request.data, Mapping):
            email = request.data.get("email")
        if not isinstance(email, str):
            return None  # the serializer refuses it
        ident = hashlib.sha256(User.objects.normalize_email(email).encode()).hexdigest()
        return self.cache_format % {"scope": self.scope, "ident": ident}


def check_recipient(request: Request) -> None:
    """For a call that writes to somebody only once all else is right. Throttled, with the seconds to wait."""
    throttle = RecipientThrottle()
    if not throttle.allow_request(request, APIView()):
        raise Throttled(throttle.wait())


class PasswordThrottle(UserRateThrottle):
    scope = "password"


class KeyThrottle(UserRateThrottle):
    scope = "proxy_keys"
