import base64
import re
import uuid
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import keys
from accounts.keys import Peppers, mint, parse
from accounts.keyset import KeysetError

USER = uuid.UUID(int=7)
OLD, NEW = b"o" * 32, b"n" * 32


def test_it_mints_what_a_scanner_can_find():
    assert re.fullmatch(r"sk-proxy-[0-9A-Za-z]{48}", mint().key)


def test_it_mints_a_key_that_names_its_id():
    minted = mint()
    assert parse(minted.key) == minted.key_id == minted.key[9:17]


def test_it_never_mints_the_same_key_twice():
    assert len({mint().key for _ in range(500)}) == 500


def test_it_ends_a_key_with_the_crc32_of_all_before_in_base62():
    key, value = mint().key, 0
    for letter in key[-6:]:
        value = value * 62 + keys._ALPHABET.index(letter)
    assert value == zlib.crc32(key[:-6].encode())


def test_it_refuses_a_key_with_any_one_character_changed():
    key = mint().key
    for place in range(len(key)):
        other = "a" if key[place] != "a" else "b"
        assert parse(key[:place] + other + key[place + 1 :]) is None


@pytest.mark.parametrize(
    "spoil", [lambda k: k[:-1], lambda k: k + "\n", lambda k: k + "a", lambda k: " " + k, str.upper]
)
def test_it_refuses_another_shape(spoil):
    assert parse(spoil(mint().key)) is None


@given(st.text(max_size=80))
def test_it_refuses_any_text(text):
    assert parse(text) is None
    assert parse(keys.PREFIX + text) is None


def test_it_verifies_a_key_for_its_user_and_id_only():
    peppers, minted = Peppers({1: NEW}), mint()
    verifier = peppers.sign(minted.key_id, USER, minted.key)
    assert len(verifier) == 33
    assert peppers.verify(verifier, minted.key_id, USER, minted.key)
    assert not peppers.verify(verifier, minted.key_id, uuid.UUID(int=8), minted.key)
    assert not peppers.verify(verifier, "other-id", USER, minted.key)
    assert not peppers.verify(verifier, minted.key_id, USER, mint().key)


def test_it_tells_two_keys_apart_that_differ_in_their_last_character():
    peppers = Peppers({1: NEW})
    assert not peppers.verify(peppers.sign("id", USER, "x" * 56 + "a"), "id", USER, "x" * 56 + "b")


def test_it_does_not_mix_up_where_one_field_ends_and_the_next_begins():
    peppers = Peppers({1: NEW})
    assert peppers.sign("ab", USER, "c") != peppers.sign("a", USER, "bc")


def test_it_still_verifies_under_an_old_pepper_and_says_to_sign_anew():
    verifier = Peppers({1: OLD}).sign("id", USER, "key")
    rotated = Peppers({2: NEW, 1: OLD})
    assert rotated.verify(verifier, "id", USER, "key")
    assert not rotated.is_primary(verifier)
    assert rotated.is_primary(rotated.sign("id", USER, "key"))


@pytest.mark.parametrize("verifier", [b"", b"\x01", b"\x09" + b"0" * 32, b"\x01" + b"0" * 31])
def test_it_denies_a_verifier_that_is_missing_cut_or_of_an_unknown_pepper(verifier):
    assert not Peppers({1: NEW}).verify(verifier, "id", USER, "key")


def test_it_keeps_its_verifiers_readable_across_releases():
    """A fixed vector: changing the format would refuse every key in every database."""
    verifier = Peppers({5: bytes(range(32))}).sign("Ab3dEf9h", USER, "k" * 57)
    assert verifier.hex() == "05798ec519e63c11ad365a9c6d2d398372ed21f888a4ddd81b633d11b1c9ebd217"


def test_it_refuses_a_short_pepper():
    with pytest.raises(KeysetError, match="pepper 3 is shorter than 32 bytes"):
        Peppers({3: b"short"})


def test_it_reads_the_peppers_from_the_settings(settings):
    settings.AIPROXY_PEPPERS = f"4:{base64.b64encode(NEW).decode()}"
    assert Peppers.from_settings().sign("id", USER, "key") == Peppers({4: NEW}).sign("id", USER, "key")


def test_it_never_shows_a_minted_key_in_its_repr():
    minted = mint()
    assert minted.key not in repr(minted)
