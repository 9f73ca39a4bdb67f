"""Which addresses may be dialled, and which count as one owner's."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalTunnelError
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.node import LOCAL_NETWORK_ID, address_rules
from tunnel.routing.addresses import (
    LOCAL,
    PUBLIC,
    AddressRules,
    IpRange,
    is_private_range,
    is_public,
    network_group,
    unmapped,
)

REFUSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.0.170",
    "192.0.0.255",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00::1",
    "ff02::1",
    "2001:db8::1",
    "2001:20::1",
    "2001:4:112::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "c000::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:0a00:0001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]
ALLOWED = [
    "1.1.1.1",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.0.1",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2600::1",
    "2a00:1450::1",
]


@pytest.mark.parametrize("host", REFUSED)
def test_refused(host: str) -> None:
    assert not is_public(host)
    assert PUBLIC.dialable([Address(host, 1)]) == ()
    is_loopback = unmapped(host).is_loopback
    assert LOCAL.dialable([Address(host, 1)]) == ((Address(host, 1),) if is_loopback else ())


@pytest.mark.parametrize("host", ALLOWED)
def test_allowed(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize(
    ("own", "dialled", "refused"),
    [
        (["127.0.0.1"], ["127.0.0.9", "::1", "::ffff:127.0.0.1"], ["192.168.0.1", "8.8.8.8", "::127.0.0.1"]),
        (
            ["192.168.3.4"],
            ["192.168.0.1", "::ffff:192.168.9.9"],
            ["127.0.0.1", "10.0.0.1", "169.254.169.254"],
        ),
        (["10.1.1.1", "fd00::1"], ["10.9.9.9", "fdff::2"], ["172.16.0.1", "fe80::1", "ff02::1", "224.0.0.1"]),
        (["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8", "8.8.4.4", "10.0.0.1"]),
        ([], ["127.0.0.1"], ["0.0.0.0", "255.255.255.255", "169.254.169.254"]),
    ],
    ids=["this machine", "a LAN", "two LANs", "public", "none"],
)
def test_a_local_network_is_this_machine_or_its_lan(
    own: list[str], dialled: list[str], refused: list[str]
) -> None:
    rules = address_rules(LOCAL_NETWORK_ID, (), [Address(host, 1) for host in own])
    assert rules.is_local
    found = rules.dialable([Address(host, 1) for host in [*dialled, *refused]])
    assert [place.host for place in found] == [Address(host, 1).host for host in dialled]
    assert not PUBLIC.dialable([Address(host, 1) for host in dialled]), "no other network is concerned"


@given(st.ip_addresses(v=4))
def test_other_notations_of_an_address_mean_the_same_or_are_refused(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))
    assert network_group(f"::ffff:{address}") == network_group(str(address))
    # Addresses that a translator would turn into another address are refused, whatever that is.
    assert not is_public(str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address))))
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))))


@given(st.ip_addresses(), st.ip_addresses())
def test_groups_are_the_first_16_or_32_bits(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    def network(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> object:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return ipaddress.ip_network((address, 16 if address.version == 4 else 32), strict=False)

    assert (network_group(str(one)) == network_group(str(other))) == (network(one) == network(other))


def test_the_groups_of_a_node() -> None:
    addresses = (Address("1.2.3.4", 1), Address("1.2.200.1", 1), Address("2600:1::1", 1))
    node = Descriptor(b"i" * 32, b"l" * 32, (), addresses, (1,), 1, 1, family=b"f" * 16)
    assert PUBLIC.owners(node) == {b"4\x01\x02", b"6\x26\x00\x00\x01", b"f" + b"f" * 16}
    assert LOCAL.owners(node) == frozenset()
    assert PUBLIC.owners(Descriptor(b"i" * 32, b"l" * 32, (), (), (1,), 1, 1)) == frozenset()


# --- private ranges

LAN = AddressRules(private=(ipaddress.ip_network("10.8.0.0/16"), ipaddress.ip_network("fd12::/16")))


def at(*hosts: str, family: bytes | None = None) -> Descriptor:
    addresses = tuple(Address(host, 1) for host in hosts)
    return Descriptor(b"i" * 32, b"l" * 32, (), addresses, (1,), 1, 1, family=family)


def test_addresses_of_a_declared_range_are_dialled_and_do_not_show_owners() -> None:
    inside, public = ("10.8.3.1", "::ffff:10.8.3.1", "fd12::1"), ("1.2.3.4",)
    outside = ("10.9.0.1", "fd13::1", "127.0.0.1")
    dialled = LAN.dialable(at(*inside, *outside, *public).addresses)
    assert [address.host for address in dialled] == [*inside, *public]
    assert LAN.owners(at(*inside)) == frozenset()
    assert LAN.owners(at(*inside, family=b"f" * 16)) == {b"f" + b"f" * 16}
    assert LAN.owners(at(*inside, *public)) == {b"4\x01\x02"}


def test_ranges_may_come_as_a_list() -> None:
    """Otherwise the error would come late, with the first private address that a node dials."""
    ranges: Any = [ipaddress.ip_network("10.8.0.0/16")]
    assert AddressRules(private=ranges).dialable(at("10.8.3.1").addresses)


def test_the_source_that_an_entry_is_charged_to() -> None:
    """The network of the real address; where all are in one the address, or the id of one that answers."""
    one, other = b"1" * 32, b"2" * 32
    for is_dialled in (False, True):
        for host in ("10.8.3.1", "::ffff:10.8.3.1"):
            assert LAN.source(one, host, is_dialled=is_dialled) == bytes([52, 10, 8, 3, 1])
        assert LAN.source(one, "1.2.3.4", is_dialled=is_dialled) == b"4\x01\x02"
        assert PUBLIC.source(one, "2600:1:2::1", is_dialled=is_dialled) == b"6" + bytes([0x26, 0, 0, 1])
    assert LOCAL.source(one, "127.0.0.1", is_dialled=True) == one
    strangers = {LOCAL.source(each, "127.0.0.1", is_dialled=False) for each in (one, other)}
    assert strangers == {bytes([52, 127, 0, 0, 1])}


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0/8", "10.1.2.3/32", "192.168.4.0/22", "100.64.0.0/10", "127.0.0.0/8", "fd00::/8", "::1/128"],
)
def test_a_range_that_may_be_declared(text: str) -> None:
    assert is_private_range(ipaddress.ip_network(text))


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0/0", "10.0.0.0/7", "1.2.3.0/24", "169.254.0.0/16", "224.0.0.0/8", "::/0", "fe80::/10"],
)
def test_a_range_that_may_not(text: str) -> None:
    """They include link-local addresses, which have the services of routers and clouds."""
    network = ipaddress.ip_network(text)
    with pytest.raises(LocalTunnelError, match="not a private range: expected a part of"):
        AddressRules(private=(network,))


networks = st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"])


@given(networks.map(ipaddress.ip_network), st.data())
def test_a_range_that_may_be_declared_has_no_public_address(whole: IpRange, data: st.DataObject) -> None:
    inside = data.draw(st.ip_addresses(network=str(whole)))
    assert not is_public(str(inside))
    for length in range(whole.prefixlen + 1):
        network = ipaddress.ip_network((inside, length), strict=False)
        assert is_private_range(network) == (length == whole.prefixlen), "no wider one may be"
