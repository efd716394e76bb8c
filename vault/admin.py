"""Owns what staff see of stored keys: masks and outcomes, never a key, a ciphertext or a fingerprint."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm, ValidationError
from django.http import HttpRequest
from django.utils.translation import ngettext

from vault import store
from vault.check import check_api_key
from vault.models import ApiKey

if TYPE_CHECKING:
    ApiKeyModelForm = ModelForm[ApiKey]
    ApiKeyModelAdmin = admin.ModelAdmin[ApiKey]
else:
    ApiKeyModelForm = ModelForm
    ApiKeyModelAdmin = admin.ModelAdmin


class ApiKeyForm(ApiKeyModelForm):
    def clean_label(self) -> str:
        """The owner is not in the form, so Django itself does not see that the label is taken."""
        label: str = self.cleaned_data["label"]
        row = self.instance
        others = ApiKey.objects.filter(user_id=row.user_id, provider=row.provider, label=label).exclude(pk=row.pk)
        if others.exists():
            raise ValidationError("The owner has a key with this label at this provider.")
        return label


@admin.register(ApiKey)
class ApiKeyAdmin(ApiKeyModelAdmin):
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
    date_hierarchy = "created_at"
    actions = ["test_now"]
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
        store.remove(obj.user_id, obj.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        # In the order of their owners, as everybody: two such deletions must not wait for each other.
        for user_id, pk in queryset.order_by("user_id", "pk").values_list("user_id", "pk"):
            with suppress(ApiKey.DoesNotExist):  # its owner was faster
                store.remove(user_id, pk)

    @admin.action(description="Test now at the provider", permissions=["change"])
    def test_now(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Calls one provider after the other; what each said stands in its row afterwards."""
        outcomes = [check_api_key(row).valid for row in queryset]
        good, bad = outcomes.count(True), outcomes.count(False)
        tested = ngettext("%d key tested", "%d keys tested", len(outcomes)) % len(outcomes)
        level = messages.WARNING if bad or good < len(outcomes) else messages.SUCCESS
        unknown = len(outcomes) - good - bad
        self.message_user(request, f"{tested}: {good} good, {bad} refused, {unknown} not to be told.", level)
