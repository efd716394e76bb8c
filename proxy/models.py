"""Owns the users' own names for models. The rest that the data plane knows of the database is in accounts and vault."""

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from accounts.ids import uuid7
from accounts.models import ProxyKey, User
from audit.trail import watch
from proxy.errors import NotFound
from proxy.routing import PREFIXES, route

MOST_MODELS = 10
# Of one user: every policy of theirs holds them all.
MOST_ALIASES = 100
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z")


def validate_no_provider(value: str) -> None:
    """`provider/model` always means what it says."""
    prefix, slash, _ = value.partition("/")
    if slash and prefix in PREFIXES:
        raise ValidationError(f"`{prefix}/…` names a model of that provider; an alias cannot take its place.")


def validate_models(value: object) -> None:
    """A list of models whose provider is known, each once; no aliases among them."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValidationError("Must be a list of strings.")
    if not 1 <= len(value) <= MOST_MODELS:
        raise ValidationError(f"Name 1 to {MOST_MODELS} models.")
    for place, name in enumerate(value, start=1):
        if len(name) > 200 or not _NAME.match(name):
            raise ValidationError(f"Entry {place} is not a model name: letters, digits and ._:/@+- only, 200 at most.")
        try:
            route(name)
        except NotFound as error:
            raise ValidationError(f"Entry {place}: {error.message}") from error
    if len(set(value)) < len(value):
        raise ValidationError("A model is named twice.")


class AliasRefused(Exception):
    """An alias cannot be saved as asked; the text may be shown to its owner."""


class ModelAliasQuerySet(models.QuerySet["ModelAlias"]):
    def seen_by(self, key: ProxyKey) -> dict[str, tuple[str, ...]]:
        """What each name stands for when this key is used: its own aliases come before its user's."""
        rows = self.filter(models.Q(proxy_key=None) | models.Q(proxy_key=key), user_id=key.user_id)
        own_last = rows.order_by(models.F("proxy_key").asc(nulls_first=True))
        return {name: tuple(targets) for name, targets in own_last.values_list("name", "targets")}

    def remove(self, user_id: Any, pk: Any) -> None:
        """Deletes one of a user's. Raises DoesNotExist, and even then tells the workers: the call may be a repetition
        of one that was saved but could not tell them."""
        with transaction.atomic():
            owner = _locked(user_id)
            deleted, _ = self.filter(user=owner, pk=pk).delete()
            if not deleted:
                owner.bump()
        if not deleted:
            raise ModelAlias.DoesNotExist


@watch("user", "proxy_key", "name", "targets", ignored=["created_at"])
class ModelAlias(models.Model):
    """A name that stands for models, tried in order. Each change bumps its user's epoch."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="model_aliases", help_text="Whose it is.")
    proxy_key = models.ForeignKey(
        ProxyKey,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="model_aliases",
        verbose_name="proxy key",
        help_text="The one key that it holds for, before the user's own. Empty: all keys of the user.",
    )
    name = models.CharField(
        max_length=100,
        validators=[RegexValidator(_NAME, "Letters, digits and ._:/@+- only."), validate_no_provider],
        help_text="What a client asks for. The name of a model: the alias takes its place.",
    )
    targets = models.JSONField(
        validators=[validate_models],
        verbose_name="models",
        help_text="What is asked in its place: a list of models, the next one where one does not serve.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ModelAliasQuerySet.as_manager()

    class Meta:
        db_table = "model_aliases"
        verbose_name = "model alias"
        verbose_name_plural = "model aliases"
        ordering = ["-created_at"]
        constraints = [
            # The first also serves the policy's read, which is by user.
            models.UniqueConstraint(
                fields=["user", "name"],
                condition=models.Q(proxy_key=None),
                name="model_aliases_user_name",
                violation_error_message="The user has an alias of this name for all their keys.",
            ),
            models.UniqueConstraint(
                fields=["proxy_key", "name"],
                name="model_aliases_key_name",
                violation_error_message="The key has an alias of this name.",
            ),
            models.CheckConstraint(condition=~models.Q(name=""), name="model_aliases_name_given"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            self.user.bump()

    def clean(self) -> None:
        if self.proxy_key is not None and self.proxy_key.user_id != self.user_id:
            raise ValidationError({"proxy_key": "This key belongs to another user."})

    def add(self) -> None:
        """Saves a new one. Raises AliasRefused when the name is taken, there are too many, or its key is gone."""
        with transaction.atomic():
            owner = _locked(self.user_id)
            # Locked, or it could go before the commit, which is where PostgreSQL misses it.
            if self.proxy_key_id and not ProxyKey.objects.select_for_update(no_key=True).filter(pk=self.proxy_key_id):
                raise AliasRefused("This proxy key is gone.")
            taken = self._others_of_the_name().exists()
            if taken:
                owner.bump()  # it may be the work of an earlier call that was saved but could not tell the workers
            elif ModelAlias.objects.filter(user=owner).count() >= MOST_ALIASES:
                raise AliasRefused(f"You have {MOST_ALIASES} aliases, which is the most. Delete one first.")
            else:
                self.save(force_insert=True)
        if taken:
            raise AliasRefused("There is an alias of this name already: change that one, or choose another.")

    def change(self, **fields: Any) -> None:
        """Saves these fields. Raises AliasRefused when the name is taken, DoesNotExist when it is gone."""
        with transaction.atomic():
            _locked(self.user_id)
            self.refresh_from_db()
            for name, value in fields.items():
                setattr(self, name, value)
            if self._others_of_the_name().exists():
                raise AliasRefused("There is an alias of this name already: change that one, or choose another.")
            self.save(update_fields=list(fields))

    def _others_of_the_name(self) -> models.QuerySet["ModelAlias"]:
        return ModelAlias.objects.filter(user_id=self.user_id, proxy_key=self.proxy_key_id, name=self.name).exclude(
            pk=self.pk
        )


def _locked(user_id: Any) -> User:
    """The owner, locked: what is counted stays so, and no two changes wait for each other."""
    return User.objects.select_for_update(no_key=True).get(pk=user_id)


# By signal, since the admin and cascades delete without calling delete() on a row.
@receiver(post_delete, sender=ModelAlias)
def _tell_alias_gone(instance: ModelAlias, **kwargs: Any) -> None:
    if owner := User.objects.filter(pk=instance.user_id).first():
        owner.bump()
