"""Every page and endpoint of the control plane: made to fail, fed with SQL, and asked by people it cannot place."""

import ast
import itertools
from pathlib import Path

import pytest
from django.conf import settings as configured
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver
from rest_framework.views import APIView

from accounts import tokens
from accounts.ids import uuid7
from accounts.models import User
from aiproxy import pages

ROOT = Path(__file__).resolve().parent.parent
ROUTES = {route.path: route.pattern for route in pages.walk(get_resolver().url_patterns)}
PLAIN = [path for path, pattern in ROUTES.items() if not pattern.pattern.regex.groupindex]
LISTS = [path for path in PLAIN if path.startswith(("/admin/accounts/", "/admin/vault/", "/admin/usage/"))]
LISTS = [path for path in LISTS if path.count("/") == 4]
pytestmark = pytest.mark.django_db


def session_of(user) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def bearer_of(user) -> Client:
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {tokens.sign_in(user).token}"})


@pytest.fixture
def staff(owner) -> User:
    User.objects.filter(pk=owner.pk).update(is_staff=True, is_superuser=True)
    return User.objects.get(pk=owner.pk)


# --- What fails says nothing -------------------------------------------------------------------------------------

SECRETS = ["SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_FINGERPRINT_KEY", "AIPROXY_PEPPERS", "AIPROXY_MASTER_KEYS"]
TELLING = [
    "Traceback",
    "SELECT secret FROM",
    str(ROOT),
    "canary",
    ".py",
    "settings.",
    "sqlite",
    "RuntimeError",
    "DEBUG",
]


def explode(*args, **kwargs):
    raise RuntimeError(f"canary: SELECT secret FROM accounts; {configured.SECRET_KEY} {ROOT}/accounts/api.py")


# Answered before any view is: by the middleware, or only with a token.
PROBES = {"/health", "/livez", "/readyz", "/metrics"}


def assert_tells_nothing(response, *, telling=TELLING):
    body = response.getvalue().decode(errors="replace")
    for word in [*telling, *(getattr(configured, name) for name in SECRETS)]:
        assert word not in body, word


@pytest.mark.parametrize("path", PLAIN)
def test_a_view_that_fails_says_nothing(path, staff, monkeypatch):
    monkeypatch.setattr(ROUTES[path], "callback", explode)
    monkeypatch.setattr(APIView, "initial", explode)
    for client, accept in itertools.product((session_of(staff), bearer_of(staff)), ("application/json", "text/html")):
        response = client.get(path, headers={"accept": accept})
        assert response.status_code == 500 or path in PROBES
        assert_tells_nothing(response)


def test_an_endpoint_that_fails_inside_says_nothing(staff, monkeypatch):
    """Behind the framework's own handler of exceptions, which knows many kinds."""
    paths = [path for path in PLAIN if hasattr(ROUTES[path].callback, "view_class")]
    monkeypatch.setattr(APIView, "initial", explode)
    statuses = [bearer_of(staff).get(path).status_code for path in paths]
    assert 500 in statuses
    for path in paths:
        assert_tells_nothing(bearer_of(staff).get(path))


def test_a_broken_database_says_nothing(staff, monkeypatch):
    client = bearer_of(staff)

    def broken(*args, **kwargs):
        raise DatabaseError("canary: SELECT secret FROM accounts")

    monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", broken)
    for path in ("/api-keys", "/proxy-api-keys", "/usage/requests", "/usage/summary", "/usage/series", "/auth/me"):
        response = client.get(path)
        assert response.status_code >= 500
        assert_tells_nothing(response)


def test_debugging_shows_no_secret(staff, monkeypatch, settings):
    """A developer sees tracebacks; still no key is on the page, whatever its setting is called."""
    settings.DEBUG = True
    monkeypatch.setattr(APIView, "initial", lambda *args, **kwargs: 1 // 0)
    token = tokens.sign_in(staff).token
    for accept in ("text/html", "text/plain"):
        headers = {"accept": accept, "authorization": f"Bearer {token}"}
        response = Client(raise_request_exception=False).get("/api-keys", headers=headers)
        assert response.status_code == 500
        assert_tells_nothing(response, telling=[token])


# --- Authentication that fails itself denies ---------------------------------------------------------------------

CHECKS = [
    "rest_framework_simplejwt.authentication.JWTAuthentication.get_validated_token",
    "rest_framework_simplejwt.authentication.JWTAuthentication.get_user",
    "rest_framework_simplejwt.tokens.Token.verify",
    "rest_framework_simplejwt.backends.TokenBackend.decode",
    "accounts.authentication.TokenAuthentication.get_raw_token",
    "accounts.tokens.user_of",
    "accounts.tokens.is_going_on",
    "accounts.tokens._family",
    "jwt.api_jwt.PyJWT.decode_complete",
    "jwt.algorithms.HMACAlgorithm.verify",
]
FAULTS = [RuntimeError, TypeError, KeyError, ValueError, OperationalError, MemoryError, PermissionError]


@pytest.mark.parametrize("check", CHECKS)
def test_it_lets_nobody_in_when_a_check_fails_itself(check, owner, monkeypatch):
    client = bearer_of(owner)
    assert client.get("/api-keys").status_code == 200
    for fault in FAULTS:

        def broken(*args, fault=fault, **kwargs):
            raise fault("canary")

        monkeypatch.setattr(check, broken)
        for path in ("/api-keys", "/auth/me", "/usage/requests"):
            response = client.get(path)
            assert response.status_code in {401, 403, 500, 503}, f"{fault.__name__}: {response.status_code}"
            assert owner.email not in response.content.decode()


@pytest.mark.parametrize("nothing", [None, (), False, 0, ""])
def test_it_lets_nobody_in_when_a_check_returns_nothing(nothing, owner, monkeypatch):
    client = bearer_of(owner)
    monkeypatch.setattr("accounts.authentication.TokenAuthentication.authenticate", lambda *args: nothing)
    for path in ("/api-keys", "/auth/me", "/usage/requests"):
        assert client.get(path).status_code in {401, 403, 500}


# --- SQL in every parameter --------------------------------------------------------------------------------------

INJECTIONS = [
    "'",
    '"',
    "' OR '1'='1",
    "1 OR 1=1",
    "'; DROP TABLE users; --",
    "1) UNION SELECT password_hash FROM users --",
    "' AND pg_sleep(10) --",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "%00",
    "\0",
    "%' ESCAPE '\\",
    "\ud800",
    "\uff19" * 30,
    "9" * 400,
    "-1",
    "1e999",
    "nan",
    "../../etc/passwd",
    "[]",
    "user__password__startswith",
]
NAMES = ["_connector", "_negated", "order_by", "ordering", "o", "q", "p", "all", "e", "_popup", "_to_field", "group_by"]
NAMES += ["limit", "cursor", "from", "to", "model", "provider", "status", "outcome", "api_key", "proxy_key", "format"]
NAMES += ["id", "user__email", "user__password__startswith", "password__startswith", "key_hash__regex", "next", "field"]


def calm(response) -> bool:
    return response.status_code in {200, 301, 302, 400, 401, 403, 404, 405, 406, 429}


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("path", ["/api-keys", "/proxy-api-keys", "/usage/requests", "/usage/summary", "/usage/series"])
def test_it_takes_sql_for_text_in_every_parameter(path, staff):
    client, users = bearer_of(staff), User.objects.count()
    for name, text in itertools.product(NAMES, INJECTIONS[::3] if path.startswith("/usage") else INJECTIONS[::7]):
        assert calm(client.get(path, {name: encoded(text)})), f"{name}={text!r}"
    assert User.objects.count() == users


def test_it_takes_sql_for_text_in_all_parameters_of_every_page(staff):
    clients, users = (bearer_of(staff), session_of(staff)), User.objects.count()
    for path, text in itertools.product(PLAIN, INJECTIONS[::5]):
        response = clients[path.startswith("/admin/")].get(path, dict.fromkeys(NAMES, encoded(text)))
        assert calm(response), f"{path}: {text!r}"
    assert User.objects.count() == users


SEARCHED = ["q", "o", "p", "_connector", "password__startswith", "user__email", "is_active__exact", "created_at__gte"]


@pytest.mark.parametrize("path", LISTS)
def test_the_back_office_takes_sql_for_text_in_every_parameter(path, staff):
    client = session_of(staff)
    for name, text in itertools.product(SEARCHED, INJECTIONS[::7]):
        response = client.get(path, {name: encoded(text)})
        assert calm(response), f"{name}={text!r}: {response.status_code}"


@pytest.mark.parametrize(
    "query", ["created_at__year=9999", "created_at__year=99999999999999999999", "created_at__range=", "object_id=%00"]
)
def test_the_back_office_says_that_it_cannot_look_for_that(staff, query):
    assert session_of(staff).get(f"/admin/audit/event/?{query}", follow=True).status_code == 200
    assert session_of(staff).head(f"/admin/audit/event/?{query}", follow=True).status_code == 200


IMPOSSIBLE = ["created_at__gte=nonsense", "id__in=x", "id=%00", "created_at__year=" + "9" * 20, "created_at__range="]
IMPOSSIBLE += ["actor__regex=(", "actor__iregex=(a%2B)%2B%24", "e=1&id__in=x"]


@pytest.mark.parametrize("query", IMPOSSIBLE)
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_list_that_cannot_be_narrowed_so_is_shown_as_a_whole_and_says_it(staff, method, query):
    answer = getattr(session_of(staff), method)(f"/admin/audit/event/?{query}", follow=True)
    assert (answer.status_code, answer.redirect_chain) == (200, [("/admin/audit/event/?e=1", 302)])
    said = ["That cannot be looked for: this is the whole list."]
    assert [str(message).removesuffix(" Nothing was done.") for message in answer.context["messages"]] == said


def test_the_back_office_does_not_look_for_more_words_than_a_database_likes(staff):
    client, words = session_of(staff), "a+" * 2_000
    assert client.get(f"/admin/accounts/user/?q={words}", follow=True).redirect_chain
    choices = "/admin/autocomplete/?app_label=proxy&model_name=modelalias&field_name=user&term="
    assert [client.get(choices + term).status_code for term in ("a", words)] == [200, 400]


@pytest.mark.parametrize("query", ["created_at__year=" + "9" * 20, "email__regex=("])
def test_an_action_on_a_list_that_cannot_be_narrowed_so_does_nothing(staff, stranger, query):
    body = {"action": "enable", "index": "0", "select_across": "1", "_selected_action": stranger.pk}
    User.objects.filter(pk=stranger.pk).update(is_active=False)
    answer = session_of(staff).post(f"/admin/accounts/user/?{query}", body, follow=True)
    assert "Nothing was done." in answer.content.decode()
    assert not User.objects.get(pk=stranger.pk).is_active


@pytest.mark.parametrize(
    "page",
    [
        "accounts/plan/?epoch__range=1",
        "accounts/plan/?epoch__range=123",
        "axes/accesslog/?id__range=1",
        "accounts/proxykey/?allowed_models__contains=1",
    ],
)
def test_the_back_office_looks_for_nothing_that_the_database_cannot(staff, page):
    assert session_of(staff).get(f"/admin/{page}", follow=True).status_code == 200


@pytest.mark.parametrize("page", ["accounts/proxykey/add/?expires_at=x", "usage/price/add/?valid_from=x"])
def test_the_back_office_fills_in_no_form_by_a_link(page, staff):
    assert session_of(staff).get(f"/admin/{page}").status_code == 200


@pytest.mark.parametrize("page", ["change/", "delete/"])
def test_the_back_office_finds_no_row_by_a_field_without_a_name(staff, page):
    assert session_of(staff).get(f"/admin/accounts/user/{staff.pk}/{page}?_to_field=").status_code == 400


def test_the_back_office_makes_no_copy_of_a_row(staff):
    answer = session_of(staff).post("/admin/accounts/plan/free/change/", {"_saveasnew": "1", "name": "Free"})
    assert answer.status_code == 400


@pytest.mark.parametrize("id", ["1", "9" * 30, "x"])
def test_the_back_office_leads_to_no_page_of_a_row_elsewhere(staff, id):
    for kind in ContentType.objects.values_list("pk", flat=True):
        assert session_of(staff).get(f"/admin/r/{kind}/{id}/").status_code == 404


FIELDS = ["authorization", "x-api-key", "user-agent", "cookie", "x-forwarded-for", "x-request-id", "referer", "origin"]
FIELDS += [
    "accept",
    "accept-language",
    "content-type",
    "x-forwarded-proto",
    "if-none-match",
    "range",
    "via",
    "x-csrftoken",
]


@pytest.mark.parametrize("field", FIELDS)
def test_it_takes_sql_for_text_in_every_header(field, owner):
    client = Client(raise_request_exception=False)
    for text, path in itertools.product(INJECTIONS[::2], ("/api-keys", "/admin/login/")):
        value = f"Bearer {text}" if field == "authorization" else text
        value = value.encode("utf-8", "surrogatepass").decode("latin-1")
        assert calm(client.get(path, headers={field: value})), f"{field}: {text!r} at {path}"


@pytest.mark.parametrize(
    "path", ["/auth/login", "/auth/signup", "/auth/refresh", "/api-keys", "/proxy-api-keys/generate"]
)
def test_it_takes_sql_for_text_in_every_body(path, owner):
    client = bearer_of(owner)
    for text in INJECTIONS[::3]:
        for value in (text, [text], {text: text}, None, 10**400, True):
            body = dict.fromkeys(["email", "password", "refresh", "provider", "label", "key", "name"], value)
            response = client.post(path, body, content_type="application/json")
            assert response.status_code in {400, 401, 409, 415, 429}, f"{value!r}: {response.status_code}"


def test_no_query_is_put_together_from_text():
    """`extra`, `raw` and filters by somebody's names are not used; what is executed has its values apart."""
    found = []
    for path in ROOT.glob("*/**/*.py"):
        if {"tests", "migrations", ".venv", "benchmarks", "faults"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            formatted = name == "execute" and node.args and isinstance(node.args[0], ast.JoinedStr | ast.BinOp)
            if name in {"extra", "RawSQL"} or (name == "raw" and node.args) or formatted:
                found.append(f"{path.relative_to(ROOT)}:{name}")
    # What is put together there are names of tables and columns, from the module's own constants; values are apart.
    assert {place.partition(":")[0] for place in found} <= {"usage/bulk.py", "usage/partitions.py", "usage/queries.py"}


# --- Wildcards ---------------------------------------------------------------------------------------------------


def test_it_searches_the_log_by_no_pattern(staff):
    client, wild = session_of(staff), "%_" * 50
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get("/admin/usage/proxyrequest/", {"q": wild}).status_code == 200
        bearer_of(staff).get("/usage/requests", {"model": wild})
    assert not [
        query["sql"] for query in queries if "proxy_requests" in query["sql"] and "LIKE" in query["sql"].upper()
    ]


def test_a_wildcard_finds_only_itself(staff, stranger):
    User.objects.filter(pk=stranger.pk).update(name="100% me")
    client = session_of(staff)
    for text, found in (("%", 1), ("_", 0), ("%_" * 50, 0), ("100%", 1), ("s%r", 0), ("\\", 0)):
        page = client.get("/admin/accounts/user/", {"q": text})
        assert page.context["cl"].result_count == found, text


def test_an_unknown_object_is_404_and_not_an_error(staff):
    for path in LISTS:
        for id in (str(uuid7()), "0", "'", "%27", "a" * 300, "_5F"):
            assert calm(session_of(staff).get(f"{path}{id}/change/"))
