"""Owns what staff see of the users' own names for models."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.forms import ModelForm
from django.http import HttpRequest

from accounts.backoffice import BackOffice
from proxy.models import ModelAlias

if TYPE_CHECKING:
    AliasModelAdmin = admin.ModelAdmin[ModelAlias]
    AliasModelForm = ModelForm[ModelAlias]
else:
    AliasModelAdmin = admin.ModelAdmin
    AliasModelForm = ModelForm


class AliasForm(AliasModelForm):
    def clean_name(self) -> str:
        """Of one that is there, owner and key are not in the form: Django does not see that the name is taken."""
        name: str = self.cleaned_data["name"]
        row = self.instance
        of_the_name = ModelAlias.objects.filter(user=row.user_id, proxy_key=row.proxy_key_id, name=name)
        if not row._state.adding and of_the_name.exclude(pk=row.pk).exists():
            raise ValidationError("There is an alias of this name already.")
        return name


@admin.register(ModelAlias)
class ModelAliasAdmin(BackOffice, AliasModelAdmin):
    form = AliasForm
    list_display = ["name", "targets", "user", "proxy_key", "created_at"]
    list_select_related = ["user", "proxy_key"]
    search_fields = ["name", "user__email", "id"]
    date_hierarchy = "created_at"
    show_full_result_count = False
    autocomplete_fields = ["user", "proxy_key"]
    fields = ["id", "user", "proxy_key", "name", "targets", "created_at"]
    readonly_fields = ["id", "created_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: ModelAlias | None = None) -> list[str]:
        # of another user, or for another key, it is another alias
        return [*self.readonly_fields, "user", "proxy_key"] if obj else self.readonly_fields
