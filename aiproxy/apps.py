from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    default_site = "aiproxy.admin.AdminSite"


class AiproxyConfig(AppConfig):
    name = "aiproxy"

    def ready(self) -> None:
        from aiproxy import checks  # noqa: F401  registers the system checks
