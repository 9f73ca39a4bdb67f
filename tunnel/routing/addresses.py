"""What an IP address says: whether it may be dialled, and which owner it is likely to have.

A relay dials what descriptors name, and anybody can sign a descriptor. So outside a network declared local it
dials public unicast addresses only, and those of private ranges that its user has declared: nobody makes it
knock at other machines behind its own firewall.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from tunnel.errors import LocalTunnelError
from tunnel.identity.descriptor import Address, Descriptor

__all__ = ["LOCAL", "PUBLIC", "AddressRules", "IpRange", "is_private_range", "is_public", "network_group"]

IpRange: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What a LAN or VPN may have (RFC 1918, 6598, 4193), and loopback. Not link-local: routers' and clouds' own
# services are there.
_PRIVATE_TEXT: Final = (
    "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 127.0.0.0/8, fc00::/7, ::1/128"
)
_PRIVATE: Final = tuple(map(ipaddress.ip_network, _PRIVATE_TEXT.split(", ")))

# Ways to write an IPv4 address inside an IPv6 one. A translator on the path would deliver to the inner one.
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# Deprecated, and some machines still accept it: ::a.b.c.d.
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# Parsing takes 5 us, and a route looks at every node of a directory of thousands.
_CACHED: Final = 16_384


def _unmapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(_CACHED)
def is_public(host: str) -> bool:
    """Whether `host` is a unicast address of the open internet, in whatever notation it hides.

    Loopback, private and shared ranges, link-local and site-local, multicast, documentation, benchmarking and
    reserved ones are not, nor IPv6 addresses that carry an IPv4 one (6to4, Teredo, NAT64). A mapped one is
    what the IPv4 address in it is.
    Source: IANA special-purpose address registries, as the standard library's `is_global` has them.
    """
    address = _unmapped(host)
    if isinstance(address, ipaddress.IPv6Address) and (
        address.sixtofour is not None
        or address.teredo is not None
        or address.is_site_local
        or address in _COMPATIBLE
        or any(address in network for network in _NAT64)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_private_range(network: IpRange) -> bool:
    """Whether `network` lies whole in a range that a LAN, a VPN or one machine may have for itself."""
    return any(network.network_address in whole and network.broadcast_address in whole for whole in _PRIVATE)


@lru_cache(_CACHED)
def _is_within(host: str, ranges: tuple[IpRange, ...]) -> bool:
    address = _unmapped(host)
    return any(address in network for network in ranges)


@lru_cache(_CACHED)
def network_group(host: str) -> bytes:
    """The network that an address is counted to: its /16 (IPv4) or /32 (IPv6), what one owner easily has."""
    address = _unmapped(host)
    return b"%d" % address.version + address.packed[: 2 if address.version == 4 else 4]


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What addresses mean in one network of nodes.

    Attributes:
        is_local: it is declared local, one machine or one room: all may be dialled, and nobody is kept apart.
        private: ranges that are part of it beside the open internet, a LAN or a VPN. Their addresses may be
            dialled, and say nothing of owners: all are of one.
    Raises:
        LocalTunnelError: a range has public addresses, or ones that no LAN may have.
    """

    is_local: bool = False
    private: tuple[IpRange, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", tuple(self.private))  # a list is no key of the cache
        for network in self.private:
            if not is_private_range(network):
                raise LocalTunnelError(
                    f"{network} is no private range: expected a part of one of {_PRIVATE_TEXT}"
                )

    def dialable(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """Those addresses that may be dialled."""
        return tuple(
            address
            for address in addresses
            if self.is_local or is_public(address.host) or _is_within(address.host, self.private)
        )

    def owners(self, peer: Descriptor) -> frozenset[bytes]:
        """The networks and the family of a node: two nodes that share one count as one owner's."""
        if self.is_local:
            return frozenset()
        groups = {
            network_group(address.host)
            for address in peer.addresses
            if not _is_within(address.host, self.private)
        }
        if peer.family is not None:
            groups.add(b"f" + peer.family)
        return frozenset(groups)

    def source(self, peer: Descriptor, host: str) -> bytes:
        """Whom to charge for what `peer` tells: its network, as ids are free; where all are of one network,
        the machine; where they are of one machine, the node.

        Args:
            host: that the link came from; empty: this node dialled.
        """
        host = host or next((address.host for address in peer.addresses), "")
        if self.is_local or not host:
            return peer.node_id
        return _unmapped(host).packed if _is_within(host, self.private) else network_group(host)


PUBLIC: Final = AddressRules()
"""Of a network on the open internet."""
LOCAL: Final = AddressRules(is_local=True)
"""Of a network declared local."""
