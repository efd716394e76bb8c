"""Where the back-office is: at another host, or at another path."""

import importlib.util
import sys

import pytest
from django.test import Client

from aiproxy import urls
from aiproxy.checks import check_back_office

PATHS = ["/admin", "/admin/", "/admin/login/", "/admin/accounts/user/", "/admin/nothing", "/admin/jsi18n/"]


@pytest.fixture
def at_host(settings):
    settings.ALLOWED_HOSTS = ["testserver", "staff.example.org"]
    settings.AIPROXY_ADMIN_HOST = "staff.example.org"


@pytest.fixture
def at_path(settings, monkeypatch):
    """The same URLs, read anew beside the ones of all other tests."""
    settings.AIPROXY_ADMIN_PATH = "inner/office"
    spec = importlib.util.spec_from_file_location("moved_urls", urls.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "moved_urls", module)
    settings.ROOT_URLCONF = "moved_urls"


@pytest.mark.parametrize("path", PATHS)
def test_elsewhere_it_is_not_there(at_host, member, signed_in, path):
    nothing = Client().get("/nothing")
    for browser in (Client(), signed_in(member)):
        for answer in (browser.get(path), browser.post(path)):
            assert (answer.status_code, answer.content) == (404, nothing.content)


def test_at_its_host_it_is(at_host, member, signed_in):
    browser = signed_in(member)
    assert browser.get("/admin/accounts/user/", headers={"host": "staff.example.org:8443"}).status_code == 200
    assert browser.get("/admin/", headers={"host": "staff.example.org.evil.example"}).status_code == 400
    assert Client().get("/").status_code == 200


def test_it_is_at_the_path_of_the_settings(at_path, member, signed_in):
    assert signed_in(member).get("/inner/office/accounts/user/").status_code == 200
    assert Client().get("/admin/login/").status_code == 404


def test_nobody_is_shown_the_way_to_one_that_was_moved(at_path, db):
    assert "office" not in Client().get("/").content.decode()


@pytest.mark.parametrize(
    ("setting", "value", "id"),
    [
        ("AIPROXY_ADMIN_PATH", "v1/admin", "aiproxy.E017"),
        ("AIPROXY_ADMIN_PATH", "a b", "aiproxy.E017"),
        ("AIPROXY_ADMIN_PATH", "a//b", "aiproxy.E017"),
        ("AIPROXY_ADMIN_PATH", "<path>", "aiproxy.E017"),
        ("AIPROXY_ADMIN_HOST", "staff.example.org", "aiproxy.E018"),
        ("AIPROXY_ADMIN_IDLE_MINUTES", 0, "aiproxy.E020"),
    ],
)
def test_a_wrong_setting_is_an_error(settings, setting, value, id):
    assert not check_back_office()
    setattr(settings, setting, value)
    assert [found.id for found in check_back_office()] == [id]


def test_a_missing_second_factor_is_a_warning_in_production(settings):
    settings.AIPROXY_HTTPS = True
    assert [found.id for found in check_back_office()] == ["aiproxy.W019"]
