import pytest

from accounts.keyset import KeysetError
from vault import canary, keyring
from vault.keyring import Keyring
from vault.models import ApiKey
from vault.tests.conftest import keyset_entry


def test_its_first_key_is_the_primary() -> None:
    keys = Keyring.from_text(f"{keyset_entry(7)},{keyset_entry(3)}")
    assert keys.primary == 7
    assert set(keys.keys) == {7, 3}


def test_it_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Keyring.from_text(keyset_entry(1)).keys[2] = bytes(32)  # type: ignore[index]


def test_it_does_not_show_its_keys() -> None:
    text = keyset_entry(1)
    assert text.partition(":")[2] not in repr(Keyring.from_text(text))
    assert repr(Keyring.from_text(text)) == "Keyring(primary=1)"


@pytest.mark.parametrize("length", [16, 31, 33, 64])
def test_it_refuses_a_key_that_is_not_32_bytes(length) -> None:
    with pytest.raises(KeysetError, match=f"master key 5 has {length} bytes"):
        Keyring({5: bytes(length)}, 5)


def test_it_refuses_an_empty_setting() -> None:
    with pytest.raises(KeysetError):
        Keyring.from_text("")


def test_it_refuses_a_primary_it_does_not_have() -> None:
    with pytest.raises(KeysetError, match="primary"):
        Keyring({5: bytes(32)}, 6)


def test_it_is_read_once_and_anew_when_the_setting_changes(settings) -> None:
    before = keyring.current()
    assert keyring.current() is before
    settings.AIPROXY_MASTER_KEYS = keyset_entry(9)
    assert keyring.current().primary == 9


@pytest.mark.django_db
def test_an_empty_vault_misses_nothing() -> None:
    assert canary.problems() == []


def test_it_names_the_master_keys_that_rows_need(stored, settings) -> None:
    stored()
    settings.AIPROXY_MASTER_KEYS = keyset_entry(2)
    stored()
    stored()
    settings.AIPROXY_MASTER_KEYS = keyset_entry(3)
    assert keyring.ids_in_use() == [1, 2]


def test_the_canary_says_which_master_key_is_missing(stored, settings) -> None:
    stored()
    settings.AIPROXY_MASTER_KEYS = keyset_entry(2)
    assert [problem.partition(":")[0] for problem in canary.problems()] == ["master key 1 is missing"]


def test_the_canary_says_which_master_key_is_another_one_now(stored, settings) -> None:
    stored()
    assert canary.problems() == []
    settings.AIPROXY_MASTER_KEYS = keyset_entry(1)
    assert "master key 1 does not open" in canary.problems()[0]


def test_one_damaged_row_does_not_silence_the_service(stored) -> None:
    stored()
    ApiKey.objects.filter(pk=stored().pk).update(encrypted_key="AAAA")
    assert canary.problems() == []


def test_the_canary_costs_a_few_queries_however_many_rows_there_are(stored, django_assert_num_queries) -> None:
    for _ in range(4):
        stored()
    with django_assert_num_queries(3):
        canary.problems()
