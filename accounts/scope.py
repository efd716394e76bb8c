"""Owns which values may narrow a proxy key: model patterns and networks. Knows no row and no request."""

import ipaddress
import re

from django.core.exceptions import ValidationError

MOST_ENTRIES = 100
_MODEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}\*?")


def validate_model_patterns(value: object) -> None:
    """A list of model names; a `*` at the end makes one a prefix."""
    for place, entry in enumerate(_entries(value), start=1):
        if entry == "*":
            raise ValidationError(f"Entry {place}: `*` alone is every model; leave the list empty for that.")
        if not _MODEL_PATTERN.fullmatch(entry):
            raise ValidationError(
                f"Entry {place} is not a model name: letters, digits and ._:/@+- only, and `*` at the end only."
            )


def validate_networks(value: object) -> None:
    """A list of addresses or networks in CIDR notation."""
    for place, entry in enumerate(_entries(value), start=1):
        try:
            network = ipaddress.ip_network(entry)
        except ValueError as error:
            problem = "has bits set beyond its prefix" if "host bits" in str(error) else "is no address or network"
            raise ValidationError(f"Entry {place} {problem}; write it as 203.0.113.0/24 or 2001:db8::/32.") from error
        if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
            raise ValidationError(f"Entry {place} is an IPv4 network written as IPv6: write the IPv4 one.")


def _entries(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValidationError("Must be a list of strings.")
    if len(value) > MOST_ENTRIES:
        raise ValidationError(f"At most {MOST_ENTRIES} entries.")
    return value
