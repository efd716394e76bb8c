"""Owns how numbers are shown to people: counts, dollars, milliseconds, shares."""

from typing import Any


def compact(number: Any) -> str:
    """At most three digits: 950, 12.3k, 4.56M."""
    value = float(number or 0)
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.3g}{unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def dollars(amount: Any) -> str:
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount < 10_000 else f"${compact(amount)}"


def milliseconds(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,} ms" if value < 1_000 else f"{value / 1_000:.1f} s"


def percent(share: float) -> str:
    return f"{share:.1%}"


def amount(value: float, money: bool) -> str:
    return dollars(value) if money else compact(value)
