"""The multiplexer, one behaviour at a time: streams, records, turns, credit, ends."""

from __future__ import annotations

import pytest

from tests.tunnel.helpers import PROFILES, SMALL, seeded_bytes
from tests.tunnel.mux_helpers import (
    Flag,
    Link,
    complete,
    joined,
    pump,
    read_all,
    record_sizes,
    write_all,
)
from tunnel.errors import Disconnected, ErrorCode, StreamReset, TableFull
from tunnel.geometry import DEFAULT, GEOMETRIES, Profile
from tunnel.link.cells import CellType
from tunnel.link.mux import MuxLimits, MuxStream
from tunnel.link.records import BUFFER_BYTES, record_bytes_for

T = CellType
MIDDLE = Profile(DEFAULT)


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


def test_a_write_after_more_control_cells_than_the_buffer_holds() -> None:
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


def test_a_piece_is_taken_only_whole_and_is_counted_like_a_read() -> None:
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


def test_windows_grow_only_within_the_limit_of_the_link() -> None:
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
