"""Where a request came from, whatever stands between."""

from collections.abc import Collection
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from starlette.types import Scope

Network = IPv4Network | IPv6Network

MAX_ADDRESS_LENGTH: Final = 45
"""Characters of an IPv6 address that ends as an IPv4 one does."""


def read_networks(listed: str) -> tuple[Network, ...]:
    """Return networks that are listed with commas, such as ``10.0.0.0/8, fd00::/8, 192.0.2.7``.

    Raises ``ValueError``, which says which one is none.
    """
    return tuple(ip_network(one.strip()) for one in listed.split(",") if one.strip())


def origin(address: str) -> str:
    """Return what an address is counted as: of IPv6 the network (RFC 6177).

    One customer has at least as many addresses as a /64 holds, another one for each attempt.
    """
    parsed = read_address(address)
    if parsed is None:
        return address[:MAX_ADDRESS_LENGTH]
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def client_address(scope: Scope, trusted: Collection[Network]) -> str:
    """Return the address of whoever sent a request: the peer's, if that is no trusted proxy.

    Each proxy appends to ``X-Forwarded-For`` whom it was asked by, so what stands left of the first
    address that is no proxy's, from the right, is what a client made up. An IPv4 address within an
    IPv6 one is the former.
    """
    client = scope.get("client")
    address = read_address(client[0]) if client else None
    if address is None:
        return ""
    for entry in _forwarded(scope) if trusted else ():
        before = read_address(entry) if _is_in(address, trusted) else None
        if before is None:
            break
        address = before
    return str(address)


def _forwarded(scope: Scope) -> list[str]:
    """Return what proxies said, the nearest one's first."""
    values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return b",".join(values).decode("latin-1").split(",")[::-1]


def _is_in(address: IPv4Address | IPv6Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks)


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a text is, if it is one, without the zone of its host."""
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
