"""What holds for every page: who sees it, what is in it, what it costs. A new one is in, by the URL conf."""

import re

import pytest
from django.test import Client
from django.urls import resolve

from console import urls
from console.tests.conftest import CANARY, SECRET, a_proxy_key, a_request, an_api_key

ROUTES = [f"/console/{pattern.pattern}" for pattern in urls.urlpatterns]
OPEN = {"/console/sign-up", "/console/forgotten-password"}
CLOSED = [route for route in ROUTES if route not in OPEN]
PLAIN = [route for route in CLOSED if "<" not in route]
pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.fixture
def estate(owner):
    """One of each kind, whose every text is a canary: by the URL names of their pages."""
    type(owner).objects.filter(pk=owner.pk).update(name=CANARY)
    api_key, proxy_key = an_api_key(owner, CANARY), a_proxy_key(owner, name=CANARY)
    type(api_key).objects.update(last_error=CANARY)
    failed = {"outcome": "provider_error", "status_code": 429, "error_message": CANARY}
    row = a_request(owner, proxy_key, api_key_id=api_key.pk, model=CANARY, provider_request_id=CANARY, **failed)
    sign_in = owner.sign_ins.create(jti="j", expires_at="2100-01-01T00:00:00Z")
    return {"provider": api_key.pk, "proxy": proxy_key.pk, "requests": row.pk, "sign-ins": sign_in.pk}


def fill(route, estate):
    kind = next((name for name in estate if f"/{name}/<" in route), None)
    return re.sub(r"<\w+:\w+>", str(estate.get(kind, "")), route)


def text_of(response):
    return response.getvalue().decode()


@pytest.mark.parametrize("route", CLOSED)
def test_it_asks_anybody_else_to_sign_in(route, browser, estate):
    path = fill(route, estate)
    for method in ("get", "post"):
        response = getattr(browser(None), method)(path)
        assert (response.status_code, response.headers["Location"]) == (302, f"/auth/session/login?next={path}")


@pytest.mark.parametrize("route", [route for route in CLOSED if not route.endswith(".csv")])
def test_it_shows_the_owner_every_page_with_what_others_wrote_as_text_and_no_secret(route, page, estate):
    response = page.get(fill(route, estate))
    text = text_of(response)
    assert response.status_code == 200
    assert "<img" not in text and SECRET not in text and "argon2" not in text
    assert re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=\"", text) == []


@pytest.mark.parametrize("route", [route for route in CLOSED if "<" in route])
def test_it_hides_the_owners_rows_from_a_stranger(route, browser, stranger, estate):
    path = fill(route, estate)
    assert {browser(stranger).get(path).status_code, browser(stranger).post(path).status_code} <= {404, 405}


@pytest.mark.parametrize("route", PLAIN)
def test_it_shows_a_stranger_nothing_of_the_owner(route, browser, stranger, estate):
    text = text_of(browser(stranger).get(route))
    assert "alert(1)" not in text and "Qz7X" not in text
    assert not [id for id in estate.values() if str(id) in text]


@pytest.mark.parametrize("route", CLOSED)
def test_it_asks_the_database_a_bounded_number_of_times(route, page, owner, estate, django_assert_max_num_queries):
    for n in range(3):
        a_request(owner, a_proxy_key(owner, name=str(n)))
    with django_assert_max_num_queries(20):
        page.get(fill(route, estate)).getvalue()


@pytest.mark.parametrize("route", PLAIN)
def test_no_cache_keeps_it(route, page):
    assert page.get(route).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("route", CLOSED)
def test_it_refuses_a_form_of_another_site(route, owner, estate):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(fill(route, estate)).status_code in (403, 405)


def test_every_link_of_every_page_leads_somewhere(page, estate):
    for route in CLOSED:
        for link in re.findall(r'(?:href|action)="(/[^"?#]*)', text_of(page.get(fill(route, estate)))):
            assert link.startswith("/static/") or resolve(link), link


def test_it_takes_the_theme_from_its_cookie_and_nothing_else(page):
    page.cookies["theme"] = "dark"
    assert '<html lang="en" data-theme="dark">' in text_of(page.get("/console/"))
    page.cookies["theme"] = 'x" onload="alert(1)'
    assert '<html lang="en">' in text_of(page.get("/console/"))
