"""An operator stores a key for somebody; it comes by standard input and shows up nowhere."""

import io

import pytest
from django.core.management import CommandError, call_command

from vault.models import ApiKey
from vault.tests.conftest import make_key

pytestmark = pytest.mark.django_db


@pytest.fixture
def give(monkeypatch, capsys):
    """`give(text, *arguments)`: the command with this on its standard input; what it printed."""

    def give(text, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        call_command("add_api_key", *arguments)
        return capsys.readouterr().out

    return give


def test_it_stores_a_key_and_does_not_repeat_it(owner, give):
    key = make_key()
    said = give(f"{key}\n", owner.email, "openai", "--label", "main", "--priority", "5")
    row = ApiKey.objects.get(user=owner)
    assert (row.label, row.priority, row.unseal().reveal()) == ("main", 5, key)
    assert key not in said


def test_it_asks_the_provider_if_told_to(owner, give, provider):
    assert "Its provider takes it." in give(make_key(), owner.email, "openai", "--test")
    provider.answer(401, b"{}")
    with pytest.raises(CommandError, match="Its provider refuses it"):
        give(make_key(), owner.email, "openai", "--label", "other", "--test")


@pytest.mark.parametrize(
    ("key", "said"), [("", "8 to 512"), ("x y", "has no spaces"), ("sk-proxy-" + "a" * 48, "of this service")]
)
def test_it_stores_nothing_that_cannot_be_a_key(owner, give, key, said):
    with pytest.raises(CommandError, match=said):
        give(key, owner.email, "openai")
    assert not ApiKey.objects.exists()


def test_it_says_that_a_key_is_stored_already(owner, give):
    key = make_key()
    give(key, owner.email, "openai")
    with pytest.raises(CommandError, match="already"):
        give(key, owner.email, "openai", "--label", "again")


@pytest.mark.parametrize(
    ("option", "value"), [("label", "x" * 81), ("label", "two\nlines"), ("priority", "-1"), ("priority", "32768")]
)
def test_it_holds_an_operator_to_the_same_rules(owner, give, option, value):
    with pytest.raises(CommandError, match=f"--{option}: "):
        give(make_key(), owner.email, "openai", f"--{option}={value}")
    assert not ApiKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_it_says_that_the_workers_were_not_told(owner, give, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # nothing listens there
    with pytest.raises(CommandError, match="the workers were not told"):
        give(make_key(), owner.email, "openai")
