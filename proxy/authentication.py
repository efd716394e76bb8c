"""Owns who a client is: one resolver for every header a key may come in. Any doubt denies."""

import time
from ipaddress import ip_address

from accounts import keys
from proxy.errors import BadRequest, Forbidden, Unauthenticated
from proxy.incoming import Caller, Fields
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


def recognise(runtime: Runtime, caller: Caller) -> Policy | None:
    """The policy of a caller whose key was verified before and may be used; None: `authenticate` says more.

    Unauthenticated and BadRequest for a head without a key, or with several.
    """
    proof = caller.proof
    if proof is None:
        caller.key = presented_key(caller.fields)
        proof = caller.proof = runtime.proofs.find(caller.key)
        if proof is None:
            return None
    policy = runtime.policies.known(proof.key_id)
    if policy is None:
        return None
    if policy is not caller.proven:
        if not _proves(proof, policy):
            return None
        caller.proven = policy
    return policy if _refusal(policy, caller.address) is None else None


async def authenticate(runtime: Runtime, caller: Caller) -> Policy:
    """Unauthenticated, Forbidden; Unavailable when nobody can tell."""
    key_id = caller.proof.key_id if caller.proof is not None else keys.parse(caller.key)
    if key_id is None:
        raise Unauthenticated("This is not a proxy key: one begins with 'sk-proxy-' and is 57 characters long.")
    policy = runtime.policies.known(key_id) or await runtime.policies.load(key_id)
    try:
        return check(runtime, policy, caller)
    except (Unauthenticated, Forbidden):
        # What is refused never comes to the admission, which compares the epochs: ask whether it still holds.
        if policy is None or not _is_of(runtime, policy, caller) or await runtime.policies.is_current(policy):
            raise
    return check(runtime, await runtime.policies.load(key_id), caller)


def check(runtime: Runtime, policy: Policy | None, caller: Caller) -> Policy:
    """Denies unless this policy is of this very key, usable, and may be used from the caller's address."""
    if policy is None or not _is_of(runtime, policy, caller):
        raise Unauthenticated("The proxy key is wrong.")
    if (refusal := _refusal(policy, caller.address)) is not None:
        raise refusal
    return policy


def _refusal(policy: Policy, address: str) -> Unauthenticated | Forbidden | None:
    """Why the key may not be used, if it may not."""
    if not policy.usable:
        return Unauthenticated("The proxy key is revoked.")
    if policy.expires_at is not None and policy.expires_at <= time.time():
        return Unauthenticated("The proxy key has expired.")
    if not policy.may_proxy:
        return Forbidden(
            "Verify your e-mail address first: POST /auth/verification sends a link.", code="email_not_verified"
        )
    if policy.networks and not _inside(policy, address):
        return Forbidden(f"The proxy key may not be used from {address or 'here'}.", code="address_not_allowed")
    return None


def _is_of(runtime: Runtime, policy: Policy, caller: Caller) -> bool:
    """What is known of the key holds for a policy of the same verifier only."""
    return (caller.proof is not None and _proves(caller.proof, policy)) or _verify(runtime, policy, caller)


def _proves(proof: keys.Proof, policy: Policy) -> bool:
    return proof.verifier == policy.verifier and proof.user_id == policy.user_id and proof.key_id == policy.key_id


def _verify(runtime: Runtime, policy: Policy, caller: Caller) -> bool:
    if not runtime.peppers.verify(policy.verifier, policy.key_id, policy.user_id, caller.key):
        return False
    caller.proof = keys.Proof(policy.key_id, policy.user_id, policy.verifier)
    runtime.proofs.keep(caller.key, caller.proof)
    runtime.sign_anew(policy, caller.key)
    return True


def _inside(policy: Policy, address: str) -> bool:
    try:
        client = ip_address(address)
    except ValueError:
        return False
    return any(client in network for network in policy.networks if client.version == network.version)
