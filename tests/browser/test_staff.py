"""What staff do all day, in a real browser, and that it holds at once for who is concerned."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.hands import Hands, Keyboard, Pointer
from tests.service import Person


@pytest.fixture
def person(site, request) -> Person:
    return site.sign_up(f"{request.node.name}@example.com".replace("[", ".").replace("]", ""))


def act(page: Page, action: str, hands: Hands) -> None:
    """From the page of one row: its button, then the question's."""
    hands.press(page.get_by_role("button", name=action, exact=True))
    expect(page.get_by_role("heading", name=action)).to_be_visible()
    hands.press(page.get_by_role("button", name=action, exact=True))


def test_it_lets_staff_in_by_password_and_second_factor(page, site, staff_session):
    """A second time; the first is when the app is set up."""
    site.staff.enter_password(page)
    site.staff.enter_code(page, site.staff.code(steps_ahead=1))
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_it_leads_from_a_number_to_the_rows_behind_it(staff_page):
    staff_page.goto("/admin/?period=30d")
    failed = staff_page.locator(".tile", has_text="Error rate").get_by_role("link")
    failed.click()
    expect(staff_page.get_by_role("link", name="Any failure")).to_have_attribute("aria-current", "true")
    assert staff_page.locator(".tag-good").count() == 0 < staff_page.locator(".tag").count()


@pytest.mark.parametrize("hands", [Pointer(), Keyboard()], ids=["pointer", "keyboard"])
def test_it_revokes_a_proxy_key(staff_page, person, hands):
    assert person.chat().status == 200
    staff_page.goto("/admin/accounts/proxykey/")
    hands.write(staff_page.get_by_label("Search"), person.key[:17])
    staff_page.keyboard.press("Enter")
    hands.press(staff_page.get_by_role("link", name=person.key[:17]))
    act(staff_page, "Revoke", hands)
    expect(staff_page.get_by_text("1 revoked.")).to_be_visible()
    assert person.chat().status == 401


def test_it_changes_a_plan(staff_page, site, person):
    staff_page.goto("/admin/accounts/plan/pro/change/")
    limit = staff_page.get_by_label("Rpm").input_value()
    assert person.chat().headers["x-ratelimit-limit-requests"] != limit
    owner = site.service.call("/auth/me", token=person.token).json()["id"]
    staff_page.goto(f"/admin/accounts/user/{owner}/change/")
    staff_page.get_by_role("button", name="Change plan").click()
    staff_page.get_by_label("Plan").select_option("Pro")
    staff_page.get_by_role("button", name="Change plan").click()
    assert person.chat().headers["x-ratelimit-limit-requests"] == limit


def test_it_exports_what_the_filter_shows(staff_page):
    staff_page.goto("/admin/usage/proxyrequest/?when=all")
    staff_page.get_by_role("link", name="Anthropic").click()
    with staff_page.expect_download() as downloaded:
        staff_page.get_by_role("link", name="Export as CSV").click()
    rows = list(csv.DictReader(Path(downloaded.value.path()).read_text().splitlines()))
    assert {row["provider"] for row in rows} == {"anthropic"}
    assert len(rows) >= staff_page.locator("#result_list tbody tr").count() > 1


def test_it_gives_a_small_screen_a_menu(open_page, staff_session):
    page, _ = open_page(storage_state=staff_session, viewport={"width": 390, "height": 844})
    page.goto("/admin/")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Proxy keys").click()
    expect(page.get_by_role("heading", name="Proxy keys")).to_be_visible()
