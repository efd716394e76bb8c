"""Owns who a client is: one resolver for every header a key may come in. Any doubt denies."""

import time
from ipaddress import ip_address
from typing import NamedTuple

from accounts import keys
from proxy.errors import BadRequest, Forbidden, Unauthenticated
from proxy.incoming import Fields
from proxy.policy import Policy
from proxy.runtime import Runtime

_KEY_FIELDS = frozenset({b"authorization", b"x-api-key", b"api-key"})


def presented_key(fields: Fields) -> str:
    """The one key in `Authorization: Bearer`, `x-api-key` or `api-key`; two different ones are refused."""
    found: str | None = None
    for name in _KEY_FIELDS.intersection(fields):
        for value in fields.all(name):
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


async def authenticate(runtime: Runtime, fields: Fields, address: str) -> Identity:
    """Unauthenticated, Forbidden, BadRequest; Unavailable when nobody can tell."""
    key = presented_key(fields)
    proof = runtime.proofs.find(key)
    key_id = proof.key_id if proof is not None else keys.parse(key)
    if key_id is None:
        raise Unauthenticated("This is not a proxy key: one begins with 'sk-proxy-' and is 57 characters long.")
    policy = runtime.policies.known(key_id) or await runtime.policies.load(key_id)
    try:
        return Identity(key, address, check(runtime, policy, key, address, proof))
    except (Unauthenticated, Forbidden):
        # What is refused never comes to the admission, which compares the epochs: ask whether it still holds.
        if policy is None or not _is_of(runtime, policy, key, proof) or await runtime.policies.is_current(policy):
            raise
    policy = await runtime.policies.load(key_id)
    return Identity(key, address, check(runtime, policy, key, address))


def check(runtime: Runtime, policy: Policy | None, key: str, address: str, proof: keys.Proof | None = None) -> Policy:
    """Denies unless this policy is of this very key, usable, and may be used from this address."""
    if policy is None or not _is_of(runtime, policy, key, proof):
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
    return policy


def _is_of(runtime: Runtime, policy: Policy, key: str, proof: keys.Proof | None) -> bool:
    """`proof`: what is known of the key; it holds for a policy of the same verifier only."""
    return _proves(proof, policy) or _verify(runtime, policy, key)


def _proves(proof: keys.Proof | None, policy: Policy) -> bool:
    return (
        proof is not None
        and proof.verifier == policy.verifier
        and proof.user_id == policy.user_id
        and proof.key_id == policy.key_id
    )


def _verify(runtime: Runtime, policy: Policy, key: str) -> bool:
    if not runtime.peppers.verify(policy.verifier, policy.key_id, policy.user_id, key):
        return False
    runtime.proofs.keep(key, keys.Proof(policy.key_id, policy.user_id, policy.verifier))
    runtime.sign_anew(policy, key)
    return True


def _inside(policy: Policy, address: str) -> bool:
    try:
        client = ip_address(address)
    except ValueError:
        return False
    return any(client in network for network in policy.networks if client.version == network.version)
