"""Owns the mails to users. They are sent behind the answer, which takes as long whether or not there is an account."""

import logging
from concurrent.futures import ThreadPoolExecutor
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.utils.http import urlencode

from accounts.links import RESET, VERIFY, Purpose
from accounts.models import User
from audit.models import Action
from audit.trail import record

logger = logging.getLogger(__name__)

_TEXTS = {
    VERIFY: (
        "Verify your e-mail address",
        "Please confirm that this address is yours. The link is good for three days, and works once:",
        "If you did not sign up, ignore this mail: nothing happens then.",
    ),
    RESET: (
        "Set a new password",
        "Somebody, probably you, asked for a new password. The link is good for an hour, and works once. A new password"
        "\nends every sign-in and revokes every proxy key:",
        "If it was not you, ignore this mail: your password stays as it is.",
    ),
}
# One at a time, in order.
_sender = ThreadPoolExecutor(1, thread_name_prefix="mail")


class MailNotConfigured(Exception):
    """Nobody can be written to."""

    def __init__(self) -> None:
        super().__init__("This installation sends no mail. Ask whoever runs it (the setting is EMAIL_URL).")


def check_configured() -> None:
    if not settings.EMAIL_URL:
        raise MailNotConfigured


def send_verification(request: HttpRequest, user: User) -> None:
    _send(request, VERIFY, user)


def send_reset(request: HttpRequest, email: str) -> None:
    """Nothing is sent to who has no account, is disabled, or signs in without a password; nobody is told."""
    check_configured()
    user = User.objects.filter(email=User.objects.normalize_email(email), is_active=True).first()
    if user is not None and user.has_usable_password():
        _send(request, RESET, user)
    else:
        record(Action.MAIL, note="a password reset was asked for, for no account")


def _send(request: HttpRequest, purpose: Purpose, user: User) -> None:
    check_configured()
    record(Action.MAIL, user, note=f"link to {purpose.name}")
    origin = settings.AIPROXY_PUBLIC_URL or request.build_absolute_uri("/")
    link = f"{origin.rstrip('/')}{purpose.path}?{urlencode({'token': purpose.token(user)})}"
    subject, before, after = _TEXTS[purpose]
    message = EmailMessage(f"{subject} · aiproxy", f"Hello,\n\n{before}\n\n{link}\n\n{after}\n", to=[user.email])
    _sender.submit(_deliver, message, str(user.pk))


def _deliver(message: EmailMessage, user_id: str) -> None:
    try:
        message.send()
    except (OSError, SMTPException) as error:
        logger.error("a mail to user %s could not be sent: %s", user_id, type(error).__name__)


def wait() -> None:
    """Until what was asked for so far is sent, or given up."""
    _sender.submit(int).result()
