"""How a person gets in with a browser alone."""

import re

import pytest
from django.core import mail as outbox
from django.core.cache import cache

from accounts import mail
from accounts.models import User

pytestmark = pytest.mark.django_db
NEW = {"email": "New@Example.com", "password": "correct horse battery"}


@pytest.fixture(autouse=True)
def unthrottled():
    cache.clear()


@pytest.fixture
def mails(settings):
    settings.EMAIL_URL = "memorymail://"
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    return outbox.outbox


def test_it_signs_a_new_person_up_and_in(browser):
    client = browser(None)
    assert client.post("/console/sign-up", NEW).headers["Location"] == "/console/"
    assert "new@example.com" in client.get("/console/").text


def test_it_sends_who_signs_up_a_link_and_says_so(browser, mails):
    client = browser(None)
    assert client.post("/console/sign-up", NEW).headers["Location"] == "/console/verification"
    assert "Check your mail" in client.get("/console/verification").text
    mail.wait()
    path = re.search(r"https?://[^/]+(/auth/link/verify\?token=\S+)", mails[0].body)[1]
    token = path.partition("token=")[2].replace("%3A", ":")
    assert client.get(path).status_code == 200
    assert client.post("/auth/link/verify", {"token": token}).status_code == 200
    assert User.objects.get(email="new@example.com").email_verified


def test_it_sends_another_link_but_not_a_hundred(page, owner, mails):
    assert {page.post("/console/verification").status_code for _ in range(5)} == {302}
    refused = page.post("/console/verification")
    assert (refused.status_code, len(mails) <= 5) == (429, True)
    assert "Expected available in" in refused.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"password": "short"}, "too short"),
        ({"email": "nobody"}, "valid email"),
        ({"email": "owner@example.com"}, "There is an account"),
        ({"password": ""}, "required"),
    ],
)
def test_it_says_what_is_wrong_and_keeps_the_rest(changed, said, browser, owner):
    response = browser(None).post("/console/sign-up", NEW | changed)
    assert response.status_code in (400, 409)
    assert said in response.text
    assert (NEW | changed)["email"] in response.text
    assert "correct horse" not in response.text


def test_it_limits_how_many_sign_up_from_one_address(browser):
    answers = [browser(None).post("/console/sign-up", NEW | {"email": f"n{n}@example.com"}) for n in range(21)]
    assert [answer.status_code for answer in answers[-2:]] == [302, 429]


def test_it_sends_who_is_signed_in_to_the_overview(page):
    assert page.get("/console/sign-up").headers["Location"] == "/console/"


def test_it_says_the_same_of_a_known_and_an_unknown_address(browser, owner, mails):
    emails = (owner.email, "nobody@example.com")
    answers = [browser(None).post("/console/forgotten-password", {"email": email}).text for email in emails]
    # Each page has its own token against forged forms.
    answers = [
        re.sub(f'{email}|value="[A-Za-z0-9]{{64}}"', "", text) for email, text in zip(emails, answers, strict=True)
    ]
    assert answers[0] == answers[1]
    mail.wait()
    assert [message.to for message in mails] == [[owner.email]]


def test_it_says_that_this_installation_sends_no_mail(browser, settings):
    settings.EMAIL_URL = ""
    response = browser(None).post("/console/forgotten-password", {"email": "owner@example.com"})
    assert response.status_code == 503
    assert "sends no mail" in response.text
