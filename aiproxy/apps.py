from django.apps import AppConfig


class AiproxyConfig(AppConfig):
    name = "aiproxy"

    def ready(self) -> None:
        from aiproxy import checks  # noqa: F401  registers the system checks
