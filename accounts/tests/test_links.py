"""Links in mails: of one purpose, for one account as it was then, once, and for a while."""

import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from django.core import mail as outbox
from django.core import signing

from accounts import links, mail, tokens
from accounts.links import RESET, VERIFY
from accounts.models import User
from accounts.tests.conftest import NEW_PASSWORD
from audit.models import Event

CONFIRM = {VERIFY: "/auth/verification/confirm", RESET: "/auth/password-reset/confirm"}
both = pytest.mark.parametrize("purpose", [VERIFY, RESET], ids=["verify", "reset"])


@pytest.fixture(autouse=True)
def _mail(settings):
    settings.EMAIL_URL = "memorymail://"


def mailed():
    """The mails so far, and the token of the last one's link."""
    mail.wait()
    link = re.search(r"http\S+", outbox.outbox[-1].body)[0] if outbox.outbox else "//?token="
    return outbox.outbox, parse_qs(urlsplit(link).query).get("token", [""])[0]


def use(client, purpose, token):
    body = {"token": token} | ({"new": NEW_PASSWORD} if purpose is RESET else {})
    return client.post(CONFIRM[purpose], body)


def is_as_before(user):
    now = User.objects.get(pk=user.pk)
    return (now.password, now.email_verified) == (user.password, user.email_verified)


def test_it_mails_a_link_at_sign_up_that_verifies_the_address(anonymous, db):
    anonymous.post("/auth/signup", {"email": "ann@example.com", "password": NEW_PASSWORD})
    mails, token = mailed()
    assert [one.to for one in mails] == [["ann@example.com"]]
    assert use(anonymous, VERIFY, token).status_code == 200
    assert User.objects.get(email="ann@example.com").email_verified


def test_it_mails_another_link_when_asked(api, owner, anonymous):
    assert api(owner).post("/auth/verification", {}).status_code == 202
    assert use(anonymous, VERIFY, mailed()[1]).status_code == 200
    owner.refresh_from_db()
    assert api(owner).post("/auth/verification", {}).status_code == 409


def test_it_sets_a_new_password_and_ends_what_the_old_one_opened(anonymous, bearer, owner, make_key):
    key, before = make_key(owner), tokens.sign_in(owner)
    assert anonymous.post("/auth/password-reset", {"email": "OWNER@example.com"}).status_code == 202
    assert use(anonymous, RESET, mailed()[1]).status_code == 200
    owner.refresh_from_db()
    key.refresh_from_db()
    assert owner.check_password(NEW_PASSWORD) and owner.email_verified
    assert key.status == "revoked"
    assert bearer(before.token).get("/auth/me").status_code == 401


@both
def test_it_takes_a_link_once(anonymous, owner, purpose):
    token = purpose.token(owner)
    assert [use(anonymous, purpose, token).status_code for _ in range(2)] == [200, 400]


@both
def test_it_takes_a_link_once_even_of_two_at_the_same_time(owner, purpose):
    token = purpose.token(owner)
    both_have_looked = purpose.user(token)
    links.verify_email(token) if purpose is VERIFY else links.reset_password(token, NEW_PASSWORD)
    with pytest.raises(links.LinkRefused):
        purpose.locked_user(token, both_have_looked)


@both
def test_it_mails_links_that_nobody_encodes_once_more(client, owner, purpose):
    token = purpose.token(owner)
    assert quote(token) == token
    assert client.get(f"{purpose.path}?token={quote(token)}").status_code == 200


@both
def test_it_takes_a_link_that_an_earlier_release_has_mailed(anonymous, owner, purpose):
    token = signing.dumps([owner.pk.hex, purpose._mark(owner)], salt=f"accounts.links.{purpose.name}")
    assert ":" in token
    assert use(anonymous, purpose, token).status_code == 200


@both
def test_it_refuses_a_link_that_is_too_old(anonymous, owner, purpose, monkeypatch):
    now = signing.time.time
    token = purpose.token(owner)
    monkeypatch.setattr(signing.time, "time", lambda: now() + purpose.max_age + 1)
    assert use(anonymous, purpose, token).status_code == 400
    assert is_as_before(owner)


@both
@pytest.mark.parametrize("change", [lambda token: token[:-1], lambda token: "x" + token, lambda token: token[::-1]])
def test_it_refuses_a_link_that_was_tampered_with(anonymous, owner, purpose, change):
    assert use(anonymous, purpose, change(purpose.token(owner))).status_code == 400
    assert is_as_before(owner)


def test_it_refuses_a_link_of_another_purpose(anonymous, owner):
    assert use(anonymous, RESET, VERIFY.token(owner)).status_code == 400
    assert use(anonymous, VERIFY, RESET.token(owner)).status_code == 400
    assert is_as_before(owner)


@both
@pytest.mark.parametrize("fields", [{"email": "new@example.com"}, {"is_active": False}])
def test_it_refuses_a_link_once_the_account_is_another(anonymous, owner, purpose, fields):
    token = purpose.token(owner)
    User.objects.filter(pk=owner.pk).update(**fields)
    assert use(anonymous, purpose, token).status_code == 400


@pytest.mark.parametrize("meanwhile", [lambda user: user.change_password(NEW_PASSWORD), tokens.sign_in])
def test_it_refuses_a_reset_once_the_password_was_changed_or_used(anonymous, owner, meanwhile):
    token = RESET.token(owner)
    meanwhile(owner)
    assert use(anonymous, RESET, token).status_code == 400


@both
def test_it_refuses_a_link_of_an_account_that_is_gone(anonymous, owner, purpose):
    token = purpose.token(owner)
    owner.delete()
    assert use(anonymous, purpose, token).status_code == 400


def test_it_keeps_the_link_good_when_the_new_password_is_too_weak(anonymous, owner):
    token = RESET.token(owner)
    assert list(anonymous.post(CONFIRM[RESET], {"token": token, "new": "short"}).json()) == ["new"]
    assert use(anonymous, RESET, token).status_code == 200


def test_it_does_not_tell_whether_there_is_an_account(anonymous, owner, teammate):
    User.objects.filter(pk=teammate.pk).update(is_active=False)
    emails = [owner.email, teammate.email, "nobody@example.com"]
    answers = [anonymous.post("/auth/password-reset", {"email": email}) for email in emails]
    assert {(one.status_code, one.content) for one in answers} == {(202, answers[0].content)}
    assert [one.to for one in mailed()[0]] == [[owner.email]]


@pytest.mark.parametrize("email", ["owner@example.com", "nobody@example.com"])
def test_it_mails_one_address_so_often_and_no_more(anonymous, owner, email):
    statuses = [anonymous.post("/auth/password-reset", {"email": email}).status_code for _ in range(6)]
    assert statuses == [202] * 5 + [429]
    assert anonymous.post("/auth/password-reset", {"email": "another@example.com"}).status_code == 202


def test_it_mails_one_address_no_more_often_for_signing_up_again_and_again(anonymous, api, db):
    statuses = []
    for email in ["ann@example.com", "Ann@EXAMPLE.com", " ann@example.com", "ann@example.com", "ANN@example.com"] * 2:
        statuses.append(anonymous.post("/auth/signup", {"email": email, "password": NEW_PASSWORD}).status_code)
        if statuses[-1] == 201:
            api(User.objects.get()).post("/auth/me/delete", {"password": NEW_PASSWORD})
    assert statuses == [201] * 5 + [429] * 5
    assert (len(mailed()[0]), User.objects.count()) == (5, 0)


def test_it_counts_no_sign_up_that_was_refused_as_a_mail(anonymous, owner):
    for body in ({"password": "short"}, {"password": NEW_PASSWORD, "email": owner.email}) * 5:
        assert anonymous.post("/auth/signup", {"email": "ann@example.com", **body}).status_code in (400, 409)
    body = {"email": "ann@example.com", "password": NEW_PASSWORD}
    assert anonymous.post("/auth/signup", body).status_code == 201


def test_it_mails_for_one_client_so_often_and_no_more(anonymous, db):
    statuses = [
        anonymous.post("/auth/password-reset", {"email": f"{number}@example.com"}).status_code for number in range(21)
    ]
    assert statuses == [202] * 20 + [429]


@pytest.mark.parametrize("body", [{}, {"email": 7}, {"email": "x"}, {"email": "a@example.com", "user": "b"}, []])
def test_it_says_what_is_wrong_with_a_body(anonymous, body, db):
    assert anonymous.post("/auth/password-reset", body).status_code == 400


def test_it_says_that_no_mail_is_sent_here(api, anonymous, owner, settings):
    settings.EMAIL_URL = ""
    for email in (owner.email, "nobody@example.com"):
        assert anonymous.post("/auth/password-reset", {"email": email}).status_code == 503
    assert api(owner).post("/auth/verification", {}).status_code == 503
    assert anonymous.post("/auth/signup", {"email": "a@example.com", "password": NEW_PASSWORD}).status_code == 201


def test_it_leads_to_the_public_address_whatever_the_host_of_the_request(anonymous, owner, settings):
    settings.AIPROXY_PUBLIC_URL = "https://aiproxy.example.org"
    anonymous.post("/auth/password-reset", {"email": owner.email})
    mails, _ = mailed()
    assert "https://aiproxy.example.org/auth/link/reset?token=" in mails[0].body


def test_it_writes_down_what_was_mailed_and_no_token(anonymous, owner):
    anonymous.post("/auth/password-reset", {"email": owner.email})
    _, token = mailed()
    event = Event.objects.get(action="mail")
    assert (event.object_id, event.note) == (str(owner.pk), "link to reset")
    assert token not in str(list(Event.objects.values()))


@both
def test_it_does_nothing_when_a_scanner_opens_the_link(client, owner, purpose):
    page = f"{purpose.path}?token={purpose.token(owner)}"
    for method in (client.get, client.head, client.options):
        assert method(page).status_code == 200
    assert is_as_before(owner)
    assert client.get(page)["Cache-Control"] == "no-store"


@both
def test_it_acts_when_the_button_is_pressed(client, owner, purpose):
    token = purpose.token(owner)
    page = client.get(f"{purpose.path}?token={token}").content.decode()
    shown = re.search(r'name="token" value="([^"]+)"', page)[1]
    body = {"token": shown, "new": NEW_PASSWORD}
    assert [client.post(purpose.path, body).status_code for _ in range(2)] == [200, 400]
    owner.refresh_from_db()
    assert owner.email_verified
    assert owner.check_password(NEW_PASSWORD) is (purpose is RESET)


@both
def test_it_says_on_the_page_that_a_link_is_wrong(client, owner, purpose):
    answer = client.get(f"{purpose.path}?token=x")
    assert (answer.status_code, "Ask for a new one" in answer.content.decode()) == (400, True)


def test_it_shows_the_form_again_with_what_is_wrong_and_not_what_was_typed(client, owner):
    answer = client.post(RESET.path, {"token": RESET.token(owner), "new": "xyzzy"})
    assert answer.status_code == 400
    assert "too short" in answer.content.decode() and "xyzzy" not in answer.content.decode()
    assert is_as_before(owner)
