"""Owns what is refused at start about the vault's settings. Names settings and key ids, never a value."""

import base64
import binascii
import ipaddress
import re
import ssl
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured

from accounts.addresses import split_url
from accounts.keyset import KeysetError, parse_keyset
from vault.keyring import KEY_BYTES
from vault.providers import PROVIDERS

MIN_FINGERPRINT_KEY: Final = 32  # characters
_MASTER: Final = "AIPROXY_MASTER_KEYS"
_FINGERPRINT: Final = "AIPROXY_FINGERPRINT_KEY"
_OTHER_SECRETS: Final = ("SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_PEPPERS")
_EXAMPLES: Final = (b"example", b"changeme", b"change-me", b"change_me", b"insecure", b"secret", b"password")
_MAKE_KEYS: Final = "Generate one with `openssl rand -base64 32`, and write it after its id, as in `1:…`."
_MAKE_TEXT: Final = 'Generate one: `python -c "import secrets; print(secrets.token_urlsafe(48))"`.'


@register(Tags.security)
def check_master_keys(**_: Any) -> list[CheckMessage]:
    text = settings.AIPROXY_MASTER_KEYS
    if not text.strip():
        return [Error(f"{_MASTER} is not set: there is nothing to encrypt API keys with.", _MAKE_KEYS, id="vault.E001")]
    try:
        keys = parse_keyset(text)
    except KeysetError as error:
        return [Error(f"{_MASTER} cannot be read: {error}.", "It is `id:base64,id:base64`.", id="vault.E002")]
    found: list[CheckMessage] = []
    for key_id, key in keys.items():
        if len(key) != KEY_BYTES:
            message = f"{_MASTER}: key {key_id} has {len(key)} bytes; it needs exactly {KEY_BYTES}."
            found.append(Error(message, _MAKE_KEYS, id="vault.E003"))
        elif _is_example(key):
            message = f"{_MASTER}: key {key_id} is an example, not a random key."
            found.append(Error(message, _MAKE_KEYS, id="vault.E004"))
    for (one, key), (other, same) in combinations(keys.items(), 2):
        if key == same:
            message = f"{_MASTER}: keys {one} and {other} are the same key under two ids."
            found.append(Error(message, "A new id needs a new key.", id="vault.E005"))
    return found


@register(Tags.security)
def check_fingerprint_key(**_: Any) -> list[CheckMessage]:
    value = settings.AIPROXY_FINGERPRINT_KEY
    if not value:
        return [Error(f"{_FINGERPRINT} is not set.", _MAKE_TEXT, id="vault.E006")]
    if len(value) < MIN_FINGERPRINT_KEY:
        message = f"{_FINGERPRINT} has {len(value)} characters; it needs at least {MIN_FINGERPRINT_KEY}."
        return [Error(message, _MAKE_TEXT, id="vault.E007")]
    if _is_example(value.encode()):
        return [Error(f"{_FINGERPRINT} is an example, not a random key.", _MAKE_TEXT, id="vault.E008")]
    return []


@register(Tags.security)
def check_secrets_differ(**_: Any) -> list[CheckMessage]:
    """One key, one purpose: whoever learns one secret must not have learnt the vault's too."""
    master = _spellings(_MASTER)
    fingerprint = _spellings(_FINGERPRINT)
    pairs = [(_MASTER, master, _FINGERPRINT, fingerprint)]
    for name in _OTHER_SECRETS:
        other = _spellings(name)
        pairs += [(_MASTER, master, name, other), (_FINGERPRINT, fingerprint, name, other)]
    return [
        Error(f"{one} and {two} share a secret.", "Generate one for each purpose.", id="vault.E009")
        for one, values, two, others in pairs
        if values & others
    ]


@register(Tags.security)
def check_base_urls(**_: Any) -> list[CheckMessage]:
    hint = "For example https://gateway.example.com/v1; plain http is for loopback only."
    return [
        Error(f"{provider.setting} {wrong}.", hint, id="vault.E010")
        for provider in PROVIDERS.values()
        if (wrong := _wrong_with_url(getattr(settings, provider.setting)))
    ]


@register(Tags.security)
def check_way_out(**_: Any) -> list[CheckMessage]:
    """What lies between us and the providers: trust roots and proxy."""
    found: list[CheckMessage] = []
    if ca_file := settings.AIPROXY_UPSTREAM_CA_FILE:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_file)
        except OSError:  # ssl.SSLError is one
            message = "AIPROXY_UPSTREAM_CA_FILE cannot be read, or holds no certificate."
            found.append(Error(message, "It is a file of certificates in PEM.", id="vault.E011"))
    if (proxy := settings.AIPROXY_UPSTREAM_PROXY) and not _is_proxy(proxy):
        message = "AIPROXY_UPSTREAM_PROXY is not the address of an HTTP proxy."
        found.append(Error(message, "It is http://host:port, with no user name and no path.", id="vault.E012"))
    return found


def _wrong_with_url(url: str) -> str:
    """What keeps a URL from being sent keys; '' if nothing does."""
    try:
        parts = split_url(url)
        host = parts.hostname
    except ValueError:
        return "is not a URL"
    if not host or not url.isascii() or any(char <= " " for char in url) or "\\" in url:
        return "is not a URL with a host"
    if parts.username is not None or parts.query or parts.fragment or "?" in url or "#" in url:
        return "has a user name, a query or a fragment; it must be scheme, host and path only"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return ""
    return "is neither https nor on loopback: keys would travel in clear"


def _is_proxy(url: str) -> bool:
    try:
        return bool(split_url(url).port and re.fullmatch(r"http://[^\s/@?#\\]+:\d+/?", url))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_example(value: bytes) -> bool:
    """Placeholders, and what no random generator gives: 32 random bytes have fewer than 12 different ones never."""
    return len(set(value)) < 12 or any(word in value.lower() for word in _EXAMPLES)


def _spellings(setting: str) -> set[bytes]:
    """The setting's secrets, each as typed and as decoded, so that one key in two notations is still one."""
    try:
        text = getattr(settings, setting)
    except ImproperlyConfigured:  # Django's word for an empty SECRET_KEY
        return set()
    entries = [text, *(entry.partition(":")[2] for entry in text.split(",") if ":" in entry)]
    return {spelling for entry in entries for spelling in _decoded(entry.strip()) if spelling}


def _decoded(entry: str) -> Iterator[bytes]:
    raw = entry.encode()
    yield raw
    for alphabet in (None, b"-_"):
        try:
            yield base64.b64decode(raw, altchars=alphabet, validate=True)
        except binascii.Error:
            continue
