"""The onion in memory, without sockets: queries over proxies to Bob, replies by block to Alice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import AuthenticationError, ExtRead
from readwrite_comp.testing import HostileReader
from tests.support.errors import raises_code
from tests.tunnel.helpers import (
    ENGINES,
    NOW_S,
    OPENSSL,
    PROFILES,
    PYCRYPTODOME,
    SMALL,
    Peer,
    Relayed,
    chunks_of,
    make_keys,
    make_peers,
    mixed_engine,
    read_all,
    relay_frame,
    seeded_bytes,
    written,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ErrorCode, ProfileError, TableFull
from tunnel.geometry import DEFAULT, LONG, Profile
from tunnel.identity.descriptor import Descriptor, OnionKeyInfo
from tunnel.identity.key_ring import KeyRing
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec, UsedBlocks
from tunnel.onion.header import Command, Hop, Slot, build_header
from tunnel.onion.message import MessageR
from tunnel.onion.reply_block import ReplyBlock
from tunnel.routing.route import Route

PREFIX_BYTES = 4
FIRST_MODES = [ReplyMode.NONE, ReplyMode.ROUTE]  # the others: test_modes.py


@cache
def plain_peers(count: int) -> list[Peer]:
    """Peers with the fast engine, made once: headers are new each time, so old entries have no effect."""
    return make_peers(count)


def route_over(peers: Sequence[Peer]) -> Route:
    """The route from Alice, the first peer, to Bob, the last."""
    return Route(tuple(peer.id for peer in peers[1:-1]), peers[-1].id)


@dataclass(frozen=True)
class Exchange:
    """A query as received by Bob, with his results."""

    relayed: Relayed
    content: bytes
    blocks: tuple[ReplyBlock, ...]
    query_id: bytes | None


def send_query(
    peers: Sequence[Peer],
    content: bytes,
    mode: ReplyMode = ReplyMode.NONE,
    profile: Profile = SMALL,
    splits: Sequence[int] = (1 << 20,),
) -> Exchange:
    """Send a query from the first peer over all others to the last."""
    query = peers[0].codec.query(route_over(peers), mode, profile, now_s=NOW_S)
    assert query.frame.first_id == peers[1].id
    assert query.frame.profile == profile
    assert (query.query_id is None) == (mode is ReplyMode.NONE)
    wire = written(query.frame.layer, content, splits)
    relayed = relay_frame(wire, profile, peers[1:], origin=peers[0].id)
    assert relayed.opened.slot.command is Command.DEST
    behind = peers[-1].codec.destination_reader(relayed.opened.slot, profile)
    arrived, error, position = read_all(behind, relayed.body)
    assert error is None
    assert position == len(relayed.body), "bytes after the message"
    blocks = behind.head.reply_blocks
    used = PREFIX_BYTES + len(blocks) * profile.geometry.reply_block_bytes + len(content)
    assert {len(link) for link in relayed.links} == {profile.geometry.frame_bytes(used)}
    assert [opened.slot.next_id for opened in relayed.proxied] == [peer.id for peer in peers[2:]]
    return Exchange(relayed, arrived, blocks, query.query_id)


def send_reply(peers: Sequence[Peer], exchange: Exchange, content: bytes) -> tuple[Relayed, ExtRead]:
    """Send a reply from the last peer along the block to the first. Returns Alice's reader, unread."""
    (block,) = exchange.blocks
    frame = peers[-1].codec.reply(block, now_s=NOW_S)
    way_back = list(peers[-2::-1])
    assert frame.first_id == way_back[0].id
    wire = written(frame.layer, content)
    assert len(wire) == block.profile.geometry.frame_bytes(PREFIX_BYTES + len(content))
    relayed = relay_frame(wire, block.profile, way_back, origin=peers[-1].id)
    assert {len(link) for link in relayed.links} == {len(wire)}
    assert relayed.opened.slot.command is Command.HOME
    tunnel = peers[0].codec
    ticket = tunnel.home_ticket(relayed.opened.slot)
    assert ticket.query_id == exchange.query_id
    assert ticket.proxies == len(peers) - 2
    return relayed, tunnel.home_reader(relayed.opened.slot, ticket, block.profile)


# --- query and reply


@pytest.mark.parametrize("proxies", [0, 1, 2, 5, 23, 126])
@pytest.mark.parametrize("mode", FIRST_MODES)
def test_query_and_reply(proxies: int, mode: ReplyMode) -> None:
    profile = Profile.for_proxies(proxies) if proxies > 6 else SMALL
    peers = plain_peers(proxies + 2)
    query, answer = b"a question" * 300, b"an answer" * 200
    exchange = send_query(peers, query, mode, profile)
    assert exchange.content == query
    assert len(exchange.relayed.proxied) == proxies
    if mode is ReplyMode.NONE:
        assert exchange.blocks == ()
        return
    relayed, reader = send_reply(peers, exchange, answer)
    assert read_all(reader, relayed.body) == (answer, None, len(relayed.body))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_longest_route_of_each_profile(profile: Profile) -> None:
    peers = plain_peers(profile.geometry.max_proxies + 2)
    exchange = send_query(peers, b"x", ReplyMode.ROUTE, profile)
    relayed, reader = send_reply(peers, exchange, b"y")
    assert read_all(reader, relayed.body)[:2] == (b"y", None)


@given(
    st.integers(0, 6),
    st.sampled_from(FIRST_MODES),
    st.integers(0, 4_000),
    st.integers(0, 4_000),
    st.lists(st.integers(1, 1_500), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_any_content_over_any_route_with_engines_mixed(
    proxies: int, mode: ReplyMode, query_bytes: int, reply_bytes: int, splits: list[int], seed: int
) -> None:
    peers = make_peers(proxies + 2, engine=mixed_engine(seed))
    source = seeded_bytes(seed)
    query, answer = source(query_bytes), source(reply_bytes)
    exchange = send_query(peers, query, mode, SMALL, splits)
    assert exchange.content == query
    if exchange.blocks:
        relayed, reader = send_reply(peers, exchange, answer)
        assert read_all(reader, relayed.body) == (answer, None, len(relayed.body))


def edge_sizes(profile: Profile, used: int) -> list[int]:
    data = profile.geometry.chunk_data_bytes
    sizes = {0, 1, 2, data - 1, data, data + 1, 2 * data}
    for chunks in (1, 2, 8, 9, 10):
        sizes |= {chunks * data - used + offset for offset in (-1, 0, 1)}
    return sorted(size for size in sizes if size >= 0)


@pytest.mark.parametrize("mode", FIRST_MODES)
def test_contents_of_edge_sizes(mode: ReplyMode) -> None:
    peers = plain_peers(4)
    used = PREFIX_BYTES + (SMALL.geometry.reply_block_bytes if mode is ReplyMode.ROUTE else 0)
    for size in edge_sizes(SMALL, used):
        content = seeded_bytes(size)(size)
        exchange = send_query(peers, content, mode)
        assert exchange.content == content
        if exchange.blocks:
            relayed, reader = send_reply(peers, exchange, content)
            assert read_all(reader, relayed.body)[:2] == (content, None)


@pytest.mark.parametrize("profile", PROFILES[1:], ids=lambda profile: profile.name)
def test_edge_sizes_in_the_larger_profiles(profile: Profile) -> None:
    peers = plain_peers(3)
    used = PREFIX_BYTES + profile.geometry.reply_block_bytes
    for size in (0, max(0, profile.geometry.chunk_data_bytes - used), 2 * profile.geometry.chunk_data_bytes):
        content = seeded_bytes(size)(size)
        exchange = send_query(peers, content, ReplyMode.ROUTE, profile)
        relayed, reader = send_reply(peers, exchange, content)
        assert read_all(reader, relayed.body)[:2] == (content, None)


def test_a_node_may_run_either_engine() -> None:
    fast, slow = make_peers(4, engine=OPENSSL), make_peers(4, engine=PYCRYPTODOME)
    peers = [fast[0], slow[1], fast[2], slow[3]]
    exchange = send_query(peers, b"question", ReplyMode.ROUTE)
    relayed, reader = send_reply(peers, exchange, b"answer")
    assert read_all(reader, relayed.body)[0] == b"answer"


# --- the cases of the original


@pytest.mark.parametrize(
    ("name", "count", "mode", "has_reply"),
    [
        ("noreptunnel_1", 2, ReplyMode.ROUTE, False),
        ("noreptunnel_3", 6, ReplyMode.NONE, False),
        ("reptunnel_1", 2, ReplyMode.ROUTE, True),
        ("reptunnel_3_bis", 6, ReplyMode.ROUTE, True),
        # Not in the original's table: the other lengths of its routes in these two modes.
        ("NoHandling, 2", 2, ReplyMode.NONE, False),
        ("NoHandling, 3", 3, ReplyMode.NONE, False),
        ("Route, 3", 3, ReplyMode.ROUTE, True),
        ("Route, 6, unread", 6, ReplyMode.ROUTE, False),
    ],
)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_cases_of_the_original(
    name: str, count: int, mode: ReplyMode, has_reply: bool, engine: TunnelEngine
) -> None:
    """500 random bytes, written 360 at a time, read 130 at a time; then the input is fully consumed."""
    peers = make_peers(count, engine=engine)
    payload = seeded_bytes(count)(500)
    exchange = send_query(peers, payload, mode, SMALL, (360,))
    assert len(exchange.relayed.proxied) == count - 2
    assert all(opened.slot.command is Command.RELAY for opened in exchange.relayed.proxied)
    read_130_at_a_time(
        peers[-1].codec.destination_reader(exchange.relayed.opened.slot, SMALL),
        exchange.relayed.body,
        payload,
    )
    # Without a reply, Bob has read the reply block and not used it: no byte is left.
    assert len(exchange.blocks) == (mode is ReplyMode.ROUTE)
    if has_reply:
        relayed, reader = send_reply(peers, exchange, payload)
        assert len(relayed.proxied) == count - 2
        read_130_at_a_time(reader, relayed.body, payload)


def read_130_at_a_time(layer: ExtRead, body: bytes, payload: bytes) -> None:
    r, buffer, arrived = HostileReader(body), bytearray(130), b""
    layer.read_header(r)
    assert layer.read_into(r, bytearray()) == 0
    while count := layer.read_into(r, buffer):
        assert payload.startswith(arrived + buffer[:count])
        arrived += buffer[:count]
    assert arrived == payload
    layer.read_end(r)
    assert r.position == len(body)
    assert r.readinto(memoryview(buffer)) == 0


# --- changed bytes


@given(st.integers(0, 3), st.data())
def test_a_changed_bit_garbles_its_chunk_and_is_refused_at_the_end(proxies: int, data: st.DataObject) -> None:
    """On any link, in any chunk: later hops cannot recognise the change, and Bob refuses the chunk."""
    peers = plain_peers(proxies + 2)
    content = seeded_bytes(proxies)(3_000)
    relayed = send_query(peers, content).relayed
    link = data.draw(st.integers(0, proxies))
    chunks = chunks_of(relayed.links[link][SMALL.geometry.header_bytes :], SMALL)
    number = data.draw(st.integers(0, len(chunks) - 1))
    bit = data.draw(st.integers(0, 8 * SMALL.geometry.chunk_bytes - 1))
    work = bytearray(chunks[number])
    work[bit // 8] ^= 1 << bit % 8
    for peer, opened in list(zip(peers[1:], relayed.proxied, strict=False))[link:]:
        forward, _ = peer.codec.relay_layers(opened.slot, SMALL)
        forward.decrypt(memoryview(work), number)
    at = number * SMALL.geometry.chunk_bytes
    untouched = relayed.body[at : at + len(work)]
    if link < proxies:
        differing = int.from_bytes(work, "big") ^ int.from_bytes(untouched, "big")
        # Half of 7,968 bits, to within ten standard deviations (45 each).
        assert abs(differing.bit_count() - 3_984) < 450
        assert not any(work[i : i + 8] == untouched[i : i + 8] for i in range(len(work) - 8))
    body = relayed.body[:at] + bytes(work) + relayed.body[at + len(work) :]
    behind = peers[-1].codec.destination_reader(relayed.opened.slot, SMALL)
    arrived, error, position = read_all(behind, body)
    assert isinstance(error, AuthenticationError)
    assert content.startswith(arrived)
    assert position == at + len(work), "refused with the very chunk"


@given(st.integers(0, 3), st.data())
def test_a_changed_bit_of_a_reply_is_refused_by_alice(proxies: int, data: st.DataObject) -> None:
    peers = plain_peers(proxies + 2)
    relayed, reader = send_reply(peers, send_query(peers, b"q", ReplyMode.ROUTE), b"r" * 2_000)
    bit = data.draw(st.integers(0, 8 * len(relayed.body) - 1))
    body = bytearray(relayed.body)
    body[bit // 8] ^= 1 << bit % 8
    arrived, error, _ = read_all(reader, bytes(body))
    assert isinstance(error, AuthenticationError)
    assert (b"r" * 2_000).startswith(arrived)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 0, 2, 3], [0, 2, 3], [0, 1, 3, 2]], ids=str)
def test_chunks_out_of_order_become_noise_at_the_next_proxy(order: list[int]) -> None:
    """A proxy that reorders, repeats or drops: the next one's tweak is the place, so chunks become noise."""
    peers = plain_peers(4)
    relayed = send_query(peers, bytes(3_500)).relayed
    chunks = chunks_of(relayed.links[1][SMALL.geometry.header_bytes :], SMALL)
    assert len(chunks) == 4
    forward, _ = peers[2].codec.relay_layers(relayed.proxied[1].slot, SMALL)
    body = bytearray()
    for number, picked in enumerate(order):
        work = bytearray(chunks[picked])
        forward.decrypt(memoryview(work), number)
        if number != picked:
            assert bytes(work) not in chunks_of(relayed.body, SMALL)
        body += work
    behind = peers[-1].codec.destination_reader(relayed.opened.slot, SMALL)
    assert isinstance(read_all(behind, bytes(body))[1], AuthenticationError)


def test_no_chunk_is_seen_on_two_links_and_proxies_cannot_read() -> None:
    peers = plain_peers(5)
    relayed = send_query(peers, bytes(5_000)).relayed
    pieces = [link[at : at + 16] for link in relayed.links for at in range(0, len(link), 16)]
    assert len(set(pieces)) == len(pieces)
    for peer, opened in zip(peers[1:], relayed.proxied, strict=False):
        # Even with its own seed in place of Bob's, nothing opens.
        wrong = peer.codec.destination_reader(opened.slot, SMALL)
        assert isinstance(read_all(wrong, relayed.body)[1], AuthenticationError)


def test_header_and_chunks_of_two_frames_do_not_mix() -> None:
    peers = plain_peers(2)
    left, right = send_query(peers, b"left").relayed, send_query(peers, b"right").relayed
    behind = peers[-1].codec.destination_reader(left.opened.slot, SMALL)
    assert isinstance(read_all(behind, right.body)[1], AuthenticationError)


# --- order of checks


def header_for(
    peers: Sequence[Peer],
    index: int = 1,
    *,
    command: Command = Command.RELAY,
    next_id: bytes = b"n" * 32,
    delay_10ms: int = 0,
    expiry: int = int(NOW_S // 3_600 + 2) * 3_600,
    seed: int = 0,
) -> bytes:
    """A header for one peer with any values, from a hostile sender."""
    onion = peers[index].keys.onion
    hop = Hop(OPENSSL.x25519_private(onion.private).public, onion.epoch)
    after = Slot(Command.DEST, expiry, seeded_bytes(seed)(16))
    slot = Slot(command, expiry, seeded_bytes(seed + 1)(16), next_id=next_id, delay_10ms=delay_10ms)
    hops = [(hop, slot), (hop, after)]
    return build_header(SMALL, hops, engine=OPENSSL, random_bytes=seeded_bytes(seed + 2))


def opens(
    peers: Sequence[Peer], header: bytes, index: int = 1, neighbour: bytes = b"a" * 32, now_s: float = NOW_S
) -> Slot:
    opened = peers[index].codec.open_frame(header, SMALL, neighbour=neighbour, now_s=now_s)
    return opened.slot


def test_a_replayed_header_is_refused_everywhere() -> None:
    peers = plain_peers(4)
    query = peers[0].codec.query(route_over(peers), ReplyMode.ROUTE, SMALL, now_s=NOW_S)
    frame = written(query.frame.layer, b"x")
    exchange = relay_frame(frame, SMALL, peers[1:], origin=peers[0].id)
    for peer, link in zip(peers[1:], exchange.links, strict=True):
        header = link[: SMALL.geometry.header_bytes]
        # From any sender, at any time, until it has expired.
        for neighbour, now_s in ((peers[0].id, NOW_S), (b"e" * 32, NOW_S + 3_000)):
            with raises_code(ErrorCode.REPLAYED):
                peer.codec.open_frame(header, SMALL, neighbour=neighbour, now_s=now_s)


def test_a_reply_block_serves_once() -> None:
    """Bob himself refuses: a second frame would be sealed with the nonces of the first."""
    peers = plain_peers(3)
    exchange = send_query(peers, b"q", ReplyMode.ROUTE)
    send_reply(peers, exchange, b"first")
    with raises_code(ErrorCode.REPLAYED):
        peers[-1].codec.reply(exchange.blocks[0], now_s=NOW_S)


def test_a_clock_that_was_ahead_for_a_moment_stops_no_replies() -> None:
    """Bob has used a block at the wrong time, which does not affect the block of the next query."""
    peers = plain_peers(3)
    block, another = (send_query(peers, b"q", ReplyMode.ROUTE).blocks[0] for _ in range(2))
    used = UsedBlocks(10)
    used.use(block, now_s=NOW_S + 48 * 3_600)
    used.use(another, now_s=NOW_S)
    for now_s in (NOW_S, NOW_S + 4 * 3_600):
        with raises_code(ErrorCode.REPLAYED):
            used.use(another, now_s=now_s)
    with raises_code(ErrorCode.REPLAYED):
        used.use(block, now_s=NOW_S)


def test_a_reply_block_serves_once_even_if_bob_has_forgotten() -> None:
    peers = make_peers(3)
    exchange = send_query(peers, b"q", ReplyMode.ROUTE)
    send_reply(peers, exchange, b"first")
    forgetful = [*peers[:-1], make_peers(3)[-1]]
    with raises_code(ErrorCode.REPLAYED):
        send_reply(forgetful, exchange, b"second")


def test_a_header_for_another_node_is_refused() -> None:
    peers = plain_peers(4)
    for index in (0, 2, 3):
        with raises_code(ErrorCode.BAD_HEADER):
            opens(peers, header_for(peers), index)


@pytest.mark.parametrize("which", ["self", "neighbour"])
def test_the_next_node_is_neither_this_one_nor_the_one_before(which: str) -> None:
    peers = make_peers(3)
    next_id = peers[1].id if which == "self" else b"a" * 32
    with raises_code(ErrorCode.UNKNOWN_NEXT):
        opens(peers, header_for(peers, next_id=next_id))
    # For the last node the field has another meaning, or none.
    assert opens(peers, header_for(peers, next_id=next_id, command=Command.DEST)).next_id == next_id


@pytest.mark.parametrize("command", Command)
@pytest.mark.parametrize(
    ("delay_10ms", "is_accepted"), [(0, True), (3_000, True), (3_001, False), (65_535, False)]
)
def test_delays(command: Command, delay_10ms: int, is_accepted: bool) -> None:
    peers = make_peers(3)
    header = header_for(peers, command=command, delay_10ms=delay_10ms)
    if is_accepted:
        assert opens(peers, header).delay_10ms == delay_10ms
    else:
        with raises_code(ErrorCode.BAD_HEADER, match="30,000"):
            opens(peers, header)


@pytest.mark.parametrize(
    ("offset_s", "is_accepted"),
    [(-601, False), (-600, True), (15_000, True), (15_001, False), (10**6, False)],
)
def test_expiries(offset_s: int, is_accepted: bool) -> None:
    peers = make_peers(3)
    header = header_for(peers, expiry=int(NOW_S) + offset_s)
    if is_accepted:
        opens(peers, header, now_s=int(NOW_S))
    else:
        with raises_code(ErrorCode.EXPIRED):
            opens(peers, header, now_s=int(NOW_S))


LATE = int(NOW_S) - 10_000


def test_checks_are_made_in_their_order() -> None:
    """All faults together; each is seen when the earlier ones are corrected."""
    peers = make_peers(3)
    own = peers[1].id
    everything = header_for(peers, next_id=own, delay_10ms=9_999, expiry=LATE)
    wrong: list[tuple[bytes, ErrorCode, str]] = [
        (everything[:-1] + b"x", ErrorCode.BAD_HEADER, "keys opens"),
        (everything, ErrorCode.BAD_HEADER, "delay"),
        (header_for(peers, next_id=own, expiry=LATE), ErrorCode.UNKNOWN_NEXT, "itself"),
        (header_for(peers, expiry=LATE), ErrorCode.EXPIRED, "expired"),
    ]
    for header, code, text in wrong:
        with raises_code(code, match=text):
            opens(peers, header)
    good = header_for(peers)
    opens(peers, good)
    with raises_code(ErrorCode.REPLAYED):
        opens(peers, good)


def test_a_refused_header_is_not_remembered() -> None:
    """After a temporary refusal (by clock or neighbour) the same bytes are accepted later."""
    peers = make_peers(3)
    (epoch,) = peers[1].codec.ring.opening(NOW_S)
    table = epoch.table
    early = header_for(peers, expiry=int(NOW_S) + 15_001)
    with raises_code(ErrorCode.EXPIRED):
        opens(peers, early, now_s=int(NOW_S))
    with raises_code(ErrorCode.UNKNOWN_NEXT):
        opens(peers, early, neighbour=b"n" * 32, now_s=int(NOW_S) + 1)
    assert len(table) == 0
    opens(peers, early, now_s=int(NOW_S) + 1)
    assert len(table) == 1


def test_a_full_table_refuses_before_anything_is_forwarded() -> None:
    keys = make_keys("0")
    tunnel = OnionCodec(ring=KeyRing(keys, OPENSSL, limit=1), directory=StaticDirectory())
    peers = [Peer(keys, tunnel, descriptor_of("0"))] * 3
    opens(peers, header_for(peers, seed=10))
    with pytest.raises(TableFull):
        opens(peers, header_for(peers, seed=20))


@given(st.binary(max_size=1_100))
def test_random_headers_are_refused(header: bytes) -> None:
    for bytes_in in (header, header.ljust(1_024, b"x")[:1_024]):
        with raises_code(ErrorCode.BAD_HEADER):
            opens(plain_peers(3), bytes_in)


# --- tickets


def test_a_home_slot_that_alice_did_not_make_is_refused() -> None:
    """Any node can seal a HOME slot to Alice, but only she can make its ticket."""
    peers = make_peers(3)
    slot = opens(peers, header_for(peers, command=Command.HOME, next_id=seeded_bytes(5)(32)))
    assert slot.command is Command.HOME
    with raises_code(ErrorCode.BAD_HEADER, match="not made here"):
        peers[1].codec.home_ticket(slot)


def test_a_ticket_of_another_node_is_refused() -> None:
    peers = plain_peers(3)
    relayed, _ = send_reply(peers, send_query(peers, b"q", ReplyMode.ROUTE), b"r")
    with raises_code(ErrorCode.BAD_HEADER):
        peers[1].codec.home_ticket(relayed.opened.slot)
    with raises_code(ErrorCode.BAD_HEADER):
        peers[0].codec.home_ticket(replace(relayed.opened.slot, seed=bytes(16)))


# --- routes that cannot be built


def directory_with(*descriptors: Descriptor) -> StaticDirectory:
    return StaticDirectory(descriptors)


def alice_with(*descriptors: Descriptor) -> OnionCodec:
    return OnionCodec(ring=KeyRing(make_keys("0"), OPENSSL), directory=directory_with(*descriptors))


def descriptor_of(name: str) -> Descriptor:
    return make_keys(name).descriptor((), NOW_S, OPENSSL)


def resigned(name: str, onion_keys: tuple[OnionKeyInfo, ...]) -> Descriptor:
    return replace(descriptor_of(name), onion_keys=onion_keys).sign(make_keys(name).identity, OPENSSL)


BOB = descriptor_of("1")


def test_routes_that_make_no_sense() -> None:
    proxy = descriptor_of("2")
    alice = alice_with(BOB, proxy)
    for route in (
        Route((b"u" * 32,), BOB.node_id),  # not in the directory
        Route((), b"u" * 32),
        Route((proxy.node_id, proxy.node_id), BOB.node_id),  # twice
        Route((BOB.node_id,), BOB.node_id),
        Route((alice.node_id,), BOB.node_id),  # Alice herself
        Route((), alice.node_id),
    ):
        for mode in FIRST_MODES:
            with pytest.raises(BadRoute):
                alice.query(route, mode, SMALL, now_s=NOW_S)


def test_a_node_that_does_not_offer_the_profile() -> None:
    narrow = make_keys("2").descriptor((), NOW_S, OPENSSL, profiles=(SMALL.byte,))
    alice = alice_with(BOB, narrow)
    route = Route((narrow.node_id,), BOB.node_id)
    alice.query(route, ReplyMode.NONE, SMALL, now_s=NOW_S)
    with pytest.raises(BadRoute, match="default"):
        alice.query(route, ReplyMode.NONE, Profile(DEFAULT), now_s=NOW_S)


@pytest.mark.parametrize("now_s", [NOW_S - 1_201, NOW_S + 25 * 3_600])
def test_a_node_without_an_onion_key_for_now(now_s: float) -> None:
    with pytest.raises(BadRoute, match="no onion key"):
        alice_with(BOB).query(Route((), BOB.node_id), ReplyMode.NONE, SMALL, now_s=now_s)


@pytest.mark.parametrize("public", [bytes(32), b"\xff" * 32], ids=["low order", "not canonical"])
def test_a_node_that_publishes_an_impossible_onion_key(public: bytes) -> None:
    """Its owner signed it, so the directory accepts it. A bug passed on the error of the primitives."""
    bad = resigned("2", (OnionKeyInfo(0, 2**32 - 1, public),))
    assert Descriptor.parse(bad.signed, OPENSSL) == bad
    alice = alice_with(BOB, bad)
    for mode in FIRST_MODES:
        with pytest.raises(BadRoute, match="invalid onion key"):
            alice.query(Route((bad.node_id,), BOB.node_id), mode, SMALL, now_s=NOW_S)


@pytest.mark.parametrize(("profile", "count"), [(SMALL, 7), (Profile(DEFAULT), 31)], ids=str)
def test_a_route_too_long_for_the_profile(profile: Profile, count: int) -> None:
    peers = plain_peers(count + 2)
    for mode in FIRST_MODES:
        with pytest.raises(ProfileError):
            peers[0].codec.query(route_over(peers), mode, profile, now_s=NOW_S)


def test_an_old_block_is_not_answered() -> None:
    peers = make_peers(3)
    (block,) = send_query(peers, b"q", ReplyMode.ROUTE).blocks
    peers[-1].codec.reply(block, now_s=block.expiry + 600)
    for now_s in (block.expiry + 601, block.expiry - 15_001):
        with raises_code(ErrorCode.EXPIRED):
            peers[-1].codec.reply(block, now_s=now_s)


def test_a_block_that_begins_at_bob_himself_is_not_answered() -> None:
    peers = plain_peers(3)
    (block,) = send_query(peers, b"q", ReplyMode.ROUTE).blocks
    with raises_code(ErrorCode.UNKNOWN_NEXT):
        peers[-1].codec.reply(replace(block, first_id=peers[-1].id), now_s=NOW_S)


def test_a_block_of_another_profile_than_the_query() -> None:
    """Bob answers in the profile of the block, whatever the profile of the query."""
    peers = plain_peers(3)
    exchange = send_query(peers, b"q", ReplyMode.ROUTE, Profile(LONG))
    frame = peers[-1].codec.reply(exchange.blocks[0], now_s=NOW_S)
    assert frame.profile == Profile(LONG)


def test_readers_are_fresh_for_each_frame() -> None:
    peers = plain_peers(2)
    slot = send_query(peers, b"q").relayed.opened.slot
    first, second = (peers[1].codec.destination_reader(slot, SMALL) for _ in range(2))
    assert isinstance(first, MessageR)
    assert first is not second
