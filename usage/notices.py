"""Owns telling users that a limit of their day or month is nearly or wholly used: once a limit, period and threshold.

A row stands for each mail before it is sent, and a unique constraint keeps a second one away. Whoever takes a row's
`due_at` sends it: of several processes one. The workers are told as well, by the user's epoch, so that the data plane
refuses from then on. All of it happens beside the shipper's rows, and holds none of them up.
"""

import datetime as dt
import logging
import threading
import time
from collections.abc import Collection
from smtplib import SMTPException
from uuid import UUID

from django.conf import settings
from django.db import Error, transaction
from django.utils import timezone

from accounts import mail
from accounts.epoch import EpochNotPublished
from accounts.models import User
from usage.delivery import release
from usage.models import LimitNotice
from usage.quotas import BY_NAME, LIMITED, Standing, standings

logger = logging.getLogger(__name__)

THRESHOLDS = (100, 80)  # per cent
_BATCH = 500
_RETRY = (30.0, 3600.0)  # seconds until a mail is tried again: the first and the longest
_ROUND = 50  # mails


class Watch:
    """Whose requests were stored since; looked at once in `every` seconds."""

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._users: set[UUID] = set()
        self._next = 0.0

    def note(self, user_id: UUID) -> None:
        self._users.add(user_id)

    def look(self, *, everything: bool = False) -> None:
        """Raises DatabaseError; who was not looked at stays noted."""
        if not self._users or (time.monotonic() < self._next and not everything):
            return
        self._next = time.monotonic() + self._every
        while self._users:
            batch = set(list(self._users)[:_BATCH])
            notice(batch)
            self._users -= batch


def notice(user_ids: Collection[UUID]) -> None:
    """Writes down what they have reached, and has the workers look again at whoever may not go on."""
    users = {user.pk: user for user in User.objects.filter(LIMITED, pk__in=user_ids).select_related("plan")}
    for id, reached in standings(users.values()).items():
        reached = [standing for standing in reached if standing.has_reached(min(THRESHOLDS))]
        if reached:
            try:
                _notice(users[id], reached)
            except EpochNotPublished:
                logger.info("User %s has used up a limit; workers learn it when their policies age", id)


def _notice(user: User, reached: list[Standing]) -> None:
    rows = LimitNotice.objects.filter(user=user, since__in={standing.since for standing in reached})
    known = {(row.quota, row.since, row.percent): row.allowed for row in rows}
    due = timezone.now() if settings.EMAIL_URL and user.limit_mails else None
    with transaction.atomic():
        stopped = False
        for standing in reached:
            period = (standing.quota.name, standing.since)
            new = [
                percent for percent in THRESHOLDS if standing.has_reached(percent) and (*period, percent) not in known
            ]
            # Of what was reached at once, the first is the one to be told of.
            made = [_row(user, standing, percent, None if number else due) for number, percent in enumerate(new)]
            LimitNotice.objects.bulk_create(made, ignore_conflicts=True)
            if known.get((*period, 100), standing.allowed) != standing.allowed:  # the plan is another since
                rows.filter(quota=standing.quota.name, percent=100).update(allowed=standing.allowed)
                stopped |= standing.is_used_up
            stopped |= 100 in new
        if stopped:
            user.bump()


def _row(user: User, standing: Standing, percent: int, due: dt.datetime | None) -> LimitNotice:
    return LimitNotice(
        user=user,
        quota=standing.quota.name,
        since=standing.since,
        until=standing.until,
        percent=percent,
        allowed=standing.allowed,
        used=standing.used,
        due_at=due,
    )


def run(stop: threading.Event, *, every: float = 2.0) -> None:
    """Sends what is due until `stop` is set. A thread's own work: a mail server may take its time."""
    while not stop.wait(every):
        try:
            send_due(stop)
        except Error as error:
            logger.warning("Mails about limits wait for the database (%s)", type(error).__name__)
        except Exception:
            logger.exception("A mail about a limit failed")
        finally:
            release()


def send_due(stop: threading.Event | None = None) -> int:
    """How many were sent. After a failure the others wait for the next round: it is the mail server's, mostly."""
    sent = 0
    due = LimitNotice.objects.filter(due_at__lte=timezone.now()).select_related("user__plan").order_by("due_at")
    for row in due[:_ROUND]:
        if stop is not None and stop.is_set():
            break
        # Taken before it is sent: a process that dies between the two loses a mail, and sends none twice.
        if not LimitNotice.objects.filter(pk=row.pk, due_at=row.due_at).update(due_at=None) or not row.is_wanted():
            continue
        try:
            _mail(row)
        except (OSError, SMTPException) as error:
            wait = min(_RETRY[1], _RETRY[0] * 2**row.tries)
            logger.error("A mail to user %s could not be sent (%s); again in %.0f s", row.user_id, error, wait)
            again = timezone.now() + dt.timedelta(seconds=wait)
            LimitNotice.objects.filter(pk=row.pk).update(due_at=again, tries=row.tries + 1)
            break
        LimitNotice.objects.filter(pk=row.pk).update(sent_at=timezone.now())
        sent += 1
    return sent


def _mail(row: LimitNotice) -> None:
    reached = mail.Reached(row.percent, BY_NAME[row.quota].what, row.used, row.allowed, row.until)
    mail.send_limit(row.user, reached, message_id=row.pk.hex)
