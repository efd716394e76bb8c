"""Owns the pages of provider keys: a key goes in and never comes out, and what its provider said of it is shown."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework.exceptions import Throttled

from console.pages import ApiForm, FormPage, check_throttles, own
from usage.figures import milliseconds
from vault import store
from vault.api import ApiKeySerializer, KeyTestThrottle
from vault.models import MAX_PRIORITY, ApiKey, Provider
from vault.providers import MAX_KEY_LENGTH


class ProviderKeyForm(ApiForm):
    serializer = ApiKeySerializer

    provider = forms.ChoiceField(label=gettext_lazy("Provider"), choices=Provider.choices)
    key = forms.CharField(
        label=gettext_lazy("Key"),
        max_length=MAX_KEY_LENGTH,
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=gettext_lazy("As the provider gave it to you. It is encrypted at once, and cannot be read back."),
    )
    label = forms.CharField(
        label=gettext_lazy("Label"),
        max_length=80,
        required=False,
        help_text=gettext_lazy("Tells several keys at one provider apart."),
    )
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        min_value=0,
        max_value=MAX_PRIORITY,
        initial=100,
        help_text=gettext_lazy("Of several keys, the one with the lower number is tried first."),
    )
    base_url = forms.CharField(
        label=gettext_lazy("Address"),
        max_length=200,
        required=False,
        help_text=gettext_lazy("Only for Alibaba, whose keys work in one region. Empty: the usual one."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance is not None:
            del self.fields["provider"]
            self.fields["key"].required = False
            self.fields["key"].help_text = _("Replaces the key that is stored. Empty: it stays.")
            if self.instance.provider != Provider.ALIBABA:
                del self.fields["base_url"]


def test(request: HttpRequest, api_key: ApiKey) -> None:
    """Asks the provider, and says what it said. Throttled when asked too often."""
    check_throttles(request, [KeyTestThrottle])
    verdict = api_key.ask_provider()
    took = {"time": milliseconds(verdict.latency_ms), "provider": api_key.get_provider_display(), "said": verdict.error}
    if verdict.valid:
        messages.success(request, _("%(provider)s takes the key (%(time)s).") % took)
    elif verdict.valid is None:
        messages.warning(request, _("%(provider)s could not say whether the key is good: %(said)s") % took)
    else:
        messages.error(request, _("%(provider)s refuses the key: %(said)s") % took)


class KeyPage(FormPage):
    section = "console:keys"


class Add(KeyPage):
    template_name = "console/provider_key_add.html"
    form_class = ProviderKeyForm

    def act(self, form: ProviderKeyForm) -> HttpResponse:
        asked = dict(form.accepted)
        api_key = store.add(self.user.pk, asked.pop("provider"), asked.pop("label", ""), asked.pop("key"), **asked)
        messages.success(self.request, _("The key is stored."))
        try:
            test(self.request, api_key)
        except Throttled:
            messages.warning(self.request, _("It was not tested: you have tested too many keys. Test it in a minute."))
        return redirect("console:keys")


class OneKey(KeyPage):
    """A page of one stored key; somebody else's is 404."""

    @cached_property
    def api_key(self) -> ApiKey:
        found: ApiKey = own(ApiKey.objects.all(), self.user, self.kwargs["pk"])
        return found

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(api_key=self.api_key, **kwargs)


class Change(OneKey):
    """Changes it; its other button tests it."""

    template_name = "console/provider_key.html"
    form_class = ProviderKeyForm

    def get_initial(self) -> dict[str, Any]:
        return {name: getattr(self.api_key, name) for name in ("label", "priority", "base_url")}

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "instance": self.api_key}

    def post(self, request: HttpRequest, *args: Any, pk: UUID, **kwargs: Any) -> HttpResponse:
        if request.POST.get("act") != "test":
            return super().post(request, *args, **kwargs)
        try:
            test(request, self.api_key)
        except Throttled as error:
            messages.error(request, str(error.detail))
        return redirect("console:keys")

    def act(self, form: ProviderKeyForm) -> HttpResponse:
        asked = dict(form.accepted)
        store.change(self.user.pk, self.api_key.pk, asked.pop("key", None), **asked)
        messages.success(self.request, _("The key is changed."))
        return redirect("console:keys")


class Delete(OneKey):
    template_name = "console/provider_key_delete.html"
    form_class = forms.Form

    def act(self, form: forms.Form) -> HttpResponse:
        store.remove(self.user.pk, self.api_key.pk)
        messages.success(self.request, _("The key is deleted."))
        return redirect("console:keys")
