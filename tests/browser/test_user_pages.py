"""Every page that is not staff's, as it looks and reads in a real browser; of a user whose every word is a canary."""

import pytest
from django.urls import reverse

from console.urls import urlpatterns
from tests.browser import canaries
from tests.browser.canaries import SEEN
from tests.browser.look import EVERY_PAGE, assert_good

OUTSIDE = {"sign-up", "forgotten-password"}
# The rest is for `make pages`.
FEW = ["keys", "overview", "playground", "usage"]
OPEN = ["/", "/auth/session/login", "/auth/link/verify?token=wrong", "/nowhere"]
OPEN += [reverse(f"console:{name}") for name in sorted(OUTSIDE)]
PLAIN = [route.name for route in urlpatterns if "<" not in str(route.pattern) and not route.name.endswith("-csv")]


@pytest.fixture(scope="module")
def session(browser, site) -> dict:
    context = browser.new_context(base_url=site.service.url)
    page = context.new_page()
    page.goto("/auth/session/login")
    page.locator("main form").evaluate("form => form.noValidate = true")  # a browser would not send such an address
    page.get_by_label("E-mail").fill(canaries.EMAIL)
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console/")
    yield context.storage_state()
    context.close()


@pytest.fixture
def user_page(open_page, session):
    return open_page(storage_state=session)[0]


@pytest.mark.parametrize("url", OPEN)
def test_its_open_pages_are_good(open_page, url):
    page, watch = open_page()
    watch.expected = {400, 404}
    page.goto(url)
    assert_good(page)


@pytest.mark.parametrize("name", sorted(set(PLAIN) - OUTSIDE) if EVERY_PAGE else FEW)
def test_its_pages_are_good(user_page, name):
    user_page.goto(reverse(f"console:{name}"))
    assert_good(user_page)


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("keys", "/console/keys/provider/"),
        ("keys", "/delete"),
        ("keys", "/console/keys/proxy/"),
        ("keys", "/revoke"),
        ("usage", "/console/usage/requests/"),
    ],
)
def test_its_pages_of_one_row_are_good(user_page, name, link):
    user_page.goto(reverse(f"console:{name}"))
    assert SEEN in user_page.locator("main").inner_text()
    links = user_page.locator(f"main a[href*='{link}']:not([href$='/add']):not([href$='/create']):not([href*='.csv'])")
    user_page.goto(links.first.get_attribute("href"))
    assert_good(user_page)


def test_its_reference_runs_under_its_policy(user_page):
    user_page.goto("/docs")
    user_page.get_by_text("/proxy-api-keys/generate").first.wait_for()


def test_its_other_reference_gets_nothing_from_elsewhere(open_page):
    """Redoc wants its maker's logo, and the policy does not let it."""
    page, watch = open_page()
    watch.known = ("https://cdn.redoc.ly/redoc/logo-mini.svg", "policy: style-src-elem inline")
    answered = []
    page.on("response", lambda response: answered.append(response.url))
    page.goto("/docs/redoc")
    page.get_by_text("Generate").first.wait_for()
    assert not [url for url in answered if "redoc.ly" in url]
