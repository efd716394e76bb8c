"""Owns signing in by a browser session (back-office and browsable API), and whose failed login a failure is."""

from typing import Any

from axes.helpers import get_cool_off
from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.throttles import LoginThrottle
from aiproxy import errors


class EmailLogin(AuthenticationForm):
    username = forms.EmailField(
        label=_("E-mail"), max_length=254, widget=forms.EmailInput(attrs={"autofocus": True, "autocomplete": "email"})
    )


class SignIn(LoginView):
    template_name = "session/login.html"
    authentication_form = EmailLogin

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not LoginThrottle().allow_request(request, self):  # type: ignore[arg-type]  # it reads META only
            return errors.respond(request, 429, gettext("Too many attempts from your address. Try again in a minute."))
        return super().post(request, *args, **kwargs)


class SignOut(LogoutView):
    http_method_names = ["post", "options"]


def login_name(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str | None:
    """What django-axes counts failures under. Forms and signals name the field differently; case is no difference."""
    given = credentials or getattr(request, "data", None) or request.POST
    name = given.get("username") or given.get("email")
    return User.objects.normalize_email(name)[:254] if isinstance(name, str) else None


def locked_out(request: HttpRequest, response: HttpResponse, credentials: dict[str, Any] | None) -> HttpResponse:
    """What django-axes answers in place of a login page."""
    cool_off = get_cool_off(request)
    minutes = cool_off.total_seconds() / 60 if cool_off else 0
    detail = gettext("Too many wrong passwords for this account from your address. Try again in %(minutes)d minutes.")
    return errors.respond(request, 429, detail % {"minutes": minutes}, headers={"Retry-After": f"{minutes * 60:.0f}"})
