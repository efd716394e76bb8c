"""Owns the browser, and what no page of ours may do in it: complain in the console, break its own policy, ask
elsewhere, miss a file, open a dialog."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Playwright, Request, Response

NAMES = ["chromium", "chromium-browser", "google-chrome"]
# It talks to nobody but our service, and draws without a graphics card.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
PHONE = {"width": 390, "height": 844}

# axe-core adds styles to what it looks at, which the policy refuses.
_REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", event =>
    "axe" in window || console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"""
_TOLD_OTHERWISE = ("the server responded with a status", "Content Security Policy directive")


def chromium() -> str | None:
    return os.environ.get("AIPROXY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright) -> Browser:
    browser: Browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    return browser


class Watch:
    """Every page of one browser context. `expected` are error statuses that a test asks for, `known` are words of what
    others' scripts are known to try in vain."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.troubles: list[str] = []
        self.expected: set[int] = set()
        self.known: tuple[str, ...] = ()
        self._origin = origin
        context.add_init_script(_REPORT_VIOLATIONS)
        context.on("request", self._asked)
        context.on("response", self._answered)
        context.on("requestfailed", self._failed)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.troubles.append(f"exception: {error.error}"))
        context.on("dialog", self._opened)

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self._origin:
            self.troubles.append(f"left the origin: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.troubles.append(f"{response.status}: {response.url}")

    def _failed(self, request: Request) -> None:
        # Who goes on, or downloads, gives up what is under way.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"{request.failure}: {request.url}")

    def _said(self, message) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in _TOLD_OTHERWISE):
            self.troubles.append(f"console: {message.text}")

    def _opened(self, dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def watched(browser: Browser, origin: str, **options) -> Iterator[tuple[BrowserContext, Watch]]:
    """A fresh profile; at its end nothing of the above may have happened."""
    context = browser.new_context(base_url=origin, reduced_motion="reduce", locale="en-GB", **options)
    context.set_default_timeout(15_000)
    watch = Watch(context, origin)
    try:
        yield context, watch
    finally:
        context.close()
    troubles = [trouble for trouble in watch.troubles if not any(word in trouble for word in watch.known)]
    assert not troubles, "\n".join(troubles)
