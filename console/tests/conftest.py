"""What the console's tests share: browsers that are signed in, and rows to look at."""

from collections.abc import Callable

import pytest
from django.test import Client

from accounts.ids import made_at, uuid7
from accounts.models import ProxyKey, User
from usage import rollup
from usage.models import ProxyRequest
from vault import store
from vault.secret import Secret

CANARY = "<img src=x onerror=alert(1)>"
SECRET = "sk-" + "o" * 36 + "Qz7X"


@pytest.fixture
def browser() -> Callable[[User | None], Client]:
    def client(user: User | None) -> Client:
        result = Client(headers={"accept": "text/html"})
        if user is not None:
            result.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return result

    return client


@pytest.fixture
def page(browser, owner) -> Client:
    """The owner's."""
    return browser(owner)


def a_proxy_key(user: User, **fields) -> ProxyKey:
    return ProxyKey.objects.create(user=user, key_prefix=f"sk-proxy-{uuid7().hex[-8:]}", verifier=b"\1", **fields)


def an_api_key(user: User, label: str = "", provider: str = "openai"):
    return store.add(user.pk, provider, label, Secret(SECRET))


def a_request(user: User, key: ProxyKey | None = None, **fields) -> ProxyRequest:
    """Ended, and in the sums."""
    id = fields.pop("id", None) or uuid7()
    known = {"user_id": user.pk, "proxy_key_id": key.pk if key else uuid7(), "model": "gpt-4o", "provider": "openai"}
    known |= {"endpoint": "/v1/chat/completions", "outcome": "ok", "status_code": 200, "latency_ms": 640}
    known |= {"tokens_input": 12, "tokens_output": 30, "tokens_total": 42}
    row = ProxyRequest.objects.create(id=id, created_at=made_at(id), **(known | fields))
    rollup.add([row])
    return row
