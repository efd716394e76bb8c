"""Owns how staff see each other's second factors: that there is one, and how to take it away."""

from typing import TYPE_CHECKING, Any

from axes.admin import AccessAttemptAdmin
from axes.models import AccessAttempt
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.backoffice import QueryGuard, is_superuser
from audit.models import Action
from audit.trail import record_each
from staff.models import Authenticator, RecoveryCode

if TYPE_CHECKING:
    AuthenticatorModelAdmin = admin.ModelAdmin[Authenticator]
else:
    AuthenticatorModelAdmin = admin.ModelAdmin


@admin.register(Authenticator)
class AuthenticatorAdmin(QueryGuard, AuthenticatorModelAdmin):
    """To delete one is to reset it: its owner sets up a new one at the next sign-in."""

    list_display = ["user", "created_at", "last_used_at", "throttling_failure_count"]
    list_select_related = ["user"]
    search_fields = ["user__email"]
    show_full_result_count = False
    readonly_fields = ["user", "created_at", "last_used_at", "throttling_failure_count", "codes_left"]
    fields = tuple(readonly_fields)
    secrets = frozenset({"salt"})

    @admin.display(description="recovery codes left")
    def codes_left(self, own: Authenticator) -> int:
        return RecoveryCode.objects.filter(authenticator=own, used_at=None).count()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Authenticator | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Authenticator | None = None) -> bool:
        if obj is not None and obj.user.is_superuser and not is_superuser(request):
            return False
        return super().has_delete_permission(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Without the codes that go with it, which nobody has a permission for."""
        protected = [str(own) for own in objs if not self.has_delete_permission(request, own)]
        return [str(own) for own in objs], {self.opts.verbose_name_plural: len(objs)}, set(), protected

    def delete_model(self, request: HttpRequest, obj: Authenticator) -> None:
        obj.reset("reset in the back-office")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Authenticator]) -> None:
        for own in queryset.select_related("user"):
            own.reset("reset in the back-office")


admin.site.unregister(AccessAttempt)


@admin.register(AccessAttempt)
class AttemptAdmin(AccessAttemptAdmin):  # type: ignore[misc]
    """To delete one is to unlock. Without django-axes' own action, which asks for no permission."""

    actions = None

    def has_change_permission(self, request: HttpRequest, obj: AccessAttempt | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: AccessAttempt) -> None:
        self.delete_queryset(request, AccessAttempt.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AccessAttempt]) -> None:
        record_each(Action.DELETE, queryset)
        queryset.delete()
