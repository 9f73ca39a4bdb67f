"""What is known of other nodes: descriptors, peer exchange, values of the hash table, addresses, guards."""

from __future__ import annotations

import ipaddress
import random
from functools import partial

from tests.fuzz.target import ENGINE, Input, raised, target
from tests.tunnel.helpers import ALL_PROFILE_BYTES, NOW_S, make_keys
from tunnel.directory.exchange import PER_NETWORK, ExchangeDirectory, ExchangeMessage
from tunnel.directory.hearsay import PER_SOURCE
from tunnel.errors import BadArgument, DescriptorError, KeyFileError, LinkError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.routing.addresses import LOCAL, PUBLIC, AddressRules, is_public, special_block, unmapped
from tunnel.routing.guards import MOST_GUARDS, Guards

_KEYS = [make_keys(f"fuzzed {number}") for number in range(6)]
_PLACES = [Address(host, 4000) for host in ("93.184.216.34", "2a00::1", "127.0.0.1", "8.8.8.8")]
_LIMIT = 3
_DESCRIPTORS = [
    keys.descriptor((place,), NOW_S, ENGINE, sequence=sequence)
    for keys in _KEYS
    for place in _PLACES[:3]
    for sequence in (1, 2)
]
_OWN_ID = _DESCRIPTORS[0].node_id


def _field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def _fields(given: Input) -> bytes:
    """Fields in order with the right lengths, except where the input wants others."""
    shapes = [(2, 32), (3, 40), (4, 18), (5, 2), (6, 1), (7, 1), (8, 8), (9, 4), (10, 16)]
    fields = b""
    for kind, length in shapes:
        times = given.one_of([1, 1, 1, 1, 0, 2, 5])
        for _ in range(times):
            value = given.take(length) if given.number(0, 15) else given.some(64)
            fields += _field(kind, value)
    return fields + given.some(20)


@target(DescriptorError, most_bytes=MAX_DESCRIPTOR_BYTES)
def descriptor(given: Input) -> None:
    """Any signed fields: what is read is signed again as the same bytes, and any change is refused."""
    keys = _KEYS[0]
    if given.number(0, 3):
        fields = _field(1, keys.node_id(ENGINE)) + (_fields(given) if given.flag() else given.rest())
        body = b"mtun\x01" + fields
        data = body + ENGINE.ed25519_sign(keys.identity, body)
    else:
        data = given.rest()
    found = Descriptor.parse(data, ENGINE)
    assert found.signed == data
    assert len(data) <= MAX_DESCRIPTOR_BYTES
    assert Descriptor.peek_id(data) == found.node_id
    again = found.sign(keys.identity, ENGINE)
    assert set(found.profiles) <= set(ALL_PROFILE_BYTES)
    # A newer node may offer profiles that this one does not know, and leaves out.
    assert again.signed == data or len(again.signed) < len(data)
    assert all(Address.unpack(place.pack()) == place and str(place) for place in found.addresses)
    assert repr(found)
    for now_s in (NOW_S, 0.0, 2.0**32):
        has_key = raised(DescriptorError, found.hop, now_s) is None
        assert has_key is (found.obstacle(now_s) is None)
    at = given.number(0, len(data) - 1)
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert raised(DescriptorError, Descriptor.parse, changed, ENGINE)


@target(LinkError, most_bytes=1400)
def exchange_message(given: Input) -> None:
    """A message of peer exchange packs to the same bytes."""
    data = given.rest()
    if data[:1] == b"\0":
        pieces = [bytes(69 + each) for each in data[1:9]]
        data = ExchangeMessage(tuple(pieces), wants_more=True).to_bytes()
        data = data[:-1] if given.flag() else data
    assert ExchangeMessage.parse(data).to_bytes() == data


@target(DescriptorError, most_bytes=512)
def exchange_directory(given: Input) -> None:
    """What neighbours and the hash table tell: bounded, and never drawn before it was reached."""
    rules = given.one_of([PUBLIC, LOCAL])
    directory = ExchangeDirectory(
        _DESCRIPTORS[:1], engine=ENGINE, rules=rules, limit=_LIMIT, rng=random.Random(1)
    )
    reached, now_s = {_OWN_ID}, NOW_S
    while not given.is_empty:
        one, source = given.one_of(_DESCRIPTORS), given.one_of([b"dht", b"a", b"b"])
        match given.number(0, 5):
            case 0:
                told = one.signed if given.number(0, 7) else given.some(MAX_DESCRIPTOR_BYTES)
                learn = partial(directory.learn, source=source, own_id=_OWN_ID, now_s=now_s)
                raised(DescriptorError, learn, [told])
            case 1:
                directory.presented(one, source=source, own_id=_OWN_ID, now_s=now_s)
            case 2:
                place = given.one_of(_PLACES).host
                directory.reached(one, place, own_id=_OWN_ID, now_s=now_s)
                reached.add(one.node_id)
            case 3:
                drawn = directory.next_to_dial(now_s)
                assert drawn is None or drawn.node_id != _OWN_ID
            case 4:
                now_s += given.one_of([1, 700, 90_000, -1_000])
                directory.expire(now_s)
            case _:
                told = one.signed if given.flag() else given.some(80)
                raised(DescriptorError, directory.own_of, one, [told])
        sample = directory.sample()
        assert {each.node_id for each in sample} <= reached
        assert len(sample) <= _LIMIT + 1 <= PER_NETWORK
        assert len(directory) <= 3 * PER_SOURCE + _LIMIT + 1
        assert directory.crowd() <= {each.node_id for each in sample}


@target(BadArgument, most_bytes=100)
def addresses(given: Input) -> None:
    """An address as text or bytes: never dialable if it is special, mapped forms included."""
    if given.flag():
        place = Address.unpack(given.take(18))
    else:
        place = Address(given.rest().decode("utf-8", "surrogateescape"), given.number(0, 65_535))
    packed = Address.unpack(place.pack())
    assert packed.port == place.port
    assert Address.unpack(packed.pack()) == packed
    block = special_block(unmapped(packed.host))
    assert is_public(packed.host) is (block is None)
    assert is_public(place.host) is is_public(packed.host)
    assert bool(PUBLIC.dialable([place])) is (block is None)
    is_loopback = ipaddress.ip_address(str(unmapped(packed.host))).is_loopback
    assert bool(LOCAL.dialable([place])) is is_loopback
    rules = AddressRules(private=(ipaddress.ip_network("10.0.0.0/8"),))
    assert rules.network(packed.host)
    assert rules.source(b"id", packed.host, is_dialled=given.flag())


@target(KeyFileError, most_bytes=800)
def guards(given: Input) -> None:
    """The state of the guards is written as it was read, and choosing from it keeps to its limit."""
    data = given.rest()
    if data[:1] == b"\0":
        data = b"mtgd\x01" + data[1:]
    found = Guards.from_bytes(data)
    assert found.to_bytes() == data
    peers = _DESCRIPTORS[::6]
    usable = {peer.node_id for peer in peers}
    before = len(found)
    found.choose(peers, usable, now_s=NOW_S, rules=PUBLIC, rng=random.Random(1))
    assert len(found) <= max(before, MOST_GUARDS)
