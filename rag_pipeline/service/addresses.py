"""Whom an address stands for, where something is limited for each of them."""

from __future__ import annotations

import ipaddress


def network(address: str) -> str:
    """Return what is counted as one address: of IPv6 a network of 64 bits, which is what one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:  # What a socket for both versions says of an IPv4 address.
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
