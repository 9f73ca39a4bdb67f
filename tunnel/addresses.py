"""What an IP address says: whether it may be dialled on the open internet, and which network it is part of.

A relay dials what descriptors name, and anybody can sign a descriptor. So outside a network declared local it
dials public unicast addresses only: nobody makes it knock at the machines behind its own firewall.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tunnel.descriptor import Address, Descriptor

__all__ = ["dialable", "is_public", "network_group", "peer_groups"]

# Ways to write an IPv4 address inside an IPv6 one. A translator on the path would deliver to the inner one.
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# Deprecated, and some machines still accept it: ::a.b.c.d.
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# Parsing takes 5 us, and a route looks at every node of a directory of thousands.
_CACHED: Final = 16_384


@lru_cache(_CACHED)
def is_public(host: str) -> bool:
    """Whether `host` is a unicast address of the open internet, in whatever notation it hides.

    Loopback, private and shared ranges, link-local and site-local, multicast, documentation, benchmarking and
    reserved ones are not, nor IPv6 addresses that carry an IPv4 one (mapped, 6to4, Teredo, NAT64).
    Source: IANA special-purpose address registries, as the standard library's `is_global` has them.
    """
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif (
            address.sixtofour is not None
            or address.teredo is not None
            or address.is_site_local
            or address in _COMPATIBLE
            or any(address in network for network in _NAT64)
        ):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def dialable(addresses: Iterable[Address], *, is_local: bool) -> tuple[Address, ...]:
    """Those addresses that may be dialled: all where the network is declared local, else public ones."""
    return tuple(address for address in addresses if is_local or is_public(address.host))


@lru_cache(_CACHED)
def network_group(host: str) -> bytes:
    """The network that an address is counted to: its /16 (IPv4) or /32 (IPv6), what one owner easily has."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return b"%d" % address.version + address.packed[: 2 if address.version == 4 else 4]


def peer_groups(peer: Descriptor) -> frozenset[bytes]:
    """The networks and the family of a node: two nodes that share one count as one owner's."""
    groups = {network_group(address.host) for address in peer.addresses}
    if peer.family is not None:
        groups.add(b"f" + peer.family)
    return frozenset(groups)
