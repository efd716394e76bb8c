"""Every control-plane URL. The data plane's (`/v1/*`) are in proxy/app.py. Only Django's admin has trailing slashes."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from accounts.pages import ResetPage, StopLimitMailsPage, VerifyPage
from aiproxy import health, landing, languages, metrics, openapi, pages, sessions
from console import personal_data

API: pages.Routes = [
    path("", include("accounts.urls")),
    path("", include("vault.urls")),
    path("", include("proxy.urls")),
    path("", include("usage.urls")),
    path("auth/me/export", personal_data.Export.as_view(), name="export"),
    path("auth/me/delete", personal_data.Delete.as_view(), name="delete-account"),
]

urlpatterns = [
    path("", landing.page, name="landing"),
    path("robots.txt", landing.robots, name="robots"),
    path("sitemap.xml", landing.sitemap, name="sitemap"),
    path("favicon.ico", landing.favicon, name="favicon"),
    path("api", pages.ApiRoot.as_view(routes=API), name="api-root"),
    *API,
    path("console/", include("console.urls")),
    path("openapi.json", openapi.description, {"form": "json"}, name="openapi-json"),
    path("openapi.yaml", openapi.description, {"form": "yaml"}, name="openapi-yaml"),
    path("docs", openapi.swagger, name="docs"),
    path("docs/redoc", openapi.redoc, name="redoc"),
    path(
        "auth/session/",
        include(
            (
                [
                    path("login", sessions.SignIn.as_view(), name="login"),
                    path("logout", sessions.SignOut.as_view(), name="logout"),
                ],
                "rest_framework",
            )
        ),
    ),
    path("language", languages.choose, name="set_language"),
    path("auth/link/verify", VerifyPage.as_view(), name="verify-page"),
    path("auth/link/limit-mails", StopLimitMailsPage.as_view(), name="limit-mails-page"),
    path("auth/link/reset", ResetPage.as_view(), name="reset-page"),
    path(f"{settings.AIPROXY_ADMIN_PATH}/", admin.site.urls),
    path("health", health.health, name="health"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.exposition, name="metrics"),
]

handler400 = "aiproxy.errors.bad_request"
handler403 = "aiproxy.errors.permission_denied"
handler404 = "aiproxy.errors.not_found"
handler500 = "aiproxy.errors.server_error"
