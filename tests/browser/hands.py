"""Owns the two ways to use a page: with a pointer, or with a keyboard alone."""

from playwright.sync_api import Locator


class Pointer:
    def press(self, what: Locator) -> None:
        what.click()

    def write(self, where: Locator, text: str) -> None:
        where.fill(text)


class Keyboard:
    """Tab until the focus is there, as who has no pointer must."""

    def press(self, what: Locator) -> None:
        self._reach(what)
        what.page.keyboard.press("Enter")

    def write(self, where: Locator, text: str) -> None:
        self._reach(where)
        where.page.keyboard.type(text)

    def _reach(self, where: Locator) -> None:
        where.wait_for()
        for _ in range(80):
            if where.evaluate("element => element === document.activeElement"):
                return
            where.page.keyboard.press("Tab")
        raise AssertionError(f"no Tab leads to {where}")


Hands = Pointer | Keyboard
