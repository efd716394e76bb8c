"""What is dangerous asks again who sits there."""

import time

import pytest
from django.contrib.auth.models import Group

from accounts.models import User
from staff.tests.conftest import code

ADD = {"name": "helpers"}
PAGE = "/admin/auth/group/add/"
AGAIN = "/admin/second-factor/again/?next=/admin/auth/group/add/"


@pytest.fixture
def later(monkeypatch):
    """A quarter of an hour and a minute after now; the session has not been idle for that long."""
    now = time.time()
    return lambda: monkeypatch.setattr("time.time", lambda: now + 16 * 60)


def made() -> bool:
    return Group.objects.filter(name="helpers").exists()


def test_it_asks_nothing_again_soon_after_the_sign_in(member, signed_in):
    assert signed_in(member).post(PAGE, ADD).status_code == 302
    assert made()


def test_it_asks_for_the_password_later_and_does_nothing_before(member, signed_in, later, password):
    browser = signed_in(member)
    later()
    assert (browser.post(PAGE, ADD).headers["Location"], made()) == (AGAIN, False)
    assert browser.post(AGAIN, {"password": "wrong"}).status_code == 200
    assert browser.post(PAGE, ADD).headers["Location"] == AGAIN
    assert browser.post(AGAIN, {"password": password}).headers["Location"] == PAGE
    browser.post(PAGE, ADD)
    assert made()


def test_it_asks_who_has_an_app_for_a_code_and_takes_no_password(member, app, signed_in, later, password):
    browser = signed_in(member)
    browser.post("/admin/second-factor/", {"code": code(app)})
    later()
    assert browser.post(PAGE, ADD).headers["Location"] == AGAIN
    assert browser.post(AGAIN, {"password": password}).status_code == 200
    assert browser.post(AGAIN, {"code": code(app, steps=32)}).headers["Location"] == PAGE
    browser.post(PAGE, ADD)
    assert made()


@pytest.mark.parametrize(
    ("path", "posted"),
    [
        ("/admin/vault/apikey/keyring/", {}),
        ("/admin/accounts/user/{pk}/change/", {"email": "x@example.com"}),
        ("/admin/accounts/user/{pk}/password/", {"password1": "x"}),
        ("/admin/accounts/user/{pk}/delete/", {"post": "yes"}),
        ("/admin/accounts/proxykey/{pk}/delete/", {"post": "yes"}),
        ("/admin/accounts/user/", {"action": "revoke_keys"}),
    ],
)
def test_it_asks_before_each_of_these(member, signed_in, later, path, posted):
    browser = signed_in(member)
    later()
    answer = browser.post(path.format(pk=member.pk), posted)
    assert answer.headers["Location"].startswith("/admin/second-factor/again/")


def test_it_asks_whichever_of_several_actions_is_the_dangerous_one(member, teammate, signed_in, later):
    """Django takes the one that `index` says."""
    browser = signed_in(member)
    later()
    body = {"action": ["disable", "enable"], "index": "0", "_selected_action": str(teammate.pk), "confirmed": "yes"}
    answer = browser.post("/admin/accounts/user/", body)
    assert answer.headers["Location"].startswith("/admin/second-factor/again/")
    assert User.objects.get(pk=teammate.pk).is_active


def test_wrong_old_passwords_lock_out_as_at_the_door(member, signed_in, password, settings):
    settings.AXES_FAILURE_LIMIT = 3
    browser, new = signed_in(member), {"new_password1": "a staple for it", "new_password2": "a staple for it"}
    tried = ["wrong", "wrong", "wrong", password]
    answers = [browser.post("/admin/password_change/", {"old_password": old, **new}).status_code for old in tried]
    assert answers == [200, 200, 429, 302]
    assert "_auth_user_id" not in browser.session
    assert User.objects.get(pk=member.pk).check_password(password)


def test_the_right_old_password_is_taken_after_a_wrong_one(member, signed_in, password):
    browser, new = signed_in(member), {"new_password1": "a staple for it", "new_password2": "a staple for it"}
    tried = ["wrong", password]
    answers = [browser.post("/admin/password_change/", {"old_password": old, **new}).status_code for old in tried]
    assert answers == [200, 302]
    assert User.objects.get(pk=member.pk).check_password("a staple for it")


def test_it_never_asks_where_the_operator_says_so(member, signed_in, later, settings):
    settings.AIPROXY_ADMIN_PROOF_MINUTES = 0
    browser = signed_in(member)
    later()
    browser.post(PAGE, ADD)
    assert made()
