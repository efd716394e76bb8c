"""Owns the back-office's site: its front page and its navigation. What is shown there is registered by each
app's admin.py."""

from typing import Any

from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from aiproxy import dashboard
from staff.site import StaffSite

# What is not listed comes last, under its app's name.
_NAVIGATION = {
    "Traffic": ["ProxyRequest", "UsageHour", "Price"],
    "People": ["User", "Plan", "SignIn"],
    "Keys": ["ProxyKey", "ApiKey", "ModelAlias"],
    "Security": ["Event", "Group", "Authenticator", "AccessAttempt", "AccessFailureLog", "AccessLog"],
}


class AdminSite(StaffSite):
    site_title = "aiproxy"
    site_header = "aiproxy"
    index_title = "Overview"
    enable_nav_sidebar = False  # ours has groups, and works on a phone

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        return {**context, "navigation": _navigation(request, context["available_apps"])}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return super().index(request, {**dashboard.context(request), **(extra_context or {})})


def _navigation(request: HttpRequest, apps: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Links by group: each `name`, `url`, and whether it is `here`."""
    links: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in _NAVIGATION}
    for app in apps:
        for model in app["models"]:
            if url := model["admin_url"]:
                link = {"name": model["name"], "url": url, "here": request.path.startswith(url)}
                links[model["object_name"]] = link
                if not any(model["object_name"] in names for names in _NAVIGATION.values()):
                    groups.setdefault(app["name"], []).append(link)
    for title, names in _NAVIGATION.items():
        groups[title] = [links[name] for name in names if name in links]
    if "ApiKey" in links:
        url = reverse("admin:vault_apikey_keyring")
        here = request.path == url
        links["ApiKey"]["here"] = links["ApiKey"]["here"] and not here
        groups["Keys"].append({"name": "Keyring", "url": url, "here": here})
    return {title: group for title, group in groups.items() if group}
