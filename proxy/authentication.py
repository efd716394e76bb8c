"""Owns who a client is: one resolver for every header a key may come in. Any doubt denies."""

import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from accounts import keys
from proxy.errors import BadRequest, Forbidden, Unauthenticated
from proxy.policy import Policy
from proxy.runtime import Runtime

_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The one key in `Authorization: Bearer`, `x-api-key` or `api-key`; two different ones are refused."""
    found: str | None = None
    for name, value in headers:
        if name not in _KEY_HEADERS:
            continue
        key = _bearer(value) if name == b"authorization" else value.decode("latin-1").strip()
        if found is not None and key != found:
            raise BadRequest("The request carries two different keys; send one.", code="ambiguous_credentials")
        found = key
    if not found:
        raise Unauthenticated("No proxy key: send one as 'Authorization: Bearer sk-proxy-…'.", code="missing_api_key")
    return found


def _bearer(value: bytes) -> str:
    scheme, _, key = value.decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("The Authorization header must read 'Bearer sk-proxy-…'.")
    return key.strip()


class Identity(NamedTuple):
    """A client that has shown a proxy key, with what that key may do."""

    key: str
    address: str
    policy: Policy

    def __repr__(self) -> str:
        return f"Identity({self.policy.key_id}…)"


async def authenticate(runtime: Runtime, headers: Iterable[tuple[bytes, bytes]], address: str) -> Identity:
    """Unauthenticated, Forbidden, BadRequest; Unavailable when nobody can tell."""
    key = presented_key(headers)
    key_id = keys.parse(key)
    if key_id is None:
        raise Unauthenticated("This is not a proxy key: one begins with 'sk-proxy-' and is 57 characters long.")
    policy = runtime.policies.known(key_id) or await runtime.policies.load(key_id)
    try:
        return Identity(key, address, check(runtime, policy, key, address))
    except (Unauthenticated, Forbidden):
        # What is refused never comes to the admission, which compares the epochs: ask whether it still holds.
        if policy is None or not _is_of(runtime, policy, key) or await runtime.policies.is_current(policy):
            raise
    policy = await runtime.policies.load(key_id)
    return Identity(key, address, check(runtime, policy, key, address))


def check(runtime: Runtime, policy: Policy | None, key: str, address: str) -> Policy:
    """Denies unless this policy is of this very key, usable, and may be used from this address."""
    if policy is None or not _is_of(runtime, policy, key):
        raise Unauthenticated("The proxy key is wrong.")
    if not policy.usable:
        raise Unauthenticated("The proxy key is revoked.")
    if policy.expires_at <= time.time():
        raise Unauthenticated("The proxy key has expired.")
    if not policy.may_proxy:
        raise Forbidden(
            "Verify your e-mail address first: POST /auth/verification sends a link.", code="email_not_verified"
        )
    if policy.networks and not _inside(policy, address):
        raise Forbidden(f"The proxy key may not be used from {address or 'here'}.", code="address_not_allowed")
    runtime.sign_anew(policy, key)
    return policy


def _is_of(runtime: Runtime, policy: Policy, key: str) -> bool:
    return runtime.peppers.verify(policy.verifier, policy.key_id, policy.user_id, key)


def _inside(policy: Policy, address: str) -> bool:
    try:
        client = ip_address(address)
    except ValueError:
        return False
    return any(client in network for network in policy.networks if client.version == network.version)
