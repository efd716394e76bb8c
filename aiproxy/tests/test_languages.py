"""Pages and mails speak their reader's language; programs are answered in one, whatever they accept."""

import pytest
from django.core import mail
from django.test import Client

from accounts import mail as mails
from accounts.tests.conftest import NEW_PASSWORD
from tests import translations

pytestmark = pytest.mark.django_db

INDONESIAN = {"accept": "text/html", "accept-language": "id-ID,id;q=0.9,en;q=0.8"}


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_it_has_a_translation_of_every_text(language):
    assert translations.missing(translations.read(language)) == []


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_it_is_compiled_as_it_is_written(language):
    path = translations.catalogue(language).with_suffix(".mo")
    assert path.read_bytes() == translations.compiled(translations.read(language)), "run `make translations`"


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_it_keeps_what_is_filled_in(language):
    """A placeholder that got lost would be an error on that page only."""
    for message in translations.read(language):
        assert not list(message.check()), message.id


def test_it_speaks_the_browsers_language():
    page = Client().get("/", headers=INDONESIAN)
    assert '<html lang="id"' in page.text
    assert "Cara kerjanya" in page.text
    assert {"Accept-Language", "Cookie"} <= {name.strip() for name in page.headers["Vary"].split(",")}


def test_it_speaks_the_language_that_was_chosen():
    client = Client()
    answer = client.post("/language", {"language": "id", "next": "/"}, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    page = client.get("/", headers={"accept": "text/html", "accept-language": "en"})
    assert "Cara kerjanya" in page.text


def test_it_leads_nowhere_else_after_a_choice():
    answer = Client().post("/language", {"language": "id", "next": "https://evil.example/"})
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize("path", ["/auth/me", "/nowhere", "/api", "/openapi.json"])
def test_it_answers_programs_alike_in_every_language(path):
    answers = [Client().get(path, headers={"accept-language": language}) for language in ("en", "id")]
    assert answers[0].content == answers[1].content
    assert "Content-Language" not in answers[1].headers


def test_it_answers_a_program_with_a_chosen_language_in_english(api, owner):
    client = api(owner)
    client.cookies["django_language"] = "id"
    assert client.patch("/auth/me", {"limit_mails": "?"}).json() == {"limit_mails": ["Must be a valid boolean."]}


def test_it_writes_mails_in_the_users_language(settings, owner, rf):
    settings.EMAIL_URL = "smtp://localhost"
    client = Client()
    client.force_login(owner)
    client.post("/language", {"language": "id"})
    owner.refresh_from_db()
    mails.send_verification(rf.get("/"), owner)
    mails.wait()

    assert owner.language == "id"
    assert mail.outbox[0].subject == "Verifikasi alamat email Anda · aiproxy"


def test_it_keeps_the_language_of_whoever_signs_up(api):
    new = {"email": "new@example.com", "password": NEW_PASSWORD}
    answer = api(None).post("/auth/signup", new, headers={"accept-language": "id"})
    assert answer.json()["user"]["language"] == "id"
