"""Owns the mails to users, in their language. Those that a request asks for are sent behind the answer, which takes as
long whether or not there is an account."""

import datetime as dt
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.utils import translation
from django.utils.formats import date_format, number_format
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.links import RESET, STOP_LIMIT_MAILS, VERIFY, Purpose
from accounts.models import User
from audit.models import Action
from audit.trail import record

logger = logging.getLogger(__name__)

_TEXTS = {
    VERIFY: (
        gettext_lazy("Verify your e-mail address"),
        gettext_lazy("Please confirm that this address is yours. The link is good for three days, and works once:"),
        gettext_lazy("If you did not sign up, ignore this mail: nothing happens then."),
    ),
    RESET: (
        gettext_lazy("Set a new password"),
        gettext_lazy(
            "Somebody, probably you, asked for a new password. The link is good for an hour, and works once. A new"
            " password ends every sign-in and revokes every proxy key:"
        ),
        gettext_lazy("If it was not you, ignore this mail: your password stays as it is."),
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
    link = _link(origin, purpose, user)
    with translation.override(user.language):
        subject, before, after = map(str, _TEXTS[purpose])
        message = _message(user, subject, before, link, after)
    _sender.submit(_deliver, message, str(user.pk))


@dataclass(frozen=True, slots=True)
class Reached:
    """`used` of `allowed` (`what`, as in "tokens a day"), which is `percent` at least, until the period ends."""

    percent: int
    what: str | Promise
    used: int
    allowed: int
    until: dt.datetime


def send_limit(user: User, reached: Reached, *, message_id: str) -> None:
    """Sends it now. Raises OSError or SMTPException; with the same id a mail server can tell a second try."""
    stop = {}
    with translation.override(user.language):
        facts = {
            "percent": reached.percent,
            "what": str(reached.what),
            "used": number_format(reached.used, force_grouping=True),
            "allowed": number_format(reached.allowed, force_grouping=True),
            "plan": user.plan.name,
            "until": f"{date_format(reached.until.astimezone(dt.UTC), 'j F Y, H:i')} UTC",
        }
        said = _("You have used %(used)s of the %(allowed)s %(what)s that your plan (%(plan)s) allows.") % facts
        if reached.percent < 100:
            then = _("Once all of them are used, requests with your proxy keys are refused until %(until)s.") % facts
        else:
            then = _("Requests with your proxy keys are refused until %(until)s.") % facts
        why = _("You get one mail at 80 and one at 100 per cent of each limit of a day or a month.")
        how = _("To get no more of them, send PATCH /auth/me with limit_mails: false.")
        if settings.AIPROXY_PUBLIC_URL:
            stop["List-Unsubscribe"] = f"<{(link := _link(settings.AIPROXY_PUBLIC_URL, STOP_LIMIT_MAILS, user))}>"
            how = _("To get no more of them: %(link)s") % {"link": link}
        message = _message(user, _("%(percent)s %% of your %(what)s used") % facts, said, then, f"{why}\n{how}")
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("> ")
    message.extra_headers |= {"Message-ID": f"<{message_id}@{domain}>", **stop}
    message.send()


def _link(origin: str, purpose: Purpose, user: User) -> str:
    return f"{origin.rstrip('/')}{purpose.path}?{urlencode({'token': purpose.token(user)})}"


def _message(user: User, subject: str, *paragraphs: str) -> EmailMessage:
    text = "\n\n".join([_("Hello,"), *paragraphs])
    return EmailMessage(f"{subject} · aiproxy", f"{text}\n", to=[user.email])


def _deliver(message: EmailMessage, user_id: str) -> None:
    try:
        message.send()
    except (OSError, SMTPException) as error:
        logger.error("A mail to user %s could not be sent: %s", user_id, type(error).__name__)


def wait() -> None:
    """Until what was asked for so far is sent, or given up."""
    _sender.submit(int).result()
