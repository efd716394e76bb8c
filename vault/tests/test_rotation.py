import os
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Plan
from vault import canary, keyring, store
from vault.models import ApiKey
from vault.rewrap import Rewrap
from vault.secret import Secret
from vault.tests.conftest import keyset_entry, make_key


@pytest.fixture
def new_primary(settings):
    """`new_primary()` puts a new master key before the ones there are; `new_primary(drop=True)` in their place."""

    def change(*, drop: bool = False) -> int:
        key_id = max(keyring.current().keys) + 1
        entry = keyset_entry(key_id)
        settings.AIPROXY_MASTER_KEYS = entry if drop else f"{entry},{settings.AIPROXY_MASTER_KEYS}"
        return key_id

    return change


@pytest.fixture
def keys(owner) -> dict:
    """Seven stored keys, by their rows' ids."""
    Plan.objects.update(max_api_keys=100)
    texts = [make_key() for _ in range(7)]
    return {store.add(owner.id, "openai", text[-8:], Secret(text)).pk: text for text in texts}


def opened() -> dict:
    return {row.pk: row.unseal().reveal() for row in ApiKey.objects.all()}


def test_it_puts_all_rows_under_the_primary(keys, new_primary, capsys) -> None:
    key_id = new_primary()
    call_command("rotate_master_key", "--batch", "2")
    assert keyring.ids_in_use() == [key_id]
    assert opened() == keys
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == ["2 re-wrapped", "4 re-wrapped", "6 re-wrapped", "7 re-wrapped"]
    assert told[4:] == [f"master key {key_id}: 7 API keys", f"7 API keys re-wrapped under master key {key_id}."]


def test_the_old_key_can_be_dropped_afterwards(keys, new_primary, settings) -> None:
    new_primary()
    call_command("rotate_master_key")
    settings.AIPROXY_MASTER_KEYS = settings.AIPROXY_MASTER_KEYS.partition(",")[0]
    assert canary.problems() == []
    assert opened() == keys


def test_it_gives_every_row_a_new_salt_and_nonce(keys, new_primary) -> None:
    before = {(row.encrypted_key, bytes(row.iv)) for row in ApiKey.objects.all()}
    new_primary()
    call_command("rotate_master_key")
    assert not before & {(row.encrypted_key, bytes(row.iv)) for row in ApiKey.objects.all()}


def test_a_second_run_finds_nothing_to_do(keys, new_primary, capsys) -> None:
    new_primary()
    call_command("rotate_master_key")
    capsys.readouterr()
    call_command("rotate_master_key")
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 API keys re-wrapped")


def test_a_dry_run_opens_everything_and_writes_nothing(keys, new_primary, capsys) -> None:
    before = list(ApiKey.objects.values())
    new_primary()
    call_command("rotate_master_key", "--dry-run")
    assert list(ApiKey.objects.values()) == before
    assert "7 API keys to be re-wrapped under master key 2." in capsys.readouterr().out


def test_it_needs_rows_in_a_batch(db) -> None:
    with pytest.raises(CommandError, match="at least 1"):
        call_command("rotate_master_key", "--batch", "0")


def test_a_row_that_does_not_open_is_named_and_the_others_go_on(keys, new_primary, capsys) -> None:
    broken = ApiKey.objects.all()[3]
    ApiKey.objects.filter(pk=broken.pk).update(encrypted_key="AAAA")
    new_primary()
    with pytest.raises(CommandError, match=r"6 API keys re-wrapped .*; 1 do not open"):
        call_command("rotate_master_key", "--batch", "2")
    assert str(broken.pk) in capsys.readouterr().err
    assert ApiKey.objects.filter(master_key_id=2).count() == 6
    assert ApiKey.objects.get(pk=broken.pk).encrypted_key == "AAAA"


def test_a_missing_old_key_is_told_and_nothing_is_lost(keys, new_primary) -> None:
    before = list(ApiKey.objects.values())
    new_primary(drop=True)
    with pytest.raises(CommandError, match="7 do not open"):
        call_command("rotate_master_key")
    assert list(ApiKey.objects.values()) == before


def test_a_run_that_was_left_is_taken_up_by_the_next(keys, new_primary) -> None:
    new_primary()
    first = Rewrap(keyring.current(), batch=2).run()
    assert next(first) == 2
    first.close()
    assert ApiKey.objects.filter(master_key_id=2).count() == 2
    assert list(Rewrap(keyring.current(), batch=10).run()) == [5]
    assert opened() == keys


@pytest.mark.parametrize("replaced_under", ["old", "new"])
def test_a_key_replaced_meanwhile_is_not_overwritten(owner, keys, new_primary, replaced_under) -> None:
    read = list(ApiKey.objects.all())
    replaced, deleted, fresh = read[0].pk, read[1].pk, make_key()
    if replaced_under == "new":
        new_primary()
    store.change(owner.id, replaced, Secret(fresh))
    store.remove(owner.id, deleted)
    if replaced_under == "old":
        new_primary()
    rewrap = Rewrap(keyring.current(), batch=10)
    rewrap._run_batch(read)
    assert rewrap.done == 5
    expected = keys | {replaced: fresh}
    del expected[deleted]
    assert opened() == expected


def test_what_an_old_process_wrote_behind_it_is_done_too(owner, keys, new_primary, settings) -> None:
    old = settings.AIPROXY_MASTER_KEYS
    new_primary()
    rewrap, both = Rewrap(keyring.current(), batch=2), settings.AIPROXY_MASTER_KEYS
    run = rewrap.run()
    next(run)
    settings.AIPROXY_MASTER_KEYS = old
    store.change(owner.id, min(keys), Secret(make_key()))
    settings.AIPROXY_MASTER_KEYS = both
    assert list(run)[-1] == rewrap.done == 8
    assert keyring.ids_in_use() == [2]


class Traffic(threading.Thread):
    """Does something again and again in the background; `failure` is what went wrong."""

    def __init__(self, work) -> None:
        super().__init__()
        self.work, self.stop, self.failure = work, threading.Event(), None
        self.turned = threading.Event()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.work()
                self.turned.set()
        except Exception as failure:
            self.failure = failure
        finally:
            connection.close()

    def __enter__(self) -> "Traffic":
        self.start()
        assert self.turned.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.turned.clear()
        assert self.turned.wait(20)
        self.stop.set()
        self.join()
        assert self.failure is None


@pytest.mark.django_db(transaction=True)
def test_every_key_opens_at_every_moment_of_it(owner, keys, new_primary) -> None:
    last = dict(keys)

    def read() -> None:
        assert set(opened()) == set(keys)

    def write() -> None:
        for pk in list(keys)[:3]:
            last[pk] = make_key()
            store.change(owner.id, pk, Secret(last[pk]))

    with Traffic(read), Traffic(write):
        new_primary()
        call_command("rotate_master_key", "--batch", "1", verbosity=0)
    call_command("rotate_master_key", verbosity=0)
    assert opened() == last
    assert keyring.ids_in_use() == [2]


def process_environment() -> dict[str, str]:
    """This run's settings and test database, for a process of its own."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        url = urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))
    master_keys = django_settings.AIPROXY_MASTER_KEYS
    return {**os.environ, "DATABASE_URL": url, "AIPROXY_MASTER_KEYS": master_keys, "PYTHONUNBUFFERED": "1"}


@pytest.mark.django_db(transaction=True)
def test_a_killed_process_leaves_nothing_to_clean_up(owner, keys, new_primary) -> None:
    for number in range(80):
        store.add(owner.id, "openai", str(number), Secret(make_key()))
    expected = opened()
    new_primary()
    command = [sys.executable, "manage.py", "rotate_master_key", "--batch", "1"]
    process = subprocess.Popen(
        command, cwd=django_settings.BASE_DIR, env=process_environment(), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        while process.stdout.readline() != "3 re-wrapped\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    left = ApiKey.objects.filter(master_key_id=1).count()
    assert 0 < left <= 84
    assert opened() == expected
    call_command("rotate_master_key", verbosity=0)
    assert keyring.ids_in_use() == [2]
    assert opened() == expected
