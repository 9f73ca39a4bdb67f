"""Every reply mode, end to end in memory: the original's matrix, and each mode's rules and refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.exchange import MESSAGE_MODES, PLAIN, Cast, Pace, cast_of, exchange, receive, send
from tests.tunnel.helpers import (
    ENGINES,
    NOW_S,
    OPENSSL,
    PYCRYPTODOME,
    SMALL,
    SMALL_HCTR,
    make_peers,
    mixed_engine,
    relay_frame,
    seeded_bytes,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import ALL_PROFILES, BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LONG, Geometry, Profile
from tunnel.modes import ERROR_MODES, MODES, ErrorMode, ReplyMode
from tunnel.onion.header import Command
from tunnel.onion.header_builder import HeaderBuilder
from tunnel.onion.message_head import MessageHead, OriginClaim
from tunnel.routing.route import Route

ANSWERING = [mode for mode in MESSAGE_MODES if MODES[mode].has_reply]
PEERS = (2, 3, 6, 25, 128)
CONTENTS = (0, 1, 500, 16_334, 100_000, 1 << 20)
BUFFERS = ((1,), (130,), (360,), (4_096,), (1 << 16,), (7, 1, 5_000))
# Short counts and refusals in sequence; long enough for the small contents.
HOSTILE = (1, 0, 0, 17, 3, 0, 1_000, 0, 5, 64)


def geometry_for(count: int) -> Geometry:
    for geometry in (INTERACTIVE, DEFAULT, LONG):
        if count - 2 <= geometry.max_proxies:
            return geometry
    raise AssertionError(count)


def answers_for(mode: ReplyMode, size: int, profile: Profile) -> list[bytes]:
    """No, one or several replies, as the mode and the profile allow."""
    if not MODES[mode].has_reply:
        return []
    several = 1 if mode is ReplyMode.CACHED else min(2, profile.geometry.max_reply_blocks)
    return [seeded_bytes(size + number)(size) for number in range(several)]


def run(
    mode: ReplyMode,
    count: int,
    size: int,
    buffers: tuple[int, ...],
    *,
    hostile: bool,
    suite: int,
    error_mode: ErrorMode,
) -> None:
    profile = Profile(geometry_for(count), suite)
    pace = Pace(buffers, buffers, HOSTILE if hostile else (), 40)
    content = seeded_bytes(size)(size)
    answers = answers_for(mode, size, profile)
    exchange(cast_of(count), mode, content, answers, profile=profile, pace=pace, error_mode=error_mode)


def covering() -> list[Any]:
    """Each mode with each number of peers, and each content with each buffer at least once."""
    pairs = itertools.cycle(itertools.product(CONTENTS, BUFFERS))
    chosen: list[Any] = []
    for index, (mode, count) in enumerate(itertools.product(MESSAGE_MODES * 2, PEERS)):
        size, buffers = next(pairs)
        if count == 128 or buffers == (1,):
            size = min(size, 16_334)  # the full product has the rest
        marks = [pytest.mark.full] if count == 128 else []
        chosen.append(pytest.param(mode, count, size, buffers, index % 2, marks=marks))
    return chosen


@pytest.mark.parametrize(("mode", "count", "size", "buffers", "suite"), covering(), ids=str)
@pytest.mark.parametrize("hostile", [False, True], ids=["plain", "hostile"])
@pytest.mark.full
def test_the_matrix_of_the_original(
    mode: ReplyMode, count: int, size: int, buffers: tuple[int, ...], suite: int, hostile: bool
) -> None:
    error_mode = list(ErrorMode)[(count + size) % 3]
    run(mode, count, size, buffers, hostile=hostile, suite=suite, error_mode=error_mode)


@pytest.mark.slow
@pytest.mark.parametrize("hostile", [False, True], ids=["plain", "hostile"])
@pytest.mark.parametrize("size", CONTENTS)
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("count", PEERS)
@pytest.mark.parametrize("mode", MESSAGE_MODES)
def test_the_whole_matrix(
    mode: ReplyMode, count: int, error_mode: ErrorMode, size: int, hostile: bool
) -> None:
    """Every content with every buffer; LIONESS once for each content, else HCTR, which is faster."""
    for column, buffers in enumerate(BUFFERS):
        suite = int(CONTENTS.index(size) != column)
        run(mode, count, size, buffers, hostile=hostile, suite=suite, error_mode=error_mode)


# The names of the original's table: peers, mode, error mode, replies.
ORIGINAL = {
    "noreptunnel_1": (2, ReplyMode.ROUTE, ErrorMode.NONE, 0),
    "noreptunnel_1_c": (2, ReplyMode.CACHED, ErrorMode.NONE, 0),
    "noreptunnel_2": (3, ReplyMode.OTHER_ROUTE, ErrorMode.NONE, 0),
    "noreptunnel_3": (6, ReplyMode.NONE, ErrorMode.NONE, 0),
    "noreptunnel_3_c": (6, ReplyMode.CACHED, ErrorMode.NONE, 0),
    "reptunnel_1": (2, ReplyMode.ROUTE, ErrorMode.NONE, 1),
    "reptunnel_2": (3, ReplyMode.OTHER_ROUTE, ErrorMode.NONE, 1),
    "reptunnel_3": (6, ReplyMode.OTHER_ROUTE, ErrorMode.NONE, 1),
    "reptunnel_3_bis": (6, ReplyMode.ROUTE, ErrorMode.NONE, 1),
    "reptunnel_1_c": (2, ReplyMode.CACHED, ErrorMode.NONE, 1),
    "reptunnel_2_c": (3, ReplyMode.CACHED, ErrorMode.NONE, 1),
    "reptunnel_3_c": (6, ReplyMode.CACHED, ErrorMode.NONE, 1),
    "reptunnel_3_c_ne": (6, ReplyMode.CACHED, ErrorMode.XOR, 1),
    # "Test case not covered" there.
    "known dest": (6, ReplyMode.KNOWN_DEST, ErrorMode.NONE, 1),
    "route reply": (6, ReplyMode.REPLY_ON_REPLY, ErrorMode.NONE, 1),
}


@pytest.mark.parametrize("name", ORIGINAL)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_cases_of_the_original(name: str, engine: TunnelEngine) -> None:
    """500 random bytes, written 360 at a time, read 130 at a time."""
    count, mode, error_mode, replies = ORIGINAL[name]
    payload = seeded_bytes(count)(500)
    done = exchange(
        cast_of(count, engine=engine), mode, payload, [payload] * replies,
        profile=SMALL, pace=Pace((360,), (130,)), error_mode=error_mode,
    )  # fmt: skip
    assert len(done.relayed.proxied) == count - 2
    assert all(opened.slot.command is Command.RELAY for opened in done.relayed.proxied)
    row = ERROR_MODES[error_mode]
    assert {opened.slot.flags for opened in done.relayed.proxied} <= {row.proxy_flags}
    assert done.relayed.opened.slot.flags == row.dest_flags
    # Bob has read the reply blocks and not used them: no byte is left.
    assert len(done.head.reply_blocks) == MODES[mode].reply_blocks


@given(
    st.integers(2, 8),
    st.sampled_from(MESSAGE_MODES),
    st.sampled_from([SMALL, SMALL_HCTR]),
    st.lists(st.integers(0, 4_000), max_size=3),
    st.integers(0, 4_000),
    st.lists(st.integers(1, 1_500), min_size=1, max_size=4),
    st.lists(st.integers(0, 700), max_size=12),
    st.integers(0, 2**32),
)
def test_build_proxy_read_is_identity(
    count: int,
    mode: ReplyMode,
    profile: Profile,
    replies: list[int],
    size: int,
    buffers: list[int],
    script: list[int],
    seed: int,
) -> None:
    """Random routes, profiles, contents and chunkings, each call made by either engine."""
    cast = cast_of(count, engine=mixed_engine(seed), random_seed=seed)
    source = seeded_bytes(seed)
    several = 0 if not MODES[mode].has_reply else 1 if mode is ReplyMode.CACHED else 3
    answers = [source(length) for length in replies[:several]]
    pace = Pace(buffers, buffers, tuple(script), 5)
    exchange(cast, mode, source(size), answers, profile=profile, pace=pace)


@pytest.mark.parametrize("profile", ALL_PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("mode", ANSWERING)
def test_every_profile_in_every_mode(profile: Profile, mode: ReplyMode) -> None:
    content = seeded_bytes(profile.byte)(3 * profile.geometry.chunk_data_bytes + 7)
    exchange(cast_of(4), mode, content, [content[::-1]], profile=profile)


@pytest.mark.parametrize("mode", ANSWERING)
def test_engines_of_one_route_may_differ_in_suite_1(mode: ReplyMode) -> None:
    fast, slow = make_peers(6, engine=OPENSSL), make_peers(6, engine=PYCRYPTODOME)
    cast = Cast(fast[0], [slow[1], fast[2]], slow[3], [fast[4], slow[5]])
    exchange(cast, mode, b"question" * 300, [b"answer" * 300], profile=Profile(INTERACTIVE, HCTR_SUITE))


# --- several replies


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY])
def test_eight_replies_to_one_query(mode: ReplyMode) -> None:
    answers = [bytes([number]) * (500 * number) for number in range(8)]
    done = exchange(cast_of(4), mode, b"question", answers, profile=SMALL)
    assert len(done.head.reply_blocks) == 8
    assert [reply.content for reply in done.replies] == answers


def test_the_largest_number_of_blocks_by_profile() -> None:
    cast = cast_of(3)
    for geometry, most in ((INTERACTIVE, 8), (DEFAULT, 8), (LONG, 3), (BULK, 8)):
        profile = Profile(geometry)
        done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a"] * most, profile=profile)
        assert len(done.head.reply_blocks) == most
        for wrong in (0, most + 1):
            with pytest.raises(LocalTunnelError, match="reply blocks"):
                cast.alice.codec.query(cast.route, ReplyMode.ROUTE, profile, now_s=NOW_S, blocks=wrong)


def test_a_block_serves_once_and_the_others_still_serve() -> None:
    cast = cast_of(3)
    done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a", b"b"], profile=SMALL)
    for block in done.head.reply_blocks:
        with raises_code(ErrorCode.REPLAYED):
            cast.bob.codec.reply(block, now_s=NOW_S)


def test_the_reply_may_have_another_profile() -> None:
    cast = cast_of(4)
    builder = HeaderBuilder(
        node_id=cast.alice.id,
        ring=cast.alice.codec.ring,
        directory=StaticDirectory([peer.descriptor for peer in cast.proxies]),
        random_bytes=seeded_bytes(9),
    )
    block = builder.reply_block(
        Route(cast.route.proxies[::-1], cast.alice.id),
        Profile(BULK, HCTR_SUITE),
        user=cast.bob.id,
        query_id=bytes(8),
        number=0,
        master_seed=bytes(16),
        now_s=NOW_S,
    )
    frame = cast.bob.codec.reply(block, now_s=NOW_S)
    assert frame.profile == Profile(BULK, HCTR_SUITE)
    back = [*cast.proxies[::-1], cast.alice]
    home = relay_frame(send(frame.layer, b"long" * 50_000), frame.profile, back, origin=cast.bob.id)
    ticket = cast.alice.codec.home_ticket(home.opened.slot)
    reader = cast.alice.codec.home_reader(home.opened.slot, ticket, frame.profile)
    assert receive(reader, home.body) == (b"long" * 50_000, None)


# --- streaming


@pytest.mark.parametrize("mode", MESSAGE_MODES)
def test_bob_reads_before_alice_has_written_the_last(mode: ReplyMode) -> None:
    """He may also answer before the query has ended, because its head has the reply block."""
    cast = cast_of(2)
    row = MODES[mode]
    query = cast.alice.codec.query(
        cast.route, mode, SMALL, now_s=NOW_S,
        reply_routes=(cast.other_route,) if mode is ReplyMode.OTHER_ROUTE else (),
        descriptor=cast.alice.descriptor if row.names_alice else None,
    )  # fmt: skip
    pipe = Pipe()
    layer = query.frame.layer
    layer.write_header(pipe)
    assert layer.write_into(pipe, b"first") == 5
    layer.flush_into(pipe)
    header = pipe.take(SMALL.geometry.header_bytes)
    opened = cast.bob.codec.open_frame(header, SMALL, neighbour=cast.alice.id, now_s=NOW_S)
    reader = cast.bob.codec.destination_reader(opened.slot, SMALL)
    reader.read_header(pipe)
    buffer = bytearray(100)
    assert buffer[: reader.read_into(pipe, buffer)] == b"first"
    if mode in (ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY):
        frame = cast.bob.codec.reply(reader.head.reply_blocks[0], now_s=NOW_S)
        home = relay_frame(send(frame.layer, b"early"), SMALL, [cast.alice], origin=cast.bob.id)
        ticket = cast.alice.codec.home_ticket(home.opened.slot)
        behind = cast.alice.codec.home_reader(home.opened.slot, ticket, SMALL)
        assert receive(behind, home.body) == (b"early", None)
    if mode is ReplyMode.CACHED:
        assert query.backward is not None
        early = send(cast.bob.codec.cached_reply(opened.slot, SMALL), b"early")
        assert receive(query.backward, early) == (b"early", None)
    # The query continues meanwhile.
    assert layer.write_into(pipe, b"last") == 4
    layer.write_end(pipe)
    assert buffer[: reader.read_into(pipe, buffer)] == b"last"
    assert reader.read_into(pipe, buffer) == 0
    reader.read_end(pipe)
    assert pipe.data == b""


class Pipe:
    """One end reads the bytes that the other writes; without bytes a read is refused."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: memoryview, /) -> int:
        self.data += data
        return len(data)

    def take(self, count: int) -> bytes:
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def readinto(self, buffer: memoryview, /) -> int:
        if not self.data:
            raise BlockingIOError("nothing yet")
        taken = self.take(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)


# --- known dest


def test_the_answer_needs_no_directory_entry_of_alice() -> None:
    """Clients are in no directory, so their descriptor comes with the query."""
    cast = cast_of(3)
    done = exchange(cast, ReplyMode.KNOWN_DEST, b"q", profile=SMALL)
    origin = cast.bob.codec.origin(done.relayed.opened.slot, done.head)
    stranger = make_peers(4)[3].codec  # has the same proxies, but does not know Alice
    directory = stranger.builder.directory
    assert isinstance(directory, StaticDirectory)
    directory.forget(cast.alice.id)
    query = stranger.answer(origin, Route((cast.proxies[0].id,), cast.alice.id), SMALL, now_s=NOW_S)
    relayed = relay_frame(
        send(query.frame.layer, b"a"), SMALL, [cast.proxies[0], cast.alice], origin=stranger.node_id
    )
    reader = cast.alice.codec.destination_reader(relayed.opened.slot, SMALL)
    assert receive(reader, relayed.body) == (b"a", None)
    assert cast.alice.codec.answered_query(reader.head) == done.query.query_id
    with pytest.raises(BadRoute, match="does not lead to the node"):
        cast.bob.codec.answer(origin, cast.route, SMALL, now_s=NOW_S)


@pytest.mark.parametrize("what", ["signature", "ticket", "descriptor", "other query", "other node"])
def test_an_origin_that_claims_another_identity(what: str) -> None:
    cast = cast_of(3)
    done = exchange(cast, ReplyMode.KNOWN_DEST, b"q", profile=SMALL)
    claim = done.head.origin
    assert claim is not None
    slot, bob = done.relayed.opened.slot, cast.bob.codec
    match what:
        case "signature":
            claim = replace(claim, signature=claim.signature[:-1] + bytes([claim.signature[-1] ^ 1]))
        case "ticket":
            claim = replace(claim, ticket=bytes(24))
        case "descriptor":  # another node's, as from an attacker who directs answers to it
            claim = replace(claim, descriptor=cast.proxies[0].descriptor.signed)
        case "other query":
            slot = replace(slot, seed=bytes(16))
        case "other node":  # Bob shows it to a third node as if Alice had queried that
            bob = cast.proxies[0].codec
    with pytest.raises(MalformedMessage, match="not proven"):
        bob.origin(slot, replace(done.head, origin=claim))


def test_an_origin_that_is_not_a_descriptor() -> None:
    cast = cast_of(2)
    slot = exchange(cast, ReplyMode.NONE, b"q", profile=SMALL).relayed.opened.slot
    head = MessageHead(origin=OriginClaim(bytes(24), b"x" * 100, bytes(64)))
    with pytest.raises(MalformedMessage):
        cast.bob.codec.origin(slot, head)


def test_an_answer_to_nothing_is_refused() -> None:
    cast = cast_of(2)
    for ticket in (bytes(24), seeded_bytes(1)(24)):
        with pytest.raises(MalformedMessage, match="not made here"):
            cast.alice.codec.answered_query(MessageHead(answer=ticket))


def test_a_header_and_a_block_are_accepted_once() -> None:
    cast = cast_of(2)
    query = cast.alice.codec.query(cast.route, ReplyMode.ROUTE, SMALL, now_s=NOW_S)
    wire = send(query.frame.layer, b"q")
    header, body = wire[: SMALL.geometry.header_bytes], wire[SMALL.geometry.header_bytes :]
    bob = cast.bob.codec
    opened = bob.open_frame(header, SMALL, neighbour=cast.alice.id, now_s=NOW_S)
    with raises_code(ErrorCode.REPLAYED):
        bob.open_frame(header, SMALL, neighbour=cast.alice.id, now_s=NOW_S)
    behind = bob.destination_reader(opened.slot, SMALL)
    assert receive(behind, body) == (b"q", None)
    bob.reply(behind.head.reply_blocks[0], now_s=NOW_S)
    with raises_code(ErrorCode.REPLAYED):
        bob.reply(behind.head.reply_blocks[0], now_s=NOW_S)


# --- refused queries


def test_arguments_that_do_not_fit_the_mode() -> None:
    cast = cast_of(4)
    query, other = cast.alice.codec.query, (cast.other_route,)
    own = cast.alice.descriptor
    wrong: list[tuple[ReplyMode, dict[str, object]]] = [
        (ReplyMode.ESTABLISHED, {}),
        (ReplyMode.OTHER_ROUTE, {}),
        (ReplyMode.KNOWN_DEST, {}),
        (ReplyMode.ROUTE, {"descriptor": own}),
        (ReplyMode.ROUTE, {"reply_routes": other}),
        (ReplyMode.NONE, {"reply_routes": other}),
        (ReplyMode.CACHED, {"reply_routes": other}),
        (ReplyMode.CACHED, {"blocks": 1}),
        (ReplyMode.OTHER_ROUTE, {"reply_routes": other, "blocks": 9}),
    ]
    for mode, arguments in wrong:
        with pytest.raises(LocalTunnelError):
            query(cast.route, mode, SMALL, now_s=NOW_S, **arguments)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("fault", ["elsewhere", "bob as proxy", "twice", "alice as proxy"])
def test_ways_back_that_make_no_sense(fault: str) -> None:
    cast = cast_of(4)
    first, second = (peer.id for peer in cast.others)
    alice, bob = cast.alice.id, cast.bob.id
    route = {
        "elsewhere": Route((first,), second),
        "bob as proxy": Route((first, bob), alice),
        "twice": Route((first, first), alice),
        "alice as proxy": Route((alice, first), alice),
    }[fault]
    with pytest.raises(BadRoute):
        cast.alice.codec.query(cast.route, ReplyMode.OTHER_ROUTE, SMALL, now_s=NOW_S, reply_routes=(route,))


def test_the_tables_have_a_row_for_each_mode() -> None:
    assert list(MODES) == list(ReplyMode)
    assert list(ERROR_MODES) == list(ErrorMode)
    for row in MODES.values():
        assert not (row.reply_blocks and row.backward_content)
        assert row.has_reply == bool(row.reply_blocks or row.backward_content or row.names_alice)


@settings(max_examples=30)
@given(st.sampled_from(ANSWERING), st.integers(3, 5), st.data())
def test_one_changed_bit_of_a_reply_is_never_accepted(
    mode: ReplyMode, count: int, data: st.DataObject
) -> None:
    """Any bit of the reply changed at Alice: refused, and no false byte is released."""
    cast = cast_of(count)
    answer = seeded_bytes(count)(2_000)
    done = exchange(cast, mode, b"q", [answer], profile=SMALL, pace=PLAIN)
    (reply,) = done.replies
    body = bytearray(reply.relayed.body if reply.relayed is not None else reply.links[-1])
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    body[bit // 8] ^= 1 << bit % 8
    if reply.relayed is None:
        again = cast.alice.codec.backward_reader(done.query.circuit)
    elif mode is ReplyMode.KNOWN_DEST:
        content, error = receive(
            cast.alice.codec.destination_reader(reply.relayed.opened.slot, SMALL), bytes(body)
        )
        assert error is not None
        assert answer.startswith(content)
        return
    else:
        slot = reply.relayed.opened.slot
        again = cast.alice.codec.home_reader(slot, cast.alice.codec.home_ticket(slot), SMALL)
    content, error = receive(again, bytes(body))
    assert error is not None
    assert answer.startswith(content)
