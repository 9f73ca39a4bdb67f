"""An error at every position: each reply mode × error mode × number of peers × place × moment, in memory.

Before the transfer: the hop refuses the header, and the previous one reports. During: some chunks have
passed. After: all have passed, and a reply too. In the modes with reply blocks the reply path also fails at
each place, and Bob passes on its status, which he cannot read. Error modes are those of the frame that fails;
a reply path has mode `status`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import Truncated
from tests.tunnel.error_walks import FAULT, back_to_alice, open_over, relay_over, status_of
from tests.tunnel.exchange import MESSAGE_MODES, Cast, Pace, cast_of, receive, send
from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, SMALL_HCTR, seeded_bytes
from tests.tunnel.test_modes import HOSTILE, geometry_for
from tunnel.codes import Report
from tunnel.errors import ErrorCode
from tunnel.geometry import Profile
from tunnel.modes import MODES, ErrorMode, ReplyMode
from tunnel.onion.header import Command, Opened
from tunnel.onion.header_builder import Circuit, OutgoingQuery
from tunnel.onion.reports import (
    fits_status_chunk,
    read_reply_report,
    read_report,
    seal_status_chunk,
)
from tunnel.routing.route import Route

MOMENTS = ("before", "during", "after")
BLOCK_MODES = [mode for mode in MESSAGE_MODES if MODES[mode].reply_blocks]
PEERS = (2, 3, 6, 25, 128)


def query_of(cast: Cast, mode: ReplyMode, error_mode: ErrorMode, profile: Profile) -> OutgoingQuery:
    return cast.alice.codec.query(
        cast.route,
        mode,
        profile,
        now_s=NOW_S,
        error_mode=error_mode,
        reply_routes=(cast.other_route,) if mode in (ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY) else (),
        descriptor=cast.alice.descriptor if MODES[mode].names_alice else None,
    )


def check(report: Report | None, error_mode: ErrorMode, hop: int, last: int, *, about_next: bool) -> None:
    """Check that the report names the place, as far as the error mode can, and blames no other node."""
    if error_mode is ErrorMode.NONE and hop == last:
        assert report is None  # Bob sends none; the proxies' still arrive
        return
    assert report is not None
    assert (report.succeeded, report.hop, report.suspects) == (False, hop, ())
    if error_mode is ErrorMode.XOR:
        assert report.code is None
        assert report.blamed == (hop,)
        return
    assert (report.code, report.about_next) == (FAULT, about_next)
    assert report.blamed == ((hop, hop + 1) if about_next else (hop,))
    assert report.hold_ms == tuple(10 * (hop - place + 1) for place in range(hop + 1))


def fail_query(
    cast: Cast, mode: ReplyMode, error_mode: ErrorMode, profile: Profile, hop: int, when: str, pace: Pace
) -> None:
    """Let hop `hop` of a query's route fail (0 is the first, the last is Bob)."""
    query = query_of(cast, mode, error_mode, profile)
    content = seeded_bytes(hop)(3 * profile.geometry.chunk_data_bytes)
    wire = send(query.frame.layer, content, pace)
    header_bytes = profile.geometry.header_bytes
    header, body = wire[:header_bytes], wire[header_bytes:]
    last = len(cast.way) - 1
    if when == "before":
        # It had no keys for a report, so the previous hop reports. The first hop can only send a RESET.
        if not hop:
            return
        opened = open_over(header, profile, cast.way[:hop], cast.alice.id)
        status = status_of(opened, profile, hop - 1, about_next=True)
        report = read_report(query, status, OPENSSL)
        check(report, error_mode, hop - 1, last, about_next=error_mode is not ErrorMode.XOR)
        return
    opened = open_over(header, profile, cast.way[: hop + 1], cast.alice.id)
    passed = body if when == "after" else body[: 2 * profile.geometry.chunk_bytes]
    arrived = relay_over(passed, profile, cast.way[:hop], opened[:hop])
    if hop == last:
        # The chunks before the failure are valid, and the missing ones are noticed.
        reader = cast.bob.codec.destination_reader(opened[-1].slot, profile)
        got, error = receive(reader, arrived, pace)
        assert content.startswith(got)
        assert isinstance(error, Truncated) == (when == "during")
        assert (got == content) == (when == "after")
    check(
        read_report(query, status_of(opened, profile, hop), OPENSSL), error_mode, hop, last, about_next=False
    )


def fail_cached(cast: Cast, error_mode: ErrorMode, profile: Profile, hop: int, when: str, pace: Pace) -> None:
    """Let hop `hop` fail during the reply: the bytes in transit arrive, then the status."""
    query = query_of(cast, ReplyMode.CACHED, error_mode, profile)
    wire = send(query.frame.layer, b"q", pace)
    opened = open_over(wire[: profile.geometry.header_bytes], profile, cast.way, cast.alice.id)
    answer = seeded_bytes(hop)(3 * profile.geometry.chunk_data_bytes)
    body = send(cast.bob.codec.cached_reply(opened[-1].slot, profile), answer, pace)
    passed = {"before": 0, "during": 2, "after": len(body) // profile.geometry.chunk_bytes}[when]
    arrived = back_to_alice(cast, body[: passed * profile.geometry.chunk_bytes], profile, opened)
    assert query.backward is not None
    got, error = receive(query.backward, arrived, pace)
    assert answer.startswith(got)
    assert isinstance(error, Truncated) == (when != "after")
    last = len(cast.way) - 1
    check(
        read_report(query, status_of(opened, profile, hop), OPENSSL), error_mode, hop, last, about_next=False
    )


@dataclass(frozen=True)
class WayBack:
    """A reply in transit, and what Bob needs to report about it."""

    query: OutgoingQuery
    opened_by_bob: list[Opened]
    opened: list[Opened]


def fail_way_back(
    cast: Cast, mode: ReplyMode, error_mode: ErrorMode, profile: Profile, hop: int, code: ErrorCode | None
) -> None:
    """Let hop `hop` of a reply path fail; the last is Alice, who refuses the reply or has all of it."""
    query = query_of(cast, mode, error_mode, profile)
    wire = send(query.frame.layer, b"q")
    header_bytes = profile.geometry.header_bytes
    opened = open_over(wire[:header_bytes], profile, cast.way, cast.alice.id)
    body = relay_over(wire[header_bytes:], profile, cast.proxies, opened[:-1])
    reader = cast.bob.codec.destination_reader(opened[-1].slot, profile)
    assert receive(reader, body)[1] is None
    frame = cast.bob.codec.reply(reader.head.reply_blocks[0], now_s=NOW_S)
    proxies = cast.proxies[::-1] if mode is ReplyMode.ROUTE else cast.others
    back = [*proxies, cast.alice]
    reply = send(frame.layer, b"answer")
    on_way = open_over(reply[:header_bytes], profile, back[: hop + 1], cast.bob.id)
    if hop == len(back) - 1:
        assert on_way[-1].slot.command is Command.HOME
    status = status_of(on_way, profile, hop, code)
    # Bob has no keys for it: with those of the query it is noise.
    misread = read_report(query, status, OPENSSL)
    assert misread is None or not misread.succeeded
    if not fits_status_chunk(profile.geometry, profile.geometry):
        raise AssertionError("a query carries the status of a block of its own profile")
    chunk = seal_status_chunk(status, opened[-1].slot.seed, profile.geometry, OPENSSL)
    report = read_reply_report(query, back_to_alice(cast, chunk, profile, opened), OPENSSL)
    assert report.is_about_reply
    assert report.route == tuple(peer.id for peer in back)
    if code is None:
        assert report.succeeded
    else:
        check(report, ErrorMode.STATUS, hop, len(back) - 1, about_next=False)


def places(count: int) -> range | list[int]:
    """Every hop; of long routes only the ends and the middle (all with --run-slow)."""
    last = count - 2
    return range(count - 1) if count <= 6 else [0, 1, last // 2, last - 1, last]


def profile_of(count: int, suite: int) -> Profile:
    return Profile(geometry_for(count), suite)


def matrix(mode: ReplyMode, error_mode: ErrorMode, count: int, hops: range | list[int], pace: Pace) -> None:
    cast = cast_of(count)
    for index, (hop, when) in enumerate(itertools.product(hops, MOMENTS)):
        profile = profile_of(count, index % 2)
        fail_query(cast, mode, error_mode, profile, hop, when, pace)
        if mode is ReplyMode.CACHED:
            fail_cached(cast, error_mode, profile, hop, when, pace)
    if mode in BLOCK_MODES:
        for hop in hops:
            fail_way_back(cast, mode, error_mode, profile_of(count, hop % 2), hop, FAULT)
        fail_way_back(cast, mode, error_mode, profile_of(count, 0), count - 2, None)


PACES = {"plain": Pace((360,), (130,)), "hostile": Pace((7, 1, 5_000), (130,), HOSTILE, 40)}


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", MESSAGE_MODES)
@pytest.mark.full
def test_an_error_at_every_position(mode: ReplyMode, error_mode: ErrorMode, count: int, pace: Pace) -> None:
    matrix(mode, error_mode, count, places(count), pace)


@pytest.mark.full
@pytest.mark.parametrize("count", [25, 128])
@pytest.mark.parametrize(("mode", "error_mode"), list(zip(MESSAGE_MODES, list(ErrorMode) * 2, strict=True)))
def test_an_error_at_the_ends_and_in_the_middle_of_long_routes(
    mode: ReplyMode, error_mode: ErrorMode, count: int
) -> None:
    hops = places(count) if count == 25 else [0, count - 2]
    matrix(mode, error_mode, count, hops, PACES["plain"])


@pytest.mark.slow
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", MESSAGE_MODES)
def test_an_error_at_every_position_of_long_routes(mode: ReplyMode, error_mode: ErrorMode) -> None:
    matrix(mode, error_mode, 25, range(24), PACES["hostile"])
    matrix(mode, error_mode, 128, range(0, 127, 9), PACES["plain"])


# --- established tunnels, and known dest: whose status is read by another


@dataclass(frozen=True)
class Sent:
    """The values that read the status of a tunnel."""

    route: Route
    circuit: Circuit
    error_mode: ErrorMode


@pytest.mark.parametrize("count", PEERS)
@pytest.mark.parametrize("error_mode", ErrorMode)
def test_an_error_under_an_established_tunnel(error_mode: ErrorMode, count: int) -> None:
    cast, profile = cast_of(count), profile_of(count, 1)
    for hop in places(count):
        way = cast.alice.codec.circuit(cast.route, profile, now_s=NOW_S, error_mode=error_mode)
        opened = open_over(way.header, profile, cast.way[: hop + 1], cast.alice.id)
        report = read_report(Sent(cast.route, way, error_mode), status_of(opened, profile, hop), OPENSSL)
        check(report, error_mode, hop, count - 2, about_next=False)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_an_error_on_the_route_of_an_answer_reaches_bob(count: int) -> None:
    """Mode known-dest: the answer is Bob's own query."""
    cast = cast_of(count)
    query = query_of(cast, ReplyMode.KNOWN_DEST, ErrorMode.STATUS, SMALL)
    wire = send(query.frame.layer, b"q")
    opened = open_over(wire[: SMALL.geometry.header_bytes], SMALL, cast.way, cast.alice.id)
    body = relay_over(wire[SMALL.geometry.header_bytes :], SMALL, cast.proxies, opened[:-1])
    reader = cast.bob.codec.destination_reader(opened[-1].slot, SMALL)
    assert receive(reader, body)[1] is None
    origin = cast.bob.codec.origin(opened[-1].slot, reader.head)
    back = [*cast.others, cast.alice]
    for hop in range(len(back)):
        answer = cast.bob.codec.answer(origin, cast.other_route, SMALL, now_s=NOW_S)
        found = open_over(answer.circuit.header, SMALL, back[: hop + 1], cast.bob.id)
        report = read_report(answer, status_of(found, SMALL, hop), OPENSSL)
        check(report, ErrorMode.STATUS, hop, len(back) - 1, about_next=False)


# --- success carries the same bytes


@given(
    st.sampled_from(MESSAGE_MODES),
    st.sampled_from(ErrorMode),
    st.sampled_from([SMALL, SMALL_HCTR]),
    st.integers(2, 8),
    st.data(),
    st.text(max_size=300),
)
def test_every_status_of_a_frame_has_the_same_length_and_success_is_recognised(
    mode: ReplyMode,
    error_mode: ErrorMode,
    profile: Profile,
    count: int,
    data: st.DataObject,
    text: str,
) -> None:
    cast = cast_of(count)
    query = query_of(cast, mode, error_mode, profile)
    opened = open_over(query.circuit.header, profile, cast.way, cast.alice.id)
    hop = data.draw(st.integers(0, count - 2))
    failure = status_of(opened, profile, hop, data.draw(st.sampled_from(ErrorCode)), text=text)
    success = status_of(opened, profile, count - 2, None)
    assert len(failure) == len(success) == profile.geometry.status_bytes
    report = read_report(query, success, OPENSSL)
    if error_mode is ErrorMode.NONE:
        assert report is None
    else:
        assert report is not None
        assert (report.succeeded, report.hop, report.blamed) == (True, count - 2, ())


@given(st.sampled_from([ErrorMode.STATUS, ErrorMode.XOR]), st.integers(2, 8), st.data())
def test_one_changed_bit_of_a_status_is_never_taken_for_another_word(
    error_mode: ErrorMode, count: int, data: st.DataObject
) -> None:
    """After any change by any hop: no other code, no success for a failure, no blame for uninvolved hops."""
    cast = cast_of(count)
    query = query_of(cast, ReplyMode.NONE, error_mode, SMALL)
    opened = open_over(query.circuit.header, SMALL, cast.way, cast.alice.id)
    hop = data.draw(st.integers(0, count - 2))
    status = bytearray(status_of(opened, SMALL, hop))
    # XOR codes are the first 8 bytes; the rest has no meaning.
    bits = 8 * (len(status) if error_mode is ErrorMode.STATUS else 8)
    bit = data.draw(st.integers(0, bits - 1))
    status[bit // 8] ^= 1 << bit % 8
    report = read_report(query, bytes(status), OPENSSL)
    assert report is not None
    assert not report.succeeded
    if error_mode is ErrorMode.XOR:
        assert (report.hop, report.blamed) == (None, ())
    elif report.suspects:
        assert report.blamed == (0,)  # it was changed on the link to Alice, or by her first hop
    else:
        # Bytes that are cut off unread may be changed without effect.
        assert (report.hop, report.code) == (hop, FAULT)
