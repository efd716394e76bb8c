"""Password, then a code: who is let in, who is not, and what a thief of one of the two can do."""

import re
from base64 import b32decode
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
from axes.models import AccessAttempt
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.test import Client
from django_otp.oath import totp

from accounts.models import User
from audit.models import Event
from staff.models import Authenticator, RecoveryCode, new_salt
from staff.tests.conftest import code

pytestmark = pytest.mark.any_database

CODE, ENROL, MANAGE = "/admin/second-factor/", "/admin/second-factor/enrol/", "/admin/second-factor/manage/"
INSIDE = ["/admin/", "/admin/accounts/user/", "/admin/audit/event/", "/admin/password_change/", MANAGE]


def enter(browser, typed, url=CODE, **more):
    return browser.post(url, {"code": typed, **more})


def is_inside(browser) -> bool:
    return browser.get("/admin/accounts/user/").status_code == 200


def notes(user) -> list[str]:
    return list(Event.objects.filter(action="second_factor", object_id=user.pk).values_list("note", flat=True))


# --- Without a second factor -------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", INSIDE)
def test_a_password_alone_opens_no_page(enforced, member, signed_in, url):
    answer = signed_in(member).get(url)
    assert answer.status_code == 302
    assert member.email not in answer.content.decode()


def test_it_leads_from_the_password_to_the_code_and_on_to_the_page_asked_for(enforced, member, app, password):
    browser, page = Client(), "/admin/accounts/plan/"
    login = browser.get(page, follow=True).redirect_chain[-1][0]
    answer = browser.post(login, {"username": member.email, "password": password, "next": page}, follow=True)
    assert urlsplit(answer.redirect_chain[-1][0]).path == CODE
    answer = browser.post(answer.redirect_chain[-1][0], {"code": code(app)})
    assert answer["Location"] == page
    assert browser.get(page).status_code == 200


@pytest.mark.parametrize("url", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "http:evil.example"])
def test_it_leads_nowhere_else(enforced, member, app, signed_in, url):
    assert enter(signed_in(member), code(app), next=url)["Location"] == "/admin/"


def test_without_the_setting_it_asks_only_who_has_enrolled(member, signed_in):
    assert is_inside(signed_in(member))
    Authenticator.objects.create(user=member, salt=new_salt())
    assert not is_inside(signed_in(member))


@pytest.mark.parametrize("url", [CODE, ENROL, MANAGE])
def test_it_is_for_staff_only(enforced, stranger, signed_in, url):
    for browser in (signed_in(stranger), Client()):
        assert "/admin/login/" in browser.get(url)["Location"]
        assert "/admin/login/" in enter(browser, "000000", url)["Location"]


# --- Enrolment ---------------------------------------------------------------------------------------------------


def scan(page) -> bytes:
    """The secret, as somebody without a camera types it."""
    return b32decode(re.search(r"<code>([A-Z2-7]{32})</code>", page.content.decode())[1])


def test_it_enrols_who_has_no_app_yet(enforced, member, signed_in):
    browser = signed_in(member)
    page = browser.get("/admin/accounts/plan/", follow=True)
    assert urlsplit(page.redirect_chain[-1][0]).path == ENROL
    assert "no-store" in page["Cache-Control"] and "<svg" in page.content.decode()
    done = enter(browser, f"{totp(scan(page)):06d}", page.redirect_chain[-1][0])
    assert len(re.findall(r"<code>(?:[A-Z2-7]{4}-){3}[A-Z2-7]{4}</code>", done.content.decode())) == 10
    assert is_inside(browser)
    assert notes(member) == ["shown", "10 recovery codes made", "enrolled an authenticator app"]


def test_the_qr_code_says_what_apps_understand(app):
    uri = urlsplit(app.uri)
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/aiproxy%3Aowner%40example.com")
    assert parse_qs(uri.query) == {
        "secret": [app.secret_text], "issuer": ["aiproxy"], "digits": ["6"], "period": ["30"],
    }  # fmt: skip


def test_a_wrong_first_code_enrols_nobody(enforced, member, signed_in):
    browser = signed_in(member)
    secret = scan(browser.get(ENROL))
    assert "not right" in enter(browser, f"{totp(secret, t0=3600):06d}", ENROL).content.decode()
    assert not Authenticator.objects.exists() and not is_inside(browser)
    assert scan(browser.get(ENROL)) == secret  # what was scanned already stays good


def test_who_is_enrolled_cannot_be_enrolled_anew_by_a_password(enforced, member, app, signed_in):
    browser = signed_in(member)
    assert browser.get(ENROL)["Location"].startswith(CODE)
    assert enter(browser, "000000", ENROL)["Location"].startswith(CODE)
    assert Authenticator.objects.get() == app


# --- Codes -------------------------------------------------------------------------------------------------------


def test_a_code_counts_once(enforced, member, app, signed_in):
    right = code(app)
    assert enter(signed_in(member), right).status_code == 302
    again = signed_in(member)
    assert "not right" in enter(again, right).content.decode()
    assert not is_inside(again)


@pytest.mark.parametrize("steps", [-10, -3, 3, 10])
def test_a_code_of_another_time_is_wrong(enforced, member, app, signed_in, steps):
    assert enter(signed_in(member), code(app, steps=steps)).status_code == 200


def test_somebody_elses_code_is_wrong(enforced, member, teammate, app, signed_in):
    other = Authenticator.objects.create(user=teammate, salt=new_salt())
    assert enter(signed_in(member), code(other)).status_code == 200


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "-12345", "\uff11" * 6, "\0", "' OR 1=1", "0" * 40])
def test_what_is_no_code_is_wrong_and_no_error(enforced, member, app, signed_in, typed):
    browser = signed_in(member)
    assert enter(browser, typed).status_code == 200
    assert not is_inside(browser)


def test_the_session_changes_its_name_when_it_is_let_in(enforced, member, app, signed_in):
    browser = signed_in(member)
    before = browser.cookies["sessionid"].value
    enter(browser, code(app))
    assert browser.cookies["sessionid"].value != before


def test_a_recovery_code_counts_once(enforced, member, app, signed_in):
    first, second, *_ = app.new_recovery_codes()
    assert enter(signed_in(member), first.lower().replace("-", " ")).status_code == 302
    assert enter(signed_in(member), first).status_code == 200
    assert notes(member)[1] == "a recovery code was used; 9 are left"
    Authenticator.objects.update(throttling_failure_count=0)
    assert enter(signed_in(member), second).status_code == 302


def test_somebody_elses_recovery_code_is_wrong(enforced, member, teammate, app, signed_in):
    other = Authenticator.objects.create(user=teammate, salt=new_salt())
    assert enter(signed_in(member), other.new_recovery_codes()[0]).status_code == 200


def test_nothing_in_the_database_makes_a_code(app):
    codes = app.new_recovery_codes()
    rows = str([*Authenticator.objects.values(), *RecoveryCode.objects.values(), *Event.objects.values()])
    for secret in (app.secret_text, app.secret.hex(), *codes, *(text.replace("-", "") for text in codes)):
        assert secret not in rows


def test_a_new_secret_key_ends_every_enrolment(app, settings):
    recovery, secret = app.new_recovery_codes()[0], app.secret
    settings.SECRET_KEY = "another one, as long as it has to be " * 2
    assert app.secret != secret
    assert not Authenticator.accept(app.user, recovery)


# --- Guessing ----------------------------------------------------------------------------------------------------


def test_wrong_codes_make_right_ones_wait(enforced, member, app, signed_in):
    browser, recovery = signed_in(member), app.new_recovery_codes()[0]
    for _ in range(3):
        Authenticator.objects.update(throttling_failure_timestamp=None)
        enter(browser, "000000")
    assert Authenticator.objects.get().throttling_failure_count == 3
    assert "must wait" in enter(browser, code(app)).content.decode()
    assert "must wait" in enter(browser, recovery).content.decode()
    assert RecoveryCode.objects.filter(used_at=None).count() == 10


def test_wrong_codes_lock_out_as_wrong_passwords_do(enforced, member, app, signed_in, password, settings):
    settings.AXES_FAILURE_LIMIT = 3
    browser = signed_in(member)
    answers = [enter(browser, "000000").status_code for _ in range(3)]
    assert answers == [200, 200, 429]
    assert "_auth_user_id" not in browser.session
    answer = browser.post("/admin/login/", {"username": member.email, "password": password})
    assert answer.status_code == 429
    kinds = Counter(Event.objects.exclude(action__in=["change", "create"]).values_list("action", flat=True))
    assert kinds == {"sign_in": 1, "sign_in_failed": 4, "locked_out": 1, "sign_out": 1}


def test_a_lock_out_holds_at_the_code_too(enforced, member, app, signed_in, settings):
    settings.AXES_FAILURE_LIMIT = 2
    inside = signed_in(member)
    for _ in range(2):
        Client().post("/admin/login/", {"username": member.email, "password": "wrong"})
    assert enter(inside, code(app)).status_code == 429
    assert not is_inside(inside)


def test_an_address_cannot_try_for_ever(enforced, member, app, signed_in):
    browser = signed_in(member)
    for number in range(60):
        Client().post("/admin/login/", {"username": f"{number}@example.com"})
    for url in ("/admin/login/", CODE, "/auth/session/login"):
        assert browser.post(url, {"code": code(app)}).status_code == 429


def test_no_code_that_was_tried_is_kept(enforced, member, app, signed_in):
    enter(signed_in(member), "918273")
    assert AccessAttempt.objects.get().username == member.email
    assert "918273" not in str([*AccessAttempt.objects.values(), *Event.objects.values()])


# --- Afterwards --------------------------------------------------------------------------------------------------


def let_in(browser, app):
    assert enter(browser, code(app)).status_code == 302
    return browser


def test_new_recovery_codes_cost_a_code(enforced, member, app, signed_in):
    old = app.new_recovery_codes()[0]
    browser = let_in(signed_in(member), app)
    assert enter(browser, "000000", MANAGE, codes="").status_code == 200
    Authenticator.objects.update(throttling_failure_count=0)
    page = enter(browser, code(app, steps=1), MANAGE, codes="").content.decode()
    new = re.findall(r"<code>([A-Z2-7-]{19})</code>", page)
    assert len(new) == 10 and old not in new
    assert not Authenticator.accept(member, old)


def test_another_app_costs_a_code_and_ends_the_first(enforced, member, app, signed_in):
    browser = let_in(signed_in(member), app)
    assert enter(browser, code(app, steps=1), MANAGE, replace="")["Location"].startswith(ENROL)
    assert not is_inside(browser)
    enter(browser, f"{totp(scan(browser.get(ENROL))):06d}", ENROL)
    assert is_inside(browser)
    assert not Authenticator.accept(member, code(app, steps=1))


def test_an_operator_resets_a_lost_one(enforced, member, app, signed_in, capsys):
    browser = let_in(signed_in(member), app)
    call_command("reset_second_factor", "OWNER@example.com")
    assert "1 reset" in capsys.readouterr().out
    assert not is_inside(browser)
    assert browser.get("/admin/", follow=True).redirect_chain[-1][0].startswith(ENROL)
    assert notes(member)[0] == "reset by an operator"


def test_an_operator_can_look_first_whose_would_be_reset(member, app, capsys):
    call_command("reset_second_factor", "--all", "--dry-run")
    assert capsys.readouterr().out.split() == [member.email, "1", "would", "be", "reset."]
    assert Authenticator.objects.filter(user=member).exists()


def test_the_operator_is_told_of_a_typing_mistake(db):
    with pytest.raises(CommandError, match=r"nobody@example\.com has no second factor"):
        call_command("reset_second_factor", "nobody@example.com")


@pytest.mark.parametrize("way", ["one", "several"])
def test_staff_reset_each_others(member, teammate, signed_in, way):
    own = Authenticator.objects.create(user=teammate, salt=new_salt())
    own.new_recovery_codes()
    if way == "one":
        answer = signed_in(member).post(f"/admin/staff/authenticator/{own.pk}/delete/", {"post": "yes"})
    else:
        body = {"action": "delete_selected", "_selected_action": [str(own.pk)], "post": "yes"}
        answer = signed_in(member).post("/admin/staff/authenticator/", body)
    assert answer.status_code == 302
    assert not Authenticator.objects.exists()
    assert notes(teammate)[0] == "reset in the back-office"


def test_no_page_shows_what_makes_a_code(member, teammate, signed_in):
    own = Authenticator.objects.create(user=teammate, salt=new_salt())
    for page in ("", f"{own.pk}/change/", f"{own.pk}/delete/"):
        text = signed_in(member).get(f"/admin/staff/authenticator/{page}").content.decode()
        assert teammate.email in text
        assert own.salt not in text and own.secret_text not in text


def test_it_cannot_be_asked_how_a_salt_begins(member, signed_in):
    assert signed_in(member).get("/admin/staff/authenticator/?salt__startswith=a").status_code == 400


def test_only_a_superuser_resets_a_superusers(member, teammate, signed_in):
    own = Authenticator.objects.create(user=member, salt=new_salt())
    User.objects.filter(pk=teammate.pk).update(is_staff=True)
    teammate.user_permissions.set(Permission.objects.filter(content_type__app_label="staff"))
    browser = signed_in(User.objects.get(pk=teammate.pk))
    assert browser.post(f"/admin/staff/authenticator/{own.pk}/delete/", {"post": "yes"}).status_code == 403
    body = {"action": "delete_selected", "_selected_action": [str(own.pk)], "post": "yes"}
    browser.post("/admin/staff/authenticator/", body)
    assert Authenticator.objects.filter(pk=own.pk).exists()


def test_it_enrols_once_when_the_button_is_pressed_twice(member, app, rf):
    late = rf.post(ENROL)
    late.user = member
    answer = admin.site._enrolled(late, Authenticator(user=member, salt=new_salt()))
    assert urlsplit(answer["Location"]).path == CODE
    assert Authenticator.objects.get() == app
