"""The whole way of a user, from the landing page to a revoked key, in a real browser."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.hands import Hands, Keyboard, Pointer
from tests.browser.watched import PHONE
from tests.service import Person, until

PASSWORD = "correct horse battery"


@pytest.fixture(
    params=[
        pytest.param((Pointer(), {}), id="pointer"),
        pytest.param((Keyboard(), {}), id="keyboard"),
        pytest.param((Pointer(), {"viewport": PHONE, "has_touch": True, "is_mobile": True}), id="phone"),
    ]
)
def user(request, open_page, site) -> "User":
    hands, options = request.param
    return User(open_page(**options)[0], hands, f"{request.node.callspec.id}@example.com", site)


class User:
    def __init__(self, page: Page, hands: Hands, email: str, site) -> None:
        self.page, self.hands, self.email, self.site = page, hands, email, site

    def press(self, role: str, name: str) -> None:
        self.hands.press(self.page.get_by_role(role, name=name, exact=True).first)

    def write(self, label: str, text: str) -> None:
        """`label` is how it begins; what follows is `(optional)`."""
        self.hands.write(self.page.get_by_label(re.compile(rf"^\s*{label}")), text)

    def sees(self, heading: str) -> None:
        expect(self.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()

    def sign_up(self) -> None:
        self.page.goto("/")
        self.press("link", "Get started")
        self.write("E-mail", self.email)
        self.write("Password", PASSWORD)
        self.press("button", "Sign up")
        expect(self.page.get_by_text(self.email).last).to_be_visible()
        self.page.goto(self.site.link_mailed_to(self.email))
        self.press("button", "This address is mine")
        expect(self.page.get_by_text("Your address is verified.")).to_be_visible()
        self.page.goto("/console/")

    def add_provider_key(self) -> None:
        self.press("link", "Keys")
        self.press("link", "Add a provider key")
        self.write("Key", "demo-" + "k" * 30)
        self.press("button", "Store and test it")
        expect(self.page.get_by_text("OpenAI takes the key")).to_be_visible()

    def create_proxy_key(self) -> str:
        self.press("link", "Keys")
        self.press("link", "Create a proxy key")
        self.write("Name", "laptop")
        self.press("button", "Create it")
        self.sees("Your new proxy key")
        return self.page.locator("#key").inner_text()

    def ask(self, message: str) -> str:
        """In the playground; what the request's id is."""
        self.write("Your message", message)
        self.press("button", "Send")
        expect(self.page.locator("#state")).to_have_text("complete")
        expect(self.page.locator("#answer")).to_contain_text(message)
        return self.page.locator("#request").inner_text()

    def revoke(self) -> None:
        self.press("link", "Keys")
        self.hands.press(self.page.get_by_role("link", name=re.compile("^Revoke")))
        self.press("button", "Revoke it")
        expect(self.page.get_by_text("None yet. Create one for each program.")).to_be_visible()


def test_it_goes_all_the_way(user, site):
    user.sign_up()
    user.add_provider_key()
    key = user.create_proxy_key()
    user.press("link", "Try it in the playground")
    request_id = user.ask("Hello from a browser")
    credentials = {"email": user.email, "password": PASSWORD}
    token = site.service.call("/auth/login", credentials).json()["token"]
    person = Person(site.service, token, "", key)
    until(lambda: [row for row in person.requests() if row["id"] == request_id], "the row of the question")
    user.press("link", request_id)
    expect(user.page.get_by_text("gpt-4o-mini").first).to_be_visible()
    user.revoke()
    assert person.chat().status == 401


def test_it_says_why_a_question_is_refused(open_page, site):
    page, watch = open_page()
    watch.expected = {401}
    user = User(page, Pointer(), "refused@example.com", site)
    user.sign_up()
    page.goto("/console/playground")
    user.write("Proxy key", "sk-proxy-wrong")
    user.write("Your message", "Hello?")
    user.press("button", "Send")
    expect(page.get_by_role("alert")).to_contain_text("401")
