"""Owns how a provider key is encrypted: derivation, format, associated data. Knows no database, no network, no request.

A stored record is base64 of

    format (1 byte, 0x01) | salt (16) | commitment (32) | AES-256-GCM ciphertext and tag

with the 12-byte nonce beside it. The keys come about so (HKDF is RFC 5869):

    vault key              = HKDF-SHA256(master key, info "aiproxy/1/vault")
    data key | commitment  = HKDF-SHA512(vault key, salt, info "rec")

The commitment is compared before anything is decrypted: GCM alone lets one ciphertext open under two keys. Salt and
nonce are new on every write, so no key ever meets its limit of messages. The associated data bind the record to its
row, owner, provider, destination and master key; it opens nowhere else. What this cannot see: a whole row put back to
an older state.
"""

import binascii
import functools
import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from vault.keyring import Keyring
from vault.secret import Secret

FORMAT: Final = 1
NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16
_COMMITMENT_AT: Final = 1 + _SALT_BYTES
_CIPHERTEXT_AT: Final = _COMMITMENT_AT + 32


class Unsealable(Exception):
    """A stored key does not open. One error and one message for every reason, so that it is no oracle."""

    def __init__(self) -> None:
        super().__init__("a stored API key does not open")


@dataclass(frozen=True, slots=True)
class Context:
    """What a record is bound to. `base_url` is the row's own; '' is the provider's default."""

    row_id: UUID
    owner_id: UUID
    provider: str
    base_url: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: base64 text, nonce, and the id of the master key."""

    encrypted_key: str
    iv: bytes
    master_key_id: int


def seal(secret: Secret, context: Context, keyring: Keyring) -> Sealed:
    """Encrypts under the keyring's primary master key, with a new salt and nonce."""
    return _seal(secret, context, keyring, salt=os.urandom(_SALT_BYTES), nonce=os.urandom(NONCE_BYTES))


@dataclass(frozen=True, slots=True, repr=False)
class Unlocked:
    """A record whose form and commitment are right: all that opening it takes, ready for every use.

    It is worth no more to who reads this memory than the master key beside it. Plaintext is not kept.
    """

    data_key: AESGCM
    nonce: bytes
    ciphertext: bytes
    associated: bytes

    def open(self) -> Secret:
        """Decrypts for one use. Raises Unsealable."""
        try:
            return Secret(self.data_key.decrypt(self.nonce, self.ciphertext, self.associated).decode())
        except (InvalidTag, ValueError):
            raise Unsealable from None


def unseal(sealed: Sealed, context: Context, keyring: Keyring) -> Secret:
    """Decrypts for one use. Raises Unsealable, and nothing else, whatever is wrong with the record."""
    return unlock(sealed, context, keyring).open()


def unlock(sealed: Sealed, context: Context, keyring: Keyring) -> Unlocked:
    """What costs most of opening a record, once for many uses. Raises Unsealable, and nothing else."""
    try:
        record = binascii.a2b_base64(sealed.encrypted_key, strict_mode=True)
        nonce = bytes(memoryview(sealed.iv))
        master = keyring.keys[sealed.master_key_id]
        if record[0] != FORMAT or len(record) <= _CIPHERTEXT_AT + _TAG_BYTES or len(nonce) != NONCE_BYTES:
            raise Unsealable
        if _base64(record) != sealed.encrypted_key:  # base64 has spare bits; one record has one spelling
            raise Unsealable
        data_key, commitment = _record_keys(master, record[1:_COMMITMENT_AT])
        if not hmac.compare_digest(commitment, record[_COMMITMENT_AT:_CIPHERTEXT_AT]):
            raise Unsealable
        associated = _associated_data(context, sealed.master_key_id)
        return Unlocked(data_key, nonce, record[_CIPHERTEXT_AT:], associated)
    except (ValueError, TypeError, LookupError, AttributeError, struct.error):
        raise Unsealable from None


def fingerprint(key: Secret, owner_id: UUID, provider: str) -> bytes:
    """32 bytes that find the same key of the same owner again; keyed, so a stolen table answers no guesses."""
    message = b"".join(map(_prefixed, (owner_id.bytes, provider.encode(), key.reveal().encode())))
    return hmac.digest(settings.AIPROXY_FINGERPRINT_KEY.encode(), message, hashlib.sha256)


def _seal(secret: Secret, context: Context, keyring: Keyring, *, salt: bytes, nonce: bytes) -> Sealed:
    """As seal; salt and nonce are given only by the tests of the format."""
    plaintext = secret.reveal().encode()
    if not plaintext:
        raise ValueError("an empty key cannot be sealed")
    data_key, commitment = _record_keys(keyring.keys[keyring.primary], salt)
    ciphertext = data_key.encrypt(nonce, plaintext, _associated_data(context, keyring.primary))
    record = bytes([FORMAT]) + salt + commitment + ciphertext
    return Sealed(_base64(record), nonce, keyring.primary)


def _base64(record: bytes) -> str:
    return binascii.b2a_base64(record, newline=False).decode()


@functools.lru_cache(maxsize=256)
def _vault_key(master: bytes) -> bytes:
    """The master key's only use here: a key for this purpose."""
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"aiproxy/1/vault").derive(master)


def _record_keys(master: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
    """The data key, ready to use, and the commitment of one record: HKDF-SHA512 with info "rec" (RFC 5869).

    Its 64 bytes are one block, so that two HMACs are all of it.
    """
    pseudorandom_key = hmac.digest(salt, _vault_key(master), "sha512")
    derived = hmac.digest(pseudorandom_key, b"rec\x01", "sha512")
    return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]


# Each field after its length in 4 bytes, so that no two lists of fields give the same bytes. The first five:
# format, master key id, row, owner, provider's length.
_FIXED_FIELDS: Final = struct.Struct(">IB II I16s I16s I")


def _associated_data(context: Context, master_key_id: int) -> bytes:
    provider, base_url = context.provider.encode(), context.base_url.encode()
    row, owner = context.row_id.bytes, context.owner_id.bytes
    fixed = _FIXED_FIELDS.pack(1, FORMAT, 4, master_key_id, 16, row, 16, owner, len(provider))
    return fixed + provider + _prefixed(base_url)


def _prefixed(field: bytes) -> bytes:
    return len(field).to_bytes(4, "big") + field
