"""The browsable API, signed in by a session."""

import json
import re
from urllib.parse import urlencode

import pytest
from django.test import Client

from accounts.models import ProxyKey, User


@pytest.fixture
def browser(owner):
    client = Client(enforce_csrf_checks=True, headers={"accept": "text/html"})
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    return client


def csrf(browser, path):
    page = browser.get(path).content.decode()
    return re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/auth/me", 200),
        ("/proxy-api-keys", 200),
        ("/proxy-api-keys/generate", 405),
        ("/auth/password", 405),
        ("/auth/signup", 405),
        ("/auth/login", 405),
        ("/auth/refresh", 405),
        ("/auth/logout", 405),
    ],
)
def test_it_shows_a_page_with_a_form(browser, path, status):
    answer = browser.get(path)
    assert answer.status_code == status
    assert answer["Content-Type"].startswith("text/html")
    assert ("<form" in answer.content.decode()) or path == "/proxy-api-keys"


def submit(browser, path, **form):
    token = csrf(browser, path)
    body = urlencode({"csrfmiddlewaretoken": token, **form})
    return browser.post(path, body, "application/x-www-form-urlencoded")


@pytest.mark.parametrize("time", ["tomorrow", 0, ["2099-01-01"]])
def test_it_shows_a_form_again_whose_time_is_refused(browser, time):
    token = csrf(browser, "/proxy-api-keys/generate")
    body = json.dumps({"expires_at": time})
    headers = {"X-CSRFToken": token}
    answer = browser.post("/proxy-api-keys/generate", body, "application/json", headers=headers)
    assert answer.status_code == 400
    assert 'name="expires_at"' in answer.content.decode()


def test_it_makes_a_key_by_form(browser):
    form = {"name": "by form", "rpm": "5", "tpm": "", "expires_at": "", "ip_allowlist[0]": "10.0.0.1"}
    assert submit(browser, "/proxy-api-keys/generate", **form).status_code == 201
    row = ProxyKey.objects.get()
    assert (row.name, row.rpm, row.tpm, row.ip_allowlist) == ("by form", 5, None, ["10.0.0.1"])


def test_it_refuses_an_unknown_field_of_a_form_too(browser):
    assert submit(browser, "/proxy-api-keys/generate", is_staff="on").status_code == 400
    assert not ProxyKey.objects.exists()


def test_it_wants_the_csrf_token(browser, owner):
    answer = browser.patch("/auth/me", {"name": "forged"}, "application/json")
    assert answer.status_code == 403
    assert User.objects.get(pk=owner.pk).name == ""


def test_it_signs_the_browser_out(browser):
    submit(browser, "/auth/logout")
    assert browser.get("/auth/me").status_code == 401
