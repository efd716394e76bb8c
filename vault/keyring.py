"""Owns the master keys: which there are, which one encrypts, which one the stored rows need.

Only vault/crypto.py uses the bytes; nobody else reads AIPROXY_MASTER_KEYS, but for the system checks.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.signals import setting_changed

from accounts.keyset import KeysetError, parse_keyset

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Keyring:
    """Master keys by id (1 to 255), 32 bytes each; `primary` encrypts, the others still decrypt."""

    keys: Mapping[int, bytes] = field(repr=False)
    primary: int

    def __post_init__(self) -> None:
        if self.primary not in self.keys:
            raise KeysetError(f"the primary master key {self.primary} is not in the keyring")
        for key_id, key in self.keys.items():
            if len(key) != KEY_BYTES:
                raise KeysetError(f"master key {key_id} has {len(key)} bytes; it needs exactly {KEY_BYTES}")

    @classmethod
    def from_text(cls, text: str) -> "Keyring":
        """Reads `id:base64,id:base64`, the first being the primary. Raises KeysetError, which never quotes a key."""
        keys = parse_keyset(text)
        if not keys:
            raise KeysetError("there is no master key")
        return cls(MappingProxyType(keys), next(iter(keys)))


@functools.cache
def current() -> Keyring:
    """The keyring of this process, from the settings; read once."""
    return Keyring.from_text(settings.AIPROXY_MASTER_KEYS)


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "AIPROXY_MASTER_KEYS":
        current.cache_clear()


setting_changed.connect(_forget, dispatch_uid="vault.keyring")


def ids_in_use() -> list[int]:
    """The master key ids that stored rows name, ascending.

    One probe of the index per id: a DISTINCT would read the whole table, and readiness asks every few seconds.
    """
    rows = apps.get_model("vault", "ApiKey")._default_manager.order_by("master_key_id")
    found: list[int] = []
    last = -1
    while (key_id := rows.filter(master_key_id__gt=last).values_list("master_key_id", flat=True).first()) is not None:
        found.append(last := key_id)
    return found
