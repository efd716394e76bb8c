"""Owns that the requests of a deleted account lead to nobody, whoever deletes it: its owner, staff, a shell.

They get new random ids that are written down nowhere else, and keep nothing that anybody wrote.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.db.models import Case, UUIDField, Value, When
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from accounts.models import User
from usage.models import ProxyRequest, UsageDay, UsageHour, UserDay, UserHour
from usage.records import End


@receiver(pre_delete, sender=User)
def _forget_who(instance: User, **kwargs: Any) -> None:
    """The rows of one key still belong together. Runs in the transaction that deletes the account."""
    if not User.objects.select_for_update().filter(pk=instance.pk).exists():
        return  # somebody was faster; and rows being stored come before us, or see us
    nobody = uuid4()
    used = UsageHour.objects.filter(user_id=instance.pk).order_by().values_list("proxy_key_id", flat=True).distinct()
    keys = [When(proxy_key_id=id, then=Value(uuid4(), UUIDField())) for id in used]
    no_key = Case(*keys, default=Value(uuid4(), UUIDField()))
    ProxyRequest.objects.filter(user_id=instance.pk).update(
        user_id=nobody, proxy_key_id=no_key, api_key_id=None, error_message="", provider_request_id="", attempts=None
    )
    for of_keys in (UsageHour, UsageDay):
        of_keys._default_manager.filter(user_id=instance.pk).update(user_id=nobody, proxy_key_id=no_key)
    for of_user in (UserHour, UserDay):
        of_user._default_manager.filter(user_id=instance.pk).update(user_id=nobody)


def forget_the_deleted(ends: Sequence[End]) -> None:
    """The same for what waited meanwhile, and is about to be stored in this transaction."""
    users = {end.user_id for end in ends}
    deleted = users - _present(users)
    if not deleted:
        return
    new: defaultdict[UUID, UUID] = defaultdict(uuid4)
    for end in ends:
        if end.user_id in deleted:
            end.user_id, end.proxy_key_id, end.api_key_id = new[end.user_id], new[end.proxy_key_id], None
            end.error_message = end.provider_request_id = ""
            end.attempts = None


def _present(users: set[UUID]) -> set[UUID]:
    """Those with an account. Who is about to delete one waits for our transaction, and then finds its rows."""
    if connection.vendor != "postgresql":  # one writer at a time
        return set(User.objects.filter(pk__in=users).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM users WHERE id = ANY(%s) FOR KEY SHARE", [list(users)])
        return {id for (id,) in cursor.fetchall()}
