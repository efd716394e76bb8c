"""Owns what staff see of stored keys: masks and outcomes, never a key, a ciphertext or a fingerprint."""

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.forms import ModelForm, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import ngettext

from accounts.backoffice import BackOffice, confirmed, is_superuser
from accounts.models import User
from audit.models import Action
from audit.trail import record, record_each
from vault import keyring, store
from vault.models import MAX_PRIORITY, ApiKey
from vault.rewrap import Rewrap

if TYPE_CHECKING:
    ApiKeyModelForm = ModelForm[ApiKey]
    ApiKeyModelAdmin = admin.ModelAdmin[ApiKey]
else:
    ApiKeyModelForm = ModelForm
    ApiKeyModelAdmin = admin.ModelAdmin

REWRAP = "vault.rewrap_apikey"
REWRAP_SECONDS = 2.0


class ApiKeyForm(ApiKeyModelForm):
    def clean_label(self) -> str:
        """The owner is not in the form, so Django itself does not see that the label is taken."""
        label: str = self.cleaned_data["label"]
        row = self.instance
        others = ApiKey.objects.filter(user_id=row.user_id, provider=row.provider, label=label).exclude(pk=row.pk)
        if others.exists():
            raise ValidationError("The owner has a key with this label at this provider.")
        return label


class PriorityForm(forms.Form):
    priority = forms.IntegerField(min_value=0, max_value=MAX_PRIORITY, initial=100, help_text="Lower is tried first.")


@admin.register(ApiKey)
class ApiKeyAdmin(BackOffice, ApiKeyModelAdmin):
    form = ApiKeyForm
    list_display = [
        "masked",
        "provider",
        "label",
        "user",
        "is_valid",
        "priority",
        "last_used_at",
        "last_tested_at",
        "created_at",
    ]
    list_filter = ["provider", "is_valid", "master_key_id"]
    list_select_related = ["user"]
    search_fields = ["user__email", "label"]
    search_help_text = "The owner's e-mail address, or a label."
    secrets = frozenset({"encrypted_key", "iv", "fingerprint"})
    date_hierarchy = "created_at"
    actions = ["test_now", "mark_invalid", "move"]
    show_full_result_count = False
    fieldsets = [
        (None, {"fields": ["user", "provider", "masked", "label", "priority", "is_valid"]}),
        ("Outcome", {"fields": ["last_used_at", "last_tested_at", "last_error"]}),
        ("Storage", {"fields": ["id", "master_key_id", "base_url", "created_at"]}),
    ]
    editable = frozenset({"label", "priority", "is_valid"})
    readonly_fields = [
        "id",
        "user",
        "provider",
        "masked",
        "base_url",
        "master_key_id",
        "created_at",
        "last_used_at",
        "last_tested_at",
        "last_error",
    ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A key is stored by its owner: nobody else should have it in hand."""
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        # Only what the form holds: a key replaced or re-wrapped since the page was opened stays as it is.
        store.change(obj.user_id, obj.pk, **{name: getattr(obj, name) for name in self.editable})

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        with suppress(ApiKey.DoesNotExist, User.DoesNotExist):  # its owner was faster
            store.remove(obj.user_id, obj.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        # In the order of their owners, as everybody: two such deletions must not wait for each other.
        for row in queryset.order_by("user_id", "pk"):
            self.delete_model(request, row)

    def has_test_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "test_apikey")

    def has_invalidate_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "invalidate_apikey")

    @admin.action(description="Test now", permissions=["test"])
    @confirmed(
        "Each key is sent to its provider, one after the other, which is asked for its list of models. A key that is"
        " refused is not used any more.",
        button="Test now",
    )
    def test_now(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """What each provider said stands in its row afterwards."""
        rows = list(queryset)
        record_each(Action.TEST, rows)
        outcomes = [row.ask_provider().valid for row in rows]
        good, bad = outcomes.count(True), outcomes.count(False)
        tested = ngettext("%d key tested", "%d keys tested", len(outcomes)) % len(outcomes)
        level = messages.WARNING if bad or good < len(outcomes) else messages.SUCCESS
        unknown = len(outcomes) - good - bad
        self.message_user(request, f"{tested}: {good} good, {bad} refused, {unknown} not to be told.", level)

    @admin.action(description="Mark invalid", permissions=["invalidate"])
    @confirmed(
        "These keys are not used from the next request on, until they are found good by a test, or stored again.",
        button="Mark invalid",
        is_harmful=True,
    )
    def mark_invalid(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        count = self._change(request, queryset, "Marked invalid.", is_valid=False)
        self.message_user(request, f"{count} marked invalid.", messages.SUCCESS)

    @admin.action(description="Move priority", permissions=["change"])
    @confirmed(
        "Of the keys that an owner has at a provider, the one with the lowest number is tried first.",
        button="Move",
        form=PriorityForm,
    )
    def move(self, request: HttpRequest, queryset: QuerySet[ApiKey], entered: dict[str, Any]) -> None:
        priority = entered["priority"]
        if not is_superuser(request):
            queryset = queryset.filter(user__is_superuser=False)
        count = self._change(request, queryset, f"Moved to priority {priority}.", priority=priority)
        self.message_user(request, f"{count} moved to priority {priority}.", messages.SUCCESS)

    def _change(self, request: HttpRequest, queryset: QuerySet[ApiKey], what: str, **fields: Any) -> int:
        """How many were changed. In the order of their owners, as everybody."""
        count = 0
        for row in queryset.order_by("user_id", "pk"):
            with suppress(ApiKey.DoesNotExist, User.DoesNotExist):  # its owner was faster
                store.change(row.user_id, row.pk, **fields)
                self.log_change(request, row, what)
                count += 1
        return count

    # --- The keyring ----------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.keyring_view)
        return [path("keyring/", view, name="vault_apikey_keyring"), *super().get_urls()]

    def keyring_view(self, request: HttpRequest) -> HttpResponse:
        """Which master key encrypts how many rows; a POST re-wraps what can be done in two seconds."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        keys, may_rewrap = keyring.current(), request.user.has_perm(REWRAP)
        if request.method == "POST":
            if not may_rewrap:
                raise PermissionDenied
            self._rewrap(request, keys)
            return HttpResponseRedirect(request.path)
        rows = Counter(dict(ApiKey.objects.order_by().values_list("master_key_id").annotate(Count("pk"))))
        context = {
            **self.admin_site.each_context(request),
            "title": "Keyring",
            "opts": self.opts,
            "may_rewrap": may_rewrap,
            "left": rows.total() - rows[keys.primary],
            "master_keys": [
                {"id": id, "is_primary": id == keys.primary, "is_missing": id not in keys.keys, "rows": rows[id]}
                for id in sorted({*keys.keys, *rows})
            ],
        }
        return TemplateResponse(request, "admin/vault/apikey/keyring.html", context)

    def _rewrap(self, request: HttpRequest, keys: keyring.Keyring) -> None:
        rewrap, until = Rewrap(keys, batch=50), time.monotonic() + REWRAP_SECONDS
        for _ in rewrap.run():
            if time.monotonic() > until:
                break
        record(Action.REWRAP, name=f"master key {keys.primary}", note=f"{rewrap.done} stored keys")
        text = f"{rewrap.done} stored keys re-wrapped under master key {keys.primary}."
        if rewrap.broken:
            self.message_user(request, f"{text} {len(rewrap.broken)} do not open and stay as they are.", messages.ERROR)
        else:
            self.message_user(request, text, messages.SUCCESS)
