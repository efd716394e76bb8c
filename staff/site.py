"""Owns the door of the back-office: password, then second factor; each page asks again whether both were shown."""

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

import django_otp
import segno
from axes.handlers.proxy import AxesProxyHandler
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth import REDIRECT_FIELD_NAME, logout
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import BadRequest, FieldDoesNotExist, ValidationError
from django.db import DataError, IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework.exceptions import Throttled
from rest_framework.request import Request

from accounts.lockout import check_password
from accounts.throttles import LoginThrottle
from audit.models import Action
from audit.trail import record
from staff import sessions
from staff.lists import Narrowed
from staff.models import Authenticator, new_salt

_SALT = "staff.salt"  # in the session, until the new app has shown a right code
_WRONG = "That code is not right, or was used already. After wrong ones you must wait a little longer each time."

# What hands out power, takes it away, or cannot be undone: pages by the names of their URLs, and actions.
DANGEROUS = frozenset(
    {
        "auth_group_add",
        "auth_group_change",
        "auth_group_delete",
        "accounts_user_change",
        "accounts_user_delete",
        "accounts_proxykey_delete",
        "auth_user_password_change",
        "staff_authenticator_delete",
        "vault_apikey_delete",
        "vault_apikey_keyring",
    }
)
DANGEROUS_ACTIONS = frozenset({"delete_selected", "disable", "revoke", "revoke_keys"})


class CodeInput(forms.TextInput):
    """Shows what is typed, and never again what was: it may be good yet."""

    def format_value(self, value: Any) -> None:
        return None


class CodeForm(forms.Form):
    code = forms.CharField(
        label="Code",
        max_length=40,
        widget=CodeInput(attrs={"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false"}),
    )


class PasswordForm(forms.Form):
    password = forms.CharField(
        label="Your password", widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True})
    )


class StaffSite(admin.AdminSite):
    """An admin site whose pages are for staff who have shown a second factor; see `needs_second_factor`."""

    def has_permission(self, request: HttpRequest) -> bool:
        return self._knows_password(request) and not needs_second_factor(request)

    def _knows_password(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and sessions.is_limited(request)

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Every list is a `Narrowed` one, those of other packages too."""
        named = admin_class or admin.ModelAdmin
        narrowed = type(named.__name__, (Narrowed, named), {"__module__": named.__module__})
        super().register(model_or_iterable, narrowed, **options)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Nothing for who is only half-way in."""
        return super().get_app_list(request, app_label) if self.has_permission(request) else []

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """What is dangerous asks for a code again, unless one was shown a moment ago: an open browser is not enough."""
        inner = super().admin_view(view, cacheable)

        @wraps(inner)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if _is_dangerous(request) and self.has_permission(request) and not sessions.is_fresh(request):
                messages.warning(request, "Nothing was done yet: show that it is you, then do it again.")
                query = QueryDict(mutable=True)
                query[REDIRECT_FIELD_NAME] = request.get_full_path()
                return HttpResponseRedirect(f"{reverse(f'{self.name}:again')}?{query.urlencode(safe='/')}")
            _check_chosen(request)
            try:
                response: HttpResponse = inner(request, *args, **kwargs)
            except FieldDoesNotExist as error:  # Django does not check an empty `_to_field`
                raise BadRequest("There is no such field.") from error
            except OverflowError as error:  # a number that SQLite takes for none; PostgreSQL finds no such row
                raise BadRequest("No row has such an id.") from error
            return response

        return guarded

    def autocomplete_view(self, request: HttpRequest) -> HttpResponse:
        """Django checks neither what is looked for, nor whether the field is one that points from there elsewhere."""
        try:
            return super().autocomplete_view(request)
        except (AttributeError, DataError, IncorrectLookupParameters) as error:
            raise BadRequest("There is nothing to choose from.") from error

    def password_change(  # type: ignore[override]  # the stubs know one kind of answer
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Wrong old passwords count as at the door: an open browser must not be where they can be tried."""
        if request.method == "POST":
            _is_password(request, request.POST.get("old_password", ""))
            if not request.user.is_authenticated:
                return _locked_out(request)
        return super().password_change(request, extra_context)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """Without Django's way to the page of a row on the site: none has one."""
        urls = [url for url in super().get_urls() if getattr(url, "name", None) != "view_on_site"]
        return [
            path("second-factor/", self._door(self.second_factor), name="second_factor"),
            path("second-factor/enrol/", self._door(self.enrol), name="enrol"),
            path("second-factor/again/", self._door(self.again), name="again"),
            path("second-factor/manage/", self.admin_view(self.manage), name="manage_second_factor"),
            *urls,
        ]

    def _door(self, view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
        """For who has shown a password, but not more."""

        def guarded(request: HttpRequest) -> HttpResponse:
            if not self._knows_password(request):
                return HttpResponseRedirect(reverse(f"{self.name}:login"))
            return _too_many(request) or view(request)

        return never_cache(csrf_protect(sensitive_post_parameters("code", "password")(guarded)))

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "GET" and self._knows_password(request) and needs_second_factor(request):
            return self._to("second_factor", request)
        return _too_many(request) or super().login(request, extra_context)

    def second_factor(self, request: HttpRequest) -> HttpResponse:
        """Asks for a code of the app, or a recovery code."""
        if not needs_second_factor(request):
            return HttpResponseRedirect(self._next(request))
        if _own(request) is None:
            return self._to("enrol", request)
        form = CodeForm(request.POST or None)
        if form.is_valid():
            if is_right(request, form.cleaned_data["code"]):
                return HttpResponseRedirect(self._next(request))
            if not request.user.is_authenticated:
                return _locked_out(request)
            form.add_error("code", _WRONG)
        return self._page(request, "code", "Second factor", form=form, next=self._next(request))

    def again(self, request: HttpRequest) -> HttpResponse:
        """Asks who is in already for a code once more; who needs none, for the password."""
        if needs_second_factor(request):
            return self._to("second_factor", request)
        has_app = _own(request) is not None
        form = (CodeForm if has_app else PasswordForm)(request.POST or None)
        if form.is_valid():
            (typed,) = form.cleaned_data.values()
            if (is_right if has_app else _is_password)(request, typed):
                sessions.proved(request)
                return HttpResponseRedirect(self._next(request))
            if not request.user.is_authenticated:
                return _locked_out(request)
            form.add_error(None, _WRONG if has_app else "That password is not right.")
        return self._page(request, "again", "Show that it is you", form=form, next=self._next(request))

    def enrol(self, request: HttpRequest) -> HttpResponse:
        """Shows a new secret until the app has shown a right code of it, then the recovery codes, once."""
        if _own(request) is not None:
            return self._to("second_factor", request)
        salt = request.session.setdefault(_SALT, new_salt())
        new = Authenticator(user=request.user, salt=salt)
        form = CodeForm(request.POST or None)
        if form.is_valid():
            if new.takes(form.cleaned_data["code"]):
                return self._enrolled(request, new)
            form.add_error("code", "That code is not right. Is the clock of your device?")
        code = segno.make(new.uri, error="m").svg_inline(scale=5, border=4, dark="#000", light="#fff")
        picture = mark_safe(code)  # noqa: S308  lines and numbers of the library's own
        shown = {"form": form, "new": new, "picture": picture, "next": self._next(request)}
        return self._page(request, "enrol", "Set up your second factor", **shown)

    def _enrolled(self, request: HttpRequest, new: Authenticator) -> HttpResponse:
        try:
            with transaction.atomic():
                new.save(force_insert=True)
                record(Action.SECOND_FACTOR, new.user, note="enrolled an authenticator app")
                codes = new.new_recovery_codes()
        except IntegrityError:  # sent twice at once: the other one was faster
            return self._to("second_factor", request)
        del request.session[_SALT]
        _let_in(request, new)
        return self._page(request, "recovery_codes", "Your recovery codes", codes=codes, next=self._next(request))

    def manage(self, request: HttpRequest) -> HttpResponse:
        """New recovery codes, or another app: each for a code, so that an open browser is not enough."""
        own = _own(request)
        if own is None:
            return self._to("enrol", request)
        form = CodeForm(request.POST or None)
        if form.is_valid():
            if not is_right(request, form.cleaned_data["code"]):
                if not request.user.is_authenticated:
                    return _locked_out(request)
                form.add_error("code", _WRONG)
            elif "replace" in request.POST:
                own.reset("gave up an authenticator app for another one")
                return self._to("enrol", request)
            else:
                return self._page(request, "recovery_codes", "Your recovery codes", codes=own.new_recovery_codes())
        left = own.recovery_codes.filter(used_at=None).count()
        return self._page(request, "manage", "Second factor", form=form, own=own, left=left)

    def _page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        context = {**self.each_context(request), "title": title, **context}
        headers = {"Cache-Control": "no-store"}
        return TemplateResponse(request, f"staff/{template}.html", context, headers=headers)

    def _to(self, name: str, request: HttpRequest) -> HttpResponse:
        query = QueryDict(mutable=True)
        query[REDIRECT_FIELD_NAME] = self._next(request)
        return HttpResponseRedirect(f"{reverse(f'{self.name}:{name}')}?{query.urlencode(safe='/')}")

    def _next(self, request: HttpRequest) -> str:
        wanted = request.POST.get(REDIRECT_FIELD_NAME) or request.GET.get(REDIRECT_FIELD_NAME) or ""
        here = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
        return wanted if here else reverse(f"{self.name}:index")


def needs_second_factor(request: HttpRequest) -> bool:
    """Whether one is missing: always asked of who has enrolled, and of everybody if the operator says so."""
    if request.user.is_verified():  # type: ignore[union-attr]  # by django-otp's middleware
        return False
    return settings.AIPROXY_ADMIN_SECOND_FACTOR or _own(request) is not None


def _is_dangerous(request: HttpRequest) -> bool:
    if request.method != "POST" or request.resolver_match is None:
        return False
    # All that were sent: Django runs the one that `index` says, which need not be the last.
    actions = request.POST.getlist("action")
    return request.resolver_match.url_name in DANGEROUS or not DANGEROUS_ACTIONS.isdisjoint(actions)


def _check_chosen(request: HttpRequest) -> None:
    """BadRequest if what was chosen for an action cannot be the id of a row: Django would ask the database for it. Nor
    is a row copied by a page that has no button for it, which Django does not ask either."""
    model_admin = getattr(request.resolver_match and request.resolver_match.func, "model_admin", None)
    if request.method != "POST" or model_admin is None:
        return
    if "_saveasnew" in request.POST and not model_admin.save_as:
        raise BadRequest("Rows are not copied here.")
    try:
        for id in request.POST.getlist(ACTION_CHECKBOX_NAME):
            model_admin.opts.pk.clean(id, None)
    except ValidationError as error:
        raise BadRequest("That is no row of this list.") from error


def _is_password(request: HttpRequest, password: str) -> bool:
    """Wrong ones count as at the door; the one too many signs them out."""
    try:
        return check_password(Request(request), request.user.get_username(), password) is not None
    except Throttled:
        logout(request)
        return False


def _own(request: HttpRequest) -> Authenticator | None:
    own: Authenticator | None = getattr(request.user, "authenticator", None)
    return own


def is_right(request: HttpRequest, code: str) -> bool:
    """Checks a code; wrong ones count as wrong passwords do, and the one too many signs them out."""
    user = request.user
    attempt = copy(request)
    attempt.GET = attempt.POST = QueryDict()  # django-axes writes them into its table
    credentials = {"username": user.get_username()}
    if not AxesProxyHandler.is_allowed(attempt, credentials):
        logout(request)
    elif Authenticator.accept(user, code):
        _let_in(request, Authenticator.objects.get(user=user))
        return True
    else:
        user_login_failed.send(__name__, credentials=credentials, request=attempt, note="second factor")
        if attempt.axes_locked_out:  # type: ignore[attr-defined]
            logout(request)
    return False


def _let_in(request: HttpRequest, own: Authenticator) -> None:
    request.session.cycle_key()
    django_otp.login(request, own)
    sessions.proved(request)
    record(Action.SECOND_FACTOR, own.user, note="shown")


def _too_many(request: HttpRequest) -> HttpResponse | None:
    """An address may not try on for ever, whatever accounts it tries."""
    if request.method != "POST" or LoginThrottle().allow_request(request, None):  # type: ignore[arg-type]
        return None
    return _refused(request, "Too many attempts from your address. Try again in a minute.")


def _locked_out(request: HttpRequest) -> HttpResponse:
    minutes = settings.AXES_COOLOFF_TIME.total_seconds() / 60
    return _refused(request, f"Too many wrong passwords or codes. Try again in {minutes:.0f} minutes.")


def _refused(request: HttpRequest, detail: str) -> HttpResponse:
    return TemplateResponse(request, "error.html", {"status": 429, "detail": detail}, status=429)
