"""Who called: the peer, or what a proxy that we trust says of it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def remote_address(peer: str | None, forwarded_for: str, trusted: Sequence[Network]) -> str | None:
    """The right-most address of X-Forwarded-For that is no trusted proxy; anyone can write what is before.

    A value that is no address ends the search: nobody whom we trust vouches for what comes before it.
    """
    address = _address(peer or "")
    if address is None:
        return None
    hops = reversed(forwarded_for.split(","))
    while _is_in(address, trusted) and (hop := _address(next(hops, ""))) is not None:
        address = hop
    return str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    # A socket that takes both versions says ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
