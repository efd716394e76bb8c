"""Two tenants, every URL, every method: made from the URL conf, so that a new route is covered as it is added.

A parameter of a kind that is not known here fails the test: add what stands for somebody else's object.
"""

import itertools
import re
from dataclasses import dataclass, field, replace

import pytest
from django.core.cache import cache
from django.forms.models import model_to_dict
from django.test import Client
from django.urls import get_resolver
from django.urls.converters import IntConverter, StringConverter, UUIDConverter
from django.urls.resolvers import RegexPattern
from rest_framework.test import APIClient

from accounts import tokens
from accounts.ids import made_at, uuid7
from accounts.models import ProxyKey, SignIn, User
from aiproxy import pages
from proxy.models import ModelAlias
from usage.models import ProxyRequest, UsageHour
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.any_database

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HIDDEN = {302, 403, 404, 405}  # 302: to the back-office's login
# Words that only the owner's rows hold; no CSRF token has such characters.
MARK, LAST4 = "0wners-own", "Q-7_"
# Queries that would widen what is listed, if anything listened to them.
WIDER = [
    "user",
    "user_id",
    "owner",
    "proxy_key",
    "proxy_key_id",
    "api_key",
    "api_key_id",
    "id",
    "pk",
    "cursor",
    "search",
]


ROUTES = {route.path: route.pattern.pattern for route in pages.walk(get_resolver().url_patterns)}
API = [route for route in ROUTES if not route.startswith("/admin/")]
PLAIN = [route for route, pattern in ROUTES.items() if not pattern.regex.groupindex]
WITH_PARAMETERS = [route for route, pattern in ROUTES.items() if pattern.regex.groupindex]


@dataclass
class Estate:
    """What belongs to the owner."""

    owner: User
    rows: list = field(default_factory=list)

    @property
    def ids(self):
        return [str(row.pk) for row in self.rows]

    @property
    def state(self):
        return [model_to_dict(type(row).objects.get(pk=row.pk)) for row in self.rows]


@pytest.fixture
def estate(owner):
    User.objects.filter(pk=owner.pk).update(name=MARK)
    api_key = store.add(owner.pk, "openai", f"{MARK} label", Secret("sk-" + "o" * 36 + LAST4))
    proxy_key = ProxyKey.objects.create(user=owner, name=f"{MARK} key", key_prefix="sk-proxy-0wners00", verifier=b"\1")
    alias = ModelAlias.objects.create(user=owner, proxy_key=proxy_key, name=f"{MARK}-alias", targets=["gpt-4o"])
    ids = {"user_id": owner.pk, "proxy_key_id": proxy_key.pk, "provider": "openai", "model": f"{MARK} model"}
    id = uuid7()
    ended = {"endpoint": "/v1/embeddings", "outcome": "ok", "status_code": 200}
    request = ProxyRequest.objects.create(id=id, created_at=made_at(id), api_key_id=api_key.pk, **ids, **ended)
    hour = UsageHour.objects.create(hour=made_at(id).replace(minute=0, second=0, microsecond=0), requests=7, **ids)
    tokens.sign_in(owner)
    sign_in = SignIn.objects.get(user=owner)
    return Estate(owner, [owner, api_key, proxy_key, request, hour, sign_in, alias])


def parameters(route, estate):
    """All ways to fill the route's parameters with what is the owner's; the back-office asks who it is first."""
    pattern, is_back_office = ROUTES[route], route.startswith("/admin/")
    names = dict(pattern.regex.groupindex)
    estate = replace(estate, rows=estate.rows[: 1 if is_back_office else None])
    if isinstance(pattern, RegexPattern):
        known = {
            "app_label": re.findall(r"\w+", pattern.regex.pattern.partition("<app_label>")[2]),
            "url": ["anything"],
        }
    else:
        known = {name: values(pattern.converters[name], estate) for name in names}
    unknown = set(names) - set(known)
    assert not unknown, f"{pattern}: say here what {unknown} stands for"
    return [dict(zip(names, choice, strict=True)) for choice in itertools.product(*(known[name] for name in names))]


def values(converter, estate):
    if isinstance(converter, UUIDConverter):
        return [id for id in estate.ids if len(id) == 36]
    if isinstance(converter, IntConverter):
        return [id for id in estate.ids if id.isdigit()]
    if isinstance(converter, StringConverter) or type(converter).__name__ == "PathConverter":
        return estate.ids
    raise AssertionError(f"a parameter of a new kind, {type(converter).__name__}: say here what stands for the owner's")


def fill(route, values):
    for name, value in values.items():
        route = re.sub(rf"<(?:\w+:)?{name}>|\(\?P<{name}>.*?\)(?=[/$]|$)", value, route)
    return route.replace("^", "").replace("$", "")


def session_of(user):
    client = Client(raise_request_exception=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def signed_in(user, route):
    """Asks for a path of the route by a method, with nothing used up of what may be asked."""
    by_session = route.startswith(("/admin/", "/console/"))
    client = session_of(user) if by_session else APIClient(
        headers={"Authorization": f"Bearer {tokens.sign_in(user).token}"})  # fmt: skip
    sent = {} if by_session else {"data": "{}", "content_type": "application/json"}

    def ask(method, path):
        cache.clear()
        return client.generic(method, path, **sent)

    return ask


def request_as(user, method, path):
    """By a sign-in of its own, since some of what is called ends it."""
    return signed_in(user, path)(method, path)


def assert_nothing_of(estate, response, *, asked=""):
    said = response.getvalue().decode(errors="replace") + str(dict(response.items()))
    for word in (MARK, estate.owner.email, "sk-proxy-0wners00", LAST4):
        assert word not in said.replace(asked, "")


@pytest.fixture(autouse=True)
def alone(settings):
    """No provider is called, whoever asks for a test of a key."""
    settings.AIPROXY_OPENAI_BASE_URL = "http://127.0.0.1:1"


@pytest.mark.parametrize("route", WITH_PARAMETERS)
def test_it_hides_the_owners_objects_from_a_stranger(route, estate, stranger):
    before, choices = estate.state, parameters(route, estate)
    nowhere = fill(route, dict.fromkeys(choices[0], str(uuid7())))
    for method in METHODS:
        ask = signed_in(stranger, route)
        absent = ask(method, nowhere)
        for path in (fill(route, values) for values in choices):
            response = ask(method, path)
            # OPTIONS may tell what a view takes, though not whether there is something.
            assert response.status_code in HIDDEN or method == "OPTIONS", f"{method} {path}"
            assert (response.status_code, response.getvalue()) == (absent.status_code, absent.getvalue())
            assert_nothing_of(estate, response, asked=path)
    assert estate.state == before


@pytest.mark.parametrize("route", WITH_PARAMETERS)
def test_it_hides_the_owners_objects_from_somebody_unknown(route, estate):
    before = estate.state
    client = APIClient()
    for values in parameters(route, estate):
        path = fill(route, values)
        for method in METHODS:
            response = client.generic(method, path, data="{}", content_type="application/json")
            assert response.status_code in HIDDEN | {401}, f"{method} {path}"
            assert_nothing_of(estate, response, asked=path)
    assert estate.state == before


@pytest.mark.parametrize("route", PLAIN)
def test_it_shows_a_stranger_nothing_of_the_owners_anywhere(route, estate, stranger):
    before = estate.state
    for method in METHODS:
        response = request_as(stranger, method, route)
        assert response.status_code != 401 or method == "POST", f"{method} {route}: the stranger was not signed in"
        assert_nothing_of(estate, response)
        assert not [id for id in estate.ids if id in response.getvalue().decode(errors="replace") and len(id) == 36]
    assert estate.state == before


@pytest.mark.parametrize("route", sorted(set(PLAIN) & set(API)))
def test_it_takes_nobodys_word_for_whose_rows_are_listed(route, estate, stranger):
    ask = signed_in(stranger, route)
    for name, id in itertools.product(WIDER, [str(estate.owner.pk), estate.ids[2]]):
        assert_nothing_of(estate, ask("GET", f"{route}?{name}={id}"))


@pytest.mark.parametrize("route", sorted(set(WITH_PARAMETERS) & set(API)))
def test_it_does_show_the_owner_what_it_hides_from_others(route, estate):
    """Else the promises above would hold for a route that never answers anybody."""
    paths = [fill(route, values) for values in parameters(route, estate)]
    statuses = {request_as(estate.owner, method, path).status_code for path in paths for method in ("GET", "POST")}
    assert 200 in statuses


def test_it_knows_the_routes_that_there_are():
    assert {"/api-keys/<uuid:pk>", "/proxy-api-keys/<uuid:id>", "/usage/requests/<uuid:id>"} <= set(WITH_PARAMETERS)
    assert {"/api-keys", "/proxy-api-keys", "/usage/requests", "/usage/summary", "/auth/me"} <= set(PLAIN)
