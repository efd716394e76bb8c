"""Every endpoint can be looked at in a browser, and the forms that are there work."""

import re
from urllib.parse import urlencode

import pytest
from django.test import Client

from accounts.keys import issue
from accounts.models import ProxyKey
from aiproxy.pages import walk
from aiproxy.urls import API

FORM = "application/x-www-form-urlencoded"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(owner):
    client = Client(enforce_csrf_checks=True, headers=HTML)
    client.force_login(owner)
    return client


def paths():
    return sorted({re.sub(r"<[^>]+>", "01a206ed-9dad-7d93-b564-8085fc4f318e", route.path) for route in walk(API)})


def test_it_shows_every_endpoint(browser):
    answers = {path: browser.get(path) for path in paths() if path != "/auth/me/export"}  # a file

    assert {path for path, answer in answers.items() if answer.status_code not in (200, 404, 405)} == set()
    for answer in answers.values():
        assert answer.headers["Content-Type"].startswith("text/html")
        assert '<a class="navbar-brand" rel="nofollow" href="/">aiproxy</a>' in answer.text


def test_it_takes_a_provider_key_as_a_password_and_never_shows_it(browser):
    field = re.search(r'<input[^>]*name="key"[^>]*>', browser.get("/api-keys").text)[0]
    assert 'type="password"' in field
    answer = submit(
        browser, "/api-keys", provider="openai", key="wrong-" + "k" * 30, label="", priority="x", base_url=""
    )
    assert (answer.status_code, "k" * 30 in answer.text) == (400, False)


def submit(browser, path, **form):
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(path).text)[1]
    return browser.post(path, urlencode({"csrfmiddlewaretoken": token, **form}), content_type=FORM)


def test_it_takes_lists_as_lines(browser):
    assert "Lists are not currently supported" not in browser.get("/proxy-api-keys/generate").text
    empty = dict.fromkeys(["rpm", "tpm", "max_parallel", "max_tokens", "expires_at", "ip_allowlist"], "")
    lines = "gpt-4o*\r\n\r\nclaude-*\r\n"
    answer = submit(browser, "/proxy-api-keys/generate", name="lines", allowed_models=lines, **empty)
    assert answer.status_code == 201
    row = ProxyKey.objects.get()
    assert (row.allowed_models, row.ip_allowlist) == (["gpt-4o*", "claude-*"], [])


def test_it_links_the_next_page(browser, owner):
    for _ in range(2):
        issue(owner)
    page = browser.get("/proxy-api-keys?limit=1").text
    assert re.search(r'<a href="http://testserver/proxy-api-keys\?cursor=[^"]+"', page)


def test_it_answers_programs_in_json_as_ever(api, owner):
    client = api(owner)
    for path in paths():
        answer = client.get(path, headers={"accept": "*/*"})
        assert answer.headers["Content-Type"].startswith("application/json"), path
