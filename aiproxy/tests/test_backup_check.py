"""What an operator learns after a restore."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.ids import uuid7
from accounts.keys import issue
from accounts.models import User
from tests.environment import keyset
from usage.models import UsageHour
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.django_db


@pytest.fixture
def filled(owner):
    """Somebody with a stored key and a proxy key."""
    store.add(owner.pk, "openai", "main", Secret("demo-" + "k" * 30))
    issue(owner)
    return owner


def test_it_finds_a_restored_database_equal(filled, tmp_path, capsys):
    call_command("backup_check", write=tmp_path / "sums.json")
    assert json.loads((tmp_path / "sums.json").read_text())["api_keys"] == "1"
    call_command("backup_check", compare=tmp_path / "sums.json")
    assert "Every stored key opens" in capsys.readouterr().out


def test_it_says_what_is_missing(filled, tmp_path):
    call_command("backup_check", write=tmp_path / "sums.json")
    User.objects.create(email="later@example.com")
    with pytest.raises(CommandError, match="users: 1 in the backup, 2 here"):
        call_command("backup_check", compare=tmp_path / "sums.json")


@pytest.mark.parametrize("content", [None, "", "[]", "no JSON"])
def test_it_says_that_there_is_nothing_to_compare_with(filled, tmp_path, content):
    path = tmp_path / "sums.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CommandError, match=r"sums\.json (cannot be read|holds no sums)"):
        call_command("backup_check", compare=path)


def test_it_says_that_it_cannot_write(filled, tmp_path):
    with pytest.raises(CommandError, match="cannot be written: No such file"):
        call_command("backup_check", write=tmp_path / "nowhere" / "sums.json")


def test_it_tells_which_keys_do_not_open_without_their_master_key(filled, settings):
    settings.AIPROXY_MASTER_KEYS = keyset()
    with pytest.raises(CommandError, match=r"API key .* does not open: master key 1"):
        call_command("backup_check")


def test_it_tells_which_proxy_keys_have_lost_their_pepper(filled, settings):
    settings.AIPROXY_PEPPERS = keyset().replace("1:", "2:")
    with pytest.raises(CommandError, match=r"Proxy key sk-proxy-.* has no pepper 01"):
        call_command("backup_check")


def test_it_tells_which_sums_do_not_add_up():
    hour = {
        "user_id": uuid7(),
        "proxy_key_id": uuid7(),
        "hour": timezone.now().replace(minute=0, second=0, microsecond=0),
    }
    UsageHour.objects.create(**hour, requests=1)
    with pytest.raises(CommandError, match="usage_days does not add up"):
        call_command("backup_check")
