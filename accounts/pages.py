"""Owns the pages that links in mails lead to. Opening one does nothing, since scanners open links: its button acts."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth.password_validation import password_validators_help_text_html
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.generic import FormView

from accounts import links
from accounts.serializers import LONGEST_PASSWORD

if TYPE_CHECKING:
    View = FormView[Any]
else:
    View = FormView


class VerifyForm(forms.Form):
    token = forms.CharField(max_length=1024, widget=forms.HiddenInput)

    def act(self) -> None:
        links.verify_email(self.cleaned_data["token"])


class StopLimitMailsForm(VerifyForm):
    def act(self) -> None:
        links.stop_limit_mails(self.cleaned_data["token"])


class ResetForm(forms.Form):
    token = forms.CharField(max_length=1024, widget=forms.HiddenInput)
    new = forms.CharField(
        label=_("New password"),
        help_text=password_validators_help_text_html(),
        max_length=LONGEST_PASSWORD,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "autofocus": True}),
    )

    def act(self) -> None:
        try:
            links.reset_password(self.cleaned_data["token"], self.cleaned_data["new"])
        except ValidationError as error:
            self.add_error("new", error)


class LinkPage(View):
    """`?token=…` fills the form; what becomes of it is said on the same page."""

    template_name = "accounts/link.html"
    http_method_names = ["get", "post", "head", "options"]
    purpose: links.Purpose
    title: str | Promise = ""
    button: str | Promise = ""
    done: str | Promise = ""

    def get_initial(self) -> dict[str, Any]:
        return {"token": self.request.GET.get("token", "")}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        texts = {"title": self.title, "button": self.button, "done": self.done}
        return super().get_context_data(**texts, **kwargs)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            self.purpose.user(request.GET.get("token", ""))
        except links.LinkRefused as error:
            return self._say(error)
        return self.render_to_response(self.get_context_data(), headers={"Cache-Control": "no-store"})

    def form_valid(self, form: Any) -> HttpResponse:
        try:
            form.act()
        except links.LinkRefused as error:
            return self._say(error)
        return self.form_invalid(form) if form.errors else self._say()

    def form_invalid(self, form: Any) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=400)

    def _say(self, refusal: Exception | None = None) -> HttpResponse:
        context = self.get_context_data(form=None, is_done=refusal is None, refusal=refusal)
        return self.render_to_response(context, status=400 if refusal else 200)


class VerifyPage(LinkPage):
    purpose, form_class = links.VERIFY, VerifyForm
    title, button = _("Verify your e-mail address"), _("This address is mine")
    done = _("Your address is verified.")


class StopLimitMailsPage(LinkPage):
    purpose, form_class = links.STOP_LIMIT_MAILS, StopLimitMailsForm
    title, button = _("Mails about limits"), _("Send me no more of them")
    done = _("You get no more mails about limits. Your account's settings turn them on again.")


class ResetPage(LinkPage):
    purpose, form_class = links.RESET, ResetForm
    title, button = _("Set a new password"), _("Set it")
    done = _("Your password is set. Every sign-in has ended, and every proxy key is revoked.")
