"""The limits of the multiplexer: hostile peers, the budget of a node, memory of idle objects."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.tunnel.helpers import SMALL, seeded_bytes
from tests.tunnel.mux_helpers import (
    Clock,
    Flag,
    Link,
    Pair,
    RawPeer,
    cell,
    complete,
    joined,
    pump,
    read_all,
    write_all,
)
from tunnel.errors import ErrorCode, LinkError, StreamReset, TableFull
from tunnel.geometry import DEFAULT, Profile
from tunnel.link.cells import MAX_EXCHANGE_BYTES, CellType
from tunnel.link.mux import MuxLimits, MuxStream
from tunnel.link.records import Budget

T = CellType
MIDDLE = Profile(DEFAULT)


def open_cell(number: int, profile: Profile = SMALL) -> bytes:
    return cell(T.OPEN, number, bytes([1, profile.byte, 0, 0, 0, 0]))


def test_late_content_is_ignored_within_its_former_credit() -> None:
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


def test_memory_is_released_after_a_flood_of_control_cells() -> None:
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


def test_evicted_content_does_not_look_like_a_complete_message() -> None:
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
def test_a_thousand_streams_and_an_unread_stream() -> None:
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
