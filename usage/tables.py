"""Owns how rows of figures are written out: for a terminal, a spreadsheet, or a program."""

import csv
import datetime as dt
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

# What makes a spreadsheet take a cell for a formula (owasp.org/www-community/attacks/CSV_Injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Any) -> str:
    """Text as a spreadsheet may have it: never a formula. Numbers stay as they are."""
    text = plain(value)
    return f"'{text}" if not isinstance(value, int | float | Decimal) and text.startswith(FORMULA) else text


def plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return f"{value:.8f}" if isinstance(value, Decimal) else str(value)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    if rows:
        writer.writerow(rows[0])
        writer.writerows([cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    def default(value: Any) -> str:
        assert isinstance(value, dt.datetime | Decimal | UUID)
        return plain(value)

    return json.dumps(rows, default=default, indent=2) + "\n"


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Columns side by side; numbers to the right."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([plain(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [isinstance(value, int | float | Decimal | None) for value in rows[0].values()]
    return "".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )
