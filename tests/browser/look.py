"""Owns what every page has to be, whatever it shows: accessible in light and dark (axe-core: nothing serious), no wider
than a phone, and free of other people's markup."""

import os
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Page

from tests.browser.canaries import assert_inert
from tests.browser.watched import PHONE

EVERY_PAGE = "AIPROXY_EVERY_PAGE" in os.environ  # else one of each kind
_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
_LIGHT: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
# All that another theme can change.
_DARK = {**_LIGHT, "runOnly": ["color-contrast"]}
# Who makes a page wider than its window, but for what scrolls inside of it.
_TOO_WIDE = """() => {
    const clips = element => getComputedStyle(element).overflowX !== "visible";
    const scrolls = element => element && (clips(element) || scrolls(element.parentElement));
    if (document.documentElement.scrollWidth <= innerWidth) return [];
    const wide = [...document.body.querySelectorAll("*")].filter(
        element => element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element.parentElement));
    return [document.documentElement.scrollWidth, ...wide.slice(0, 4).map(element => element.outerHTML.slice(0, 120))];
}"""


def assert_good(page: Page) -> None:
    assert_inert(page)
    _assert_accessible(page, _LIGHT)
    page.emulate_media(color_scheme="dark")
    _assert_accessible(page, _DARK)
    page.emulate_media(color_scheme="light")
    assert_fits_phone(page)


def assert_fits_phone(page: Page) -> None:
    before = page.viewport_size
    page.set_viewport_size(PHONE)
    wide = page.evaluate(_TOO_WIDE)
    assert not wide, f"{page.url} is wider than a phone: {wide}"
    page.set_viewport_size(before)


def _assert_accessible(page: Page, options: dict[str, Any]) -> None:
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE)
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    told = [
        f"{one['id']}: {node['html'][:200]}: {node['failureSummary']}" for one in grave for node in one["nodes"][:3]
    ]
    assert not grave, "\n".join([page.url, *told])
