import re
from pathlib import Path

import pytest
from django.conf import settings

from aiproxy import checks

PAGE = (Path(settings.BASE_DIR) / "docs" / "configuration.md").read_text()
ROWS = {
    name: row
    for row in PAGE.splitlines()
    if row.startswith("|")
    for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])
}
SOURCE = (Path(settings.BASE_DIR) / "aiproxy" / "settings.py").read_text()


def test_it_finds_the_settings_in_the_code():
    assert {"SECRET_KEY", "AIPROXY_DB_POOL", "AIPROXY_GRACE", "ALLOWED_HOSTS"} <= checks.setting_names()


@pytest.mark.parametrize("name", sorted(checks.setting_names()))
def test_it_documents_every_setting(name):
    _, _, default, meaning, *_ = ROWS[name].split("|")
    assert default.strip()
    assert len(meaning.split()) > 2


def test_it_documents_no_setting_that_is_gone():
    others = {"AIPROXY_ENV_FILE", "HOST", "PORT", "PROMETHEUS_MULTIPROC_DIR"}
    assert set(ROWS) - checks.setting_names() == others


@pytest.mark.parametrize(
    ("name", "default"), re.findall(r'env\.(?:int|float)\("([A-Z_]+)", ([\d.]+(?: << \d+)?)[,)]', SOURCE)
)
def test_it_documents_the_true_default_of_a_number(name, default):
    number, _, shift = default.partition(" << ")
    true = int(number) << int(shift) if shift else float(number)
    assert float(re.search(r"`([\d.]+)`", ROWS[name].split("|")[2])[1]) == true


@pytest.mark.parametrize(("name", "default"), re.findall(r'env\.(?:str|rate)\("([A-Z_]+)", "([^"]+)"\)', SOURCE))
def test_it_documents_the_true_default_of_a_text(name, default):
    assert f"`{default}`" in ROWS[name].split("|")[2]


def test_it_documents_every_check():
    source = (Path(settings.BASE_DIR) / "aiproxy" / "checks.py").read_text()
    assert set(re.findall(r"aiproxy\.[EW]\d+", source)) == set(re.findall(r"aiproxy\.[EW]\d+", PAGE))
