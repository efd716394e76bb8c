"""Requests that mean two things, or ask for more than they may, against the running service."""

import contextlib

import pytest

from proxy.tests.test_server_framing import REFUSED

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
ADMIN_PAGE = b"Log in | aiproxy"


def ask(exposed, data: bytes):
    """The one answer to these bytes; what cannot be sent any more is left."""
    with exposed.client() as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(data)
        return client.answer()


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_it_serves_no_request_that_hides_behind_an_ambiguous_one(exposed, data):
    smuggled = exposed.head("GET", "/v1/models")
    with exposed.client() as client:
        client.send(data + smuggled)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert client.is_closed()
    assert exposed.provider.requests == []


def test_it_serves_pipelined_requests_each_to_its_own_key(exposed):
    first = exposed.post(CHAT) + exposed.post(CHAT, key=exposed.other.key)
    with exposed.client() as client:
        client.send(first)
        assert [client.answer().status for _ in range(2)] == [200, 200]
    sent = [request.headers["authorization"] for request in exposed.provider.requests]
    assert [value.split("demo-")[1][:5] for value in sent] == ["perso", "other"]


def test_it_forgets_a_key_when_its_request_is_over(exposed):
    with exposed.client() as client:
        client.send(exposed.post(CHAT) + exposed.post(CHAT, key=""))
        assert [client.answer().status for _ in range(2)] == [200, 401]
    assert len(exposed.provider.requests) == 1


def test_it_survives_who_pipelines_and_leaves(exposed):
    for _ in range(50):
        with exposed.client() as client:
            client.send(exposed.post(CHAT) * 3)
    assert exposed.is_well()


@pytest.mark.parametrize("padding", [0, 100_000, 2_000_000])
def test_it_never_reads_a_refused_body_as_a_request(exposed, padding):
    body = exposed.head("GET", "/v1/models") + b" " * padding
    with exposed.client() as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(exposed.post(body, key=""))
        answer = client.answer()
        assert answer.status == 401
        if answer.headers.get("connection") == "close":
            assert client.is_closed()
        else:
            assert client.send(exposed.post(CHAT)).answer().status == 200
    assert {request.method for request in exposed.provider.requests} <= {"POST"}


@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.0, HTTP/1.1"])
def test_it_ignores_an_upgrade_and_forwards_the_body(exposed, offer):
    settings = {"upgrade": offer, "connection": "Upgrade, HTTP2-Settings", "http2_settings": "AAMAAABkAAQAAP__"}
    assert ask(exposed, exposed.post(CHAT, **settings)).status == 200
    (request,) = exposed.provider.requests
    assert request.body == CHAT
    assert not {"upgrade", "http2-settings"} & set(request.headers)


@pytest.mark.parametrize("number", [10_000, 100_000])
@pytest.mark.parametrize("field", [b"X: 1\r\n", b"Cookie: a=b\r\n"])
def test_it_refuses_floods_of_fields(exposed, number, field):
    answer = ask(exposed, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + field * number + b"\r\n")
    assert (answer.status, answer.headers["connection"]) == (431, "close")
    assert exposed.is_well()


@pytest.mark.parametrize("path", ["/v1/models", "/admin/", "/health"])
@pytest.mark.parametrize(
    "host",
    [
        *("a?/x", "a#", "a/admin/", "127.0.0.1/admin/", "admin@127.0.0.1", "127.0.0.1:80:80", "127.0.0.1:8x", "[::1"),
        *("a b", "a,b", "127.0.0.1\\@a", "", "a\tb", "http://127.0.0.1", "%31", "a;b", "é"),
    ],
)
def test_it_refuses_a_host_that_is_none(exposed, host, path):
    data = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {exposed.person.key}\r\n\r\n"
    assert ask(exposed, data.encode("latin-1")).status == 400
    assert exposed.provider.requests == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", "xlocalhost"])
def test_it_shows_no_page_to_a_foreign_host(exposed, host):
    answer = ask(exposed, f"GET /admin/login/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.status == 400
    assert ADMIN_PAGE not in answer.body


def test_it_does_show_the_page_to_its_own_host(exposed):
    """Else the promises about hosts and paths would hold for a page that nobody gets."""
    assert ADMIN_PAGE in ask(exposed, exposed.head("GET", "/admin/login/", key="")).body


@pytest.mark.parametrize(
    "name", ["x_forwarded_host", "x_original_url", "x_rewrite_url", "forwarded", "x_forwarded_path", "x_http_method"]
)
def test_it_lets_no_field_say_what_is_asked_for(exposed, name):
    told = exposed.post(CHAT, **{name: "host=evil.example" if name == "forwarded" else "/admin/login/"})
    assert ask(exposed, told).status == 200
    (request,) = exposed.provider.requests
    own = f"127.0.0.1:{exposed.provider.inner.port}"
    assert (request.target, request.headers["host"]) == ("/v1/chat/completions", own)


def test_it_refuses_an_absolute_target_of_another_host(exposed):
    target = f"http://127.0.0.1:{exposed.trap.port}/v1/models"
    assert ask(exposed, exposed.head("GET", target)).status == 400
    assert (exposed.provider.requests, exposed.trap.bitten) == ([], 0)


TRAVERSALS = [
    *("/v1/../admin/login/", "/v1/..%2fadmin/login/", "/v1/%2e%2e/admin/login/", "/v1/models/../../admin/login/"),
    *("/v1/models/..%2f..%2fx", "/v1/models/%2e%2e%2fx", "/v1/models/%252e%252e%252f", "/v1/models/openai/..%2fx"),
    *("//evil.example/v1/models", "/v1//evil.example/", "/v1/models//evil.example", "/v1/models/@evil.example"),
    *("/v1/models/openai/@evil.example", "/v1/models/openai//evil.example", "/v1/models/http:%2f%2fevil.example"),
    *("/v1/models/openai/http:%2f%2fevil.example/", "/v1/models/gpt-4o%23@evil", "/v1/models/gpt-4o%3fa=b"),
    *("/v1/models/gpt-4o%5c..%5cx", "/v1/models/gpt-4o%0d%0ax:%20y", "/v1/models/gpt-4o%00", "/v1/models/gpt-4o%20b"),
    *("/v1/models/gpt-4o;x", "/v1/models/gpt-4o%c0%afx", "/v1/models/%e2%80%ae", "/v1/chat/completions/../models"),
    *("/V1/models", "/v1/models/", "/v1/models/" + "a" * 300, "/v1", "/v1/", "/v1/;/admin/", "/v1%2fmodels"),
]


@pytest.mark.parametrize("target", TRAVERSALS)
def test_it_goes_nowhere_else_whatever_the_path(exposed, target):
    answer = ask(exposed, exposed.head("GET", target))
    assert ADMIN_PAGE not in answer.body
    assert answer.status in {200, 400, 404, 405, 503}  # 503: this provider gives no list of models
    for request in exposed.provider.requests:
        assert request.target == "/v1/models"
        assert request.headers["host"] == f"127.0.0.1:{exposed.provider.inner.port}"


def test_it_forwards_no_query(exposed):
    told = exposed.post(CHAT, path="/v1/chat/completions?key=a&url=http://evil.example/&alt=sse")
    assert ask(exposed, told).status == 200
    assert exposed.provider.requests[0].target == "/v1/chat/completions"
