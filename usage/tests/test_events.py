"""What the journal says about keys reaches their rows, once it is sure."""

import base64
import http.server
import secrets
import threading

import pytest
from django.test import override_settings

from accounts.ids import made_at, uuid7
from accounts.keys import issue
from usage.events import LastUsed
from usage.shipper import Shipper
from usage.tests.conftest import an_end, exchange
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.django_db


@pytest.fixture
def proxy_key(owner):
    return issue(owner)[0]


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def provider():
    """A provider on loopback that answers every call with `provider.status`, and counts them."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.status, server.asked = 401, 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with override_settings(AIPROXY_OPENAI_BASE_URL=f"http://127.0.0.1:{server.server_port}/v1"):
            yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api_key(owner):
    return store.add(owner.pk, "openai", "", Secret("sk-" + secrets.token_hex(24)))


def test_it_says_when_both_keys_were_last_used(journal, directory, proxy_key, api_key):
    exchange(journal, proxy_key_id=proxy_key.pk, api_key_id=api_key.pk)
    last = exchange(journal, proxy_key_id=proxy_key.pk, api_key_id=api_key.pk)

    Shipper(directory).run_once()
    proxy_key.refresh_from_db()
    api_key.refresh_from_db()
    assert proxy_key.last_used_at == api_key.last_used_at == made_at(last)


def test_it_never_sets_last_used_back(proxy_key):
    newer, older = uuid7(1_800_000_000_000), uuid7(1_700_000_000_000)
    for id in (newer, older):
        used = LastUsed()
        used.note(an_end(id, proxy_key_id=proxy_key.pk, api_key_id=None))
        used.write()

    proxy_key.refresh_from_db()
    assert proxy_key.last_used_at == made_at(newer)


def test_it_writes_a_busy_key_once_in_a_while(proxy_key, django_assert_num_queries):
    used = LastUsed(every=3600)
    used.note(an_end(proxy_key_id=proxy_key.pk, api_key_id=None))
    used.write()
    used.note(an_end(uuid7(1_900_000_000_000), proxy_key_id=proxy_key.pk, api_key_id=None))
    with django_assert_num_queries(0):
        used.write()

    used.write(everything=True)
    proxy_key.refresh_from_db()
    assert proxy_key.last_used_at.year == 2030


def test_it_marks_a_refused_key_invalid_once_its_provider_says_so_again(journal, directory, api_key, provider):
    for _ in range(3):
        journal.api_key_refused(api_key.pk, "401")

    Shipper(directory).run_once()
    api_key.refresh_from_db()
    assert (api_key.is_valid, provider.asked) == (False, 1)
    assert "401" in api_key.last_error
    api_key.user.refresh_from_db()
    assert api_key.user.epoch == 3


@pytest.mark.parametrize("status", [200, 403, 429, 503])
def test_it_leaves_a_key_alone_that_its_provider_does_not_refuse_again(journal, directory, api_key, provider, status):
    provider.status = status
    journal.api_key_refused(api_key.pk, "401")

    Shipper(directory).run_once()
    api_key.refresh_from_db()
    assert (api_key.is_valid, provider.asked) == (True, 1)


def test_it_does_not_ask_about_a_key_that_is_gone_or_known_to_be_bad(journal, directory, api_key, provider):
    type(api_key).objects.update(is_valid=False)
    journal.api_key_refused(api_key.pk, "401")
    journal.api_key_refused(uuid7(), "401")

    Shipper(directory).run_once()
    assert provider.asked == 0


@pytest.fixture
def turned(settings):
    """The pepper after the present one: a key is issued under the old, then it is turned."""
    old = settings.AIPROXY_PEPPERS
    settings.AIPROXY_PEPPERS = f"9:{base64.b64encode(secrets.token_bytes(32)).decode()},{old}"


def test_it_puts_a_new_signature_into_the_row_and_tells_the_workers(journal, directory, proxy_key, turned):
    new = b"\x09" + bytes(32)
    journal.key_resigned(proxy_key.pk, new)
    before = proxy_key.epoch

    Shipper(directory).run_once()
    proxy_key.refresh_from_db()
    assert (bytes(proxy_key.verifier), proxy_key.epoch) == (new, before + 1)


def test_it_signs_no_revoked_key_anew(journal, directory, proxy_key, turned):
    proxy_key.revoked_at = made_at(uuid7())
    proxy_key.save()
    journal.key_resigned(proxy_key.pk, b"\x09" + bytes(32))

    Shipper(directory).run_once()
    proxy_key.refresh_from_db()
    assert bytes(proxy_key.verifier)[0] == 1


def test_it_replaces_no_signature_by_the_present_pepper(journal, directory, proxy_key):
    before = bytes(proxy_key.verifier)
    journal.key_resigned(proxy_key.pk, b"\x01" + bytes(32))
    journal.key_resigned(proxy_key.pk, b"\x63" + bytes(32))

    Shipper(directory).run_once()
    proxy_key.refresh_from_db()
    assert bytes(proxy_key.verifier) == before
