"""Owns every change of a stored key: the plan's limit, the two kinds of duplicate, and telling the workers.

Each change locks its owner's row first, so that limits hold under a race and no two changes wait for each other.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import epoch
from accounts.models import User
from audit.models import Action
from audit.trail import record
from vault.models import ApiKey
from vault.secret import Secret


class NotStored(Exception):
    """A key cannot be stored as asked; the message may be shown to its owner."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TooManyKeys(NotStored):
    pass


class LabelTaken(NotStored):
    pass


class KeyTaken(NotStored):
    pass


def add(user_id: UUID, provider: str, label: str, secret: Secret, **fields: Any) -> ApiKey:
    """Seals and stores a key; `fields`: priority, base_url. Raises NotStored; ValueError if the text cannot be a key of
    that provider, or it is not there."""
    with _owner_locked(user_id) as owner:
        limit = owner.plan.max_api_keys
        if ApiKey.objects.filter(user=owner).count() >= limit:
            raise TooManyKeys(f"Your plan holds {limit} API keys, and you have stored as many. Delete one first.")
        api_key = ApiKey(user=owner, provider=provider, label=label, **fields)
        api_key.put(secret)
        api_key.save(force_insert=True)
        epoch.bump_user(owner)
    return api_key


def change(user_id: UUID, row_id: UUID, secret: Secret | None = None, **fields: Any) -> ApiKey:
    """Changes columns, and replaces the key if one is given. Raises ApiKey.DoesNotExist, NotStored, ValueError."""
    with _owner_locked(user_id) as owner:
        # The row's lock too: the re-wrap of a rotation takes no other.
        api_key = ApiKey.objects.select_for_update().get(user=owner, pk=row_id)
        for name, value in fields.items():
            setattr(api_key, name, value)
        if secret is not None:
            api_key.put(secret)
            fields |= dict.fromkeys(_SEALED_COLUMNS)
        api_key.save(update_fields=list(fields))
        epoch.bump_user(owner)
    return api_key


def remove(user_id: UUID, row_id: UUID) -> None:
    """Deletes a key. Raises ApiKey.DoesNotExist, and even then tells the workers: the call may be a repetition of one
    that was saved but could not tell them."""
    with _owner_locked(user_id) as owner:
        deleted, _ = ApiKey.objects.filter(user=owner, pk=row_id).delete()
        epoch.bump_user(owner)
    if not deleted:
        raise ApiKey.DoesNotExist


def record_test(api_key: ApiKey, *, valid: bool | None, error: str) -> None:
    """Writes down how a test call went; None leaves the key's state as it is. Of a key that is gone nothing is."""
    outcome: dict[str, Any] = {"last_tested_at": timezone.now(), "last_error": error[:200]}
    if valid is not None:
        outcome["is_valid"] = valid
    with suppress(User.DoesNotExist), _owner_locked(api_key.user_id) as owner:
        # The key may have been replaced while its provider thought: the verdict is about the one that was sent.
        same = ApiKey.objects.filter(pk=api_key.pk, fingerprint=api_key.fingerprint)
        turned = valid is not None and same.exclude(is_valid=valid).exists()
        if same.update(**outcome):
            for name, value in outcome.items():
                setattr(api_key, name, value)
        if turned:
            record(Action.CHANGE, api_key, changes={"is_valid": [not valid, valid]}, note=error)
            epoch.bump_user(owner)


# What ApiKey.put sets.
_SEALED_COLUMNS = (
    "encrypted_key",
    "iv",
    "master_key_id",
    "last4",
    "mask_prefix",
    "fingerprint",
    "is_valid",
    "last_error",
)

_TAKEN: dict[str, NotStored] = {
    "api_keys_user_provider_label": LabelTaken("You have a key with this label at this provider; choose another."),
    "api_keys_user_fingerprint": KeyTaken("You have stored this key already."),
}


@contextmanager
def _owner_locked(user_id: UUID) -> Generator[User]:
    try:
        with transaction.atomic():
            yield User.objects.select_for_update(no_key=True).get(pk=user_id)
    except IntegrityError as error:
        taken = _TAKEN.get(_violated_constraint(error))
        if taken is None:
            raise
        # What is there already may be the work of an earlier call that was saved but could not tell the workers.
        epoch.publish_on_commit([epoch.user_name(user_id)])
        raise type(taken)(taken.message) from None


def _violated_constraint(error: IntegrityError) -> str:
    """The constraint's name; SQLite tells only the columns. '' if it is none of this table's."""
    diagnosis = getattr(error.__cause__, "diag", None)
    if diagnosis is not None:
        return diagnosis.constraint_name or ""
    columns = {field.name: f"{ApiKey._meta.db_table}.{field.column}" for field in ApiKey._meta.concrete_fields}
    for constraint in ApiKey._meta.total_unique_constraints:
        if str(error).endswith(": " + ", ".join(columns[name] for name in constraint.fields)):
            return constraint.name
    return ""
