"""Owns how a person gets in without a program: signing up, a forgotten password, a mail that verifies an address."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.password_validation import password_validators_help_text_html
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import mail
from accounts import own as account
from accounts.serializers import LONGEST_PASSWORD, EmailSerializer, SignupSerializer
from accounts.throttles import MailThrottle, RecipientThrottle, SignupThrottle
from console.pages import ApiForm, FormPage, Refusals, as_api


class EmailField(forms.EmailField):
    def __init__(self, **options: Any) -> None:
        widget = forms.EmailInput(attrs={"autocomplete": "email", "autofocus": True})
        super().__init__(label=gettext_lazy("E-mail"), max_length=254, widget=widget, **options)


class PasswordField(forms.CharField):
    """Never rendered with what was typed. A new one tells its rules."""

    def __init__(self, label: Any, *, is_new: bool = False, **options: Any) -> None:
        widget = forms.PasswordInput(attrs={"autocomplete": "new-password" if is_new else "current-password"})
        help_text = password_validators_help_text_html() if is_new else ""
        super().__init__(
            label=label, help_text=help_text, max_length=LONGEST_PASSWORD, strip=False, widget=widget, **options
        )


class SignUpForm(ApiForm):
    serializer = SignupSerializer
    email = EmailField()
    password = PasswordField(gettext_lazy("Password"), is_new=True)


class ForgottenForm(ApiForm):
    serializer = EmailSerializer
    email = EmailField()


class SignUp(Refusals):
    template_name = "console/sign_up.html"
    form_class = SignUpForm
    throttles = [SignupThrottle]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated:
            return redirect("console:overview")
        return super().dispatch(request, *args, **kwargs)

    def act(self, form: SignUpForm) -> HttpResponse:
        user = account.sign_up(as_api(self.request), form.accepted["email"], form.accepted["password"])
        login(self.request, user, backend="django.contrib.auth.backends.ModelBackend")
        return redirect("console:verification" if settings.EMAIL_URL else "console:overview")


class Forgotten(Refusals):
    """Says the same whether or not there is such an account."""

    template_name = "console/forgotten.html"
    form_class = ForgottenForm
    throttles = [MailThrottle, RecipientThrottle]

    def act(self, form: ForgottenForm) -> HttpResponse:
        mail.send_reset(self.request, form.accepted["email"])
        return self.render_to_response({"sent_to": form.accepted["email"]})


class Verification(FormPage):
    """Check your mail; its button sends another one."""

    template_name = "console/verification.html"
    form_class = forms.Form
    throttles = [MailThrottle, RecipientThrottle]

    def act(self, form: forms.Form) -> HttpResponse:
        account.send_verification(as_api(self.request))
        messages.success(self.request, _("Another mail is on its way to your address."))
        return redirect("console:verification")
