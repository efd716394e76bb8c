"""Every page of the back-office, as it looks and reads in a real browser."""

import pytest
from django.contrib import admin

from tests.browser.canaries import SEEN
from tests.browser.look import EVERY_PAGE, assert_good

# Of every kind one; `make pages` looks at all.
LISTS = ["/admin/accounts/proxykey/", "/admin/audit/event/", "/admin/usage/proxyrequest/"]
if EVERY_PAGE:
    LISTS = sorted(f"/admin/{model._meta.app_label}/{model._meta.model_name}/" for model in admin.site._registry)


@pytest.mark.parametrize("url", LISTS)
def test_its_lists_and_forms_are_good(staff_page, url):
    staff_page.goto(url)
    assert_good(staff_page)
    for link in ("#result_list tbody th a", "a.addlink"):
        if (first := staff_page.locator(link).first).count():
            staff_page.goto(first.get_attribute("href"))
            assert_good(staff_page)
            staff_page.goto(url)


@pytest.mark.parametrize(
    "url",
    [
        "/admin/?period=30d&by=cost",
        "/admin/second-factor/manage/",
        "/admin/vault/apikey/keyring/",
        "/admin/usage/proxyrequest/?when=2020",
    ],
)
def test_its_other_pages_are_good(staff_page, url):
    staff_page.goto(url)
    assert_good(staff_page)


@pytest.mark.parametrize(
    "url",
    [
        "/admin/usage/proxyrequest/?when=all&outcome=failed",
        "/admin/usage/usagehour/",
        "/admin/accounts/user/",
        "/admin/accounts/proxykey/",
        "/admin/vault/apikey/",
        "/admin/audit/event/",
        "/admin/axes/accessattempt/",
    ],
)
def test_it_shows_what_strangers_wrote_as_text(staff_page, url):
    """That the canaries are where the tests above look."""
    staff_page.goto(url)
    assert SEEN in staff_page.locator("#result_list").inner_text()


def test_its_questions_are_good(staff_page):
    staff_page.goto("/admin/accounts/user/")
    staff_page.locator("#result_list tbody th a").first.click()
    staff_page.get_by_role("button", name="Change plan").wait_for()
    assert_good(staff_page)
    staff_page.get_by_role("button", name="Change plan").click()
    staff_page.get_by_role("heading", name="Change plan").wait_for()
    assert_good(staff_page)


def test_its_door_is_good(page, site):
    page.goto("/admin/")
    assert_good(page)
    site.staff.enter_password(page)
    assert_good(page)
