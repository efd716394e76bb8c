"""Owns what the pages of the back-office have in common: a question before an action, its buttons on the page of one
row, fields that take whatever is typed, and what staff are told when a change was saved but not published. Knows no
model."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import DatabaseError
from django.db.models import JSONField, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse

from accounts.epoch import EpochNotPublished
from accounts.hashers import HashingBusy

if TYPE_CHECKING:
    Mixin = admin.ModelAdmin[Any]
else:
    Mixin = object

GONE = (DatabaseError, ObjectDoesNotExist)  # among others: what saving a row raises that is not there
_CONFIRMED, _ONE = "confirmed", "one"
_SHOWN = 50

Action = Callable[..., HttpResponse | None]


class Decoder(json.JSONDecoder):
    """What is nested too deeply, has too long a number or half of a surrogate pair is a typing mistake like others."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            found = super().decode(s, *args)
            json.dumps(found, ensure_ascii=False).encode()
        except (RecursionError, ValueError) as error:
            raise json.JSONDecodeError(str(error), s, 0) from error
        return found


class ListField(forms.JSONField):
    """Left empty it is an empty list, not the null that the column does not take."""

    def to_python(self, value: Any) -> Any:
        found = super().to_python(value)
        return [] if found is None else found


class Chooser(AutocompleteSelect):
    """Shown again with what cannot be the id of a row, it has chosen none: Django would ask the database for it."""

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        try:
            return super().optgroups(name, value, attr)
        except ValidationError:
            return super().optgroups(name, [], attr)


def is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


def _within_reach(request: HttpRequest, row: Any) -> bool:
    owner = getattr(row, "user", None)
    return owner is None or not owner.is_superuser or is_superuser(request)


class QueryGuard(Mixin):
    """What a query string may not do: read a secret by its beginnings, or fill in a form."""

    secrets: frozenset[str] = frozenset()  # columns that nobody filters by

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:  # type: ignore[override]
        if lookup.partition("__")[0] in self.secrets or "password" in lookup:
            return False  # a filter by the beginning of a hash reads it, one character at a time
        return super().lookup_allowed(lookup, value, request)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Nothing: Django would take any text for a time."""
        return {}


class BackOffice(QueryGuard):
    """Buttons for its actions on the page of one row. A change that was saved but not published, or refused for load,
    is a message there, not an error page. What is a superuser's is changed, deleted and added to by superusers."""

    formfield_overrides = {JSONField: {"form_class": ListField, "decoder": Decoder}}

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs["widget"] = Chooser(db_field, self.admin_site)
        if db_field.name == "user" and not is_superuser(request):
            kwargs["queryset"] = db_field.related_model.objects.filter(is_superuser=False)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _within_reach(request, obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _within_reach(request, obj) and super().has_delete_permission(request, obj)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        return None if "\0" in object_id else super().get_object(request, object_id, from_field)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        actions = dict(self.get_action_choices(request, []))
        actions.pop("delete_selected", None)
        context = {"row_actions": actions, "row_field": ACTION_CHECKBOX_NAME, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        try:
            return super().changeform_view(request, object_id, *args, **kwargs)
        except (EpochNotPublished, HashingBusy) as error:
            return self.explain(request, error)
        except GONE as error:
            return self.missing(request, object_id, error)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Of a row that is there what the form holds, and no more: what somebody else has changed since it was read
        stays. Even if nothing differs: repeating a save that was not published must publish."""
        columns = {field.name for field in self.opts.concrete_fields}
        obj.save(update_fields=columns & form.fields.keys() if change else None)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response = super().changelist_view(request, *args, **kwargs)
        except EpochNotPublished as error:
            return self.explain(request, error)
        if request.POST.get(_ONE) and isinstance(response, HttpResponseRedirect):
            with suppress(NoReverseMatch):  # no row has a line break in its id
                return HttpResponseRedirect(self._page_of(request.POST[_ONE]))
        return response

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().delete_view(request, *args, **kwargs)
        except EpochNotPublished as error:
            return self.explain(request, error)

    def may(self, request: HttpRequest, codename: str) -> bool:
        """Whether a role gives them this permission of the model's own; who may change its rows may do that too."""
        return self.has_change_permission(request) or request.user.has_perm(f"{self.opts.app_label}.{codename}")

    def explain(self, request: HttpRequest, error: Exception) -> HttpResponse:
        text = str(error) or "Too many passwords and keys are being checked. Nothing was saved: try again."
        self.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())

    def missing(self, request: HttpRequest, object_id: str | None, error: Exception) -> HttpResponse:
        """What is said of a row whose change failed since somebody has deleted it; else the error goes on."""
        if object_id is None or self.get_object(request, unquote(object_id)) is not None:
            raise error
        self.message_user(request, f"This {self.opts.verbose_name} was deleted meanwhile.", messages.WARNING)
        return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))

    def _page_of(self, pk: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[pk])


def confirmed(
    question: str, *, button: str, form: type[forms.Form] | None = None, is_harmful: bool = False
) -> Callable[[Action], Action]:
    """Wraps an admin action: it runs once its question was answered on a page of its own.

    With a form, the page asks for that too, and the action gets what was entered as a fourth argument. What
    `is_harmful` takes something from somebody, and has a red button.
    """
    asked = {"question": question, "title": button, "is_harmful": is_harmful}

    def decorate(action: Action) -> Action:
        @wraps(action)
        def ask(self: Any, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
            entered = form(request.POST if _CONFIRMED in request.POST else None) if form else None
            if _CONFIRMED in request.POST and (entered is None or entered.is_valid()):
                return action(self, request, queryset, *([entered.cleaned_data] if entered else []))
            return _page(self, request, queryset, {**asked, "form": entered})

        return ask

    return decorate


def _page(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any], asked: dict[str, Any]) -> TemplateResponse:
    rows = list(queryset[: _SHOWN + 1])
    context = {
        **model_admin.admin_site.each_context(request),
        **asked,
        "opts": model_admin.opts,
        "media": model_admin.media,
        "rows": rows[:_SHOWN],
        "more": len(rows) > _SHOWN,
        # as they came: a choice of all rows stays one
        "carried": [
            (name, value)
            for name in ("action", "select_across", "index", _ONE, ACTION_CHECKBOX_NAME)
            for value in request.POST.getlist(name)
        ],
        "confirmed": _CONFIRMED,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "admin/confirm_action.html", context)
