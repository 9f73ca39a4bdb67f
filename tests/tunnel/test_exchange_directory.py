"""The learning directory: entries are bounded and verified, and never evict more valuable ones."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.tunnel.helpers import NOW_S, OPENSSL, make_keys
from tunnel.directory import ExchangeDirectory
from tunnel.directory.exchange import MAX_DESCRIPTORS, ExchangeMessage
from tunnel.errors import DescriptorError, LinkError, LocalTunnelError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.link.cells import MAX_EXCHANGE_BYTES
from tunnel.routing.addresses import LOCAL

ME = b"me" * 16
LIMIT = 12


@cache
def described(number: int, later_s: int = 0) -> Descriptor:
    address = Address(f"{50 + number % 100}.1.1.1", 1)
    return make_keys(f"peer {number}").descriptor((address,), NOW_S + later_s, OPENSSL)


def learn(directory: ExchangeDirectory, *told: Descriptor, source: bytes = b"s", now_s: float = NOW_S) -> int:
    return directory.learn([each.signed for each in told], source=source, own_id=ME, now_s=now_s)


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
def test_anything_else_is_refused_with_the_documented_error(payload: bytes, data: st.DataObject) -> None:
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
    directory.saw(two, own_id=ME, now_s=NOW_S)
    assert directory.lookup(one.node_id) == two


def test_what_is_not_believed() -> None:
    directory = make()
    assert learn(directory, make_keys("hidden").descriptor((), NOW_S, OPENSSL)) == 0
    private = make_keys("home").descriptor((Address("192.168.1.1", 1),), NOW_S, OPENSSL)
    assert learn(directory, private) == 0
    assert learn(directory, described(1), now_s=NOW_S + 8 * 24 * 3600) == 0, "expired"
    assert directory.learn([described(2).signed], source=b"s", own_id=described(2).node_id, now_s=NOW_S) == 0
    assert len(directory) == 0
    assert learn(ExchangeDirectory(engine=OPENSSL, rules=LOCAL), private) == 1


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


def test_expired_entries_go_and_configured_ones_stay() -> None:
    directory = make()
    directory.publish(described(1))
    learn(directory, described(2), described(3, 3600))
    directory.expire(described(2).expiry)
    assert {each.node_id for each in directory} == {described(1).node_id, described(3).node_id}


def test_what_is_sent_to_a_neighbour() -> None:
    directory, own, to = make(), described(0), described(9)
    directory.publish(own)
    directory.publish(make_keys("hidden").descriptor((), NOW_S, OPENSSL))
    learn(directory, to, *(described(number) for number in range(1, 5)))
    told = set(directory.offer(own, to=to.node_id, now_s=NOW_S))
    assert told == {described(number).signed for number in range(5)}
    assert directory.offer(own, to=to.node_id, now_s=own.expiry + 9) == (own.signed,)
    client = make_keys("client").descriptor((), NOW_S, OPENSSL)
    assert client.signed not in directory.offer(client, to=to.node_id, now_s=NOW_S)


def test_half_of_the_exchanged_peers_have_been_linked() -> None:
    directory, own = make(limit=200), described(0)
    proven = [described(number) for number in range(1, 6)]
    for each in proven:
        directory.saw(each, own_id=own.node_id, now_s=NOW_S)
        directory.lost(each.node_id)
    learn(directory, *(described(number) for number in range(6, 80)), source=b"flood")
    sure = {each.signed for each in proven}
    for _ in range(20):
        told = directory.offer(own, to=ME, now_s=NOW_S)
        assert len(told) == len(set(told)) == 8
        assert len(sure & set(told)) >= 3


class _Flood(RuleBasedStateMachine):
    """Sources send any descriptors; the model knows the configured and the linked nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = make(limit=LIMIT)
        self.configured: set[int] = set()
        self.linked: list[int] = []
        self.newest: dict[int, int] = {}

    def _note(self, number: int, later_s: int) -> None:
        self.newest[number] = max(later_s, self.newest.get(number, 0))

    @rule(number=st.integers(0, 3), later_s=st.integers(0, 2))
    def configure(self, number: int, later_s: int) -> None:
        self.directory.publish(described(number, later_s))
        self.configured.add(number)
        self._note(number, later_s)

    @rule(
        numbers=st.lists(st.integers(0, 40), max_size=8),
        later_s=st.integers(0, 2),
        source=st.sampled_from("ab"),
    )
    def tell(self, numbers: list[int], later_s: int, source: str) -> None:
        learn(self.directory, *(described(number, later_s) for number in numbers), source=source.encode())
        for number in numbers:
            self._note(number, later_s)

    @rule(number=st.integers(30, 36))
    def link(self, number: int) -> None:
        if len(set(self.linked) | {number}) < LIMIT // 2:
            self.directory.saw(described(number), own_id=ME, now_s=NOW_S)
            self.linked.append(number)
            self._note(number, 0)

    @rule()
    def unlink(self) -> None:
        if self.linked:
            self.directory.lost(described(self.linked.pop()).node_id)

    @invariant()
    def holds(self) -> None:
        known = {each.node_id: each for each in self.directory}
        assert len(known) == len(self.directory) <= LIMIT + len(self.configured)
        for number in {*self.configured, *self.linked}:
            assert described(number).node_id in known
        for number in self.configured:
            assert (
                known[described(number).node_id].sequence <= described(number, self.newest[number]).sequence
            )
        sources = self.directory.entries_by_source
        assert sum(sources.values()) == len(self.directory.learned)
        assert all(sources.values())


TestFlood = _Flood.TestCase
TestFlood.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_flooder_evicts_only_its_own_entries() -> None:
    directory = make(limit=LIMIT)
    honest = [described(number) for number in range(4)]
    learn(directory, *honest, source=b"honest")
    for number in range(100, 200):
        learn(directory, described(number), source=b"flood")
    known = {each.node_id for each in directory}
    assert len(known) == LIMIT
    assert {each.node_id for each in honest} <= known
