"""Address rules: which addresses may be dialled, and which nodes count as one owner's.

A relay dials the addresses of descriptors, and any stranger can sign one. Outside a network declared
local it therefore dials only public unicast addresses and the private ranges that its user has declared. In a
local network it dials this machine or, if it is reached at addresses of a LAN, the private range of that LAN.
An attacker therefore cannot make it dial other machines behind its firewall.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from tunnel.errors import LocalTunnelError
from tunnel.identity.descriptor import Address, Descriptor

__all__ = [
    "LOCAL",
    "PUBLIC",
    "SPECIAL_BLOCKS",
    "AddressRules",
    "IpAddress",
    "IpRange",
    "host_group",
    "is_private_range",
    "is_public",
    "lans_of",
    "network_group",
    "special_block",
    "unmapped",
]

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpRange: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Ranges of LANs and VPNs (RFC 1918, 6598, 4193), and loopback. Not link-local: services of routers and clouds
# have such addresses.
_PRIVATE_TEXT: Final = (
    "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 127.0.0.0/8, fc00::/7, ::1/128"
)
_PRIVATE: Final = tuple(map(ipaddress.ip_network, _PRIVATE_TEXT.split(", ")))
_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

# Blocks that are not public unicast, from the IANA special-purpose address registries. Not taken from the
# standard library, whose `is_global` differs between versions. The first block that holds an address counts.
_SPECIAL_TEXT: Final = """
    0.0.0.0/8           this host, unspecified
    10.0.0.0/8          private (RFC 1918)
    100.64.0.0/10       shared by customers of one provider (RFC 6598)
    127.0.0.0/8         loopback
    169.254.0.0/16      link-local; clouds keep the credentials of machines there
    172.16.0.0/12       private
    192.0.0.0/24        protocol assignments (RFC 6890)
    192.0.2.0/24        documentation (RFC 5737)
    192.88.99.0/24      6to4 relays (RFC 7526)
    192.168.0.0/16      private
    198.18.0.0/15       benchmarks (RFC 2544)
    198.51.100.0/24     documentation
    203.0.113.0/24      documentation
    224.0.0.0/4         multicast
    240.0.0.0/4         reserved, broadcast
    ::/128              unspecified
    ::1/128             loopback
    ::/96               contains an IPv4 address: deprecated, but some machines still accept it
    64:ff9b::/96        NAT64 (RFC 6052): a translator on the path would deliver to the IPv4 address inside
    64:ff9b:1::/48      NAT64 (RFC 8215)
    100::/64            discarded (RFC 6666)
    2001::/32           Teredo (RFC 4380), contains IPv4 addresses
    2001::/23           protocol assignments: benchmarks, ORCHID
    2001:db8::/32       documentation (RFC 3849)
    2002::/16           6to4 (RFC 3056), contains an IPv4 address
    3fff::/20           documentation (RFC 9637)
    fc00::/7            private (RFC 4193)
    fe80::/10           link-local
    fec0::/10           site-local, deprecated
    ff00::/8            multicast
    ::/3                not assigned, as all addresses below and above 2000::/3
    4000::/2            not assigned
    8000::/1            not assigned
"""
SPECIAL_BLOCKS: Final = tuple(
    ipaddress.ip_network(line.split()[0]) for line in _SPECIAL_TEXT.split("\n") if line.strip()
)
# Parsing takes 5 us, and drawing a route looks at thousands of nodes.
_CACHED: Final = 16_384


def unmapped(host: str) -> IpAddress:
    """A numeric address; ::ffff:a.b.c.d as the IPv4 address that it stands for. Raises ValueError: a name."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(_CACHED)
def special_block(address: IpAddress) -> IpRange | None:
    """The block of special addresses that holds `address`; None: a unicast address of the open internet.

    Special are loopback, private and shared ranges, link-local and site-local, multicast, documentation,
    benchmarking and reserved addresses, and IPv6 addresses that contain an IPv4 address (6to4, Teredo,
    NAT64).

    Args:
        address: from `unmapped`.
    Source: IANA special-purpose address registries.
    """
    return next((block for block in SPECIAL_BLOCKS if address in block), None)


@lru_cache(_CACHED)
def is_public(host: str) -> bool:
    """Whether `host` is a unicast address of the open internet. A mapped address counts as the one in it."""
    return special_block(unmapped(host)) is None


def is_private_range(network: IpRange) -> bool:
    """Whether `network` is part of a range for LANs, VPNs or one machine."""
    return any(network.network_address in whole and network.broadcast_address in whole for whole in _PRIVATE)


def lans_of(places: Iterable[Address]) -> tuple[IpRange, ...]:
    """The private ranges that hold these addresses, such as 192.168.0.0/16 for 192.168.1.7.

    For a loopback address those of IPv4 and IPv6: they are the same machine.
    """
    hosts = [unmapped(place.host) for place in places]
    lans = [whole for whole in _PRIVATE if whole not in _LOOPBACK and any(host in whole for host in hosts)]
    return (*lans, *(_LOOPBACK if any(host.is_loopback for host in hosts) else ()))


@lru_cache(_CACHED)
def _is_within(host: str, ranges: tuple[IpRange, ...]) -> bool:
    address = unmapped(host)
    return any(address in network for network in ranges)


@lru_cache(_CACHED)
def network_group(host: str) -> bytes:
    """The /16 (IPv4) or /32 (IPv6) of an address: a size that one owner can easily have."""
    address = unmapped(host)
    return b"%d" % address.version + address.packed[: 2 if address.version == 4 else 4]


@lru_cache(_CACHED)
def host_group(host: str) -> bytes:
    """The address of one host: all of IPv4, the /64 of IPv6, since a host may take any address within it."""
    address = unmapped(host)
    return b"%d" % address.version + address.packed[: 4 if address.version == 4 else 8]


@dataclass(frozen=True, slots=True)
class AddressRules:
    """The meaning of addresses in one network of nodes.

    Attributes:
        is_local: the network is declared local (one machine or one room): only addresses of `private` may be
            dialled, without any those of this machine (loopback), and owners are ignored.
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
        private = self.private or (_LOOPBACK if self.is_local else ())
        return tuple(
            address
            for address in addresses
            if _is_within(address.host, private) or (not self.is_local and is_public(address.host))
        )

    def owners(self, peer: Descriptor) -> frozenset[bytes]:
        """The networks and the family of a node. Nodes that share one of them count as one owner's."""
        if self.is_local:
            return frozenset()
        groups = {group for address in peer.addresses if (group := self.owner(address.host)) is not None}
        if peer.family is not None:
            groups.add(b"f" + peer.family)
        return frozenset(groups)

    def owner(self, host: str) -> bytes | None:
        """The network of an address, which counts as one owner's: /16 of IPv4, /32 of IPv6. None: it shows no
        owner, since it is in a private range, or the network of nodes is local."""
        return None if self.is_local or _is_within(host, self.private) else network_group(host)

    def network(self, host: str) -> bytes:
        """The network to charge for a connection from `host`, before its sender is known; in a local network
        and in private ranges the host."""
        return self.owner(host) or host_group(host)

    def source(self, peer_id: bytes, host: str, *, is_dialled: bool) -> bytes:
        """The source that is charged for a link and its neighbour's announcements: the neighbour's network,
        since ids cost nothing.

        In a local network one machine may be all nodes. There the source is the id of a neighbour that this
        node has dialled, since each id needs a node that answers.

        Args:
            host: the address at the other end of the link, not one that the neighbour has only signed.
        """
        return peer_id if self.is_local and is_dialled else self.network(host)


PUBLIC: Final = AddressRules()
"""Rules for a network on the open internet."""
LOCAL: Final = AddressRules(is_local=True)
"""Rules for a network declared local, on one machine."""
