import pytest
from django.core.management import CommandError, call_command

from vault.models import ApiKey
from vault.tests.conftest import make_key


def test_it_tests_every_key_and_says_how_each_fared(stored, provider, teammate, capsys) -> None:
    keys = [make_key(), make_key()]
    stored(keys[0], label="mine")
    stored(keys[1], "anthropic", user=teammate)
    provider.answer(401, b'{"error": {"message": "no"}}')
    call_command("check_api_keys")
    told = capsys.readouterr().out
    assert "mine" in told
    assert teammate.email in told
    assert told.splitlines()[-1] == "2 API keys tested: 0 good, 2 refused, 0 unknown."
    assert not ApiKey.objects.filter(is_valid=True).exists()
    assert not any(key[:-4] in told for key in keys)


@pytest.mark.parametrize(
    ("options", "asked"),
    [(["--provider", "anthropic"], 1), (["--user", "TEAMMATE@example.com"], 2)],
)
def test_it_can_be_narrowed(stored, provider, teammate, options, asked) -> None:
    stored()
    stored(user=teammate)
    stored(provider="anthropic", user=teammate)
    call_command("check_api_keys", *options)
    assert len(provider.requests) == asked


def test_it_says_that_nobody_has_this_address(stored, provider) -> None:
    stored()
    with pytest.raises(CommandError, match="no user nobody@example.com"):
        call_command("check_api_keys", "--user", "nobody@example.com")
    with pytest.raises(CommandError, match="There is no user"):
        call_command("check_api_keys", "--user", "")
    assert provider.requests == []


def test_it_knows_its_providers(db) -> None:
    with pytest.raises(CommandError):
        call_command("check_api_keys", "--provider", "mistral")


def test_it_fails_on_a_refused_key_if_asked_to(stored, provider) -> None:
    stored()
    provider.answer(401, b'{"error": {"message": "no"}}')
    with pytest.raises(CommandError, match="0 good, 1 refused"):
        call_command("check_api_keys", "--fail")
