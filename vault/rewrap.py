"""Owns the re-wrap after a change of the primary master key: stored keys are sealed anew while the service runs.

What is left to do is read from the rows alone, so a run that was killed leaves nothing behind and the next one goes on.
"""

from collections.abc import Iterator
from uuid import UUID

from django.db import transaction

from vault import crypto, keyring
from vault.models import ApiKey


class Rewrap:
    """One run over all rows that are not under the primary master key."""

    def __init__(self, keys: keyring.Keyring, *, batch: int, write: bool = True) -> None:
        self.keys = keys
        self.batch = batch
        self.write = write
        self.done = 0
        self.broken: set[UUID] = set()

    def run(self) -> Iterator[int]:
        """Yields the number of rows done after each batch.

        Goes over the rows until there is nothing left to do: a process that still has the old primary may have written
        behind it.
        """
        progress = True
        while progress:
            before = self.done
            for key_id in keyring.ids_in_use():
                if key_id != self.keys.primary:
                    yield from self._run_key(key_id)
            progress = self.write and self.done > before

    def _run_key(self, key_id: int) -> Iterator[int]:
        rows = ApiKey.objects.filter(master_key_id=key_id).order_by("id")
        while batch := list(rows[: self.batch]):
            self._run_batch(batch)
            yield self.done
            rows = rows.filter(id__gt=batch[-1].id)

    def _run_batch(self, rows: list[ApiKey]) -> None:
        # Sealed first: the transaction holds locks, so it does nothing but write.
        fresh = [(row, sealed) for row in rows if (sealed := self._seal(row))]
        if not self.write:
            self.done += len(fresh)
            return
        with transaction.atomic():
            written = sum(self._replace(row, sealed) for row, sealed in fresh)
        self.done += written

    def _seal(self, row: ApiKey) -> crypto.Sealed | None:
        try:
            secret = crypto.unseal(row.sealed, row.context, self.keys)
        except crypto.Unsealable:
            self.broken.add(row.id)
            return None
        return crypto.seal(secret, row.context, self.keys)

    def _replace(self, row: ApiKey, sealed: crypto.Sealed) -> int:
        """1 if written; 0 if its owner replaced or deleted the key since it was read, whose word stands."""
        same = ApiKey.objects.filter(id=row.id, master_key_id=row.master_key_id, iv=row.iv)
        return same.update(encrypted_key=sealed.encrypted_key, iv=sealed.iv, master_key_id=sealed.master_key_id)
