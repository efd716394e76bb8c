import logging
import re
import uuid

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import AllowAny
from rest_framework.test import APIClient

from aiproxy import errors, middleware

WHY = "SELECT secret_column FROM /var/lib/somewhere"


def away(request):
    raise OperationalError(WHY)


def cut(request):
    raise InterfaceError(WHY)


@api_view(["GET"])
@permission_classes([AllowAny])
def rest_away(request):
    raise OperationalError(WHY)


def broken(request):
    raise RuntimeError(WHY)


def where(request):
    return HttpResponse(f"{request.META.get('REMOTE_ADDR')} {request.scheme}")


urlpatterns = [
    path("away", away),
    path("cut", cut),
    path("rest-away", rest_away),
    path("broken", broken),
    path("where", where),
]
handler400, handler403 = "aiproxy.errors.bad_request", "aiproxy.errors.permission_denied"
handler404, handler500 = "aiproxy.errors.not_found", "aiproxy.errors.server_error"
here = pytest.mark.urls(__name__)


@pytest.fixture
def client():
    return Client(raise_request_exception=False)


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@here
@pytest.mark.parametrize("path", ["/away", "/cut", "/rest-away"])
def test_it_answers_503_while_the_database_is_away(client, path):
    response = client.get(path)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json() == {"detail": "The database cannot be reached. Try again in a few seconds."}


@here
def test_it_answers_a_browser_with_a_page_while_the_database_is_away(client):
    response = client.get("/away", headers=BROWSER)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.django_db
def test_it_answers_503_when_a_middleware_needs_the_absent_database(client, monkeypatch):
    """The session is read before the view: nobody may be told that they are signed out."""
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", lambda self: away(None))
    client.cookies["sessionid"] = "x" * 32
    response = client.get("/admin/")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


@here
@pytest.mark.parametrize(("path", "status"), [("/broken", 500), ("/nowhere-at-all", 404)])
def test_it_tells_programs_in_json_and_never_why(client, path, status):
    response = client.get(path)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert WHY not in response.text
    assert "nowhere" not in response.text


@here
@pytest.mark.parametrize(("path", "status"), [("/broken", 500), ("/nowhere-at-all", 404)])
def test_it_tells_browsers_on_a_plain_page_and_never_why(client, path, status):
    response = client.get(path, headers=BROWSER)
    assert response.status_code == status
    assert "<h1>" in response.text
    assert "Traceback" not in response.text
    assert WHY not in response.text
    assert "nowhere" not in response.text


def test_it_refuses_an_unknown_host_without_naming_settings(client):
    response = client.get("/", headers={"host": "evil.example.org"})
    assert response.json() == {"detail": "The request is malformed."}
    assert response.status_code == 400


@here
def test_it_names_every_request_in_the_answer(client):
    names = {client.get(path).headers["X-Request-Id"] for path in ("/where", "/away", "/broken", "/nowhere-at-all")}
    assert len({uuid.UUID(name) for name in names}) == 4


@here
def test_it_quotes_the_request_when_the_server_failed(client):
    response = client.get("/broken")
    assert response.headers["X-Request-Id"] in response.json()["detail"]


@here
def test_it_logs_why_under_the_same_request(client, caplog):
    from aiproxy.logs import Line

    with caplog.at_level(logging.ERROR):
        caplog.handler.setFormatter(Line())
        response = client.get("/broken")
    assert f"[{response.headers['X-Request-Id']}]" in caplog.text
    assert WHY in caplog.text


@here
def test_it_believes_nobody_by_default(client):
    spoof = {"x-forwarded-for": "198.51.100.1", "x-forwarded-proto": "https"}
    assert client.get("/where", headers=spoof).text == "127.0.0.1 http"


@here
def test_it_believes_a_trusted_proxy(client, settings):
    settings.AIPROXY_TRUSTED_PROXIES = ["127.0.0.0/8"]
    proxied = {"x-forwarded-for": "192.0.2.66, 198.51.100.1", "x-forwarded-proto": "https"}
    assert client.get("/where", headers=proxied).text == "198.51.100.1 https"


@here
def test_it_takes_the_scheme_that_the_last_proxy_wrote(client, settings):
    settings.AIPROXY_TRUSTED_PROXIES = ["127.0.0.1"]
    assert client.get("/where", headers={"x-forwarded-proto": "https, http"}).text == "127.0.0.1 http"


@here
def test_it_ignores_the_scheme_of_an_untrusted_peer(client, settings):
    settings.AIPROXY_TRUSTED_PROXIES = ["10.0.0.0/8"]
    assert client.get("/where", headers={"x-forwarded-proto": "https"}).text == "127.0.0.1 http"


@pytest.mark.parametrize("peer", [None, "", "testserver"])
def test_it_leaves_a_peer_without_an_address_alone(peer):
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_PROTO="https")
    if peer is None:
        del request.META["REMOTE_ADDR"]
    middleware.client_address(where)(request)
    assert request.META.get("REMOTE_ADDR") == peer
    assert request.scheme == "http"


def test_it_allows_no_inline_script(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy
    assert "unsafe-eval" not in policy


def test_it_serves_pages_that_keep_the_policy(client):
    for page in ("/", "/auth/session/login", "/nowhere"):
        text = client.get(page, headers=BROWSER).text
        assert re.findall(r"<script(?! type=\"module\" src=)", text) == []
        assert " style=" not in text
        assert " onclick=" not in text


@pytest.mark.django_db
def test_it_opens_a_session_by_email(owner):
    client = Client()
    response = client.post(
        "/auth/session/login", {"username": "OWNER@example.com", "password": "correct horse battery"}
    )
    assert (response.status_code, response.headers["Location"]) == (302, "/console/")
    assert client.get("/auth/me").json()["email"] == owner.email


@pytest.mark.django_db
def test_it_does_not_redirect_elsewhere_after_the_login(owner):
    form = {"username": owner.email, "password": "correct horse battery", "next": "https://evil.example.org/"}
    assert Client().post("/auth/session/login", form).headers["Location"] == "/console/"


@pytest.mark.django_db
@pytest.mark.parametrize("door", ["/auth/session/login", "/admin/login/"])
def test_it_locks_a_session_login_after_too_many_failures(owner, settings, door):
    """Whatever case the address is written in, and whichever door is tried."""
    settings.AXES_FAILURE_LIMIT = 2
    client = Client()
    for name in ("owner@example.com", "Owner@Example.com"):
        client.post(door, {"username": name, "password": "wrong wrong wrong"})
    response = client.post(door, {"username": owner.email, "password": "correct horse battery"})
    assert response.status_code == 429


@pytest.mark.django_db
def test_it_lists_the_endpoints_to_anybody():
    listed = APIClient().get("/api").json()
    assert listed["/api-keys"] == "http://testserver/api-keys"
    assert listed["/api-keys/<uuid:pk>"] is None


@pytest.mark.django_db
def test_it_shows_the_endpoints_to_a_browser():
    response = Client().get("/api", headers=BROWSER)
    assert response.status_code == 200
    assert "/auth/session/login?next=/api" in response.text


@pytest.mark.django_db
def test_it_answers_a_form_without_its_token_plainly(owner):
    response = Client(enforce_csrf_checks=True).post("/auth/session/login", {"username": owner.email})
    assert response.status_code == 403
    assert response.json() == {"detail": "The form has expired. Load the page again and repeat."}


def test_it_serves_static_files_whole_and_in_part(client):
    whole = client.get("/static/aiproxy/site.css")
    assert (whole.status_code, whole.headers["Content-Length"]) == (200, str(len(whole.content)))
    part = client.get("/static/aiproxy/site.css", headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    fresh = client.get("/static/aiproxy/site.css", headers={"if-none-match": whole.headers["ETag"]})
    assert (fresh.status_code, fresh.content) == (304, b"")
    assert "Access-Control-Allow-Origin" not in whole.headers


def test_it_allows_no_origin_by_default(client):
    response = client.get("/livez", headers={"origin": "https://app.example.org"})
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.django_db
def test_it_answers_a_preflight_of_a_listed_origin(client, settings):
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example.org"]
    ask = {"origin": "https://app.example.org", "access-control-request-method": "POST"}
    response = client.options("/api-keys", headers=ask)
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert "Access-Control-Allow-Credentials" not in response.headers
    other = client.options("/api-keys", headers={**ask, "origin": "https://evil.example.org"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_it_takes_a_pool_that_is_exhausted_for_an_absent_database():
    from psycopg import OperationalError as DriverError
    from psycopg_pool import PoolTimeout

    assert issubclass(PoolTimeout, DriverError)  # which Django raises as its own OperationalError
    assert errors.is_database_away(OperationalError())
    assert not errors.is_database_away(ValueError())


@pytest.mark.postgres
@pytest.mark.django_db
def test_it_asks_a_database_that_was_away_within_the_time_that_a_request_waits():
    from psycopg_pool.base import AttemptWithBackoff

    pool = connection.pool
    attempt, now = AttemptWithBackoff(timeout=pool.reconnect_timeout), 1.0
    while not attempt.time_to_give_up(now):
        attempt.update_delay(now)
        now += attempt.delay
        assert attempt.delay <= pool.timeout
