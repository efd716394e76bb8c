"""Owns a member of staff who signs in as a person does: password, then a code of an app or a recovery code."""

import base64
import re
from dataclasses import dataclass, field

from django_otp.oath import totp
from playwright.sync_api import Page, expect


@dataclass
class Staff:
    email: str
    password: str
    secret: str = ""
    recovery_codes: list[str] = field(default_factory=list)

    def code(self, *, steps_ahead: int = 0) -> str:
        """What the app shows now, or so many times 30 seconds later."""
        return f"{totp(base64.b32decode(self.secret), drift=steps_ahead):06}"

    def enter_password(self, page: Page) -> None:
        page.goto("/admin/")
        page.get_by_label("Email").fill(self.email)
        page.get_by_label("Password").fill(self.password)
        page.get_by_role("button", name="Log in").click()

    def enter_code(self, page: Page, code: str) -> None:
        page.get_by_role("textbox", name="Code").fill(code)
        page.get_by_role("button", name=re.compile("Continue|Confirm")).click()

    def enrol(self, page: Page) -> None:
        """At the page with the QR code, without a camera; keeps the recovery codes."""
        self.secret = page.locator("code").first.inner_text()
        self.enter_code(page, self.code())
        expect(page.get_by_role("heading", name="Your recovery codes")).to_be_visible()
        self.recovery_codes = page.locator("li code").all_inner_texts()
        page.get_by_role("link", name="I have kept them").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
