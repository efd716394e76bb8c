"""Owns the form of a proxy key: how one is minted, recognised and verified. Importing it needs no database.

`sk-proxy-` + 48 base62 characters: 8 id, 34 secret (about 202 bits), 6 CRC32 of all before. The CRC lets garbage and
typing mistakes be refused offline; it is no secret. What is checked on every request is the verifier, an HMAC under a
pepper that the database does not hold; Argon2id (the slow hash at rest) is run only when a key is made.
"""

import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import msgspec

from accounts.keyset import KeysetError, parse_keyset

if TYPE_CHECKING:
    from accounts.models import ProxyKey, User

PREFIX = "sk-proxy-"
ID_LENGTH, SECRET_LENGTH, CRC_LENGTH = 8, 34, 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_ID_END = len(PREFIX) + ID_LENGTH
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{ID_LENGTH + SECRET_LENGTH + CRC_LENGTH}}}")
_MIN_PEPPER = 32
_MOST_PROOFS = 50_000  # of a process


class PlanLimitReached(Exception):
    """The user's plan allows no more live proxy keys."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"Your plan allows {limit} live proxy keys: revoke one first, or ask for a larger plan.")


class KeyRevoked(Exception):
    """A revoked key stays as it was when it was revoked."""

    def __init__(self) -> None:
        super().__init__("This key is revoked, for good. Generate a new one.")


class AccountChanged(Exception):
    """The account was disabled, or its password changed, while the request ran."""


@dataclass(frozen=True, slots=True, repr=False)
class Minted:
    key: str
    key_id: str


def mint() -> Minted:
    """A new key; nobody else has it."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH + SECRET_LENGTH))
    body = PREFIX + random
    return Minted(key=body + _crc(body), key_id=random[:ID_LENGTH])


def parse(raw: str) -> str | None:
    """The key's id, when length, alphabet and CRC are right; says nothing about whether such a key exists."""
    if _SHAPE.fullmatch(raw) is None or _crc(raw[:-CRC_LENGTH]) != raw[-CRC_LENGTH:]:
        return None
    return raw[len(PREFIX) : _ID_END]


def _crc(text: str) -> str:
    rest, low = divmod(zlib.crc32(text.encode()), 3844)
    high, middle = divmod(rest, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


class Peppers:
    """The keys under which verifiers are made; the first signs, all verify."""

    __slots__ = ("_keys", "_primary")

    def __init__(self, keys: dict[int, bytes]) -> None:
        for key_id, key in keys.items():
            if len(key) < _MIN_PEPPER:
                raise KeysetError(f"pepper {key_id} is shorter than {_MIN_PEPPER} bytes")
        self._keys = dict(keys)
        self._primary = next(iter(keys))

    @classmethod
    def from_settings(cls) -> Self:
        from django.conf import settings

        return cls(parse_keyset(settings.AIPROXY_PEPPERS))

    def sign(self, key_id: str, user_id: UUID, key: str) -> bytes:
        """One byte of pepper id, then 32 bytes of HMAC-SHA256."""
        message = _message(key_id, user_id, key)
        return bytes((self._primary,)) + hmac.digest(self._keys[self._primary], message, "sha256")

    def verify(self, verifier: bytes, key_id: str, user_id: UUID, key: str) -> bool:
        """False also for a verifier that is empty, cut, or made under a pepper we do not have."""
        pepper = self._keys.get(verifier[0]) if verifier else None
        if pepper is None:
            return False
        return hmac.compare_digest(hmac.digest(pepper, _message(key_id, user_id, key), "sha256"), verifier[1:])

    def is_primary(self, verifier: bytes) -> bool:
        """False: the next use of the key should sign it anew."""
        return verifier[:1] == bytes((self._primary,))


class Proof(msgspec.Struct, frozen=True, gc=False):
    """Whose verifier a key was found to match."""

    key_id: str
    user_id: UUID
    verifier: bytes


class Proofs:
    """Which keys this process has verified, so that their next use costs one hash.

    It holds no key, only hashes under a secret of its own: they tell who reads them no more than the verifiers do.
    """

    __slots__ = ("_proofs", "_secret")

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._proofs: dict[bytes, Proof] = {}

    def find(self, key: str) -> Proof | None:
        return self._proofs.get(self._hash(key))

    def keep(self, key: str, proof: Proof) -> None:
        if len(self._proofs) >= _MOST_PROOFS:
            self._proofs.clear()
        self._proofs[self._hash(key)] = proof

    def _hash(self, key: str) -> bytes:
        return blake2b(key.encode(), key=self._secret, digest_size=32).digest()


def _message(key_id: str, user_id: UUID, key: str) -> bytes:
    id_bytes, user_bytes, key_bytes = key_id.encode(), user_id.bytes, key.encode()
    # each field behind its length: no two different triples give the same bytes
    return b"%c%b%c%b%c%b" % (len(id_bytes), id_bytes, len(user_bytes), user_bytes, len(key_bytes), key_bytes)


def issue(user: "User", **fields: Any) -> "tuple[ProxyKey, str]":
    """A new key of this user and its text, which nothing keeps.

    Raises PlanLimitReached, AccountChanged, HashingBusy.
    """
    from accounts.models import ProxyKey

    row = ProxyKey(user=user, **fields)
    return row, issue_row(row)


def issue_row(row: "ProxyKey") -> str:
    """Gives an unsaved row its key, saves it, and returns the key."""
    from accounts.hashers import check_key, hash_key

    row.user.check_room_for_proxy_key()  # before the slow hash; add_proxy_key() asks again, under a lock
    minted = mint()
    row.key_prefix = PREFIX + minted.key_id
    row.key_hash = hash_key(minted.key)
    row.verifier = Peppers.from_settings().sign(minted.key_id, row.user_id, minted.key)
    if not check_key(minted.key, row.key_hash):
        raise RuntimeError("a proxy key's hash does not match the key it was just made from")
    row.user.add_proxy_key(row)
    return minted.key
