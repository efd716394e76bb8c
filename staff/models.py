"""Owns the second factor of staff: an authenticator app (TOTP, RFC 6238), and recovery codes for the day it is lost.

Nothing here opens anything by itself: an app's secret is derived from SECRET_KEY and a salt, of recovery codes there
are keyed hashes. So a stolen database gives no code, and a new SECRET_KEY ends every enrolment.
"""

import base64
import re
import secrets
import time
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django_otp.models import Device, ThrottlingMixin, TimestampMixin
from django_otp.oath import TOTP

from audit.models import Action
from audit.trail import record

ISSUER = "aiproxy"
RECOVERY_CODES = 10
_TOLERANCE = 1  # steps of 30 s before and after, for clocks that differ and people who type slowly
_SALT_BYTES = 20


def new_salt() -> str:
    return secrets.token_hex(_SALT_BYTES)


class Authenticator(TimestampMixin, ThrottlingMixin, Device):  # type: ignore[misc]
    """The one authenticator app of a member of staff. Wrong codes make the next try wait: 1, 2, 4, 8 … seconds."""

    name = None
    confirmed = True  # there is a row only after a first right code
    user: "models.OneToOneField[Any, Any]" = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="authenticator", help_text="Whose it is."
    )
    salt: "models.CharField[str, str]" = models.CharField(
        max_length=40, editable=False, help_text="Makes its secret, together with SECRET_KEY."
    )
    last_step: "models.BigIntegerField[int, int]" = models.BigIntegerField(
        default=-1, editable=False, help_text="No code of this time or before counts."
    )

    objects: ClassVar[models.Manager["Authenticator"]] = models.Manager()

    class Meta:
        db_table = "staff_authenticators"
        default_permissions = ("view", "delete")

    def __str__(self) -> str:
        return f"authenticator of {self.user}"

    @property
    def secret(self) -> bytes:
        """160 bits, as RFC 4226 §4 recommends."""
        return salted_hmac("staff.authenticator", f"{self.salt}:{self.user_id}", algorithm="sha256").digest()[:20]

    @property
    def uri(self) -> str:
        """What an app reads from the QR code (Key Uri Format)."""
        query = urlencode({"secret": self.secret_text, "issuer": ISSUER, "digits": 6, "period": 30})
        return f"otpauth://totp/{quote(f'{ISSUER}:{self.user.get_username()}')}?{query}"

    @property
    def secret_text(self) -> str:
        return base64.b32encode(self.secret).decode()

    def get_throttle_factor(self) -> int:
        return 1  # second

    @classmethod
    def accept(cls, user: Any, typed: str) -> bool:
        """Whether a code of the app, or one of the recovery codes, is right; each is so only once."""
        with transaction.atomic():
            own = cls.objects.select_for_update().filter(user=user).first()
            return own is not None and own.verify_token(typed)

    def verify_token(self, token: str) -> bool:
        """To be called under a lock of the row."""
        if not self.verify_is_allowed()[0]:
            return False
        right = self.takes(token) or self._use_recovery_code(token)
        if right:
            self.throttle_reset(commit=False)
            self.set_last_used_timestamp(commit=False)
        else:
            self.throttle_increment(commit=False)
        self.save()
        return right

    def takes(self, token: str) -> bool:
        """Whether this is the app's code of now, not used before; the caller saves."""
        digits = "".join(token.split())
        if not re.fullmatch(r"[0-9]{6}", digits):
            return False
        totp = TOTP(self.secret)
        totp.time = time.time()
        if not totp.verify(int(digits), _TOLERANCE, self.last_step + 1):
            return False
        self.last_step = totp.t() + totp.drift
        return True

    def _use_recovery_code(self, token: str) -> bool:
        # One statement: of two at once the database lets one through.
        used = self.recovery_codes.filter(digest=self._digest(token), used_at=None).update(used_at=timezone.now())
        if used:
            left = self.recovery_codes.filter(used_at=None).count()
            record(Action.SECOND_FACTOR, self.user, note=f"a recovery code was used; {left} are left")
        return bool(used)

    def new_recovery_codes(self) -> list[str]:
        """In place of all earlier ones; nothing keeps these but who reads them now."""
        codes = [base64.b32encode(secrets.token_bytes(10)).decode() for _ in range(RECOVERY_CODES)]
        with transaction.atomic():
            self.recovery_codes.all().delete()
            RecoveryCode.objects.bulk_create(
                RecoveryCode(authenticator=self, digest=self._digest(code)) for code in codes
            )
            record(Action.SECOND_FACTOR, self.user, note=f"{RECOVERY_CODES} recovery codes made")
        return ["-".join(re.findall("....", code)) for code in codes]

    def _digest(self, code: str) -> str:
        plain = re.sub(r"[\s-]", "", code).upper()
        return salted_hmac("staff.recovery-code", f"{self.pk}:{plain}", algorithm="sha256").hexdigest()

    def reset(self, note: str) -> None:
        """They enrol anew at their next sign-in; a session that this app opened is not let in any more."""
        with transaction.atomic():
            record(Action.SECOND_FACTOR, self.user, note=note)
            self.delete()


class RecoveryCode(models.Model):
    """Stands in for the app once; 80 random bits."""

    authenticator = models.ForeignKey(Authenticator, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64, editable=False, help_text="HMAC-SHA256 under a key from SECRET_KEY.")
    used_at = models.DateTimeField(null=True, editable=False, help_text="It is worth nothing since.")

    class Meta:
        db_table = "staff_recovery_codes"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["authenticator", "digest"], name="staff_recovery_codes_unique"),
        ]

    def __str__(self) -> str:
        return f"recovery code of {self.authenticator}"
