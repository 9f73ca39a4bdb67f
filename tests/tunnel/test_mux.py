"""The multiplexer, one behaviour at a time: sizes, turns, credit, ends, limits, padding, failures."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.tunnel.helpers import OPENSSL, PROFILES, SMALL, seeded_bytes
from tests.tunnel.mux_helpers import (
    Clock,
    Flag,
    Link,
    RawPeer,
    Side,
    cell,
    pump,
    read_all,
    record_sizes,
    write_all,
)
from tunnel.errors import Disconnected, ErrorCode, LinkError, LocalTunnelError, StreamReset, TableFull
from tunnel.geometry import DEFAULT, GEOMETRIES, Profile
from tunnel.link.cells import MAX_EXCHANGE_BYTES, CellType
from tunnel.link.mux import MuxLimits, MuxStream
from tunnel.link.records import BUFFER_BYTES, Budget, record_bytes_for
from tunnel.link.scheduler import MIN_FIXED_UNITS

T = CellType
MIDDLE = Profile(DEFAULT)
Pair = tuple[MuxStream[Flag], MuxStream[Flag]]


def joined(link: Link, profile: Profile = SMALL, *, extra: int = 0) -> Pair:
    """A stream that `a` opened, at both ends."""
    stream = link.a.open(profile, extra_window=extra)
    link.settle()
    twin = link.b.accept_nowait()
    assert twin is not None
    return stream, twin


def complete(stream: MuxStream[Flag], twin: MuxStream[Flag]) -> None:
    """End both halves in order."""
    stream.finish()
    twin.finish()
    twin.send_status(b"s")


# --- a stream's life -


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_an_exchange_leaves_both_tables_empty(profile: Profile) -> None:
    link = Link.make()
    query, reply = seeded_bytes(1)(300_000), seeded_bytes(2)(200_000)
    stream = link.a.open(profile)
    got, answer, sent, said = bytearray(), bytearray(), 0, 0
    twin: MuxStream[Flag] | None = None
    while len(got) < len(query) or len(answer) < len(reply):
        sent += write_all(stream, query[sent:])
        link.settle()
        twin = twin or link.b.accept_nowait()
        assert twin is not None
        got += read_all(twin)
        said += write_all(twin, reply[said:])
        link.settle()
        answer += read_all(stream)
    assert twin is not None
    assert (twin.profile, twin.is_opener, stream.is_opener) == (profile, False, True)
    complete(stream, twin)
    link.settle()
    assert got == query
    assert answer == reply
    assert read_all(twin) == read_all(stream) == b""
    assert stream.readinto(memoryview(bytearray(1))) == 0
    assert stream.status == b"s"
    assert link.a.streams == link.b.streams == 0
    assert (stream.content_out, stream.content_in) == (300_000, 200_000)
    assert (twin.content_in, twin.content_out) == (300_000, 200_000)


def test_both_sides_open_with_numbers_of_their_own() -> None:
    link = Link.make()
    assert [link.a.open(SMALL).id for _ in range(3)] == [1, 3, 5]
    assert [link.b.open(SMALL).id for _ in range(3)] == [2, 4, 6]
    link.settle()
    assert [stream.id for _ in range(3) if (stream := link.b.accept_nowait())] == [1, 3, 5]
    assert [stream.id for _ in range(3) if (stream := link.a.accept_nowait())] == [2, 4, 6]
    assert link.a.accept_nowait() is None


def test_each_refused_call_has_a_notifier_to_wait_for() -> None:
    link = Link.make()
    assert not link.a.output.is_set
    stream = link.a.open(SMALL)
    assert link.a.output.take()
    pump(link.a, link.b)
    assert link.b.incoming.take()
    twin = link.b.accept_nowait()
    assert twin is not None
    with pytest.raises(BlockingIOError):
        twin.readinto(memoryview(bytearray(10)))
    assert not twin.readable.is_set
    write_all(stream, bytes(5_000))
    assert link.a.output.take()
    pump(link.a, link.b)
    assert twin.readable.take()
    assert not stream.writable.is_set
    assert read_all(twin)
    assert link.b.output.take()
    pump(link.b, link.a)
    assert stream.writable.take()
    twin.finish()
    pump(link.b, link.a)
    assert stream.readable.take()
    twin.send_status(b"x")
    pump(link.b, link.a)
    assert stream.readable.take()
    assert stream.status == b"x"


def test_empty_calls() -> None:
    link = Link.make()
    stream, twin = joined(link)
    assert stream.write(b"") == 0
    assert twin.readinto(memoryview(bytearray())) == 0
    link.a.received(0)
    stream.flush()
    assert not link.a.pending


# --- records --


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_every_record_has_one_of_four_sizes(geometry: object) -> None:
    """For any credit and room: control cells, the header with its OPEN, and whole chunks."""
    profile = next(profile for profile in PROFILES if profile.geometry is geometry)
    shape = profile.geometry
    link = Link.make()
    stream = link.a.open(profile)
    trace: list[int] = []
    back: list[int] = []
    assert stream.write(bytes(shape.header_bytes)) == shape.header_bytes
    for _ in range(30):
        write_all(stream, bytes(shape.chunk_bytes) * 20)
        pump(link.a, link.b, trace=trace)
        twin = link.b.table.streams[1]
        read_all(twin, 30_000)
        pump(link.b, link.a, trace=back)
    stream.finish()
    pump(link.a, link.b, trace=trace)
    header, chunk = (record_bytes_for(8 + size) // 1024 for size in (shape.header_bytes, shape.chunk_bytes))
    assert set(trace) <= {1, header, chunk}
    assert trace[0] == header  # OPEN took the place of padding
    assert set(back) <= {1}
    if chunk not in (1, header):
        assert stream.content_out == shape.header_bytes + shape.chunk_bytes * trace.count(chunk)


def test_equal_input_gives_equal_sizes() -> None:
    def trace(fill: int) -> list[int]:
        link = Link.make()
        sizes: list[int] = []
        streams = [link.a.open(profile) for profile in PROFILES]
        for _ in range(5):
            for stream in streams:
                write_all(stream, bytes([fill]) * 40_000)
            pump(link.a, link.b, trace=sizes)
            for stream in link.b.table.streams.values():
                read_all(stream)
            pump(link.b, link.a, trace=sizes)
        return sizes

    assert trace(0) == trace(255)


def test_all_credits_of_one_flush_share_a_record() -> None:
    link = Link.make()
    pairs = [joined(link) for _ in range(40)]
    for stream, _ in pairs:
        write_all(stream, bytes(3_000))
        link.settle()
    for _, twin in pairs:
        read_all(twin)
    assert record_sizes(link.b.pending) == [1]


def test_many_control_cells_take_as_few_records_as_they_fill() -> None:
    link = Link.make()
    for _ in range(1024):
        link.a.open(SMALL)
    # 14 bytes each, in one record of 63 units at most.
    assert record_sizes(link.a.pending) == [15]
    link.settle()
    assert link.b.streams == 1024


def test_a_write_behind_more_control_cells_than_the_buffer_takes() -> None:
    """OPEN is sent first even if a thousand of them wait and the record has no padding for any."""
    link = Link.make()
    streams = [link.a.open(Profile(GEOMETRIES[4])) for _ in range(200)]
    for stream in streams:
        write_all(stream, bytes(64_484))
    for _ in range(300):
        link.settle()
        for stream in streams:
            if stream.writable.take() and not stream.content_out:
                write_all(stream, bytes(64_484))
    assert all(stream.content_out for stream in streams)
    assert all(link.b.table.streams[stream.id].unread_bytes for stream in streams)


def test_a_piece_is_taken_only_whole_and_counts_like_any_reading() -> None:
    link = Link.make()
    stream, twin = joined(link, MIDDLE)
    write_all(stream, bytes(MIDDLE.geometry.header_bytes))
    link.settle()
    read_all(twin)
    chunk = MIDDLE.geometry.chunk_bytes
    content = bytes(range(251)) * (3 * chunk // 251 + 1)
    write_all(stream, content[: 3 * chunk])
    link.settle()
    before = twin.content_in
    assert twin.take_piece(chunk - 1) is None
    assert twin.take_piece(chunk) == bytearray(content[:chunk])
    twin.readinto(memoryview(bytearray(1)))
    assert twin.take_piece(chunk - 1) is None  # of a begun piece no part is taken
    assert read_all(twin) == content[chunk + 1 : 3 * chunk]
    assert twin.take_piece(chunk) is None
    assert twin.content_in - before == 3 * chunk
    assert link.b.budget.used_bytes == 0
    link.settle()
    for _ in range(20):  # credit returns for pieces, or this would stop
        write_all(stream, bytes(chunk))
        link.settle()
        assert twin.take_piece(chunk) == bytearray(chunk)


# --- turns ----


def test_one_piece_each_in_turn() -> None:
    """Writers that always have content, a socket that accepts little: none is ahead by more than a piece."""
    link = Link.make()
    pairs = [joined(link, MIDDLE) for _ in range(20)]
    for _ in range(2_000):
        for stream, _ in pairs:
            write_all(stream, bytes(16_356) * 20)
        pump(link.a, link.b, at_most=50_000)
        for _, twin in pairs:
            read_all(twin)
        pump(link.b, link.a)
        counts = [stream.content_out for stream, _ in pairs]
        if min(counts) > 200_000:
            break
        # The buffer takes this many pieces before a refusal.
        assert max(counts) - min(counts) <= (1 + BUFFER_BYTES // 16_384) * 16_356
    assert min(counts) > 200_000


def test_a_reader_that_stops_stops_only_its_own_stream() -> None:
    link = Link.make()
    (stuck, _), (moving, twin) = joined(link, MIDDLE), joined(link, MIDDLE)
    write_all(stuck, bytes(1_000_000))
    got = sent = 0
    while got < 1_000_000:
        sent += write_all(moving, bytes(1_000_000 - sent))
        write_all(stuck, bytes(1_000_000))
        link.settle()
        got += len(read_all(twin))
    assert stuck.content_out <= MIDDLE.geometry.window_bytes


def test_an_unused_turn_passes_on() -> None:
    """A stream that is woken and then ends, or has no credit, does not block the others."""
    link = Link.make()
    pairs = [joined(link, MIDDLE) for _ in range(20)]
    streams = [stream for stream, _ in pairs]
    for stream, twin in pairs:
        write_all(stream, bytes(4_096))
        link.settle()
        read_all(twin)
    for stream in streams:
        write_all(stream, bytes(16_356))  # fifteen fit, five wait
    waiting = [stream for stream in streams if stream.content_out == 4_096]
    assert len(waiting) == 5
    link.settle()
    assert all(stream.writable.take() for stream in waiting)
    waiting[0].reset(ErrorCode.CANCELLED)
    waiting[1].finish()
    for stream in waiting[2:]:
        assert stream.write(bytes(16_356))
    assert not len(link.a.sender.turns)


def test_a_turn_without_credit_passes_on() -> None:
    link = Link.make()
    first, _ = joined(link, MIDDLE)
    assert write_all(first, bytes(53_164)) == 4_096 + 3 * 16_356
    link.settle()
    while link.a.pad(63):
        pass
    assert not write_all(first, bytes(5_000))  # it has credit for that, but there is no room
    assert len(link.a.sender.turns) == 1
    link.settle()
    assert first.writable.take()
    assert not write_all(first, bytes(16_356))  # and none for that
    assert len(link.a.sender.turns) == 0


def test_windows_grow_only_as_far_as_the_link_has_it() -> None:
    window = MIDDLE.geometry.window_bytes
    for budget, expected in ((2 * window - 1, window), (2 * window, 2 * window)):
        link = Link.make(limits=MuxLimits(window_bytes=budget))
        reader, writer = joined(link, MIDDLE)
        for _ in range(20):
            write_all(writer, bytes(400_000))
            link.settle()
            read_all(reader)
        assert reader.window_bytes == expected == link.a.table.window_bytes


def test_an_unused_turn_ends_when_the_buffer_has_run_empty_twice() -> None:
    link = Link.make()
    pairs = [joined(link, Profile(GEOMETRIES[4])) for _ in range(6)]
    streams = [stream for stream, _ in pairs]
    for stream in streams:
        stream.write(bytes(4_096))
    link.settle()
    for stream in streams:
        stream.writable.take()
        write_all(stream, bytes(64_484))
    link.settle()
    assert streams[4].writable.take()  # four fitted, and its service has ended
    for _ in range(3):
        link.a.ping()
        link.settle()
    assert len(link.a.sender.turns.granted) == 0
    assert streams[5].write(bytes(64_484))


# --- credit ---


def test_credit_is_granted_again_at_half_a_window() -> None:
    link = Link.make()
    reader, writer = joined(link, MIDDLE)
    window = MIDDLE.geometry.window_bytes
    assert write_all(writer, bytes(100_000)) == window == 4 * 16_356
    with pytest.raises(BlockingIOError):
        writer.write(b"x")
    link.settle()
    writer.writable.take()
    read_all(reader, window // 2 - 1)
    assert not link.a.pending
    read_all(reader, 1)
    link.settle()
    assert writer.writable.is_set
    assert write_all(writer, bytes(100_000)) == window // 2


def test_a_chunk_is_not_cut_because_credit_is_short() -> None:
    """A header and three chunks fit into the first window; the rest of it stays unused."""
    link = Link.make()
    stream, _ = joined(link, MIDDLE)
    assert write_all(stream, bytes(100_000)) == 4_096 + 3 * 16_356


def test_an_opener_grants_more_for_the_other_direction() -> None:
    link = Link.make()
    stream, twin = joined(link, SMALL, extra=10_000)
    assert write_all(twin, bytes(50_000)) >= 10_000 + SMALL.geometry.window_bytes - 1_024
    assert write_all(stream, bytes(50_000)) <= SMALL.geometry.window_bytes


def test_the_window_of_a_lone_stream_grows_to_its_limit_and_no_further() -> None:
    limits = MuxLimits(max_window_bytes=256 << 10)
    for count, expected in ((1, 256 << 10), (4, 256 << 10), (5, MIDDLE.geometry.window_bytes)):
        link = Link.make(limits=limits)
        pairs = [joined(link, MIDDLE) for _ in range(count)]
        for _ in range(60):
            for stream, twin in pairs:
                write_all(stream, bytes(400_000))
                link.settle()
                read_all(twin)
        assert {twin.window_bytes for _, twin in pairs} == {expected}
        assert link.b.table.window_bytes == count * expected


def test_windows_never_exceed_the_links_budget() -> None:
    window = MIDDLE.geometry.window_bytes
    link = Link.make(limits=MuxLimits(window_bytes=3 * window), b_limits=MuxLimits(window_bytes=2 * window))
    streams = [link.a.open(MIDDLE) for _ in range(3)]
    with pytest.raises(TableFull):
        link.a.open(MIDDLE)
    for stream in streams:
        write_all(stream, bytes(16_356))
    link.settle()
    assert [type(stream.error) for stream in streams] == [type(None), type(None), StreamReset]
    assert streams[2].error is not None
    assert getattr(streams[2].error, "code", None) == ErrorCode.BUSY
    assert link.b.streams == 2
    # Bytes in transit for the refused stream had no effect; a freed place can be used.
    streams[0].reset(ErrorCode.CANCELLED)
    link.settle()
    again = link.a.open(MIDDLE)
    link.settle()
    assert again.error is None


# --- ends -----


def test_a_reset_ends_both_directions_and_drops_unread_content() -> None:
    link = Link.make()
    stream, twin = joined(link)
    write_all(stream, b"never read")
    link.settle()
    stream.reset(ErrorCode.CANCELLED)
    link.settle()
    for end in (stream, twin, stream, twin):
        with pytest.raises(StreamReset, match="CANCELLED"):
            end.write(b"x")
        with pytest.raises(StreamReset, match="CANCELLED"):
            end.readinto(memoryview(bytearray(9)))
    assert link.a.streams == link.b.streams == link.b.budget.used_bytes == 0


def test_a_stream_reset_before_it_was_accepted_is_never_seen() -> None:
    link = Link.make()
    for _ in range(3):
        link.a.open(SMALL).reset(ErrorCode.CANCELLED)
    link.settle()
    assert link.b.accept_nowait() is None
    assert not link.b.table.arrived


def test_resetting_an_ended_stream_drops_the_rest_and_sends_nothing() -> None:
    link = Link.make()
    stream, twin = joined(link)
    write_all(stream, b"unread")
    complete(stream, twin)
    link.settle()
    assert link.b.budget.used_bytes == 6
    assert twin.is_ended
    twin.reset(ErrorCode.CANCELLED)
    assert link.b.budget.used_bytes == 0
    assert not link.b.pending
    with pytest.raises(StreamReset):
        twin.readinto(memoryview(bytearray(9)))


def test_a_lost_connection_ends_streams_and_keeps_whole_messages() -> None:
    link = Link.make()
    whole, cut, unseen = (link.a.open(SMALL) for _ in range(3))
    for stream in (whole, cut, unseen):
        write_all(stream, b"content")
    whole.finish()
    link.settle()
    twins = [link.b.accept_nowait() for _ in range(2)]
    error = Disconnected("the cable")
    link.b.fail(error)
    link.b.fail(Disconnected("again"))
    assert twins[0] is not None
    assert twins[1] is not None
    assert read_all(twins[0]) == b"content"
    assert twins[0].readinto(memoryview(bytearray(1))) == 0
    with pytest.raises(Disconnected, match="cable"):
        twins[0].write(b"x")
    with pytest.raises(Disconnected, match="cable"):
        twins[1].readinto(memoryview(bytearray(1)))
    with pytest.raises(Disconnected, match="cable"):
        link.b.accept_nowait()
    assert link.b.incoming.is_set
    assert link.b.output.is_set
    assert link.b.budget.used_bytes == 0
    assert not link.b.ping()
    assert not link.b.pad(1)
    assert not link.b.can_open


def test_unaccepted_streams_end_with_the_link() -> None:
    link = Link.make()
    stream = link.a.open(SMALL)
    write_all(stream, b"a whole message")
    stream.finish()
    link.settle()
    assert link.b.budget.used_bytes == 15
    link.b.fail(Disconnected("the cable"))
    assert link.b.budget.used_bytes == 0


def test_no_credit_is_granted_to_a_finished_writer() -> None:
    link = Link.make()
    stream, twin = joined(link)
    write_all(stream, bytes(3_000))
    stream.finish()
    link.settle()
    link.b.output.take()
    assert len(read_all(twin)) == stream.content_out >= 2_020
    assert not link.b.output.is_set
    assert not link.b.pending


def test_go_away_loses_no_stream() -> None:
    """One side leaves while the other opens: streams in transit are served, then both sides are drained."""
    link = Link.make()
    old, old_twin = joined(link)
    link.b.go_away()
    crossing = link.a.open(SMALL)  # the message has not arrived yet
    write_all(crossing, b"just in time")
    pump(link.b, link.a)
    assert link.a.peer_leaves
    assert not link.a.can_open
    with pytest.raises(Disconnected):
        link.a.open(SMALL)
    link.settle()
    twin = link.b.accept_nowait()
    assert twin is not None
    assert read_all(twin) == b"just in time"
    assert not link.b.is_drained
    for pair in ((old, old_twin), (crossing, twin)):
        complete(*pair)
    assert not link.b.is_drained
    link.settle()
    assert crossing.status == b"s"
    assert link.a.is_drained
    assert link.b.is_drained


# --- hostile peers --


def open_cell(number: int, profile: Profile = SMALL) -> bytes:
    return cell(T.OPEN, number, bytes([1, profile.byte, 0, 0, 0, 0]))


def test_late_content_is_ignored_as_far_as_there_was_credit() -> None:
    peer = RawPeer.make(is_dialler=True)
    peer.say(open_cell(2), cell(T.DATA, 2, bytes(500)))
    stream = peer.mux.accept_nowait()
    assert stream is not None
    stream.reset(ErrorCode.BUSY)
    left = SMALL.geometry.window_bytes - 500
    for _ in range(left // 100):
        peer.say(cell(T.DATA, 2, bytes(100)))
    assert peer.mux.table.late_bytes == left % 100
    with pytest.raises(LinkError, match="beyond what was granted"):
        peer.say(cell(T.DATA, 2, bytes(100)))


def test_streams_beyond_the_limit_are_refused_and_a_flood_of_them_ends_the_link() -> None:
    peer = RawPeer.make(is_dialler=True, limits=MuxLimits(max_streams=3))
    peer.say(*[open_cell(2 * number) for number in range(1, 9)])
    busy = ErrorCode.BUSY.to_bytes(2, "big")
    assert peer.heard() == [(T.RESET, 2 * number, busy) for number in range(4, 9)]
    assert peer.mux.streams == 3
    for number in range(9, 9 + 68):
        peer.say(open_cell(2 * number))  # and never reads
    with pytest.raises(LinkError, match="have not left"):
        peer.say(open_cell(2 * 100))


def test_streams_that_are_opened_only_to_be_reset_end_the_link() -> None:
    """Each costs this side a RESET. A peer that never reads must not make it store any number of them."""
    peer = RawPeer.make(is_dialler=True, limits=MuxLimits(max_streams=100))
    number = 0
    for number in range(2, 2 + 2 * 165, 2):
        peer.say(open_cell(number), cell(T.STATUS, number, b"out of order"))
    with pytest.raises(LinkError, match="have not left"):
        peer.say(open_cell(number + 2))
    listens = RawPeer.make(is_dialler=True, limits=MuxLimits(max_streams=100))
    for number in range(2, 2_000, 2):
        listens.say(open_cell(number), cell(T.STATUS, number, b"out of order"))
        assert len(listens.heard()) == 1
    assert listens.mux.error is None


def test_a_flood_of_control_cells_leaves_nothing_behind() -> None:
    """A peer that never reads: whatever it sends, little is stored."""
    peer = RawPeer.make(is_dialler=True)
    peer.say(open_cell(2))
    for number in range(3_000):
        peer.say(cell(T.PING, 0, bytes([0]) + number.to_bytes(7, "big")))
        peer.say(cell(T.CREDIT, 2, (1).to_bytes(4, "big")))
        peer.say(cell(T.PEER_EXCHANGE, 0, bytes(MAX_EXCHANGE_BYTES)))
        peer.say(open_cell(2 * number + 4), cell(T.RESET, 2 * number + 4, bytes([0, 8])))
        peer.say()  # padding only
    assert peer.mux.sender.control.size <= 100
    assert len(peer.mux.table.arrived) == peer.mux.streams == 1
    assert peer.heard() == [(T.PING, 0, bytes([1]) + (2_999).to_bytes(7, "big"))]
    assert peer.mux.take_exchange() == bytes(MAX_EXCHANGE_BYTES)
    assert peer.mux.take_exchange() is None


def test_single_bytes_cost_little_more_than_they_hold() -> None:
    peer = RawPeer.make(is_dialler=True)
    peer.say(open_cell(2, MIDDLE))
    window = MIDDLE.geometry.window_bytes
    for _ in range(window // 4_000):
        peer.say(*[cell(T.DATA, 2, b"x")] * 4_000)
    stream = peer.mux.table.streams[2]
    blocks = stream.queue.blocks
    assert blocks is not None
    held = sum(sys.getsizeof(block) + 8 for block in blocks) + 32 * len(stream.queue.times)
    assert held < 1.4 * stream.unread_bytes + 2_000
    assert read_all(stream) == b"x" * (window // 4_000 * 4_000)


# --- budget ---


def test_the_stream_that_has_waited_longest_pays_for_the_nodes_memory() -> None:
    """The sniper attack: filled streams that are never read, on two links of one node."""
    clock, budget = Clock(), Budget(1_000_000)
    links = [Link.make(budget=budget, clock=clock) for _ in range(2)]
    pairs: list[Pair] = []
    for number in range(40):
        clock.now_s += 1
        pair = joined(links[number % 2], MIDDLE)
        pairs.append(pair)
        write_all(pair[0], bytes(60_000))
        for link in links:
            link.settle()
        if number == 5:
            read_all(pairs[0][1])  # the first is read now, and filled again: it is the youngest
            write_all(pairs[0][0], bytes(30_000))
            links[0].settle()
        assert budget.used_bytes <= 900_000
    for link in links:
        link.settle()
    died = [number for number, (_, twin) in enumerate(pairs) if twin.error is not None]
    assert died == sorted(died)
    assert died[0] == 1
    assert 0 < len(died) == budget.evicted < 40
    for number in died:
        stream, twin = pairs[number]
        with pytest.raises(TableFull, match="longest"):
            twin.readinto(memoryview(bytearray(1)))
        with pytest.raises(StreamReset, match="BUSY"):
            stream.write(b"x")
    assert pairs[39][1].error is None
    for _, twin in pairs:
        twin.reset(ErrorCode.CANCELLED)
    assert budget.used_bytes == 0


def test_content_that_was_evicted_does_not_end_like_a_whole_message() -> None:
    budget = Budget(100_000)
    link = Link.make(budget=budget)
    stream, twin = joined(link, MIDDLE)
    write_all(stream, bytes(60_000))
    complete(stream, twin)
    link.settle()
    other, _ = joined(link, MIDDLE)
    write_all(other, bytes(60_000))
    link.settle()
    assert budget.evicted == 1
    with pytest.raises(TableFull):
        twin.readinto(memoryview(bytearray(1)))


@pytest.mark.full
def test_a_thousand_streams_one_of_which_is_never_read() -> None:
    """All others complete, and the memory of the link is counted throughout."""
    budget = Budget(8 << 20)
    link = Link.make(budget=budget)
    content = seeded_bytes(3)(40_000)
    streams = [link.a.open(MIDDLE) for _ in range(1_000)]
    sent = [0] * 1_000
    got: dict[int, bytearray] = {stream.id: bytearray() for stream in streams}
    twins: dict[int, MuxStream[Flag]] = {}
    most = 0
    done: set[int] = set()
    while len(done) < 999:
        for number, stream in enumerate(streams):
            if sent[number] < len(content):
                sent[number] += write_all(stream, content[sent[number] :])
            elif not stream.is_ended:
                stream.finish()
        pump(link.a, link.b, at_most=2_000_000)
        most = max(most, budget.used_bytes)
        while (accepted := link.b.accept_nowait()) is not None:
            twins[accepted.id] = accepted
        for number, twin in twins.items():
            if number == 1 or number in done:
                continue
            got[number] += read_all(twin)
            if len(got[number]) == len(content):
                twin.finish()
                try:
                    twin.send_status(b"done")
                except BlockingIOError:
                    continue
                done.add(number)
        pump(link.b, link.a)
    for stream in streams:
        stream.finish()
    link.settle()
    assert all(got[stream.id] == content for stream in streams[1:])
    assert all(stream.status == b"done" for stream in streams[1:])
    assert streams[0].status is None
    # A reader that stops holds its window at most; the rest arrived in one move.
    assert most <= 2_000_000 + MIDDLE.geometry.window_bytes
    assert budget.evicted == 0
    assert link.b.streams == 1


def size_of(make: Callable[[], object], count: int) -> float:
    """Bytes that each of `count` such objects takes."""
    import tracemalloc

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [make() for _ in range(count)]
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(kept) == count
    return (after - before) / count


def test_the_memory_of_idle_objects() -> None:
    """An idle link holds no buffer, an idle stream only its own fields."""
    assert size_of(lambda: RawPeer.make().mux, 50) < 4_096 + 1_024  # its peer's sealer and pool are in this
    link = Link.make()
    assert size_of(lambda: joined(link, MIDDLE), 500) < 2 * 2_048
    assert link.buffers.borrowed == 0


def test_buffers_are_given_back_when_there_is_nothing_in_them() -> None:
    link = Link.make()
    stream, _ = joined(link)
    link.a.space()
    assert link.buffers.borrowed == 1
    link.a.received(0)
    assert link.buffers.borrowed == 0
    write_all(stream, b"x")
    pending = bytes(link.a.pending)
    link.b.space()[:10] = pending[:10]
    link.b.received(10)
    assert link.b.has_partial_record
    assert link.buffers.borrowed == 2
    link.b.close()
    link.a.close()
    assert link.buffers.borrowed == 0
    assert not link.a.pending


# --- padding --


def test_padding_is_a_record_like_any_other_and_changes_nothing() -> None:
    link = Link.make()
    stream, twin = joined(link)
    for units in (1, 16, 63):
        assert link.a.pad(units)
        assert record_sizes(link.a.pending) == [units]
        link.settle()
    write_all(stream, b"content")
    link.settle()
    assert read_all(twin) == b"content"


def test_padding_stops_where_there_is_no_room() -> None:
    link = Link.make()
    count = 0
    while link.a.pad(16):
        count += 1
    assert count == BUFFER_BYTES // 16_384
    link.settle()


def constant_rate_trace(work: Callable[[Link, int], None], ticks: int = 60) -> tuple[list[int], Link]:
    link = Link.make(record_units=16)
    trace: list[int] = []
    for number in range(ticks):
        work(link, number)
        for source, sink in ((link.a, link.b), (link.b, link.a)):
            assert not source.pending
            source.tick()
            pump(source, sink, trace=trace)
    return trace, link


def test_at_a_constant_rate_the_trace_is_the_same_whatever_is_sent() -> None:
    got = bytearray()

    def busy(link: Link, number: int) -> None:
        if number == 0:
            for profile in PROFILES:
                link.a.open(profile)
        link.a.ping()
        for stream in list(link.a.table.streams.values()):
            write_all(stream, bytes(100_000))
        while (twin := link.b.accept_nowait()) is not None:
            assert not twin.is_opener
        for twin in list(link.b.table.streams.values()):
            got.extend(read_all(twin))
            write_all(twin, b"some answer")
        if number == 40:
            link.b.go_away()

    quiet, _ = constant_rate_trace(lambda link, number: None)
    loud, link = constant_rate_trace(busy)
    assert quiet == loud == [16] * 120
    assert len(got) > 40 * 15_000
    assert link.a.peer_leaves


def test_at_a_constant_rate_partial_sends_lose_nothing() -> None:
    link = Link.make(record_units=16)
    stream, twin = link.a.open(MIDDLE), None
    content, sent, got = seeded_bytes(5)(400_000), 0, bytearray()
    for _ in range(5_000):
        sent += write_all(stream, content[sent:])
        link.a.tick()
        assert len(link.a.pending) <= 2 * 16_384
        pump(link.a, link.b, at_most=9_999)
        twin = twin or link.b.accept_nowait()
        if twin is not None:
            got += read_all(twin)
        link.b.tick()
        pump(link.b, link.a)
        if len(got) == len(content):
            break
    assert got == content


@pytest.mark.parametrize("units", [1, MIN_FIXED_UNITS - 1, 64])
def test_fixed_sizes_that_cannot_be(units: int) -> None:
    with pytest.raises(LocalTunnelError):
        Link.make(record_units=units)


def test_the_smallest_fixed_size_carries_every_cell() -> None:
    link = Link.make(record_units=MIN_FIXED_UNITS)

    def move() -> None:
        for _ in range(20):
            link.a.tick()
            link.b.tick()
            pump(link.a, link.b)
            pump(link.b, link.a)

    assert link.a.send_exchange(bytes(MAX_EXCHANGE_BYTES))
    stream = link.a.open(MIDDLE)
    move()
    twin = link.b.accept_nowait()
    assert twin is not None
    twin.finish()
    move()
    twin.send_status(bytes(2_496))
    move()
    assert stream.status == bytes(2_496)
    assert link.b.take_exchange() == bytes(MAX_EXCHANGE_BYTES)
    with pytest.raises(LocalTunnelError):
        Link.make().a.tick()


# --- the link's own cells --


def test_one_ping_and_its_answer() -> None:
    link = Link.make()
    assert link.a.ping()
    assert not link.a.ping()
    assert link.a.ping_sent_s == 1000.0
    link.clock.now_s += 0.25
    link.settle()
    assert link.a.ping_sent_s is None
    assert link.a.last_received_s == link.clock.now_s
    assert link.a.ping()


def test_one_peer_exchange_is_sent_at_a_time() -> None:
    link = Link.make()
    assert link.a.send_exchange(b"one")
    assert not link.a.send_exchange(b"two")
    link.settle()
    assert link.b.exchange.take()
    assert link.a.send_exchange(b"two")
    link.settle()
    assert link.b.take_exchange() == b"two"
    for payload in (b"", bytes(MAX_EXCHANGE_BYTES + 1)):
        with pytest.raises(LocalTunnelError):
            link.a.send_exchange(payload)


def test_numbers_run_out_like_places() -> None:
    link = Link.make(limits=MuxLimits(peer_max_streams=2))
    assert link.a.can_open
    for _ in range(2):
        link.a.open(SMALL)
    assert not link.a.can_open
    with pytest.raises(TableFull):
        link.a.open(SMALL)
    other = Link.make()
    other.a.table.unused_id = (1 << 32) - 1
    assert other.a.open(SMALL).id == (1 << 32) - 1
    assert not other.a.can_open


def test_the_neighbours_name_is_on_every_stream() -> None:
    link = Link.make()
    side: Side = link.b
    side.table.peer_id = b"alice"
    _, twin = joined(link)
    assert twin.peer_id == b"alice"
    assert OPENSSL is not None
