"""Address rules: which addresses may be dialled, and which nodes count as one owner's.

A relay dials the addresses of descriptors, and any stranger can sign one. Outside a network declared
local it therefore dials only public unicast addresses and the private ranges that its user has declared. An
attacker thus cannot make it dial machines behind its own firewall.
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

# Ranges of LANs and VPNs (RFC 1918, 6598, 4193), and loopback. Not link-local: services of routers and clouds
# have such addresses.
_PRIVATE_TEXT: Final = (
    "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 127.0.0.0/8, fc00::/7, ::1/128"
)
_PRIVATE: Final = tuple(map(ipaddress.ip_network, _PRIVATE_TEXT.split(", ")))

# IPv6 addresses that contain an IPv4 address: a translator on the path would deliver to the inner one.
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# ::a.b.c.d is deprecated, but some machines still accept it.
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# Parsing takes 5 us, and drawing a route looks at thousands of nodes.
_CACHED: Final = 16_384


def _unmapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(_CACHED)
def is_public(host: str) -> bool:
    """Whether `host` is a unicast address of the open internet.

    Not public: loopback, private and shared ranges, link-local and site-local, multicast, documentation,
    benchmarking and reserved addresses, and IPv6 addresses that contain an IPv4 address (6to4, Teredo,
    NAT64). A mapped address counts as the IPv4 address in it. Source: IANA special-purpose address
    registries, by way of the standard library's `is_global`.
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
    """Whether `network` is part of a range for LANs, VPNs or one machine."""
    return any(network.network_address in whole and network.broadcast_address in whole for whole in _PRIVATE)


@lru_cache(_CACHED)
def _is_within(host: str, ranges: tuple[IpRange, ...]) -> bool:
    address = _unmapped(host)
    return any(address in network for network in ranges)


@lru_cache(_CACHED)
def network_group(host: str) -> bytes:
    """The /16 (IPv4) or /32 (IPv6) of an address: a size that one owner can easily have."""
    address = _unmapped(host)
    return b"%d" % address.version + address.packed[: 2 if address.version == 4 else 4]


@dataclass(frozen=True, slots=True)
class AddressRules:
    """The meaning of addresses in one network of nodes.

    Attributes:
        is_local: the network is declared local (one machine or one room): all addresses may be dialled, and
            owners are ignored.
        private: ranges of LANs or VPNs that belong to the network beside the open internet. Their addresses
            may be dialled, and do not distinguish owners.
    Raises:
        LocalTunnelError: a range contains addresses that no LAN may have.
    """

    is_local: bool = False
    private: tuple[IpRange, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", tuple(self.private))  # hashable, for the cache
        for network in self.private:
            if not is_private_range(network):
                raise LocalTunnelError(
                    f"{network} is not a private range: expected a part of one of {_PRIVATE_TEXT}"
                )

    def dialable(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """The addresses that may be dialled."""
        return tuple(
            address
            for address in addresses
            if self.is_local or is_public(address.host) or _is_within(address.host, self.private)
        )

    def owners(self, peer: Descriptor) -> frozenset[bytes]:
        """The networks and the family of a node. Nodes that share one of them count as one owner's."""
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
        """The source to charge for descriptors from `peer`: its network, because ids cost nothing; in a
        private range its address; in a local network its id.

        Args:
            host: the address of its end of the link; empty: this node dialled.
        """
        host = host or next((address.host for address in peer.addresses), "")
        if self.is_local or not host:
            return peer.node_id
        return _unmapped(host).packed if _is_within(host, self.private) else network_group(host)


PUBLIC: Final = AddressRules()
"""Rules for a network on the open internet."""
LOCAL: Final = AddressRules(is_local=True)
"""Rules for a network declared local."""
