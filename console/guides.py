"""Owns the pages that help to start: the playground, which asks from the browser, and snippets for other programs.

No key is ever in them: the playground's is typed in, and stays in the browser.
"""

from typing import Any

from accounts.models import User
from console.pages import Page, origin
from console.snippets import snippets
from vault.models import ApiKey

# A model that every key of the provider reaches.
_MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "alibaba": "qwen-plus",
}


class Playground(Page):
    template_name = "console/playground.html"
    section = "console:playground"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        providers = _providers(self.user)
        return super().get_context_data(model=_model(providers), has_key=bool(providers), **kwargs)


class QuickStart(Page):
    template_name = "console/quick_start.html"
    section = "console:quick-start"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        providers, here = _providers(self.user), origin(self.request)
        claude = _MODELS["anthropic"] if "anthropic" in providers else _model(providers)
        shown = list(snippets(origin=here, model=_model(providers), claude=claude))
        return super().get_context_data(origin=here, snippets=shown, **kwargs)


def _providers(user: User) -> list[str]:
    """Of whom the user has a key that works, in no order of theirs."""
    return list(ApiKey.objects.filter(user=user).usable().values_list("provider", flat=True))


def _model(providers: list[str]) -> str:
    return next((model for provider, model in _MODELS.items() if provider in providers), _MODELS["openai"])
