"""Owns the catalogues of translations: `python -m tests.translations` looks for new texts and compiles what is there.

In Python throughout, so that no machine needs gettext's programs. Catalogues are kept compiled, for none that runs the
service needs Babel.
"""

import datetime as dt
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("id",)
# Staff's pages are in English.
_APPS = ("accounts", "aiproxy", "console", "proxy", "usage", "vault")
_KEYWORDS = DEFAULT_KEYWORDS | {
    "gettext_lazy": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
}  # type: ignore[dict-item]

_NO_DATE = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_HEADER = """\
# `make translations` puts new texts in here, and compiles it.
msgid ""
msgstr ""
"Language: {language}\\n"
"Plural-Forms: {plurals}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def texts() -> Catalog:
    """All that are marked in the code and the templates."""
    found = Catalog(project="aiproxy", charset="utf-8")
    for path, source in _sources():
        for line, message, comments, context in extract("python", io.BytesIO(source.encode()), keywords=_KEYWORDS):
            found.add(message, None, [(str(path.relative_to(ROOT)), line)], auto_comments=comments, context=context)
    return found


def _sources() -> Iterator[tuple[Path, str]]:
    for app in _APPS:
        for path in sorted((ROOT / app).rglob("*.py")):
            if path.name != "admin.py" and not {"tests", "migrations"} & set(path.parts):
                yield path, path.read_text()
    for path in sorted((ROOT / "templates").rglob("*.html")):
        if not {"admin", "staff"} & set(path.parts):
            # Between brackets indentation means nothing to Python.
            yield path, f"({templatize(path.read_text(), origin=str(path))})"


def catalogue(language: str) -> Path:
    return ROOT / "locale" / language / "LC_MESSAGES" / "django.po"


def read(language: str) -> Catalog:
    with catalogue(language).open("rb") as file:
        return read_po(file, locale=language)


def compiled(catalog: Catalog) -> bytes:
    catalog.creation_date = catalog.revision_date = _NO_DATE  # the same texts are the same file
    out = io.BytesIO()
    write_mo(out, catalog)
    return out.getvalue()


def missing(catalog: Catalog) -> list[str]:
    """What the code says and the catalogue has no word for."""
    lacks = []
    for message in texts():
        known = catalog.get(message.id, message.context)
        if message.id and (known is None or known.fuzzy or not all(_strings(known.string))):
            lacks.append(str(message.id))
    return lacks


def _strings(string: str | list[str] | tuple[str, ...] | None) -> list[str]:
    return [string or ""] if isinstance(string, str | None) else list(string)


def main() -> int:
    lacking = 0
    for language in LANGUAGES:
        path = catalogue(language)
        catalog = read(language) if path.exists() else Catalog(language, project="aiproxy", charset="utf-8")
        catalog.update(texts(), no_fuzzy_matching=True, update_creation_date=False)
        catalog.obsolete.clear()
        with path.open("wb") as file:
            file.write(_HEADER.format(language=language, plurals=catalog.plural_forms).encode())
            write_po(file, catalog, width=120, no_location=True, omit_header=True, sort_output=True)
        path.with_suffix(".mo").write_bytes(compiled(read(language)))
        for text in missing(catalog):
            lacking += 1
            print(f"{language}: {text}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
