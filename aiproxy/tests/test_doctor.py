import base64
import secrets
import socket
import ssl
import threading
from importlib import import_module
from io import StringIO

import pytest
import trustme
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from accounts.models import ProxyKey
from aiproxy import diagnosis
from usage import disk, partitions
from usage.models import TotalDay
from vault.models import ApiKey

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def installation(settings, tmp_path):
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    settings.REDIS_URL = ""
    (tmp_path / "journal").mkdir()
    return tmp_path


def found(check):
    return {finding.level: finding for finding in check()}


def examined(**options):
    out = StringIO()
    try:
        call_command("doctor", stdout=out, no_color=True, **options)
    except CommandError as error:
        return str(error), out.getvalue()
    return "", out.getvalue()


def test_it_finds_nothing_wrong():
    error, out = examined()
    assert error == ""
    assert "Nothing is broken" in out
    for subject in ("settings", "database", "keys", "redis", "journal"):
        assert f"ok       {subject}" in out


def test_it_fails_and_explains_when_something_is_wrong(settings):
    settings.AIPROXY_CORS_ORIGINS = ["*"]
    error, out = examined()
    assert error == "1 errors, 0 warnings."
    assert "aiproxy.E008" in out
    assert "→ Write them as browsers send them" in out


def test_it_sees_pending_migrations():
    (newest,) = MigrationLoader(connection).graph.leaf_nodes("usage")
    MigrationRecorder(connection).record_unapplied(*newest)
    assert found(diagnosis.check_database)["error"].text == "1 migrations are pending"


@pytest.mark.postgres
def test_it_sees_missing_partitions():
    month = partitions.attached(connection)[-1]
    partitions.drop(connection, month)
    assert found(diagnosis.check_database)["warning"].text == f"no partition for {month:%Y-%m}"


def test_it_sees_that_the_audit_log_is_not_guarded():
    migration = import_module("audit.migrations.0002_append_only")
    (undo, name) = {
        "postgresql": ("ALTER TABLE audit_events DISABLE TRIGGER audit_events_kept", "audit_events_kept"),
        "sqlite": (migration.SQLITE_UNDO[0], "audit_events_not_changed"),
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(undo)
    finding = found(diagnosis.check_database)["error"]
    assert finding.text == f"the audit log is not guarded: no trigger {name}"


def test_it_sees_sums_that_do_not_add_up():
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    TotalDay.objects.create(day=today, requests=1)
    assert (
        found(diagnosis.check_database)["error"].text
        == "usage_total_days: not the sums of usage_hours, in the last week"
    )


def test_it_goes_on_when_the_database_cannot_be_asked(monkeypatch):
    from django.db import OperationalError

    def away():
        raise OperationalError("connection refused\nfor postgres://me:hunter22@db/x")
        yield

    monkeypatch.setattr(diagnosis, "check_database", away)
    error, out = examined()
    assert error.startswith("1 errors")
    assert "error    database   could not be asked: connection refused\n" in out
    assert "ok       journal" in out


def test_it_sees_a_master_key_that_is_missing(owner):
    row = {"last4": "abcd", "fingerprint": b"f" * 32, "encrypted_key": "AA==", "iv": b"i" * 12}
    ApiKey.objects.create(user=owner, provider="openai", master_key_id=77, **row)
    assert "master key 77 is missing" in found(diagnosis.check_keys)["error"].text


def test_it_sees_a_pepper_that_is_missing(owner):
    ProxyKey.objects.create(user=owner, key_prefix="sk-proxy-aaaaaaaa", verifier=b"\x63" + b"v" * 32)
    assert found(diagnosis.check_keys)["error"].text.startswith("1 live proxy keys were signed by a pepper")


def test_it_asks_the_real_redis(settings):
    import os

    settings.REDIS_URL = os.environ["TEST_REDIS_URL"]
    assert [finding.level for finding in diagnosis.check_redis()] == ["ok", "ok"]


def test_it_says_that_redis_cannot_be_asked(settings):
    settings.REDIS_URL = "redis://:hunter22@127.0.0.1:1/0"
    error, out = examined()
    assert error.startswith("1 errors")
    assert "redis      could not be asked" in out
    assert "hunter22" not in out


@pytest.mark.parametrize(("theirs", "level"), [(1000.0, "ok"), (1009.0, "ok"), (990.0, "warning"), (1020.0, "warning")])
def test_it_measures_a_clock_against_the_time_it_took_to_ask(monkeypatch, theirs, level):
    monkeypatch.setattr(diagnosis.time, "time", lambda: 1005.0)
    assert diagnosis._skew("redis", 1000.0, theirs).level == level


def test_it_sees_a_network_file_system(monkeypatch, installation):
    monkeypatch.setattr(disk, "NETWORK", {disk.file_system(installation)})
    assert "network file system" in found(diagnosis.check_journal)["error"].text


def test_it_sees_a_disk_that_is_nearly_full(settings):
    settings.AIPROXY_JOURNAL_SEGMENT = 1 << 60
    assert found(diagnosis.check_journal)["error"].hint.startswith("Requests are refused")


def test_it_sees_a_journal_that_cannot_be_written(settings, installation):
    (installation / "file").touch()
    settings.AIPROXY_DATA_DIR = str(installation / "file")
    assert found(diagnosis.check_journal)["error"].text == "its directory cannot be written"


def test_it_sees_records_laid_aside_and_an_absent_shipper(installation):
    (installation / "journal" / "dead").mkdir()
    (installation / "journal" / "dead" / "x.sealed").touch()
    (installation / "journal" / "w-00000001.sealed").touch()
    texts = [finding.text for finding in diagnosis.check_journal() if finding.level == "warning"]
    assert texts[0].startswith("1 records were laid aside")
    assert texts[1] == "1 segments wait, and no shipper is running"


def point_all_at(settings, url):
    for provider in diagnosis.PROVIDERS.values():
        setattr(settings, provider.setting, url)


def test_it_reaches_providers_when_asked_to(settings):
    with socket.create_server(("127.0.0.1", 0)) as server:
        point_all_at(settings, f"http://127.0.0.1:{server.getsockname()[1]}/v1")
        error, out = examined(providers=True)
    assert error == ""
    assert "ok       providers  OpenAI: reached 127.0.0.1" in out


def test_it_says_which_provider_cannot_be_reached(settings):
    point_all_at(settings, "http://127.0.0.1:1")
    findings = list(diagnosis.check_providers())
    assert {finding.level for finding in findings} == {"error"}
    assert findings[0].text == "OpenAI: Connection refused"
    assert "AIPROXY_OPENAI_BASE_URL" in findings[0].hint


@pytest.fixture
def tls_provider(settings, tmp_path):
    """Shakes hands under a certificate of an authority of its own, whose root is the returned file."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "root.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for _ in diagnosis.PROVIDERS:
                client, _ = server.accept()
                try:
                    context.wrap_socket(client, server_side=True).close()
                except OSError:
                    client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        point_all_at(settings, f"https://127.0.0.1:{server.getsockname()[1]}")
        yield str(tmp_path / "root.pem")
        thread.join(30)


def test_it_verifies_certificates(tls_provider):
    findings = list(diagnosis.check_providers())
    assert {finding.level for finding in findings} == {"error"}


def test_it_trusts_the_roots_it_is_told_to(settings, tls_provider):
    settings.AIPROXY_UPSTREAM_CA_FILE = tls_provider
    assert {finding.level for finding in diagnosis.check_providers()} == {"ok"}


def test_it_never_prints_a_secret(settings):
    settings.AIPROXY_PEPPERS = pepper = f"1:{base64.b64encode(secrets.token_bytes(8)).decode()}"
    error, out = examined()
    assert error
    assert pepper[2:] not in out
