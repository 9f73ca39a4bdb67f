"""The learning directory: announced nodes are limited and verified, and count as reached after a dial."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.tunnel.helpers import NOW_S, OPENSSL, make_keys
from tunnel.directory import ExchangeDirectory
from tunnel.directory.exchange import MAX_DESCRIPTORS, PER_NETWORK, ExchangeMessage
from tunnel.directory.hearsay import LIFE_S, PER_SOURCE
from tunnel.errors import DescriptorError, LinkError, LocalTunnelError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.link.cells import MAX_EXCHANGE_BYTES
from tunnel.routing.addresses import LOCAL, AddressRules

ME = b"me" * 16
LIMIT = 12
sources = st.sampled_from([b"a", b"b"])


@cache
def described(number: int, later_s: int = 0) -> Descriptor:
    address = Address(f"{50 + number % 100}.1.1.1", 1)
    return make_keys(f"peer {number}").descriptor((address,), NOW_S + later_s, OPENSSL)


def learn(directory: ExchangeDirectory, *told: Descriptor, source: bytes = b"s", now_s: float = NOW_S) -> int:
    return directory.learn([each.signed for each in told], source=source, own_id=ME, now_s=now_s)


def reach(directory: ExchangeDirectory, peer: Descriptor, *, host: str = "", now_s: float = NOW_S) -> None:
    directory.reached(peer, host or peer.addresses[0].host, own_id=ME, now_s=now_s)


def make(limit: int = 4096) -> ExchangeDirectory:
    return ExchangeDirectory(engine=OPENSSL, limit=limit)


# --- messages

sizes = st.integers(69, MAX_DESCRIPTOR_BYTES)
messages = st.builds(
    ExchangeMessage,
    st.lists(sizes.flatmap(lambda size: st.binary(min_size=size, max_size=size)), max_size=8).map(tuple),
    st.booleans(),
)


@given(messages)
def test_messages_are_parsed_back(message: ExchangeMessage) -> None:
    assert ExchangeMessage.parse(message.to_bytes()) == message


def test_the_longest_message_fits_into_a_cell() -> None:
    full = ExchangeMessage((bytes(MAX_DESCRIPTOR_BYTES),) * MAX_DESCRIPTORS, True).to_bytes()
    assert len(full) == 4 + 8 * 480 == 3_844 <= MAX_EXCHANGE_BYTES
    with pytest.raises(LocalTunnelError):
        ExchangeMessage((bytes(100),) * 9).to_bytes()


def test_the_bytes_of_a_message() -> None:
    assert ExchangeMessage((b"x" * 69,), True).to_bytes() == b"\x01\x01\x01\x00\x00\x45" + b"x" * 69


@given(st.one_of(st.binary(max_size=200), messages.map(ExchangeMessage.to_bytes)), st.data())
def test_other_input_is_refused_with_the_documented_error(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        message = ExchangeMessage.parse(bytes(damaged))
    except LinkError:
        return
    assert message.to_bytes() == bytes(damaged)


# --- the table


def test_the_highest_sequence_number_wins_whatever_the_order() -> None:
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        directory = make()
        for later_s in order:
            learn(directory, described(1, later_s))
        assert directory.lookup(described(1).node_id) == described(1, 2)
    assert learn(directory, described(1, 2)) == 0
    assert learn(directory, described(1, 3), described(2)) == 2


def test_of_equal_numbers_the_nodes_own_descriptor_wins() -> None:
    keys, directory = make_keys("twice"), make()
    one, two = (keys.descriptor((Address("60.1.1.1", port),), NOW_S, OPENSSL, sequence=7) for port in (1, 2))
    learn(directory, one)
    assert learn(directory, two) == 0
    directory.presented(two, source=b"s", own_id=ME, now_s=NOW_S)
    assert directory.lookup(one.node_id) == two


def test_unusable_descriptors_are_not_learned() -> None:
    directory = make()
    assert learn(directory, make_keys("hidden").descriptor((), NOW_S, OPENSSL)) == 0
    private = make_keys("home").descriptor((Address("192.168.1.1", 1),), NOW_S, OPENSSL)
    assert learn(directory, private) == 0
    assert learn(directory, described(1), now_s=NOW_S + 8 * 24 * 3600) == 0, "expired"
    assert directory.learn([described(2).signed], source=b"s", own_id=described(2).node_id, now_s=NOW_S) == 0
    assert len(directory) == 0
    assert learn(ExchangeDirectory(engine=OPENSSL, rules=LOCAL), private) == 0, (
        "a local network of one machine"
    )
    lan = AddressRules(is_local=True, private=(ipaddress.ip_network("192.168.0.0/16"),))
    assert learn(ExchangeDirectory(engine=OPENSSL, rules=lan), private) == 1


@pytest.mark.parametrize("at", [0, 8, 50, -1])
def test_a_forged_entry_is_refused_and_the_earlier_ones_are_kept(at: int) -> None:
    directory = make()
    forged = bytearray(described(2).signed)
    forged[at] ^= 1
    with pytest.raises(DescriptorError):
        directory.learn(
            [described(1).signed, bytes(forged), described(3).signed], source=b"s", own_id=ME, now_s=NOW_S
        )
    assert [each.node_id for each in directory] == [described(1).node_id]


def test_expired_entries_are_dropped_and_configured_entries_stay() -> None:
    directory = make()
    directory.publish(described(1))
    for each in (described(2), described(3, 3600)):
        reach(directory, each)
    directory.expire(described(2).expiry)
    assert {each.node_id for each in directory} == {described(1).node_id, described(3).node_id}


def test_a_neighbour_is_sent_only_reached_and_configured_nodes() -> None:
    """Its own descriptor, and nodes that it has reached or that its user configured: no hearsay."""
    directory, own, to = make(), described(0), described(9)
    directory.publish(own)
    directory.publish(described(5))
    directory.publish(make_keys("hidden").descriptor((), NOW_S, OPENSSL))
    learn(directory, *(described(number) for number in range(20, 60)))
    directory.presented(described(19), source=b"s", own_id=ME, now_s=NOW_S)
    for each in (to, *(described(number) for number in range(1, 5))):
        reach(directory, each)
    told = set(directory.offer(own, to=to.node_id, now_s=NOW_S))
    assert told == {described(number).signed for number in range(6)}
    assert directory.offer(own, to=to.node_id, now_s=own.expiry + 9) == (own.signed,)
    client = make_keys("client").descriptor((), NOW_S, OPENSSL)
    assert client.signed not in directory.offer(client, to=to.node_id, now_s=NOW_S)


def test_routes_are_drawn_only_from_dialled_nodes() -> None:
    directory = make()
    learn(directory, described(1))
    directory.presented(described(2), source=b"s", own_id=ME, now_s=NOW_S)
    assert {each.node_id for each in directory} == {described(1).node_id, described(2).node_id}
    assert directory.sample() == []
    reach(directory, described(1))
    assert directory.sample() == [described(1)]
    assert not directory.is_hearsay(described(1).node_id)


def test_a_newer_descriptor_of_a_reached_node_counts_only_at_the_same_place() -> None:
    """Otherwise one machine would stand for addresses all over the world, one after the other."""
    directory, keys = make(), make_keys("mover")

    def at(host: str, later_s: int) -> Descriptor:
        return keys.descriptor((Address(host, 1),), NOW_S + later_s, OPENSSL)

    first, same, moved = at("60.1.1.1", 0), at("60.1.1.1", 1), at("70.1.1.1", 2)
    reach(directory, first)
    assert learn(directory, same) == 1
    assert directory.sample() == [same]
    assert learn(directory, moved) == 1
    assert directory.sample() == []
    assert directory.lookup(moved.node_id) == moved
    reach(directory, same, host="60.1.1.1")
    assert directory.sample() == [], "that dial was to the old place"
    reach(directory, moved)
    assert directory.sample() == [moved]


def test_one_network_has_a_few_places_and_the_weight_of_one_node() -> None:
    """The address that answered counts, not those that the node has only signed."""
    directory = make()
    places = (Address("60.1.0.9", 1), Address("61.1.1.1", 1))
    crowd = [
        make_keys(f"crowd {number}").descriptor(places, NOW_S, OPENSSL) for number in range(PER_NETWORK + 3)
    ]
    for each in crowd:
        reach(directory, each, host="60.1.0.9")
    assert directory.sample() == crowd[:PER_NETWORK]
    honest = make_keys("honest").descriptor((Address("61.1.2.3", 1),), NOW_S, OPENSSL)
    reach(directory, honest)
    everyone = {each.node_id for each in directory.sample()}
    for _ in range(20):
        drawn_from = everyone - directory.crowd()
        assert honest.node_id in drawn_from
        assert len(drawn_from) == 2
        assert len(everyone - directory.crowd(avoid=drawn_from - {honest.node_id}) - drawn_from) == 1
    assert len({frozenset(directory.crowd()) for _ in range(50)}) > 1, "drawn anew each time"
    late = make_keys("late").descriptor((Address("60.1.7.7", 1),), NOW_S, OPENSSL)
    learn(directory, late)
    assert directory.is_hearsay(late.node_id)
    assert directory.next_to_dial(NOW_S) is None, "its network is full: it is not even dialled"


def test_a_dialled_node_is_reached_when_its_own_descriptor_names_the_answering_key() -> None:
    """The handshake proves the link key. An invented node may name that of a real one."""
    directory, real = make(), described(1)
    keys = make_keys("invented")
    invented = replace(keys.descriptor(real.addresses, NOW_S, OPENSSL), link_key=real.link_key).sign(
        keys.identity, OPENSSL
    )
    newer = described(1, 5)
    others = [described(2).signed, described(3).signed]
    assert directory.own_of(real, [*others, real.signed]) == real
    assert directory.own_of(real, [newer.signed, *others]) == newer
    assert directory.own_of(invented, [real.signed, *others]) is None, "the real node tells of itself"
    assert directory.own_of(described(4), others) is None
    moved_key = keys.descriptor(real.addresses, NOW_S, OPENSSL)
    assert directory.own_of(invented, [moved_key.signed]) is None, "not the key that answered"
    forged = newer.signed[:-1] + bytes([newer.signed[-1] ^ 1])
    with pytest.raises(DescriptorError):
        directory.own_of(real, [forged])


def test_a_dialling_node_owns_its_link_key() -> None:
    directory, keys = make(), make_keys("1")
    one = keys.descriptor((Address("60.1.1.1", 1),), NOW_S, OPENSSL)
    learn(directory, one)
    assert not directory.owns_key(one)
    directory.presented(one, source=b"s", own_id=ME, now_s=NOW_S)
    assert directory.owns_key(one)
    other_key = keys.descriptor(one.addresses, NOW_S + 1, OPENSSL)
    other_key = replace(other_key, link_key=described(2).link_key).sign(keys.identity, OPENSSL)
    assert learn(directory, other_key) == 1
    assert not directory.owns_key(other_key), "signed later, and shown by nobody"


def test_a_descriptor_with_the_link_key_of_a_known_node_is_not_dialled() -> None:
    directory, real = make(), described(1)
    reach(directory, real)
    for number in range(20):
        keys = make_keys(f"invented {number}")
        fake = replace(keys.descriptor(real.addresses, NOW_S, OPENSSL), link_key=real.link_key)
        learn(directory, fake.sign(keys.identity, OPENSSL))
    assert directory.undialled == 20
    assert directory.next_to_dial(NOW_S) is None


def test_a_reached_node_is_dialled_again_each_day_and_dropped_after_a_week_of_silence() -> None:
    """Its descriptor may name any expiry, and its owner may rent a new address each day."""
    directory, keys = make(), make_keys("for ever")
    lasting = keys.descriptor((Address("60.1.1.1", 1),), NOW_S, OPENSSL)
    lasting = replace(lasting, expiry=int(NOW_S) + 10_000 * 24 * 3600).sign(keys.identity, OPENSSL)
    reach(directory, lasting)
    day_s = 24 * 3600.0
    for day in range(1, 4):
        assert directory.next_to_dial(NOW_S + day * day_s - 1) is None
        assert directory.next_to_dial(NOW_S + day * day_s) == lasting
        assert directory.next_to_dial(NOW_S + day * day_s) is None, "once a day, answered or not"
    reach(directory, lasting, now_s=NOW_S + 3 * day_s)
    directory.expire(NOW_S + 10 * day_s)
    assert directory.sample() == [lasting]
    directory.expire(NOW_S + 10 * day_s + 1)
    assert directory.sample() == []


def test_a_clock_that_was_ahead_keeps_no_reached_node_longer() -> None:
    """Its owner may have left: it is dialled a day after the clock was set right, dropped after a week."""
    directory, day_s = make(), 24 * 3_600
    peer = described(1, 400 * day_s)  # of the time that the clock showed
    reach(directory, peer, now_s=NOW_S + 400 * day_s)
    directory.expire(NOW_S)
    assert directory.sample() == [peer]
    assert directory.next_to_dial(NOW_S + day_s) == peer
    directory.expire(NOW_S + 7 * day_s + 1)
    assert directory.sample() == []


def test_a_full_table_keeps_reached_nodes() -> None:
    directory = make(limit=LIMIT)
    for number in range(LIMIT):
        reach(directory, described(number))
    for number in range(LIMIT, 3 * LIMIT):
        learn(directory, described(number))
        reach(directory, described(number))
    assert {each.node_id for each in directory.sample()} == {described(n).node_id for n in range(LIMIT)}


def test_descriptors_of_a_full_source_are_not_verified() -> None:
    """So the work for a stranger is bounded like the table."""
    directory = make()
    learn(directory, *(described(number) for number in range(PER_SOURCE + 2)), source=b"flood")
    forged = bytearray(described(500).signed)
    forged[-1] ^= 1
    assert directory.learn([bytes(forged)], source=b"flood", own_id=ME, now_s=NOW_S) == 0
    with pytest.raises(DescriptorError):
        directory.learn([bytes(forged)], source=b"other", own_id=ME, now_s=NOW_S)


class _Flood(RuleBasedStateMachine):
    """Sources tell of any nodes; the model knows what was configured, dialled and told, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = make(limit=LIMIT)
        self.now_s = NOW_S
        self.configured: set[bytes] = set()
        self.dialled: set[bytes] = set()
        self.told_s: dict[bytes, float] = {}

    @rule(number=st.integers(0, 3), later_s=st.integers(0, 2))
    def configure(self, number: int, later_s: int) -> None:
        self.directory.publish(described(number, later_s))
        self.configured.add(described(number).node_id)

    @rule(numbers=st.lists(st.integers(0, 250), max_size=60), later_s=st.integers(0, 2), source=sources)
    def tell(self, numbers: list[int], later_s: int, source: bytes) -> None:
        told = [described(number, later_s) for number in numbers]
        learn(self.directory, *told, source=source, now_s=self.now_s)
        for each in told:
            self.told_s[each.node_id] = self.now_s

    @rule(number=st.integers(0, 250), later_s=st.integers(0, 2), source=sources)
    def present(self, number: int, later_s: int, source: bytes) -> None:
        each = described(number, later_s)
        self.directory.presented(each, source=source, own_id=ME, now_s=self.now_s)
        self.told_s[each.node_id] = self.now_s

    @rule(number=st.integers(0, 250))
    def dial(self, number: int) -> None:
        reach(self.directory, described(number), now_s=self.now_s)
        self.dialled.add(described(number).node_id)

    @rule()
    def dial_what_is_due(self) -> None:
        drawn = self.directory.next_to_dial(self.now_s)
        if drawn is not None:
            assert self.directory.is_hearsay(drawn.node_id)
            reach(self.directory, drawn, now_s=self.now_s)
            self.dialled.add(drawn.node_id)

    @rule(seconds=st.sampled_from([1, 200, LIFE_S]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.directory.expire(self.now_s)

    @invariant()
    def holds(self) -> None:
        known = {each.node_id for each in self.directory}
        drawn_from = {each.node_id for each in self.directory.sample()}
        assert len(known) == len(self.directory)
        assert self.configured <= drawn_from <= self.configured | self.dialled
        assert len(drawn_from - self.configured) <= LIMIT
        networks = Counter(peer.addresses[0].host for peer in self.directory.sample())
        for peer in self.directory.sample():
            if peer.node_id in self.configured:
                networks[peer.addresses[0].host] -= 1
        assert max(networks.values(), default=0) <= PER_NETWORK
        hearsay = known - drawn_from
        assert all(self.directory.is_hearsay(node_id) for node_id in hearsay)
        assert len(hearsay) <= PER_SOURCE * 2 * 2, "two sources, and what they presented themselves"
        assert all(self.now_s - self.told_s[node_id] < LIFE_S for node_id in hearsay)
        offered = self.directory.offer(described(0), to=ME, now_s=self.now_s)
        assert {Descriptor.peek_id(signed) for signed in offered} <= drawn_from | {described(0).node_id}


TestFlood = _Flood.TestCase
TestFlood.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
