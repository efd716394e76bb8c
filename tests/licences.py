"""The licences of what is shipped: `python -m tests.licences > docs/licences.md`, as `make lock` does."""

import re
from importlib.metadata import distribution
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==\S+(?: ; (.+?))?(?: \\)?$", re.MULTILINE)
# Trove classifiers and free texts that packages use where they could say it by SPDX identifier.
_SPDX = {
    "BSD License": "BSD-3-Clause", "MIT License": "MIT", "Apache": "Apache-2.0", "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Apache Software License": "Apache-2.0",
    "BSD 3-Clause OR Apache-2.0": "BSD-3-Clause OR Apache-2.0",
}  # fmt: skip


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file: str) -> set[str]:
    """Names of all packages that a compiled requirements file names."""
    return {normal(match[1]) for match in _PINNED.finditer((REQUIREMENTS / file).read_text())}


def needed_here(file: str) -> list[str]:
    """Those without a condition on platform or Python version."""
    return sorted(normal(match[1]) for match in _PINNED.finditer((REQUIREMENTS / file).read_text()) if not match[2])


def licence(name: str) -> str:
    """As an SPDX expression where the package lets us know."""
    said = distribution(name).metadata
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    text = said.get("License-Expression") or (classifiers[0] if classifiers else said.get("License") or "unknown")
    return _SPDX.get(text, text)


def table() -> str:
    rows = [f"| {name} | {licence(name)} |" for name in needed_here("otel.txt")]
    return "\n".join(["# Licences", "", "Of every package in requirements/otel.txt, which has all that may be shipped; "
                      "written by `make lock`.", "",
                      "| package | licence |", "|---|---|", *rows, ""])  # fmt: skip


if __name__ == "__main__":
    print(table(), end="")
