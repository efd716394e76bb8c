"""Owns the service that all browser tests look at: as its operator starts it, with people, traffic and canaries."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from proxy.tests.provider import answer
from tests.browser import canaries
from tests.browser.staff import Staff
from tests.browser.watched import Watch, chromium, launch, watched
from tests.exposed import ScriptedProvider
from tests.service import Person, Service, manage, mock_provider, until

HERE = Path(__file__).parent
collect_ignore = [] if "AIPROXY_SCREENSHOTS" in os.environ else ["test_screenshots.py"]
MISSING = "there is no Chromium: `make browser` installs Debian's, or name one in AIPROXY_CHROMIUM"
_SEED = """
from django.core.management import call_command
from accounts.models import User
call_command("seed_demo", requests=150, people=2)
User.objects.create_superuser({email!r}, {password!r})
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Once, on PostgreSQL; nowhere without a browser."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.postgres)
            item.add_marker(pytest.mark.skipif(chromium() is None, reason=MISSING))


@dataclass
class Site:
    """The running service, and who works there."""

    service: Service
    provider: ScriptedProvider  # Anthropic's place
    mails: Path
    staff: Staff

    def mail_to(self, email: str) -> str:
        """The text of the last one."""

        def found() -> str:
            files = sorted(self.mails.iterdir(), key=lambda file: file.stat().st_mtime_ns)
            mails = [message_from_bytes(file.read_bytes()) for file in files]
            texts = [mail.get_payload(decode=True).decode() for mail in mails if mail["To"] == email]
            return texts[-1] if texts else ""

        return str(until(found, f"a mail to {email}"))

    def link_mailed_to(self, email: str) -> str:
        """Path and query."""
        return re.search(r"http://[^/]+(/\S+)", self.mail_to(email))[1]

    def sign_up(self, email: str) -> Person:
        """With a verified address, a provider key and a proxy key, over HTTP."""
        person = self.service.sign_up(email)
        token = parse_qs(urlsplit(self.link_mailed_to(email)).query)["token"][0]
        assert self.service.call("/auth/verification/confirm", {"token": token}).status < 300
        return person


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, session_postgres_database: str) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    mails = directory / "mails"
    mails.mkdir()
    provider = ScriptedProvider()
    provider.play(answer(400, canaries.REFUSAL))
    staff = Staff("staff@example.com", "correct horse battery")
    with ExitStack() as stack:
        stack.callback(provider.stop)
        service = Service(
            directory,
            DATABASE_URL=session_postgres_database,
            REDIS_URL=os.environ["TEST_REDIS_URL"],
            EMAIL_URL=f"filemail:///{mails}",  # absolute, as django-environ has it
            AIPROXY_OPENAI_BASE_URL=stack.enter_context(mock_provider(pace_ms=5)),
            AIPROXY_ANTHROPIC_BASE_URL=provider.base_url,
            AIPROXY_LOGIN_RATE="1000/min",
        )
        service.migrate()
        manage(service.environment, "shell", "-c", _SEED.format(email=staff.email, password=staff.password))
        service.start()
        stack.callback(service.stop)
        site = Site(service, provider, mails, staff)
        canaries.plant(site)
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the session: until it is closed, its event loop counts as running, and other modules have their own."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        expect.set_options(timeout=15_000)
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")  # nothing of Django runs on that loop
        browser = launch(playwright)
        yield browser
        browser.close()


Open = Callable[..., tuple[Page, Watch]]


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Open]:
    """`open_page(**options)`: a page in a profile of its own, and what watches it; both are checked after the test."""
    with ExitStack() as stack:

        def open_page(**options: object) -> tuple[Page, Watch]:
            context, watch = stack.enter_context(watched(browser, site.service.url, **options))
            return context.new_page(), watch

        yield open_page


@pytest.fixture
def page(open_page: Open) -> Page:
    """Of nobody."""
    return open_page()[0]


@pytest.fixture(scope="module")
def staff_session(browser: Browser, site: Site) -> dict:
    """The cookies of the member of staff, signed in with a second factor."""
    with watched(browser, site.service.url) as (context, _):
        page = context.new_page()
        site.staff.enter_password(page)
        if site.staff.secret:
            site.staff.enter_code(page, site.staff.recovery_codes.pop())
        else:
            site.staff.enrol(page)
        return context.storage_state()


@pytest.fixture
def staff_page(open_page: Open, staff_session: dict) -> Page:
    return open_page(storage_state=staff_session)[0]
