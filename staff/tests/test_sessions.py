import time

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts.models import User

HOUR = 3600


@pytest.fixture
def clock(monkeypatch):
    """Moves the time of sessions on."""
    start = time.time()

    def move(seconds):
        monkeypatch.setattr("time.time", lambda: start + seconds)
        moment = timezone.datetime.fromtimestamp(start + seconds, tz=timezone.get_current_timezone())
        monkeypatch.setattr("django.utils.timezone.now", lambda: moment)

    return move


def is_inside(browser) -> bool:
    return browser.get("/admin/accounts/plan/").status_code == 200


def test_it_ends_when_nobody_uses_it(member, signed_in, clock):
    browser = signed_in(member)
    clock(29 * 60)
    assert is_inside(browser)
    clock(58 * 60)
    assert is_inside(browser)
    clock(89 * 60)
    assert not is_inside(browser)


def test_it_ends_after_hours_however_much_it_is_used(member, signed_in, clock):
    browser = signed_in(member)
    for minutes in range(20, 8 * 60, 20):
        clock(minutes * 60)
        assert is_inside(browser), minutes
    clock(8 * HOUR + 61)
    assert not is_inside(browser)


def test_others_sessions_last_as_they_did(stranger, signed_in):
    signed_in(stranger)
    assert Session.objects.get().expire_date > timezone.now() + timezone.timedelta(days=13)


def test_a_session_from_before_its_user_became_staff_opens_nothing(stranger, signed_in):
    browser = signed_in(stranger)
    User.objects.filter(pk=stranger.pk).update(is_staff=True, is_superuser=True)
    assert not is_inside(browser)


def test_it_is_written_at_most_once_a_minute(member, signed_in, clock, django_assert_max_num_queries):
    browser = signed_in(member)
    clock(59)
    before = Session.objects.values_list("session_data").get()
    assert is_inside(browser)
    assert Session.objects.values_list("session_data").get() == before
