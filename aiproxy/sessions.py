"""Owns signing in by a browser session (back-office and browsable API), and whose failed login a failure is."""

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest

from accounts.models import User


class EmailLogin(AuthenticationForm):
    username = forms.EmailField(
        label="E-mail", max_length=254, widget=forms.EmailInput(attrs={"autofocus": True, "autocomplete": "email"})
    )


class SignIn(LoginView):
    template_name = "session/login.html"
    authentication_form = EmailLogin


class SignOut(LogoutView):
    http_method_names = ["post", "options"]


def login_name(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str | None:
    """What django-axes counts failures under. Forms and signals name the field differently; case is no difference."""
    given = credentials or getattr(request, "data", None) or request.POST
    name = given.get("username") or given.get("email")
    return User.objects.normalize_email(name)[:254] if isinstance(name, str) else None
