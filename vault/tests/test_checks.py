import base64
import secrets

import pytest
import trustme
from django.core.checks import registry

from vault import checks
from vault.tests.conftest import keyset_entry

ALL = [
    checks.check_master_keys,
    checks.check_fingerprint_key,
    checks.check_secrets_differ,
    checks.check_base_urls,
    checks.check_way_out,
]


def found() -> dict[str, str]:
    return {message.id: f"{message.msg} {message.hint}" for check in ALL for message in check(app_configs=None)}


def test_django_runs_them_all() -> None:
    assert {getattr(check, "__name__", "") for check in ALL} <= {
        check.__name__ for check in registry.registry.get_checks()
    }


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_good_settings_pass() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("", "vault.E001"),
        ("  ", "vault.E001"),
        ("changeme", "vault.E002"),
        ("1:not-base64!", "vault.E002"),
        (f"1:{encoded(bytes(range(31)))}", "vault.E003"),
        (f"1:{encoded(bytes(32))}", "vault.E004"),
        (f"1:{encoded(b'changeme-changeme-32-characters!')}", "vault.E004"),
    ],
)
def test_it_refuses_a_bad_master_key(settings, text, id) -> None:
    settings.AIPROXY_MASTER_KEYS = text
    assert list(found()) == [id]
    assert "AIPROXY_MASTER_KEYS" in found()[id]


def test_it_refuses_one_master_key_under_two_ids(settings) -> None:
    key = encoded(secrets.token_bytes(32))
    settings.AIPROXY_MASTER_KEYS = f"1:{key},2:{key}"
    assert list(found()) == ["vault.E005"]


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("", "vault.E006"),
        ("short", "vault.E007"),
        ("x" * 40, "vault.E008"),
        ("changeme" + "0123456789" * 4, "vault.E008"),
    ],
)
def test_it_refuses_a_bad_fingerprint_key(settings, text, id) -> None:
    settings.AIPROXY_FINGERPRINT_KEY = text
    assert list(found()) == [id]


@pytest.mark.parametrize("setting", ["SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_FINGERPRINT_KEY"])
def test_it_refuses_a_master_key_that_serves_elsewhere_too(settings, setting) -> None:
    setattr(settings, setting, settings.AIPROXY_MASTER_KEYS.partition(":")[2])
    assert list(found()) == ["vault.E009"]
    assert setting in found()["vault.E009"]
    assert "AIPROXY_MASTER_KEYS" in found()["vault.E009"]


def test_it_refuses_a_master_key_that_is_a_pepper_too(settings) -> None:
    settings.AIPROXY_PEPPERS = f"{keyset_entry(1)},2:{settings.AIPROXY_MASTER_KEYS.partition(':')[2]}"
    assert list(found()) == ["vault.E009"]


def test_it_refuses_a_fingerprint_key_that_serves_elsewhere_too(settings) -> None:
    settings.AIPROXY_FINGERPRINT_KEY = settings.AIPROXY_JWT_KEY
    assert "AIPROXY_JWT_KEY" in found()["vault.E009"]


def test_it_sees_one_secret_in_two_notations(settings) -> None:
    settings.AIPROXY_FINGERPRINT_KEY = "fingerprint-key-" + secrets.token_hex(8)
    settings.AIPROXY_JWT_KEY = encoded(settings.AIPROXY_FINGERPRINT_KEY.encode())
    assert list(found()) == ["vault.E009"]


def test_it_never_shows_a_value(settings) -> None:
    key = encoded(bytes(range(31)))
    settings.AIPROXY_MASTER_KEYS = f"1:{key}"
    settings.AIPROXY_FINGERPRINT_KEY = settings.SECRET_KEY = key
    assert found()
    assert key not in str(found())


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example.com/v1",
        "http://10.0.0.1/v1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "ftp://models.example.com",
        "models.example.com",
        "",
        "https://",
        "https:///v1",
        "https://user:word@models.example.com",
        "https://127.0.0.1#@models.example.com",
        "https://models.example.com/v1?key=1",
        "https://models.example.com/v1\n",
        "https://models.example.com:x/v1",
        "https://models.example.com:0/v1",
        "https://models.example\u3002com/v1",
        "https://models.example.com\\@other.example.com/",
    ],
)
def test_it_refuses_to_send_keys_to(settings, url) -> None:
    settings.AIPROXY_GOOGLE_BASE_URL = url
    assert list(found()) == ["vault.E010"]
    assert "AIPROXY_GOOGLE_BASE_URL" in found()["vault.E010"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1234", "http://[::1]:80/v1", "http://localhost:1", "https://a.example"]
)
def test_it_allows_https_and_loopback(settings, url) -> None:
    settings.AIPROXY_ALIBABA_BASE_URL = url
    assert found() == {}


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_it_refuses_trust_roots_that_cannot_be_loaded(settings, tmp_path, content) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    settings.AIPROXY_UPSTREAM_CA_FILE = str(file)
    assert list(found()) == ["vault.E011"]


def test_it_takes_trust_roots_in_pem(settings, tmp_path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings.AIPROXY_UPSTREAM_CA_FILE = str(tmp_path / "ca.pem")
    assert found() == {}


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "https://proxy:3128", "http://proxy", "http://me:word@proxy:3128", "socks5://p:1", "http://proxy:0",
     "http://proxy:99999"],
)  # fmt: skip
def test_it_refuses_what_is_no_http_proxy(settings, url) -> None:
    settings.AIPROXY_UPSTREAM_PROXY = url
    assert list(found()) == ["vault.E012"]
    settings.AIPROXY_UPSTREAM_PROXY = "http://proxy.example.com:3128"
    assert found() == {}
