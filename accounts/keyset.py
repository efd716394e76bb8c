"""Owns the text form of a set of keys, as settings carry it: `id:base64,id:base64`. Knows no setting and no purpose."""

import base64
import binascii

_LARGEST_ID = 255  # an id is one byte wherever it is stored


class KeysetError(ValueError):
    """The text is not a keyset. Says which entry is wrong, never what is in it."""


def parse_keyset(text: str) -> dict[int, bytes]:
    """The keys by id, in the order given; the first is the primary."""
    keys: dict[int, bytes] = {}
    for place, entry in enumerate(text.split(","), start=1):
        key_id, key = _parse_entry(entry.strip(), place)
        if key_id in keys:
            raise KeysetError(f"entry {place}: id {key_id} occurs twice")
        keys[key_id] = key
    return keys


def _parse_entry(entry: str, place: int) -> tuple[int, bytes]:
    if not entry:
        raise KeysetError(f"entry {place}: empty; expected id:base64")
    id_text, colon, encoded = entry.partition(":")
    if not colon:
        raise KeysetError(f"entry {place}: no colon; expected id:base64")
    if not (id_text.isascii() and id_text.isdigit() and len(id_text) <= 3 and 1 <= int(id_text) <= _LARGEST_ID):
        raise KeysetError(f"entry {place}: the id before the colon must be a number from 1 to {_LARGEST_ID}")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        # `from None`: the cause's text could quote the value
        raise KeysetError(f"entry {place}: what follows the colon is not base64") from None
    if not key:
        raise KeysetError(f"entry {place}: the key is empty")
    return int(id_text), key
