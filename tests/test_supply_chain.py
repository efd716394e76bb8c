"""What is installed is what is pinned with hashes, and nothing else runs when Python starts."""

import re
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.licences import REQUIREMENTS, needed_here, normal, pinned, table

SITE = Path(sysconfig.get_path("purelib"))
OURS = "checkout.pth"
OF_VENV = {"pip", "setuptools"}
# Weak copyleft at most: the service links to its packages and changes none.
ACCEPTED = re.compile(r"(MIT|MIT-0|BSD-[23]-Clause|Apache-2\.0|ISC|PSF-2\.0|MPL-2\.0|LGPL-3\.0-only|Unlicense)"
                      r"( (AND|OR) (BSD-[23]-Clause|Apache-2\.0|MIT))*")  # fmt: skip


def installed():
    return {normal(found.name): found for found in distributions(path=[str(SITE)])}


def test_it_installs_nothing_that_is_not_pinned():
    assert installed().keys() - pinned("dev.txt") - OF_VENV == set()


def test_nothing_unknown_runs_when_python_starts():
    """A .pth file may hold code; malicious packages have used that (LiteLLM 1.82.8 on PyPI, March 2026)."""
    known = {file.name for found in installed().values() for file in found.files or () if file.suffix == ".pth"}
    assert {path.name for path in SITE.glob("*.pth")} - known == {OURS}
    assert Path((SITE / OURS).read_text().strip()) == SITE.resolve().parents[3]


@pytest.mark.parametrize("file", ["base.txt", "prod.txt", "otel.txt", "dev.txt"])
def test_every_requirement_has_hashes_and_no_address(file):
    text = (REQUIREMENTS / file).read_text()
    assert text.count("==") <= text.count("--hash=sha256:")
    assert "://" not in text


def test_it_lists_the_licence_of_all_that_is_shipped():
    assert table() == (REQUIREMENTS.parent / "docs" / "licences.md").read_text()


@pytest.mark.parametrize("row", table().splitlines()[6:], ids=needed_here("otel.txt"))
def test_every_licence_lets_the_service_stay_under_mit(row):
    assert ACCEPTED.fullmatch(row.split(" | ")[1].removesuffix(" |"))
