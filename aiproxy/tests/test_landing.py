"""The landing page: true, light, and alone: nothing of it is loaded from anywhere else."""

import json
import re
from html.parser import HTMLParser

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client

from accounts.models import Plan
from aiproxy import landing

LARGEST = 150_000  # bytes of all that a first visit loads

pytestmark = pytest.mark.django_db


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


@pytest.fixture
def page():
    cache.clear()
    return Client().get("/", headers={"accept": "text/html"})


@pytest.fixture
def tags(page):
    return Tags(page.text).found


def loaded(tags):
    """What a browser fetches for the page by itself."""
    for tag, attributes in tags:
        if "src" in attributes or (tag == "link" and attributes["rel"] in ("stylesheet", "icon", "apple-touch-icon")):
            yield attributes.get("src") or attributes["href"]


def test_it_loads_nothing_from_elsewhere(tags):
    assert all(address.startswith("/static/") for address in loaded(tags))
    linked = {value for _, attributes in tags for name, value in attributes.items() if name in ("href", "action")}
    assert all(re.match(r"/(?!/)|#|http://testserver/", address) for address in linked)
    styles = [Client().get(address).text for address in loaded(tags) if address.endswith(".css")]
    assert styles
    assert not re.search(r"url\(|@import", "".join(styles))


def test_it_is_light(page, tags):
    files = [Client().get(address) for address in set(loaded(tags))]
    assert {file.status_code for file in files} == {200}
    assert len(page.content) + sum(len(file.content) for file in files) < LARGEST


def test_it_has_nothing_inline_that_its_policy_would_stop(page, tags):
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert not [tag for tag, attributes in tags if tag == "style" or "style" in attributes]
    assert not [attributes for tag, attributes in tags if tag == "script" and "src" not in attributes]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_it_says_what_the_last_published_run_measured(page):
    report = json.loads((settings.BASE_DIR / "docs" / "performance.json").read_text())
    assert f"{report['targets']['aiproxy']['requests_per_second']:,.0f}" in page.text
    assert report["machine"]["cpu"] in page.text


def test_it_does_without_figures_where_there_are_none(settings, tmp_path):
    settings.BASE_DIR = tmp_path
    landing.measured.cache_clear()
    try:
        assert landing.measured() is None
        assert Client().get("/").status_code == 200
    finally:
        landing.measured.cache_clear()


def test_it_shows_plans_as_they_are_and_models_of_the_price_book():
    cache.clear()
    Plan.objects.create(code="studio", name="Studio", price="19.90", rpm=123, max_api_keys=4, max_proxy_keys=6)
    page = Client().get("/").text
    assert "Studio" in page
    assert "$19.90" in page
    assert "claude-opus-4-6" in page


def test_it_gives_the_address_that_the_operator_has_set(settings):
    settings.AIPROXY_PUBLIC_URL = "https://ai.example.org/"
    page = Client().get("/").text
    assert '<link rel="canonical" href="https://ai.example.org/">' in page
    assert 'base_url="https://ai.example.org/v1"' in page


def test_it_tells_robots_what_there_is():
    robots, sitemap = Client().get("/robots.txt").text, Client().get("/sitemap.xml").text
    assert "Sitemap: http://testserver/sitemap.xml" in robots
    for address in re.findall("<loc>(.*?)</loc>", sitemap):
        assert Client().get(address.removeprefix("http://testserver")).status_code == 200


def test_it_has_an_icon_for_whoever_asks_at_the_usual_address():
    answer = Client().get("/favicon.ico", follow=True)
    assert (answer.status_code, answer.content[:4]) == (200, b"\0\0\1\0")
