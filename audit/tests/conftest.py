import pytest
from django.core.cache import cache

from vault.tests.conftest import provider  # noqa: F401  a provider on loopback


@pytest.fixture(autouse=True)
def _no_throttle_history() -> None:
    cache.clear()
