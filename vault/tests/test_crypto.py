import base64
import dataclasses
import json
import string
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.crypto import Context, Sealed, Unsealable, _seal, fingerprint, seal, unseal
from vault.keyring import Keyring
from vault.secret import Secret
from vault.tests.conftest import keyset_entry, make_key

ALPHABET = string.ascii_letters + string.digits + "+/"
VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
KEYS = Keyring.from_text(keyset_entry(1))
CONTEXT = Context(uuid4(), uuid4(), "openai", "")
KEY = make_key()[:-1]  # a record of this length leaves spare bits in its base64
SEALED = seal(Secret(KEY), CONTEXT, KEYS)
RECORD = base64.b64decode(SEALED.encrypted_key)


def changed(record: bytes) -> Sealed:
    return dataclasses.replace(SEALED, encrypted_key=base64.b64encode(record).decode())


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def read(vector: dict) -> tuple[Keyring, Context, Sealed]:
    keys = Keyring({vector["master_key_id"]: bytes.fromhex(vector["master_key"])}, vector["master_key_id"])
    context = Context(UUID(vector["row_id"]), UUID(vector["owner_id"]), vector["provider"], vector["base_url"])
    return keys, context, Sealed(vector["encrypted_key"], bytes.fromhex(vector["nonce"]), vector["master_key_id"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_it_seals_as_the_vectors_say(vector) -> None:
    keys, context, expected = read(vector)
    salt = bytes.fromhex(vector["salt"])
    assert _seal(Secret(vector["plaintext"]), context, keys, salt=salt, nonce=expected.iv) == expected


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_it_opens_the_vectors(vector) -> None:
    keys, context, sealed = read(vector)
    assert unseal(sealed, context, keys).reveal() == vector["plaintext"]


def test_it_never_seals_the_same_key_into_the_same_record() -> None:
    again = seal(Secret(KEY), CONTEXT, KEYS)
    assert again.iv != SEALED.iv
    assert again.encrypted_key != SEALED.encrypted_key


def test_it_does_not_contain_the_key() -> None:
    assert KEY.encode() not in RECORD


def test_it_refuses_a_flip_of_any_byte_of_the_record() -> None:
    for place in range(len(RECORD)):
        with pytest.raises(Unsealable):
            unseal(changed(flipped(RECORD, place)), CONTEXT, KEYS)


def test_it_refuses_a_flip_of_any_byte_of_the_nonce() -> None:
    for place in range(12):
        with pytest.raises(Unsealable):
            unseal(dataclasses.replace(SEALED, iv=flipped(SEALED.iv, place)), CONTEXT, KEYS)


def test_it_refuses_another_spelling_of_the_same_record() -> None:
    for place, char in enumerate(SEALED.encrypted_key):
        spare = ALPHABET if place >= len(SEALED.encrypted_key) - 2 else "AB/"
        for other in (*spare, "=", "\n", "é", ""):
            text = SEALED.encrypted_key[:place] + other + SEALED.encrypted_key[place + 1 :]
            if other != char:
                with pytest.raises(Unsealable):
                    unseal(dataclasses.replace(SEALED, encrypted_key=text), CONTEXT, KEYS)


def test_it_refuses_every_shorter_record() -> None:
    for length in range(len(RECORD)):
        with pytest.raises(Unsealable):
            unseal(changed(RECORD[:length]), CONTEXT, KEYS)


@pytest.mark.parametrize(
    "moved",
    [
        {"row_id": uuid4()},
        {"owner_id": uuid4()},
        {"provider": "alibaba"},
        {"base_url": "https://elsewhere.example.com/v1"},
        {"provider": "open", "base_url": "ai"},
        {"row_id": CONTEXT.owner_id, "owner_id": CONTEXT.row_id},
    ],
    ids=lambda moved: "+".join(moved),
)
def test_it_opens_only_where_it_was_sealed(moved) -> None:
    with pytest.raises(Unsealable):
        unseal(SEALED, dataclasses.replace(CONTEXT, **moved), KEYS)


def test_it_refuses_parts_of_two_records_put_together() -> None:
    other = base64.b64decode(seal(Secret(KEY), CONTEXT, KEYS).encrypted_key)
    for cut in (1, 17, 49, len(RECORD) - 16):
        with pytest.raises(Unsealable):
            unseal(changed(RECORD[:cut] + other[cut:]), CONTEXT, KEYS)


def test_it_refuses_another_master_key_under_the_same_id() -> None:
    with pytest.raises(Unsealable):
        unseal(SEALED, CONTEXT, Keyring.from_text(keyset_entry(1)))


def test_it_refuses_a_record_relabelled_with_another_id_of_the_same_key() -> None:
    twice = Keyring({1: KEYS.keys[1], 2: KEYS.keys[1]}, 1)
    with pytest.raises(Unsealable):
        unseal(dataclasses.replace(SEALED, master_key_id=2), CONTEXT, twice)


@pytest.mark.parametrize("field", ["encrypted_key", "iv", "master_key_id"])
@pytest.mark.parametrize("junk", [None, "", b"", 0, -1, 2**40, "x", b"x" * 12, "é" * 12, "AQ==", [], 1.5])
def test_it_has_one_error_for_junk(field, junk) -> None:
    with pytest.raises(Unsealable):
        unseal(dataclasses.replace(SEALED, **{field: junk}), CONTEXT, KEYS)


@given(text=st.text(), iv=st.binary(max_size=20), key_id=st.integers())
def test_it_has_one_error_for_anything(text, iv, key_id) -> None:
    with pytest.raises(Unsealable):
        unseal(Sealed(text, iv, key_id), CONTEXT, KEYS)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=512))
def test_it_gives_back_what_was_sealed(text) -> None:
    assert unseal(seal(Secret(text), CONTEXT, KEYS), CONTEXT, KEYS).reveal() == text


def test_its_errors_tell_nothing_apart() -> None:
    errors = set()
    for broken in (flipped(RECORD, 0), flipped(RECORD, 5), flipped(RECORD, 20), flipped(RECORD, 60), b""):
        with pytest.raises(Unsealable) as caught:
            unseal(changed(broken), CONTEXT, KEYS)
        errors.add(str(caught.value))
        assert caught.value.__cause__ is None
    assert len(errors) == 1


def test_it_opens_a_nonce_as_databases_give_it() -> None:
    assert unseal(dataclasses.replace(SEALED, iv=memoryview(SEALED.iv)), CONTEXT, KEYS).reveal() == KEY


def test_it_does_not_seal_an_empty_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        seal(Secret(""), CONTEXT, KEYS)


def test_a_fingerprint_finds_the_same_key_of_the_same_owner_only() -> None:
    owner, key = uuid4(), Secret(KEY)
    found = fingerprint(key, owner, "openai")
    assert found == fingerprint(Secret(KEY), owner, "openai")
    assert len({found, fingerprint(key, uuid4(), "openai"), fingerprint(key, owner, "alibaba")}) == 3


def test_a_fingerprint_depends_on_its_own_setting(settings) -> None:
    before = fingerprint(Secret(KEY), CONTEXT.owner_id, "openai")
    settings.AIPROXY_FINGERPRINT_KEY = "another" * 8
    assert fingerprint(Secret(KEY), CONTEXT.owner_id, "openai") != before


def test_a_fingerprint_cannot_be_shifted_between_fields() -> None:
    owner = uuid4()
    assert fingerprint(Secret("ibc"), owner, "al") != fingerprint(Secret("bc"), owner, "ali")
