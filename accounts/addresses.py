"""Owns how addresses are read, and which one a request comes from; knows nothing of Django, ASGI or policies.

X-Forwarded-For is a claim: anyone may send it. Only what our own proxies appended counts, and they append on the right.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """`10.0.0.0/8` or a bare address each; ValueError names the entry that is neither."""
    return tuple(ip_network(text.strip()) for text in texts)


def split_url(text: str) -> SplitResult:
    """ValueError also for a port that nothing listens on: `urlsplit` looks at it when it is asked for, and takes 0."""
    parts = urlsplit(text)
    if parts.port == 0:
        raise ValueError("Port 0 is none")
    return parts


def parse_address(text: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:443`, `2001:db8::1` or `[2001:db8::1]:443`; IPv4-mapped IPv6 becomes IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return None
        return address.ipv4_mapped or address
    return address


def is_within(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The right-most address that is not one of our own proxies.

    `peer`: the address of the connection; `forwarded_for`: every X-Forwarded-For field in the order received.
    An entry that is no address ends the walk: what stands left of it was not written by a proxy of ours.
    """
    nearest = parse_address(peer)
    if nearest is None:
        return peer
    if trusted and forwarded_for:
        hops = ",".join(forwarded_for).split(",")
        while hops and is_within(nearest, trusted):
            hop = parse_address(hops.pop())
            if hop is None:
                break
            nearest = hop
    return str(nearest)
