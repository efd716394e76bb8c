"""Owns the question whether this process can open what is stored: asked at start-up and by readiness.

The rows themselves are the canary. A lost master key shows as an id that rows name and the keyring lacks; one that was
replaced under its id shows in that no row of it opens.
"""

from typing import Final

from vault import keyring
from vault.models import ApiKey

# One damaged row must not stop the service: a master key is wrong when none of these opens.
_SAMPLE: Final = 5


def problems() -> list[str]:
    """One sentence for every master key that stored rows need and that is missing or wrong; [] when all is well."""
    found = []
    known = keyring.current().keys
    for key_id in keyring.ids_in_use():
        if key_id not in known:
            found.append(f"master key {key_id} is missing: stored API keys need it; add it to AIPROXY_MASTER_KEYS")
        elif not _opens_any(key_id):
            found.append(f"master key {key_id} does not open the API keys stored under it: it is not the same key")
    return found


def _opens_any(key_id: int) -> bool:
    rows = list(ApiKey.objects.filter(master_key_id=key_id).order_by("-id")[:_SAMPLE])
    return not rows or any(row.opens() for row in rows)
