"""Owns the pages of one's own account: name, password, where one is signed in, taking one's data, and leaving."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.i18n import set_language

from accounts import own as account
from accounts import tokens
from accounts.models import SignIn
from accounts.serializers import PasswordSerializer, UserSerializer
from accounts.throttles import PasswordThrottle
from audit.models import Action, Event
from console import personal_data
from console.entrance import PasswordField
from console.pages import ApiForm, FormPage, as_api, own

_EVENTS = (Action.SIGN_IN, Action.SIGN_OUT)
_LAST = 20


class ProfileForm(ApiForm):
    serializer = UserSerializer
    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=120, required=False, help_text=gettext_lazy("What to call you.")
    )
    language = forms.ChoiceField(
        label=gettext_lazy("Language"),
        choices=settings.LANGUAGES,
        help_text=gettext_lazy("Of pages, and of mails to you."),
    )
    limit_mails = forms.BooleanField(label=gettext_lazy("Mail me when a limit is nearly used up"), required=False)


class PasswordForm(ApiForm):
    serializer = PasswordSerializer
    current = PasswordField(gettext_lazy("Current password"))
    new = PasswordField(gettext_lazy("New password"), is_new=True)


class DeleteForm(ApiForm):
    serializer = personal_data.DeleteSerializer
    password = PasswordField(gettext_lazy("Your password, once more"))


class AccountPage(FormPage):
    section = "console:account"


class Account(AccountPage):
    template_name = "console/account.html"
    form_class = ProfileForm

    def get_initial(self) -> dict[str, Any]:
        return {name: getattr(self.user, name) for name in ProfileForm.base_fields}

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "instance": self.user}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        going_on = SignIn.objects.filter(user=self.user, ended_at=None, expires_at__gt=timezone.now())
        events = Event.objects.filter(actor_id=self.user.pk, action__in=_EVENTS)
        return super().get_context_data(sign_ins=going_on[:_LAST], events=events[:_LAST], **kwargs)

    def act(self, form: ProfileForm) -> HttpResponse:
        self.user.change(**form.accepted)
        messages.success(self.request, _("Saved."))
        return set_language(self.request)  # keeps it in a cookie, and leads to the form's `next`


class Password(AccountPage):
    template_name = "console/password.html"
    form_class = PasswordForm
    throttles = [PasswordThrottle]

    def act(self, form: PasswordForm) -> HttpResponse:
        _user, revoked = account.change_password(as_api(self.request), form.accepted["current"], form.accepted["new"])
        messages.success(
            self.request, _("Your password is changed. Proxy keys that were revoked with it: %d.") % revoked
        )
        return redirect("console:account")


class EndSignIn(AccountPage):
    """Of a program that signed in with the password. Somebody else's is 404."""

    template_name = "console/end_sign_in.html"
    form_class = forms.Form

    @cached_property
    def sign_in(self) -> SignIn:
        found: SignIn = own(SignIn.objects.all(), self.user, self.kwargs["pk"])
        return found

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(sign_in=self.sign_in, **kwargs)

    def act(self, form: forms.Form) -> HttpResponse:
        tokens.end_by_hand(self.sign_in)
        messages.success(self.request, _("That sign-in has ended."))
        return redirect("console:account")


class Delete(AccountPage):
    template_name = "console/account_delete.html"
    form_class = DeleteForm
    throttles = [PasswordThrottle]

    def act(self, form: DeleteForm) -> HttpResponse:
        personal_data.leave(as_api(self.request), form.accepted["password"])
        return redirect("landing")
