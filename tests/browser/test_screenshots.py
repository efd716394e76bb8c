"""Not a promise but a tool: `make screenshots` has it draw the pictures of the docs, of made-up people and traffic."""

import os
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.watched import watched
from tests.service import Service, manage, mock_provider

SIZE = {"width": 1280, "height": 800}
EMAIL, PASSWORD = "demo@example.com", "correct horse battery"
_SEED = f"""
from django.core.management import call_command
from accounts.models import User
User.objects.create_superuser({EMAIL!r}, {PASSWORD!r}, name="Demo", plan_id="pro", email_verified=True)
call_command("seed_demo", people=16)
"""
STAFF = {
    "overview": "/admin/?period=7d",
    "requests": "/admin/usage/proxyrequest/?when=7d&outcome=failed",
    "audit-log": "/admin/audit/event/",
}
CONSOLE = {
    "landing": "/",
    "console": "/console/",
    "keys": "/console/keys",
    "usage": "/console/usage",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory, module_postgres_database):
    """A service with a month behind it, which one password opens."""
    with mock_provider() as provider:
        service = Service(
            tmp_path_factory.mktemp("demo"),
            DATABASE_URL=module_postgres_database,
            REDIS_URL=os.environ["TEST_REDIS_URL"],
            AIPROXY_OPENAI_BASE_URL=provider,
            AIPROXY_ADMIN_SECOND_FACTOR="false",
        )
        service.migrate()
        manage(service.environment, "shell", "-c", _SEED)
        yield service.start()
        service.stop()


def draw(page: Page, name: str) -> None:
    """In light and dark, in as many colours as such a page has."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        file = Path(os.environ["AIPROXY_SCREENSHOTS"]) / f"{name}-{scheme}.png"
        page.screenshot(path=file)
        Image.open(file).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(file, optimize=True)


def test_it_draws_every_page(browser, demo):
    Path(os.environ["AIPROXY_SCREENSHOTS"]).mkdir(parents=True, exist_ok=True)
    with watched(browser, demo.url, viewport=SIZE) as (context, _):
        page = context.new_page()
        page.goto("/auth/session/login?next=/admin/")
        page.get_by_label("E-mail").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        for name, url in (STAFF | CONSOLE).items():
            page.goto(url)
            draw(page, name)
        page.goto("/admin/accounts/user/")
        page.get_by_role("link", name="ben.brandt@example.com").click()
        expect(page.get_by_text("Last 30 days")).to_be_visible()
        draw(page, "user")
        page.goto("/console/keys/proxy/create")
        page.get_by_role("button", name="Create it").click()
        page.get_by_role("link", name="Try it in the playground").click()
        page.get_by_label("Your message").fill("Why is the sky blue?")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#state")).to_have_text("complete")
        page.get_by_label("Proxy key").fill("sk-proxy-")
        draw(page, "playground")
