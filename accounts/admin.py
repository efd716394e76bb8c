"""Owns how staff see accounts.

No password, hash or verifier is shown, searched or filtered by; a new proxy key is shown once.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.contrib.auth.models import Permission
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import keys, mail
from accounts.backoffice import GONE, BackOffice, confirmed, is_superuser
from accounts.epoch import EpochNotPublished
from accounts.hashers import HashingBusy
from accounts.keys import AccountChanged
from accounts.models import Plan, ProxyKey, SignIn, User
from audit.models import Action
from audit.trail import record_each

if TYPE_CHECKING:
    PlanModelAdmin = admin.ModelAdmin[Plan]
    KeyModelAdmin = admin.ModelAdmin[ProxyKey]
    SignInModelAdmin = admin.ModelAdmin[SignIn]
    UserModelAdmin = DjangoUserAdmin[Any]  # the stubs ask for an AbstractUser; Django does not
    UserModelForm = forms.ModelForm[User]
else:
    PlanModelAdmin = KeyModelAdmin = SignInModelAdmin = admin.ModelAdmin
    UserModelAdmin = DjangoUserAdmin
    UserModelForm = forms.ModelForm


@admin.register(Plan)
class PlanAdmin(BackOffice, PlanModelAdmin):
    list_display = [
        "code",
        "name",
        "price",
        "rpm",
        "tpm",
        "max_parallel",
        "rpd",
        "tpd",
        "tokens_month",
        "max_api_keys",
        "max_proxy_keys",
    ]
    search_fields = ["code", "name"]
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> list[str]:
        return ["code"] if obj else []  # users refer to it


class NewUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ["email"]

    def clean_email(self) -> str:
        return User.objects.normalize_email(self.cleaned_data["email"])


class UserForm(UserModelForm):
    class Meta:
        model = User
        # all that the fieldsets offer; not the password, which has a form of its own
        fields = [
            "email",
            "name",
            "plan",
            "email_verified",
            "is_active",
            "is_staff",
            "is_superuser",
            "groups",
            "user_permissions",
        ]

    def clean_email(self) -> str:
        return User.objects.normalize_email(self.cleaned_data["email"])


class PlanForm(forms.Form):
    plan = forms.ModelChoiceField(Plan.objects.all(), empty_label=None)


@admin.register(User)
class UserAdmin(BackOffice, UserModelAdmin):
    add_form = NewUserForm
    form = UserForm
    list_display = ["email", "name", "plan", "is_active", "is_staff", "email_verified", "created_at", "last_login"]
    list_filter = ["is_active", "is_staff", "email_verified", "plan"]
    list_select_related = ["plan"]
    search_fields = ["email", "name", "id"]
    ordering = ["-created_at"]
    date_hierarchy = "created_at"
    show_full_result_count = False
    actions = ["change_plan", "send_reset_mail", "revoke_keys", "disable", "enable"]
    readonly_fields = ["id", "created_at", "last_login", "password_form"]
    filter_horizontal = ["groups", "user_permissions"]
    fieldsets = [
        (
            None,
            {"fields": ["id", "email", "name", "plan", "email_verified", "password_form"]},
        ),
        ("Access", {"fields": ["is_active", "is_staff", "is_superuser", "groups", "user_permissions"]}),
        ("Dates", {"fields": ["created_at", "last_login"]}),
    ]
    add_fieldsets = [(None, {"fields": ["email", "usable_password", "password1", "password2"]})]

    @admin.display(description="Password")
    def password_form(self, obj: User) -> SafeString:
        """In place of Django's summary, which shows parts of the hash."""
        return format_html('<a href="{}">Set a new one</a> (revokes their proxy keys)', "../password/")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "user_permissions":  # each is shown with its content type
            kwargs["queryset"] = Permission.objects.select_related("content_type")
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Only a superuser hands out power: staff who may edit users must not make themselves one. And nobody takes
        away their own: somebody is always left who can."""
        power = ["is_staff", "is_superuser"]
        given = [] if is_superuser(request) else [*power, "groups", "user_permissions"]
        own = ["is_active", *power] if obj == request.user else []
        return [*self.readonly_fields, *given, *own]

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if obj is not None and obj.is_superuser and not is_superuser(request):
            return False  # a new password for a superuser would make them one
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if obj is not None and (obj == request.user or (obj.is_superuser and not is_superuser(request))):
            return False
        return super().has_delete_permission(request, obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        if "unset-password" in request.POST and self.get_object(request, unquote(id)) == request.user:
            self.message_user(request, "A colleague has to do that: you could not sign in any more.", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        try:
            return super().user_change_password(request, id, form_url)
        except (EpochNotPublished, HashingBusy) as error:
            return self.explain(request, error)
        except GONE as error:
            return self.missing(request, id, error)

    def has_assign_plan_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "assign_plan")

    def has_disable_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "disable_user")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "revoke_proxykey")

    def has_send_reset_mail_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "send_reset_mail_user")

    @admin.action(description="Send reset mail", permissions=["send_reset_mail"])
    @confirmed(
        "They are sent a link to set a new password, good for an hour. Until they use it, nothing changes.",
        button="Send reset mail",
    )
    def send_reset_mail(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        try:
            for user in self._within_reach(request, queryset):
                mail.send_reset(request, user.email)
                self.log_change(request, user, "Reset mail sent.")
        except mail.MailNotConfigured as error:
            self.message_user(request, str(error), messages.ERROR)

    @admin.action(description="Change plan", permissions=["assign_plan"])
    @confirmed("Their limits change with their next request.", button="Change plan", form=PlanForm)
    def change_plan(self, request: HttpRequest, queryset: QuerySet[User], entered: dict[str, Any]) -> None:
        plan: Plan = entered["plan"]
        for user in self._within_reach(request, queryset):
            self._apply(request, user, partial(user.change_plan, plan), f"Plan changed to {plan.code}.")

    @admin.action(description="Revoke all proxy keys", permissions=["revoke"])
    @confirmed(
        "The next request with any of their proxy keys is refused, for good. They can sign in and make new ones.",
        button="Revoke all proxy keys",
        is_harmful=True,
    )
    def revoke_keys(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        count = 0
        for user in self._within_reach(request, queryset):
            count += user.revoke_proxy_keys()
            self.log_change(request, user, "All proxy keys revoked.")
        self.message_user(request, f"{count} proxy keys revoked.", messages.SUCCESS)

    @admin.action(description="Disable", permissions=["disable"])
    @confirmed(
        "Every token and proxy key of theirs is refused at once, and they cannot sign in. Enabling them again brings"
        " their proxy keys back.",
        button="Disable",
        is_harmful=True,
    )
    def disable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in self._within_reach(request, queryset):
            if user == request.user:
                self.message_user(request, "Nobody disables themselves: a colleague has to do it.", messages.ERROR)
                continue
            self._apply(request, user, user.disable, "Disabled.")

    @admin.action(description="Enable again", permissions=["disable"])
    def enable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in self._within_reach(request, queryset):
            self._apply(request, user, user.enable, "Enabled.")

    def _apply(self, request: HttpRequest, user: User, change: Callable[[], None], what: str) -> None:
        try:
            change()
        except AccountChanged:
            self.message_user(request, f"{user} was deleted meanwhile: nothing was changed there.", messages.WARNING)
        else:
            self.log_change(request, user, what)

    def _within_reach(self, request: HttpRequest, queryset: QuerySet[User]) -> list[User]:
        """A role that may not change users acts on those who are no staff."""
        may = self.has_change_permission
        return [user for user in queryset if may(request, user) or not (user.is_staff or user.is_superuser)]


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "revoked":
            return queryset.exclude(revoked_at=None)
        if self.value() == "expired":
            return queryset.filter(revoked_at=None, expires_at__lte=timezone.now())
        if self.value() == "live":
            return queryset.filter(revoked_at=None).exclude(expires_at__lte=timezone.now())
        return queryset


@admin.register(ProxyKey)
class ProxyKeyAdmin(BackOffice, KeyModelAdmin):
    list_display = ["key_prefix", "name", "user", "status", "created_at", "last_used_at", "expires_at"]
    list_filter = [StatusFilter]
    list_select_related = ["user"]
    search_fields = ["key_prefix", "name", "user__email", "id"]
    secrets = frozenset({"key_hash", "verifier"})
    date_hierarchy = "created_at"
    show_full_result_count = False
    autocomplete_fields = ["user"]
    actions = ["revoke"]
    readonly_fields = ["id", "key_prefix", "status", "created_at", "last_used_at", "revoked_at"]
    fieldsets = [
        (None, {"fields": ["id", "key_prefix", "status", "user", "name"]}),
        ("Limits", {"fields": ["rpm", "tpm", "max_parallel", "max_tokens", "allowed_models", "ip_allowlist"]}),
        ("Dates", {"fields": ["created_at", "last_used_at", "expires_at", "revoked_at"]}),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: ProxyKey | None = None) -> list[str]:
        # its verifier names its owner: with another one it would open nothing
        return [*self.readonly_fields, "user"] if obj else list(self.readonly_fields)

    def has_change_permission(self, request: HttpRequest, obj: ProxyKey | None = None) -> bool:
        if obj is not None and obj.revoked_at is not None:
            return False
        return super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: ProxyKey, form: Any, change: bool) -> None:
        if change:
            obj.change(**{name: getattr(obj, name) for name in form.cleaned_data})
        else:
            request.new_proxy_key = keys.issue_row(obj)  # type: ignore[attr-defined]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except (keys.PlanLimitReached, keys.KeyRevoked, AccountChanged) as error:
            self.message_user(request, str(error) or "That account is disabled.", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def response_add(self, request: HttpRequest, obj: ProxyKey, post_url_continue: str | None = None) -> HttpResponse:
        """A page of its own, not a message: messages travel in a cookie, and may rest in the session's row."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Proxy key made",
            "opts": self.opts,
            "proxy_key": obj,
            "key": request.new_proxy_key,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "accounts/proxy_key_made.html", context, headers={"Cache-Control": "no-store"})

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "revoke_proxykey")

    @admin.action(description="Revoke", permissions=["revoke"])
    @confirmed(
        "The next request with such a key is refused, for good: nothing brings it back.",
        button="Revoke",
        is_harmful=True,
    )
    def revoke(self, request: HttpRequest, queryset: QuerySet[ProxyKey]) -> None:
        for row in queryset.filter(revoked_at=None):
            self.log_change(request, row, "Revoked.")
        count = ProxyKey.objects.filter(pk__in=queryset.values("pk")).revoke()
        self.message_user(request, f"{count} revoked.", messages.SUCCESS)


@admin.register(SignIn)
class SignInAdmin(BackOffice, SignInModelAdmin):
    """Where somebody is signed in; ending one ends its tokens."""

    list_display = ["user", "created_at", "expires_at", "ended_at"]
    list_select_related = ["user"]
    search_fields = ["user__email"]
    secrets = frozenset({"jti"})
    date_hierarchy = "created_at"
    show_full_result_count = False
    actions = ["end"]
    fields = ["id", "user", "created_at", "expires_at", "ended_at"]
    readonly_fields = ["id", "user", "created_at", "expires_at", "ended_at"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: SignIn) -> None:
        self.delete_queryset(request, SignIn.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[SignIn]) -> None:
        record_each(Action.DELETE, queryset)
        queryset.delete()

    def has_end_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "end_signin")

    @admin.action(description="End", permissions=["end"])
    @confirmed("The tokens of these sign-ins are refused at once.", button="End", is_harmful=True)
    def end(self, request: HttpRequest, queryset: QuerySet[SignIn]) -> None:
        with transaction.atomic():
            rows = list(queryset.filter(ended_at=None))
            SignIn.objects.filter(pk__in=[row.pk for row in rows]).update(ended_at=timezone.now())
            record_each(Action.REVOKE, rows)
        self.message_user(request, f"{len(rows)} ended.", messages.SUCCESS)
