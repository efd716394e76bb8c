import base64
import os
import secrets
import subprocess
import sys

import pytest
from django.conf import settings as django_settings
from django.core.checks import run_checks

from aiproxy import checks, urls
from tests.environment import fresh_secrets
from usage import disk

KEYS = ["SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_FINGERPRINT_KEY", "AIPROXY_PEPPERS", "AIPROXY_MASTER_KEYS"]


def keyset(*keys):
    return ",".join(f"{number}:{base64.b64encode(key).decode()}" for number, key in enumerate(keys, start=1))


def ids(check):
    return [message.id for message in check()]


def said(message):
    return f"{message.msg} {message.hint}"


def test_it_finds_nothing_wrong_with_good_settings():
    assert run_checks(tags=["aiproxy", "security"]) == []


def test_it_accepts_what_openssl_and_python_make(settings):
    settings.SECRET_KEY = secrets.token_urlsafe(48)
    settings.AIPROXY_JWT_KEY = secrets.token_hex(32)
    settings.AIPROXY_PEPPERS = keyset(secrets.token_bytes(32), secrets.token_bytes(64))
    assert checks.check_text_secrets() + checks.check_peppers() + checks.check_secrets_differ() == []


@pytest.mark.parametrize("name", ["SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_METRICS_TOKEN"])
@pytest.mark.parametrize(
    ("value", "id"),
    [
        ("missing-abc", "aiproxy.E001"),
        ("x7" + "K3v9Qw" * 4, "aiproxy.E002"),
        ("changeme" + secrets.token_urlsafe(40), "aiproxy.E003"),
        ("django-insecure-" + secrets.token_urlsafe(40), "aiproxy.E003"),
        ("sk-1234" + secrets.token_urlsafe(40), "aiproxy.E003"),
        ("a" * 64, "aiproxy.E003"),
        ("0123456789abcdef" * 4, "aiproxy.E003"),
    ],
    ids=["missing", "short", "changeme", "insecure", "provider-key", "one-letter", "alphabet"],
)
def test_it_refuses_a_bad_text_secret_and_never_quotes_it(settings, name, value, id):
    setattr(settings, name, value)
    (message,) = checks.check_text_secrets()
    assert message.id == id
    assert message.msg.startswith(name)
    assert value not in said(message)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("", "aiproxy.E001"),
        (keyset(secrets.token_bytes(31)), "aiproxy.E002"),
        (keyset(b"changeme" + secrets.token_bytes(32)), "aiproxy.E003"),
        (keyset(bytes(32)), "aiproxy.E003"),
        ("1:not base64!", "aiproxy.E005"),
        ("no-colon", "aiproxy.E005"),
        ("300:" + base64.b64encode(secrets.token_bytes(32)).decode(), "aiproxy.E005"),
    ],
    ids=["missing", "short", "changeme", "zeros", "no-base64", "no-version", "high-version"],
)
def test_it_refuses_bad_peppers_and_never_quotes_them(settings, text, id):
    settings.AIPROXY_PEPPERS = text
    (message,) = checks.check_peppers()
    assert message.id == id
    assert text.partition(":")[2] == "" or text.partition(":")[2] not in said(message)


def notations(name, raw):
    text = base64.b64encode(raw).decode()
    return f"1:{text}" if name in ("AIPROXY_PEPPERS", "AIPROXY_MASTER_KEYS") else text


@pytest.mark.parametrize("one", KEYS)
@pytest.mark.parametrize("other", KEYS)
def test_it_refuses_the_same_secret_for_two_purposes(settings, one, other):
    if one >= other:
        return
    raw = secrets.token_bytes(32)
    for name, value in {**fresh_secrets(), one: notations(one, raw), other: notations(other, raw)}.items():
        setattr(settings, name, value)
    messages = [m for m in run_checks(tags=["security"]) if one in m.msg and other in m.msg]
    assert len(messages) == 1
    assert not any(notations(name, raw) in said(messages[0]) for name in (one, other))


def test_it_refuses_a_metrics_token_that_is_another_secret(settings):
    settings.AIPROXY_METRICS_TOKEN = settings.AIPROXY_JWT_KEY
    assert ids(checks.check_secrets_differ) == ["aiproxy.E004"]


def test_it_refuses_the_same_pepper_twice(settings):
    pepper = secrets.token_bytes(32)
    settings.AIPROXY_PEPPERS = keyset(pepper, pepper)
    (message,) = checks.check_secrets_differ()
    assert "AIPROXY_PEPPERS[1] and AIPROXY_PEPPERS[2]" in message.msg


def test_it_warns_of_a_wildcard_host(settings):
    settings.AIPROXY_HTTPS, settings.ALLOWED_HOSTS = True, ["*"]
    assert ids(checks.check_hosts) == ["aiproxy.W006"]
    settings.ALLOWED_HOSTS = [".example.org"]
    assert ids(checks.check_hosts) == []


@pytest.mark.parametrize("host", ["https://example.org", "example.org:80", "example.org.", "a b", "*.org", "::1"])
def test_it_refuses_a_host_that_no_request_can_name(settings, host):
    settings.ALLOWED_HOSTS = ["example.org", ".Example.org", "[::1]", "192.0.2.1", host]
    (message,) = checks.check_hosts()
    assert (message.id, "entry 5" in message.msg) == ("aiproxy.E026", True)


def test_it_warns_of_debug_beyond_this_machine(settings):
    settings.DEBUG, settings.ALLOWED_HOSTS = True, ["localhost", "127.0.0.1", "[::1]", "example.org"]
    assert ids(checks.check_hosts) == ["aiproxy.W009"]
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
    assert ids(checks.check_hosts) == []


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "proxy.example.org", "0.0.0.0/0", "::/0"])
def test_it_refuses_a_trusted_proxy_that_is_none(settings, entry):
    settings.AIPROXY_TRUSTED_PROXIES = ["192.0.2.0/24", entry]
    (message,) = checks.check_networks()
    assert (message.id, entry in message.msg) == ("aiproxy.E007", True)


@pytest.mark.parametrize("origin", ["https://a.example.org", "http://localhost:3000", "https://[2001:db8::1]:8443"])
def test_it_accepts_an_origin(settings, origin):
    settings.AIPROXY_CORS_ORIGINS = [origin]
    assert ids(checks.check_origins) == []


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "a.example.org", "https://a.example.org/", "https://*.example.org", "https://me@a.example.org",
     "https://A.example.org", "ftp://a.example.org", "https://a.example.org:99999", "https://a.example.org:0", "https://"],
)  # fmt: skip
def test_it_refuses_what_is_no_origin(settings, origin):
    settings.AIPROXY_CORS_ORIGINS = [origin]
    assert ids(checks.check_origins) == ["aiproxy.E008"]


def test_it_refuses_a_trusted_origin_that_no_form_could_come_from(settings):
    settings.CSRF_TRUSTED_ORIGINS = ["https://a.example.org", "https://*.example.org", "https://b.example.org/"]
    (message,) = checks.check_origins()
    assert message.msg == "CSRF_TRUSTED_ORIGINS: `https://b.example.org/` is no origin."


def test_it_points_at_a_typing_mistake(monkeypatch):
    monkeypatch.setenv("AIPROXY_METRIC_TOKEN", "x")
    (message,) = checks.check_names()
    assert (message.id, message.hint) == ("aiproxy.W010", "Did you mean AIPROXY_METRICS_TOKEN?")


def test_it_knows_settings_in_files_and_those_of_other_databases(monkeypatch):
    monkeypatch.setenv("AIPROXY_JWT_KEY_FILE", "/run/secrets/jwt")
    monkeypatch.setenv("AIPROXY_DB_POOL", "5")
    assert checks.check_names() == []


@pytest.mark.parametrize(
    "url", ["aiproxy.example.org", "https://:443", "https://aiproxy.example.org:0", "https://aiproxy.example.org:99999"]
)
def test_it_refuses_a_public_address_that_links_cannot_begin_with(settings, url):
    settings.AIPROXY_PUBLIC_URL = url
    assert ids(checks.check_own_names) == ["aiproxy.E023"]
    settings.AIPROXY_PUBLIC_URL = "https://aiproxy.example.org:8443/"
    assert ids(checks.check_own_names) == []


@pytest.mark.parametrize("name", ["two words", "a\nb", "\u00e4"])
def test_it_refuses_a_name_that_cannot_stand_in_via(settings, name):
    settings.AIPROXY_INSTANCE_ID = name
    assert ids(checks.check_own_names) == ["aiproxy.E024"]


PAGES = sorted({str(entry.pattern).partition("/")[0] for entry in urls.urlpatterns} - {"admin", ""})


@pytest.mark.parametrize("taken", PAGES)
def test_it_leaves_every_page_its_path(settings, taken):
    settings.AIPROXY_ADMIN_PATH = taken
    assert ids(checks.check_back_office) == ["aiproxy.E017"]


@pytest.mark.parametrize("name", ["file", "file/data", "x" * 300, "/proc", "/proc/data"])
def test_it_refuses_a_data_directory_that_cannot_be_written(settings, tmp_path, name):
    (tmp_path / "file").touch()
    settings.AIPROXY_DATA_DIR = str(tmp_path / name)
    assert ids(checks.check_data_directory) == ["aiproxy.E011"]


def test_it_refuses_a_journal_that_cannot_be_written(settings, tmp_path):
    (tmp_path / "journal").touch()
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    assert ids(checks.check_data_directory) == ["aiproxy.E011"]


def test_it_refuses_a_network_file_system(settings, tmp_path, monkeypatch):
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    monkeypatch.setattr(disk, "NETWORK", {disk.file_system(tmp_path)})
    assert ids(checks.check_data_directory) == ["aiproxy.E012"]


@pytest.mark.parametrize("name", ["with blank", "Größe", "\r", "a\rb c", "\f\u2028", "\udcff"])
def test_it_finds_the_innermost_mount(name, tmp_path):
    data = tmp_path / name / "data"
    data.mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    shared = str(tmp_path / name).replace(" ", r"\040")
    mounts.write_bytes(
        os.fsencode(f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {shared} rw shared:1 - nfs4 server:/x rw\n")
    )
    assert disk.file_system(data / "not" / "yet", mounts=mounts) == "nfs4"
    assert disk.file_system(tmp_path, mounts=mounts) == "ext4"
    assert disk.file_system(tmp_path, mounts=tmp_path / "absent") == ""


def test_it_warns_of_workers_that_cannot_share(settings, monkeypatch):
    settings.AIPROXY_WORKERS, settings.REDIS_URL = 2, ""
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    assert ids(checks.check_workers) == ["aiproxy.W014", "aiproxy.W015"]
    settings.REDIS_URL = "redis://127.0.0.1"
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")
    assert ids(checks.check_workers) == []


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("nonsense", 1),
        ("http://host", 1),
        ("redis://host:port/0", 1),
        ("redis://host/zero", 1),
        ("redis://host:0/1", 1),
        ("redis://host/1", 0),
        ("", 0),
    ],
)
def test_it_refuses_an_address_of_redis_that_its_readers_would_differ_on(settings, url, found):
    settings.REDIS_URL = url
    assert ids(checks.check_redis) == ["aiproxy.E025"] * found


@pytest.mark.parametrize("url", ["collector:4318", "http://collector:0", "http://collector:99999", "http://[::1"])
def test_it_refuses_a_collector_that_is_nowhere(settings, url):
    settings.AIPROXY_OTLP_ENDPOINT = url
    assert ids(checks.check_telemetry) == ["aiproxy.E021"]


def test_it_refuses_an_unknown_log_format_or_level(settings):
    settings.AIPROXY_LOG_FORMAT, settings.AIPROXY_LOG_LEVEL = "xml", "LOUD"
    assert ids(checks.check_logs) == ["aiproxy.E016", "aiproxy.E016"]


def manage(*command, **environment):
    base = {"PATH": os.environ["PATH"], "AIPROXY_ENV_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        env=base | environment,
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_refuses_to_start_without_secrets_and_names_each(tmp_path):
    result = manage("check", AIPROXY_DATA_DIR=str(tmp_path), AIPROXY_LOG_FORMAT="xml", AIPROXY_LOG_LEVEL="LOUD")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    for name in [*KEYS, "AIPROXY_LOG_FORMAT", "AIPROXY_LOG_LEVEL"]:
        assert name in result.stderr


def test_it_passes_deployment_checks_with_production_settings(tmp_path):
    """From files, with the newline that editors leave."""
    files = {}
    for name, value in fresh_secrets().items():
        (tmp_path / name).write_text(f"{value}\n")
        files[f"{name}_FILE"] = str(tmp_path / name)
    production = {"AIPROXY_HTTPS": "true", "ALLOWED_HOSTS": "example.org", "AIPROXY_DATA_DIR": str(tmp_path / "data")}
    result = manage("check", "--deploy", "--fail-level", "WARNING", **files, **production)
    assert result.returncode == 0, result.stderr
