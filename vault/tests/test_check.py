import gzip
import json
import select
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from accounts.models import User
from vault import check, store
from vault.check import check_api_key
from vault.models import ApiKey
from vault.secret import Secret
from vault.tests.conftest import make_key

KEY_INVALID = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def error(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("slug", "path", "header", "prefix"),
    [
        ("openai", "/v1/models", "authorization", "Bearer "),
        ("anthropic", "/v1/models", "x-api-key", ""),
        ("google", "/v1beta/models", "x-goog-api-key", ""),
        ("alibaba", "/compatible-mode/v1/models", "authorization", "Bearer "),
    ],
)
def test_it_lists_models_with_the_credential_and_nothing_else(stored, provider, slug, path, header, prefix) -> None:
    key = make_key()
    verdict = check_api_key(stored(key, slug))
    assert (verdict.valid, verdict.status, verdict.error) == (True, 200, "")
    [(asked, headers)] = provider.requests
    sent = {name.lower(): value for name, value in headers}
    assert asked == path
    assert sent[header] == prefix + key
    assert set(sent) - {"host", "anthropic-version"} == {header}


def test_it_writes_down_a_good_outcome(stored, provider) -> None:
    row = stored()
    ApiKey.objects.update(is_valid=False, last_error="before")
    check_api_key(row)
    row.refresh_from_db()
    assert (row.is_valid, row.last_error) == (True, "")
    assert row.last_tested_at is not None


def test_a_refused_key_is_marked_invalid_and_the_workers_are_told(owner, stored, provider) -> None:
    row = stored()
    before = User.objects.get(pk=owner.pk).epoch
    provider.answer(401, error("Incorrect API key provided"))
    assert check_api_key(row).valid is False
    row.refresh_from_db()
    assert (row.is_valid, row.last_error) == (False, "401: Incorrect API key provided")
    assert User.objects.get(pk=owner.pk).epoch == before + 1


def test_an_outcome_that_changes_nothing_disturbs_no_worker(owner, stored, provider) -> None:
    row = stored()
    before = User.objects.get(pk=owner.pk).epoch
    check_api_key(row)
    assert User.objects.get(pk=owner.pk).epoch == before


@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: b"[" + body + b"]"], ids=["object", "list"])
def test_googles_400_for_a_bad_key_counts_as_refused(stored, provider, wrap) -> None:
    provider.answer(400, wrap(error("API key not valid.", details=[{"@type": "other"}, KEY_INVALID])))
    assert check_api_key(stored(provider="google")).valid is False


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("bad request", details=[{"reason": "SOMETHING_ELSE"}])),
        (400, error("bad request", details={"reason": "API_KEY_INVALID"})),
        (401, error("You have insufficient permissions. Missing scopes: api.model.read.")),
        (402, error("pay first")),
        (403, error("not from your country")),
        (404, b""),
        (429, error("slow down")),
        (500, b"<html>"),
        (529, error("overloaded")),
        (204, b""),
        (302, b""),
    ],
)
def test_any_other_answer_leaves_the_key_as_it_was(stored, provider, status, body) -> None:
    row = stored()
    provider.answer(status, body)
    verdict = check_api_key(row)
    row.refresh_from_db()
    assert (verdict.valid, verdict.status) == (None, status)
    assert row.is_valid
    assert row.last_error == verdict.error != ""


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b'{"error": "text"}', b'{"error": {"message": 7}}', b"[" * 50_000, b"\xff\xfe"],
)
def test_it_takes_any_body_with_a_401(stored, provider, body) -> None:
    provider.answer(401, body)
    verdict = check_api_key(stored())
    assert (verdict.valid, verdict.error) == (False, "The provider answered 401.")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_it_never_follows_a_redirect(stored, provider, status) -> None:
    provider.answer(status, b"", location=provider.url + "/elsewhere")
    assert check_api_key(stored()).valid is None
    assert len(provider.requests) == 1


def test_it_reads_no_proxy_and_no_password_from_the_environment(stored, provider, monkeypatch, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(netrc))
    key = make_key()
    assert check_api_key(stored(key)).valid is True
    assert dict(provider.requests[0][1])["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    "echo",
    [
        lambda key: f"Incorrect API key provided: {key}.",
        lambda key: f"Incorrect key {key.upper()}",
        lambda key: f"It begins with {key[:12]} and ends with {key[-8:]}",
        lambda key: f"x{key}x{key}x",
    ],
)
def test_it_shows_no_part_of_a_key_that_the_provider_echoes(stored, provider, echo) -> None:
    key = make_key()
    provider.answer(401, error(echo(key)))
    row = stored(key)
    text = check_api_key(row).error.lower()
    row.refresh_from_db()
    assert row.last_error.lower() == text
    assert "***" in text
    assert not any(key[start : start + 6] in text for start in range(len(key) - 5))


def test_what_it_shows_is_one_short_line(stored, provider) -> None:
    provider.answer(403, error("no\r\n\0\tno " + "x" * 500))
    verdict = check_api_key(stored())
    assert verdict.error.startswith("403: no no xxx")
    assert len(verdict.error) == 200


def test_a_letter_that_grows_in_lower_case_cannot_shift_the_mask(stored, provider) -> None:
    key = make_key()
    provider.answer(401, error("İ" * 4 + key))
    assert check_api_key(stored(key)).error == "The provider refused in words that cannot be shown."


def test_it_reads_no_more_than_64_kib(stored, provider) -> None:
    provider.answer(403, b"x" * (64 << 20))
    assert check_api_key(stored()).error == "The provider answered 403."
    assert provider.cut.wait(5)
    assert provider.sent < 32 << 20


def test_it_does_not_unpack_what_it_gets(stored, provider) -> None:
    provider.answer(403, gzip.compress(error("x" * 10_000_000)), content_encoding="gzip")
    assert check_api_key(stored()).error == "The provider answered 403."


def test_a_provider_that_stalls_is_left(stored, provider, monkeypatch) -> None:
    monkeypatch.setattr(check, "TIMEOUT", 0.2)
    provider.stall.clear()
    verdict = check_api_key(stored())
    assert (verdict.valid, verdict.status) == (None, None)
    assert verdict.error == "The provider did not answer in time."


def test_a_provider_that_is_away_is_not_the_keys_fault(stored, settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings.AIPROXY_OPENAI_BASE_URL = f"http://127.0.0.1:{port}/v1"
    row = stored()
    verdict = check_api_key(row)
    assert verdict.valid is None
    assert verdict.error == "The provider could not be reached: no connection."
    assert str(port) not in verdict.error


def test_a_row_that_does_not_open_is_never_sent(stored, provider) -> None:
    row = stored()
    row.base_url = "https://elsewhere.example.com"
    verdict = check_api_key(row)
    assert verdict.valid is None
    assert "does not open" in verdict.error
    assert provider.requests == []


def test_a_verdict_does_not_stick_to_a_key_that_was_put_in_its_place(owner, stored, provider) -> None:
    row = stored()
    provider.answer(401, b"")
    replacement = Secret(make_key())
    stale = ApiKey.objects.get(pk=row.pk)
    store.change(owner.id, row.pk, replacement)
    assert check_api_key(stale).valid is False
    row.refresh_from_db()
    assert row.is_valid
    assert row.last_tested_at is None


@pytest.mark.parametrize("gone", [lambda row: row.delete(), lambda row: row.user.delete()])
def test_a_verdict_on_a_key_that_is_gone_meanwhile_is_told_and_written_nowhere(stored, provider, gone) -> None:
    row = stored()
    provider.answer(401, b"")
    stale = ApiKey.objects.get(pk=row.pk)
    gone(row)
    assert check_api_key(stale).valid is False
    assert not ApiKey.objects.exists()


@pytest.fixture
def https(provider, settings, tmp_path):
    """The provider behind TLS, with a certificate of a private authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    provider.server.socket = context.wrap_socket(provider.server.socket, server_side=True)
    settings.AIPROXY_OPENAI_BASE_URL = f"https://127.0.0.1:{provider.server.server_port}/v1"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def test_it_refuses_a_certificate_nobody_vouches_for(stored, provider, https) -> None:
    verdict = check_api_key(stored())
    assert verdict.valid is None
    assert "certificate is not trusted" in verdict.error
    assert provider.requests == []


def test_it_trusts_the_operators_authority(stored, provider, https, settings) -> None:
    settings.AIPROXY_UPSTREAM_CA_FILE = str(https)
    assert check_api_key(stored()).valid is True


class Tunnel(BaseHTTPRequestHandler):
    """An HTTP CONNECT proxy."""

    targets: list[str] = []

    def do_CONNECT(self) -> None:
        self.targets.append(self.path)
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            pairs = {self.connection: there, there: self.connection}
            while ready := select.select(list(pairs), [], [], 5)[0]:
                for side in ready:
                    if not (data := side.recv(65536)):
                        return
                    pairs[side].sendall(data)

    def log_message(self, *args: object) -> None:
        pass


def test_it_goes_out_through_the_operators_proxy(stored, provider, https, settings) -> None:
    settings.AIPROXY_UPSTREAM_CA_FILE = str(https)
    with ThreadingHTTPServer(("127.0.0.1", 0), Tunnel) as tunnel:
        tunnel.daemon_threads = True
        threading.Thread(target=tunnel.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        settings.AIPROXY_UPSTREAM_PROXY = f"http://127.0.0.1:{tunnel.server_port}"
        assert check_api_key(stored()).valid is True
        tunnel.shutdown()
    assert Tunnel.targets == [f"127.0.0.1:{provider.server.server_port}"]


class Closed(Tunnel):
    """One that lets nobody out."""

    targets: list[str] = []

    def do_CONNECT(self) -> None:
        self.targets.append(self.path)
        self.send_error(403)


def test_it_asks_in_the_region_of_the_key(owner, settings) -> None:
    url = "https://dashscope-us.aliyuncs.com/compatible-mode/v1"
    row = store.add(owner.id, "alibaba", "", Secret(make_key()), base_url=url)
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as closed:
        threading.Thread(target=closed.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        settings.AIPROXY_UPSTREAM_PROXY = f"http://127.0.0.1:{closed.server_port}"
        assert check_api_key(row).valid is None
        closed.shutdown()
    assert Closed.targets == ["dashscope-us.aliyuncs.com:443"]


def test_a_closed_way_out_is_not_the_keys_fault(stored, provider, https, settings) -> None:
    settings.AIPROXY_UPSTREAM_PROXY = provider.url  # speaks TLS, so it is no proxy
    assert check_api_key(stored()).valid is None
