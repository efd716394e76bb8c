"""Owns what the journal says about keys: when they were used, that a provider refused one, that one was signed anew.

None of it is worth holding up rows for: what is lost here, the key's next use says again.
"""

import datetime as dt
import logging
import time
from uuid import UUID

from django.db import DatabaseError, transaction
from django.db.models import Q

from accounts import epoch
from accounts.keys import Peppers
from accounts.models import ProxyKey
from usage.records import End, Resigned
from vault.models import ApiKey

logger = logging.getLogger(__name__)

_BATCH = 500


class LastUsed:
    """When each key was last used; a key's row is written at most once in `every` seconds."""

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._proxy_keys: dict[UUID, int] = {}
        self._api_keys: dict[UUID, int] = {}
        self._written: dict[UUID, float] = {}

    def note(self, end: End) -> None:
        unix_ms = end.id.int >> 80
        if unix_ms > self._proxy_keys.get(end.proxy_key_id, 0):
            self._proxy_keys[end.proxy_key_id] = unix_ms
        if end.api_key_id is not None and unix_ms > self._api_keys.get(end.api_key_id, 0):
            self._api_keys[end.api_key_id] = unix_ms

    def write(self, *, everything: bool = False) -> None:
        """What is due, or everything. Raises DatabaseError; what was not written stays noted."""
        now = time.monotonic()
        self._written = {id: at for id, at in self._written.items() if now - at < self._every}
        for model, used in ((ProxyKey, self._proxy_keys), (ApiKey, self._api_keys)):
            due = sorted(id for id in used if everything or id not in self._written)
            for start in range(0, len(due), _BATCH):
                batch = due[start : start + _BATCH]
                self._write(model, {id: used[id] for id in batch})
                for id in batch:
                    del used[id]
                    self._written[id] = now

    @staticmethod
    def _write(model: type[ProxyKey] | type[ApiKey], used: dict[UUID, int]) -> None:
        with transaction.atomic():
            for id, unix_ms in used.items():
                at = dt.datetime.fromtimestamp(unix_ms / 1000, tz=dt.UTC)
                older = Q(last_used_at=None) | Q(last_used_at__lt=at)
                model._default_manager.filter(older, pk=id).update(last_used_at=at)


def resign(record: Resigned) -> None:
    """Puts the new verifier into the key's row, unless the key was revoked or has a verifier by the present pepper.

    Workers are told: they would sign it anew at every use otherwise.
    """
    if not Peppers.from_settings().is_primary(record.verifier):
        return  # the peppers were turned again meanwhile
    try:
        with transaction.atomic():
            row = ProxyKey.objects.select_for_update().filter(pk=record.proxy_key_id, revoked_at=None).first()
            if row is None or Peppers.from_settings().is_primary(bytes(row.verifier)):
                return
            row.verifier = record.verifier
            row.save(update_fields=["verifier"])
            epoch.bump_key(row)
    except epoch.EpochNotPublished:
        logger.info("Proxy key %s was signed anew; workers learn it when their policies age", record.proxy_key_id)


def confirm_refusal(api_key_id: UUID) -> None:
    """One test call decides whether a key that was refused is invalid; what comes of it is written on its row."""
    try:
        api_key = ApiKey.objects.filter(pk=api_key_id, is_valid=True).first()
        if api_key is not None:
            verdict = api_key.ask_provider()
            logger.info("API key %s was refused; the test call says valid=%s", api_key_id, verdict.valid)
    except epoch.EpochNotPublished:
        logger.warning("API key %s is invalid; workers learn it when their policies age", api_key_id)
    except DatabaseError as error:
        logger.warning("API key %s could not be tested (%s); its next refusal asks again", api_key_id, error)
