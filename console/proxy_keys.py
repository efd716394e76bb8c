"""Owns the pages of proxy keys, and the one list of both kinds. A new key is shown once, on the page that made it."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import keys
from accounts.models import ProxyKey
from accounts.serializers import ProxyKeySerializer
from accounts.throttles import KeyThrottle
from console.pages import ApiForm, Page, one_page, own
from console.provider_keys import KeyPage
from vault.models import ApiKey

_ROWS = 50


class Keys(Page):
    template_name = "console/keys.html"
    section = "console:keys"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        rows = ProxyKey.objects.filter(user=self.user)
        is_all = "all" in self.request.GET
        page, following = one_page(self.request, rows if is_all else rows.live(), _ROWS)
        return super().get_context_data(
            **kwargs,
            api_keys=ApiKey.objects.filter(user=self.user),
            proxy_keys=page,
            next=following,
            is_all=is_all,
            plan=self.user.plan,
        )


class Lines(forms.CharField):
    """A list, one entry a line."""

    widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.to_python(data) != (initial or []))


def _limit(label: Any, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(label=label, min_value=1, required=False, help_text=help_text)


class ProxyKeyForm(ApiForm):
    serializer = ProxyKeySerializer

    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=80, required=False, help_text=gettext_lazy("What it is for.")
    )
    allowed_models = Lines(
        label=gettext_lazy("Models"),
        required=False,
        help_text=gettext_lazy("Those it may ask for, one a line; a * ends the beginning of names. Empty: all."),
    )
    rpm = _limit(gettext_lazy("Requests a minute"), gettext_lazy("Empty: your plan's."))
    tpm = _limit(gettext_lazy("Tokens a minute"), gettext_lazy("Empty: your plan's."))
    max_parallel = _limit(gettext_lazy("Requests at once"), gettext_lazy("Empty: your plan's."))
    max_tokens = _limit(gettext_lazy("Output tokens a request"), gettext_lazy("Empty: no cap."))
    expires_at = forms.DateTimeField(
        label=gettext_lazy("Expires (UTC)"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text=gettext_lazy("Refused from then on. Empty: never."),
    )
    ip_allowlist = Lines(
        label=gettext_lazy("Networks"),
        required=False,
        help_text=gettext_lazy("It may be used from these only, one a line, as in 203.0.113.0/24. Empty: anywhere."),
    )


class Create(KeyPage):
    template_name = "console/proxy_key_create.html"
    form_class = ProxyKeyForm
    throttles = [KeyThrottle]

    def act(self, form: ProxyKeyForm) -> HttpResponse:
        row, key = keys.issue(self.user, **form.accepted)
        context = Page.get_context_data(self, proxy_key=row, key=key)
        return self.response_class(self.request, ["console/proxy_key_created.html"], context)


class OneKey(KeyPage):
    """A page of one proxy key; somebody else's is 404."""

    @cached_property
    def proxy_key(self) -> ProxyKey:
        found: ProxyKey = own(ProxyKey.objects.select_related("user__plan"), self.user, self.kwargs["pk"])
        return found

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(proxy_key=self.proxy_key, **kwargs)


class Change(OneKey):
    template_name = "console/proxy_key.html"
    form_class = ProxyKeyForm

    def get_initial(self) -> dict[str, Any]:
        initial = {name: getattr(self.proxy_key, name) for name in ProxyKeyForm.base_fields}
        if expires_at := initial["expires_at"]:
            initial["expires_at"] = expires_at.replace(second=0, microsecond=0)  # what the field shows
        return initial

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "instance": self.proxy_key}

    def act(self, form: ProxyKeyForm) -> HttpResponse:
        self.proxy_key.change(**form.accepted)
        messages.success(self.request, _("The key is changed."))
        return redirect("console:keys")


class Revoke(OneKey):
    template_name = "console/proxy_key_revoke.html"
    form_class = forms.Form

    def act(self, form: forms.Form) -> HttpResponse:
        self.proxy_key.revoke()
        messages.success(self.request, _("The key is revoked: it is refused from its next request on."))
        return redirect("console:keys")
