"""Owns the texts that would run, or be seen as an element, were any page to take them for markup; and where strangers
can put them: everywhere that a client, a user or a provider is free to write."""

import urllib.request
from typing import TYPE_CHECKING

from playwright.sync_api import Page

if TYPE_CHECKING:
    from tests.browser.conftest import Site

TEXT = "\"'><img alt=canary src=/canary onerror=alert(1)>{{7*7}}"
SEEN = "alt=canary"  # as text, wherever it is shown
REFUSAL = {"type": "error", "error": {"type": "invalid_request_error", "message": TEXT}}
EMAIL = '"<img/alt=canary/src=/canary>"@example.com'


def plant(site: "Site") -> None:
    person = site.sign_up(EMAIL)
    service = site.service
    for path, body in [
        ("/api-keys", {"provider": "anthropic", "label": TEXT, "key": "sk-ant-" + "c" * 30}),
        ("/proxy-api-keys/generate", {"name": TEXT}),
    ]:
        assert service.call(path, body, token=person.token).status == 201
    assert service.call("/auth/me", {"name": TEXT}, token=person.token, method="PATCH").status == 200
    assert person.chat(model=f"openai/{TEXT}").status >= 400
    assert person.chat(model="claude-sonnet-4-5").status == 400
    _fail_to_sign_in(service.url)


def _fail_to_sign_in(url: str) -> None:
    """Who tried, and with what, is in the list of lock-outs."""
    body = b'{"email": "canary@example.com", "password": "wrong"}'
    headers = {"content-type": "application/json", "user-agent": TEXT}
    request = urllib.request.Request(f"{url}/auth/login?next={SEEN}", body, headers)
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        error.close()


def assert_inert(page: Page) -> None:
    """That no handler ran is watched (dialogs, requests, the console); this is that no element was made."""
    assert page.locator("[alt=canary]").count() == 0, page.url
