"""Owns what is written to the audit log, and how a model's changes get there by themselves.

A value is written only if its field is named to be shown: a column added later is masked until somebody decides.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from django.db import models
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save

from audit import origin
from audit.models import Action, Event

MASK = "***"
_LONGEST = 500  # characters of one value
M = TypeVar("M", bound=type[models.Model])
Changes = dict[str, list[Any]]


def record(
    action: Action,
    target: models.Model | None = None,
    *,
    changes: Changes | None = None,
    note: str = "",
    name: str = "",
    actor: Any = None,
) -> None:
    """Adds one event, in the transaction that is open. `name`: of a target that is no row; `actor`: see origin."""
    Event.objects.create(**_columns(action, target, name or str(target or "")), changes=changes or {}, note=note[:200],
                         **origin.columns(actor))  # fmt: skip


def record_each(action: Action, targets: Iterable[models.Model], *, changes: Changes | None = None) -> None:
    """The same for many rows at once."""
    shared = {"changes": changes or {}, **origin.columns()}
    Event.objects.bulk_create(Event(**_columns(action, target, str(target)), **shared) for target in targets)


def _columns(action: Action, target: models.Model | None, name: str) -> dict[str, Any]:
    return {
        "action": action,
        "object_type": target._meta.label_lower if target is not None else "",
        "object_id": str(target.pk)[:64] if target is not None else "",
        "object_name": _printable(name)[:254],
    }


def watch(*shown: str, ignored: Iterable[str] = (), many: Iterable[str] = ()) -> Callable[[M], M]:
    """A model whose rows' creation, change and deletion are recorded, whoever saves them.

    `shown` fields are recorded with their values, `ignored` ones not at all, all others as changed, without a value.
    `many` names many-to-many fields. What `QuerySet.update` does is not seen: whoever calls it calls `record_each`.
    """
    watched = _Watched(frozenset(shown), frozenset(ignored))

    def connect(model: M) -> M:
        pre_save.connect(watched.before_save, sender=model, weak=False)
        post_save.connect(watched.after_save, sender=model, weak=False)
        post_delete.connect(watched.after_delete, sender=model, weak=False)
        for name in many:
            m2m_changed.connect(_record_members, sender=getattr(model, name).through, weak=False)
        return model

    return connect


class _Watched:
    def __init__(self, shown: frozenset[str], ignored: frozenset[str]) -> None:
        self.shown, self.ignored = shown, ignored

    def before_save(self, instance: models.Model, raw: bool, update_fields: Any, **_: Any) -> None:
        names = self._names(instance, update_fields)
        old = None
        if names and not raw and not instance._state.adding:
            old = type(instance)._base_manager.filter(pk=instance.pk).values(*names).first()
        instance._audit_old = old  # type: ignore[attr-defined]

    def after_save(self, instance: models.Model, raw: bool, created: bool, update_fields: Any, **_: Any) -> None:
        if raw:
            return
        old = instance.__dict__.pop("_audit_old", None) or {}
        new = self._values(instance, self._names(instance, update_fields))
        changes = {
            name: self._shown(name, old.get(name), value)
            for name, value in new.items()
            if (value != old.get(name)) and not (created and value in (None, "", [], {}))
        }
        if created or changes:
            record(Action.CREATE if created else Action.CHANGE, instance, changes=changes)

    def after_delete(self, instance: models.Model, **_: Any) -> None:
        old = self._values(instance, self._names(instance, None) & self.shown)
        changes = {name: self._shown(name, value, None) for name, value in old.items() if value is not None}
        record(Action.DELETE, instance, changes=changes)

    def _names(self, instance: models.Model, update_fields: Iterable[str] | None) -> frozenset[str]:
        fields = (field for field in instance._meta.concrete_fields if not field.primary_key)
        names = frozenset(
            field.name for field in fields if update_fields is None or {field.name, field.attname} & set(update_fields)
        )
        return names - self.ignored

    @staticmethod
    def _values(instance: models.Model, names: Iterable[str]) -> dict[str, Any]:
        meta = instance._meta
        return {name: getattr(instance, meta.get_field(name).attname) for name in names}  # type: ignore[union-attr]

    def _shown(self, name: str, old: Any, new: Any) -> list[Any]:
        return [_plain(old), _plain(new)] if name in self.shown else [MASK, MASK]


def _record_members(instance: models.Model, action: str, model: Any, pk_set: Any, sender: Any, **signal: Any) -> None:
    """Groups of a user, permissions of a group: what was added or taken away, by name."""
    if action not in ("post_add", "post_remove", "pre_clear"):
        return
    through = {field.remote_field.model: field.attname for field in sender._meta.fields if field.remote_field}
    if pk_set is None:
        others = sender.objects.filter(**{through[type(instance)]: instance.pk})
        pk_set = others.values_list(through[model], flat=True)
    names = sorted(str(row) for row in model.objects.filter(pk__in=pk_set))
    if names:
        label = str(model._meta.verbose_name_plural)
        record(Action.CHANGE, instance, changes={label: [[], names] if action == "post_add" else [names, []]})


def _plain(value: Any) -> Any:
    """As JSON has it, and of bounded size."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, list | dict):
        return value if len(str(value)) <= _LONGEST else f"{_printable(str(value))[:_LONGEST]}…"
    return _printable(str(value))[:_LONGEST]


def _printable(text: str) -> str:
    return text.replace("\0", "")  # PostgreSQL stores none
