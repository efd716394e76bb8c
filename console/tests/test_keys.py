"""What a person does with keys: each rule is the API's, and its refusal stands in the form."""

import html
import re

import pytest
from django.core.cache import cache

from accounts.models import ProxyKey
from console.tests.conftest import SECRET, a_proxy_key, an_api_key
from vault.models import ApiKey

pytestmark = pytest.mark.django_db
ADD = {"provider": "openai", "key": SECRET, "label": "mine", "priority": "7", "base_url": ""}


@pytest.fixture(autouse=True)
def nobody_answers(settings):
    settings.AIPROXY_OPENAI_BASE_URL = "http://127.0.0.1:1"
    cache.clear()


def test_it_stores_a_key_and_says_what_its_test_said(page, owner):
    response = page.post("/console/keys/provider/add", ADD, follow=True)
    stored = ApiKey.objects.get(user=owner)
    assert (stored.label, stored.priority, stored.unseal().reveal()) == ("mine", 7, SECRET)
    assert "The key is stored." in response.text
    assert "could not be reached" in response.text
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": "sk-ant-" + "a" * 40}, "looks like a key of"),
        ({"key": ""}, "required"),
        ({"label": "two\nlines"}, "line breaks"),
        ({"base_url": "https://evil.example"}, "leave this empty"),
        ({"provider": "nobody"}, "valid choice"),
        ({"priority": "-1"}, "greater than or equal to 0"),
    ],
)
def test_it_refuses_what_the_api_refuses_without_the_key(changed, said, page, settings):
    settings.AIPROXY_OPENAI_BASE_URL = "https://api.openai.com/v1"
    response = page.post("/console/keys/provider/add", ADD | changed)
    assert response.status_code == 400
    assert said in response.text
    assert (ADD | changed)["key"] not in response.text or not changed.get("key", "x")
    assert not ApiKey.objects.exists()


def test_it_refuses_one_key_twice(page, owner):
    an_api_key(owner)
    response = page.post("/console/keys/provider/add", ADD)
    assert (response.status_code, "You have stored this key already." in response.text) == (409, True)


def test_it_changes_and_replaces_a_key(page, owner):
    key, other = an_api_key(owner), "sk-" + "p" * 40
    page.post(f"/console/keys/provider/{key.pk}", {"label": "new", "priority": "3", "key": ""})
    assert ApiKey.objects.get().unseal().reveal() == SECRET
    page.post(f"/console/keys/provider/{key.pk}", {"label": "new", "priority": "3", "key": other})
    key = ApiKey.objects.get()
    assert (key.label, key.priority, key.unseal().reveal()) == ("new", 3, other)


def test_it_tests_a_key_ten_times_a_minute(page, owner):
    key = an_api_key(owner)
    for _ in range(11):
        response = page.post(f"/console/keys/provider/{key.pk}", {"act": "test"}, follow=True)
    assert ApiKey.objects.get().last_tested_at is not None
    assert "Request was throttled" in response.text


def test_it_deletes_a_key_when_it_is_told_twice(page, owner):
    path = f"/console/keys/provider/{an_api_key(owner).pk}/delete"
    assert "Delete this provider key?" in page.get(path).text
    assert ApiKey.objects.exists()
    page.post(path)
    assert not ApiKey.objects.exists()


def test_it_shows_a_new_proxy_key_once(page, owner):
    form = {"name": "mine", "rpm": "5", "allowed_models": "gpt-4o\n claude-*\n", "expires_at": "2100-01-01T00:00"}
    response = page.post("/console/keys/proxy/create", form)
    key = re.search(r"sk-proxy-\w{48}", response.text)[0]
    row = ProxyKey.objects.get(user=owner)
    assert (row.name, row.rpm, row.tpm, row.allowed_models) == ("mine", 5, None, ["gpt-4o", "claude-*"])
    assert row.expires_at.year == 2100
    assert response.headers["Cache-Control"] == "no-store"
    assert key not in page.get("/console/keys").text + page.get(f"/console/keys/proxy/{row.pk}").text


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"rpm": "100000"}, "Your plan allows 60 at most."),
        ({"expires_at": "2020-01-01T00:00"}, "Must be in the future"),
        ({"allowed_models": "*"}, "leave the list empty"),
        ({"ip_allowlist": "here"}, "is no address or network"),
        ({"tpm": "many"}, "whole number"),
    ],
)
def test_it_refuses_limits_that_the_api_refuses(form, said, page):
    response = page.post("/console/keys/proxy/create", form)
    assert (response.status_code, said in response.text) == (400, True)
    assert 'aria-invalid="true"' in response.text
    assert not ProxyKey.objects.exists()


def test_it_says_that_the_plan_has_no_room(page, owner):
    for _ in range(owner.plan.max_proxy_keys):
        a_proxy_key(owner)
    response = page.post("/console/keys/proxy/create", {})
    assert (response.status_code, "revoke one first" in response.text) == (409, True)


def test_it_changes_only_what_was_changed(page, owner):
    key = a_proxy_key(owner, name="old", rpm=5, expires_at="2020-01-01T00:00:30Z")
    same = {"rpm": "5", "expires_at": "2020-01-01T00:00"}  # an expiry in the past would be refused, were it sent
    assert page.post(f"/console/keys/proxy/{key.pk}", {"name": "new", **same}).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.rpm, key.expires_at.second) == ("new", 5, 30)


def test_it_revokes_a_key_when_it_is_told_twice_and_changes_it_no_more(page, owner):
    key = a_proxy_key(owner)
    path = f"/console/keys/proxy/{key.pk}"
    assert "Revoke this proxy key?" in page.get(f"{path}/revoke").text
    page.post(f"{path}/revoke")
    refused = page.post(path, {"name": "late"})
    assert (refused.status_code, "revoked, for good" in refused.text) == (409, True)
    assert key.key_prefix not in page.get("/console/keys").text
    assert key.key_prefix in page.get("/console/keys?all").text


def test_it_does_not_take_a_limit_of_nothing_for_the_plans(page, owner):
    a_proxy_key(owner, rpm=0)
    shown = page.get("/console/keys").text
    assert "0 requests a minute" in shown
    assert "your plan's" not in html.unescape(shown)
