"""Whoever nears a limit of their day or month is told once, whatever becomes of processes and mail servers."""

import datetime as dt
import threading
from smtplib import SMTPServerDisconnected

import pytest
from django.core import mail
from django.db import connection
from django.utils import timezone

from accounts.models import Plan
from usage import notices, rollup
from usage.models import LimitNotice
from usage.quotas import standings, used_up
from usage.shipper import Shipper
from usage.tests.conftest import an_end, exchange

pytestmark = pytest.mark.django_db


@pytest.fixture
def plan(owner, settings) -> Plan:
    """100 tokens a day; a mail server that takes everything."""
    settings.EMAIL_URL = "smtp://localhost"
    owner.plan.tpd = 100
    owner.plan.save()
    return owner.plan


def spend(user, tokens, **fields):
    rollup.add([an_end(user_id=user.pk, tokens_total=tokens, **fields)])
    notices.notice([user.pk])


def told():
    return sorted(LimitNotice.objects.filter(sent_at__isnull=False).values_list("percent", flat=True))


def test_it_tells_a_user_at_80_and_at_100_per_cent_once_each(plan, owner):
    for tokens in (79, 1, 5, 15, 40):
        spend(owner, tokens)
        notices.send_due()

    assert [message.subject for message in mail.outbox] == [
        "80 % of your tokens a day used · aiproxy",
        "100 % of your tokens a day used · aiproxy",
    ]
    assert told() == [80, 100]
    assert "80 of the 100 tokens a day that your plan (Free) allows" in mail.outbox[0].body
    assert mail.outbox[0].to == [owner.email]


def test_it_sends_one_mail_for_what_was_reached_at_once(plan, owner):
    spend(owner, 500)

    assert (notices.send_due(), notices.send_due(), told()) == (1, 0, [100])


def test_it_is_done_by_the_shipper(plan, owner, journal, directory):
    exchange(journal, user_id=owner.pk, tokens_total=90)
    Shipper(directory).run_once()

    assert told() == [80]


def test_it_counts_requests_that_were_answered_and_months_of_tokens(plan, owner):
    Plan.objects.filter(pk=plan.pk).update(rpd=2, tpd=None, tokens_month=1_000)
    owner.plan.refresh_from_db()
    for outcome in ("ok", "refused", "provider_error", "ok"):
        spend(owner, 100, outcome=outcome)

    used = {standing.quota.name: standing.used for standing in standings([owner])[owner.pk]}
    assert used == {"rpd": 2, "tokens_month": 400}
    assert used_up(owner).quota.name == "rpd"


def test_it_begins_anew_with_the_next_period(plan, owner):
    spend(owner, 100)
    notices.send_due()
    LimitNotice.objects.update(since=timezone.now() - dt.timedelta(days=2))
    spend(owner, 1)
    notices.send_due()

    assert told() == [100, 100]


def test_it_has_the_workers_look_again_when_a_limit_is_used_up(plan, owner):
    before = owner.epoch
    for tokens in (90, 10, 10):
        spend(owner, tokens)
    owner.refresh_from_db()
    assert owner.epoch == before + 1
    plan.tpd = 110
    plan.save()
    notices.notice([owner.pk])
    owner.refresh_from_db()
    assert owner.epoch == before + 2  # of a larger limit, by now used up as well


def test_it_tells_nobody_who_does_not_want_it(plan, owner, teammate):
    owner.limit_mails = False
    owner.save()
    spend(owner, 100)
    spend(teammate, 100)
    teammate.limit_mails = False
    teammate.save()

    assert notices.send_due() == 0
    assert LimitNotice.objects.filter(due_at=None).count() == 4  # used up all the same


def test_it_tries_again_when_the_mail_server_fails(plan, owner, monkeypatch):
    spend(owner, 100)
    with monkeypatch.context() as away:
        away.setattr("django.core.mail.EmailMessage.send", failing)
        assert notices.send_due() == 0
    row = LimitNotice.objects.get(tries=1)
    assert row.due_at > timezone.now() + dt.timedelta(seconds=20)
    LimitNotice.objects.filter(pk=row.pk).update(due_at=timezone.now())

    assert (notices.send_due(), told()) == (1, [100])


def failing(message):
    raise SMTPServerDisconnected("please run connect() first")


def test_it_ships_rows_while_the_mail_server_fails(plan, owner, journal, directory, monkeypatch):
    monkeypatch.setattr("django.core.mail.EmailMessage.send", failing)
    exchange(journal, user_id=owner.pk, tokens_total=90)

    assert Shipper(directory).run_once() == 1
    assert LimitNotice.objects.get().tries == 1


def test_it_sends_nothing_about_a_period_that_is_over(plan, owner):
    spend(owner, 100)
    LimitNotice.objects.update(until=timezone.now())

    assert notices.send_due() == 0


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_it_sends_one_mail_of_several_processes(plan, owner):
    rollup.add([an_end(user_id=owner.pk, tokens_total=100)])
    barrier = threading.Barrier(4)

    def process():
        barrier.wait()
        notices.notice([owner.pk])
        barrier.wait()
        notices.send_due()
        connection.close()

    threads = [threading.Thread(target=process) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(mail.outbox), LimitNotice.objects.count(), told()) == (1, 2, [100])


def test_its_link_ends_them(plan, owner, client, settings):
    settings.AIPROXY_PUBLIC_URL = "http://testserver"
    spend(owner, 100)
    notices.send_due()
    (link,) = (line.partition(": ")[2] for line in mail.outbox[0].body.splitlines() if "http://" in line)
    assert mail.outbox[0].extra_headers["List-Unsubscribe"] == f"<{link}>"
    assert client.get(link).status_code == 200
    owner.refresh_from_db()
    assert owner.limit_mails
    page = client.post(link, {"token": link.partition("token=")[2].replace("%3A", ":")})
    owner.refresh_from_db()
    assert (page.status_code, owner.limit_mails) == (200, False)
