"""Two ends of an established tunnel: messages, sub-streams and their credit."""

from __future__ import annotations

import contextlib
import random
from functools import partial

import pytest

from tests.tunnel.tunnels import ECHO, Pair, message_at, read_some, write_all
from tunnel.errors import (
    ErrorCode,
    LocalTunnelError,
    SubStreamReset,
)
from tunnel.established import TunnelLimits
from tunnel.established.streams import END_COST_BYTES
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, STREAM, Geometry

DATA = INTERACTIVE.chunk_data_bytes
MANY_KEYS = TunnelLimits(rekey_chunks=5, window_chunks=4, sub_streams=4)


def test_after_hello_the_keys_do_not_follow_from_the_seed() -> None:
    pair = Pair()
    assert not pair.send(pair.bob)  # Bob waits for Alice's HELLO
    assert pair.send(pair.alice)
    assert not pair.send(pair.alice)  # and she for his
    assert not pair.alice.is_established
    pair.deliver(pair.bob)
    assert pair.send(pair.bob)
    assert pair.bob.is_established
    pair.deliver(pair.alice)
    assert not pair.alice.is_established
    assert pair.send(pair.alice)  # REKEY
    assert pair.alice.is_established
    assert pair.alice.sendable.count


@pytest.mark.parametrize("geometry", [INTERACTIVE, STREAM, DEFAULT, BULK], ids=lambda g: g.name)
@pytest.mark.parametrize("early", [False, True])
def test_messages_of_all_lengths_both_ways(geometry: Geometry, early: bool) -> None:
    pair = Pair(geometry=geometry, limits=TunnelLimits(early=early))
    data = geometry.chunk_data_bytes
    for length in (0, 1, data - 1, data, data + 1, 3 * data, 0, 5):
        content = random.Random(length).randbytes(length)
        for writer, reader in [(pair.alice, pair.bob), (pair.bob, pair.alice)]:
            write_all(pair, writer.outgoing, content)
            writer.outgoing.end()
            pair.settle()
            assert message_at(reader) == content


def test_several_messages_wait_for_their_reader() -> None:
    pair = Pair()
    for text in (b"one", b"", b"three"):
        pair.alice.outgoing.write(text)
        pair.alice.outgoing.end()
        with pytest.raises(BlockingIOError):
            pair.alice.outgoing.end()
        pair.settle()
    assert [message_at(pair.bob) for _ in range(3)] == [b"one", b"", b"three"]
    with pytest.raises(BlockingIOError):
        pair.bob.incoming.next_message()
    pair.alice.close()
    pair.settle()
    assert pair.bob.incoming.next_message() is False


def test_a_message_streams() -> None:
    """Bob reads its beginning, and answers, before it has an end."""
    pair = Pair()
    pair.alice.outgoing.write(b"begin")
    pair.settle()
    with pytest.raises(BlockingIOError):
        pair.bob.incoming.next_message()  # kept until a flush, the end, or a full chunk
    pair.alice.outgoing.flush()
    pair.settle()
    assert pair.bob.incoming.next_message()
    assert read_some(pair.bob.incoming) == b"begin"  # type: ignore[arg-type]
    assert read_some(pair.bob.incoming) is None  # type: ignore[arg-type]
    with pytest.raises(LocalTunnelError, match="not been read completely"):
        pair.bob.incoming.next_message()
    pair.bob.outgoing.write(b"answer")
    pair.bob.outgoing.end()
    pair.settle()
    assert message_at(pair.alice) == b"answer"
    pair.alice.outgoing.end()
    pair.settle()
    assert read_some(pair.bob.incoming) == b""  # type: ignore[arg-type]


def test_a_sub_stream_from_either_end_with_half_close() -> None:
    pair = Pair()
    for opener, acceptor, number in [(pair.alice, pair.bob, 1), (pair.bob, pair.alice, 2)]:
        mine = opener.open(ECHO)
        assert mine.write(b"ping") == 4  # before it is confirmed
        with pytest.raises(BlockingIOError):
            mine.check_opened()
        pair.settle()
        theirs = acceptor.accept()
        assert (theirs.number, theirs.target) == (number, ECHO)
        for call in (partial(theirs.write, b"x"), partial(theirs.readinto, bytearray(1)), theirs.close):
            with pytest.raises(LocalTunnelError, match="confirm"):
                call()
        theirs.confirm()
        with pytest.raises(LocalTunnelError, match="already"):
            theirs.confirm()
        assert read_some(theirs) == b"ping"
        mine.close()
        with pytest.raises(LocalTunnelError, match="after close"):
            mine.write(b"more")
        pair.settle()
        mine.check_opened()
        assert read_some(theirs) == b""
        theirs.write(b"pong, after your end")
        theirs.close()
        pair.settle()
        assert read_some(mine) == b"pong, after your end"
        assert read_some(mine) == b""
        mine.give_up()  # nothing is sent about a stream that both closed
        pair.settle()


def test_a_refused_sub_stream_and_one_given_up_in_the_middle() -> None:
    pair = Pair()
    refused, broken = pair.alice.open(ECHO), pair.alice.open(ECHO)
    broken.write(b"x")
    pair.settle()
    pair.bob.accept().give_up(ErrorCode.TARGET_NOT_ALLOWED)
    theirs = pair.bob.accept()
    theirs.confirm()
    pair.settle()
    for call in (refused.check_opened, lambda: refused.write(b""), lambda: refused.readinto(bytearray(9))):
        with pytest.raises(SubStreamReset) as caught:
            call()
        assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED
    refused.close()  # has no effect
    broken.write(b"lost")
    broken.give_up(ErrorCode.CANCELLED)
    theirs.write(b"crossing")
    pair.settle()
    with pytest.raises(SubStreamReset) as caught:
        theirs.readinto(bytearray(9))
    assert caught.value.code is ErrorCode.CANCELLED
    with pytest.raises(SubStreamReset):
        broken.write(b"x")
    pair.alice.close()
    pair.bob.close()
    pair.settle()
    assert pair.alice.is_finished
    assert pair.bob.is_finished


def test_an_end_that_stops_reading_sends_it_after_its_own_data() -> None:
    """More than a window, read late: neither the refusal nor its own writes may lose any byte."""
    pair = Pair()
    mine = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    answer = bytes(range(256)) * 400
    sent = 0
    got = b""
    for _ in range(10_000):
        if sent < len(answer):
            with contextlib.suppress(BlockingIOError):
                sent += theirs.write(answer[sent:])
        elif not theirs.is_closed:
            theirs.finish()
            theirs.finish()
            theirs.stop(ErrorCode.CANCELLED)
        with contextlib.suppress(BlockingIOError, SubStreamReset):
            mine.write(b"still sending")
        pair.settle()
        got += read_some(mine, 999) or b""
        if theirs.is_closed and read_some(mine, 0) is not None and len(got) == len(answer):
            break
    assert got == answer
    pair.settle()
    assert read_some(mine) == b""
    with pytest.raises(SubStreamReset):
        mine.write(b"x")
    mine.close()
    pair.settle()
    assert mine.has_ended
    assert theirs.has_ended
    assert pair.alice.held_bytes == pair.bob.held_bytes == 0
    pair.alice.close()
    pair.bob.close()
    pair.settle()
    assert pair.alice.is_finished
    assert pair.bob.is_finished


def test_a_finished_sub_stream_grants_credit_for_discarded_bytes() -> None:
    pair = Pair()
    mine = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    mine.write(b"before")
    pair.settle()
    theirs.finish()
    with pytest.raises(LocalTunnelError):
        theirs.readinto(bytearray(9))
    with pytest.raises(LocalTunnelError):
        theirs.write(b"x")
    write_all(pair, mine, bytes(200_000))
    mine.close()
    pair.settle()
    assert theirs.ignored_bytes == 200_000
    assert mine.has_ended
    assert theirs.has_ended


def test_finishing_all_sub_streams_lets_a_tunnel_end() -> None:
    """Sub-streams that are not accepted or confirmed are refused; the others close after their content."""
    pair = Pair()
    subs = [pair.alice.open(ECHO) for _ in range(3)]
    subs[0].write(b"the last words")
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    unconfirmed = pair.bob.accept()
    pair.bob.finish_streams()
    assert unconfirmed.failure is not None
    pair.settle()
    pair.alice.close()
    pair.alice.finish_streams()
    pair.bob.close()
    pair.settle()
    assert pair.alice.is_finished
    assert pair.bob.is_finished
    assert all(sub.has_ended for sub in subs)


def test_both_ends_give_up_simultaneously() -> None:
    pair = Pair()
    mine = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    pair.settle()
    mine.give_up()
    theirs.give_up()
    pair.settle()
    assert pair.alice.open(ECHO).number == 3
    pair.settle()


@pytest.mark.parametrize("by", ["alice", "bob"])
def test_no_sub_stream_is_opened_in_a_tunnel_that_either_end_gave_up(by: str) -> None:
    pair = Pair()
    pair.settle()
    getattr(pair, by).give_up(ErrorCode.BUSY)
    pair.settle()
    for end in (pair.alice, pair.bob):
        with pytest.raises(SubStreamReset, match="BUSY"):
            end.open(ECHO)


def test_the_limit_on_sub_streams_and_how_it_frees() -> None:
    pair = Pair(limits=MANY_KEYS)
    pair.settle()
    subs = [pair.alice.open(ECHO) for _ in range(4)]
    with pytest.raises(BlockingIOError):
        pair.alice.open(ECHO)
    pair.settle()
    accepted = [pair.bob.accept() for _ in range(4)]
    with pytest.raises(BlockingIOError):
        pair.bob.accept()
    for sub in accepted:
        sub.confirm()
    woken = pair.alice.openable.count
    subs[0].close()
    pair.settle()
    with pytest.raises(BlockingIOError):
        pair.alice.open(ECHO)  # half closed is still open
    accepted[0].close()
    pair.settle()
    assert pair.alice.openable.count > woken
    assert pair.alice.open(ECHO).number == 9  # no id is used again


def test_ids_run_out() -> None:
    pair = Pair()
    pair.settle()
    pair.alice.table.next_id = 65_535
    pair.alice.open(ECHO)
    with pytest.raises(LocalTunnelError, match="new tunnel"):
        pair.alice.open(ECHO)


def test_credit_holds_a_writer_back_and_lets_it_go() -> None:
    pair = Pair(limits=TunnelLimits(window_chunks=4))
    sub = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    written = 0
    with contextlib.suppress(BlockingIOError):
        for _ in range(100):
            written += sub.write(bytes(DATA))
            pair.settle()
    assert written == 5 * DATA  # the window, and one chunk here
    woken = sub.writable.count
    assert pair.bob.held_bytes == 4 * DATA
    # Other streams are not blocked.
    pair.alice.outgoing.write(b"still here")
    pair.alice.outgoing.end()
    pair.settle()
    assert message_at(pair.bob) == b"still here"
    assert len(read_some(theirs, 2 * DATA) or b"") == 2 * DATA
    pair.settle()
    assert sub.writable.count > woken
    sub.write(b"x")


@pytest.mark.parametrize(
    ("geometry", "chunks"), [(INTERACTIVE, 269), (STREAM, 32), (DEFAULT, 16), (BULK, 16)], ids=str
)
def test_the_window_of_a_stream_by_the_length_of_a_chunk(geometry: Geometry, chunks: int) -> None:
    """About as much is under way with short chunks as with long ones; what is not read stays bounded."""
    pair, data = Pair(geometry=geometry), geometry.chunk_data_bytes
    sub = pair.alice.open(ECHO)
    pair.settle()
    pair.bob.accept().confirm()
    with contextlib.suppress(BlockingIOError):
        while True:
            sub.write(bytes(data))
            pair.settle()
    assert pair.bob.held_bytes == chunks * data
    assert abs(chunks * data - 256 * 1024) < data or chunks == 16


def test_a_piece_cut_by_credit_continues_when_more_credit_arrives() -> None:
    pair = Pair(limits=TunnelLimits(window_chunks=4))
    sub = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    for _ in range(5):
        assert sub.write(bytes(900)) == 900
        pair.settle()
    assert pair.bob.held_bytes == 4 * DATA
    assert len(read_some(theirs) or b"") == 4 * DATA
    pair.settle()
    assert len(read_some(theirs) or b"") == 5 * 900 - 4 * DATA


def test_more_empty_messages_than_a_window_of_marks() -> None:
    pair = Pair(limits=TunnelLimits(window_chunks=4))
    for _ in range(4 * DATA // END_COST_BYTES + 100):
        pair.alice.outgoing.end()
        pair.settle()
        assert message_at(pair.bob) == b""
        with pytest.raises(BlockingIOError):
            pair.bob.incoming.next_message()


def test_no_credit_is_sent_to_a_half_that_ended_meanwhile() -> None:
    pair = Pair(limits=TunnelLimits(window_chunks=4))
    sub = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    for _ in range(3):
        sub.write(bytes(DATA))
        pair.settle()
    sub.close()
    assert pair.send(pair.alice)
    assert len(read_some(theirs) or b"") == 3 * DATA  # credit is due
    assert pair.deliver(pair.bob)  # CLOSE: no more
    assert not pair.send(pair.bob)
    theirs.close()
    pair.settle()
    assert pair.alice.open(ECHO)


def test_one_chunk_grants_credit_to_many_streams() -> None:
    pair = Pair(limits=TunnelLimits(window_chunks=4))
    pair.settle()
    subs = [pair.alice.open(ECHO) for _ in range(20)]
    pair.settle()
    for sub in subs:
        for _ in range(4):
            sub.write(bytes(DATA))
            pair.settle()
        theirs = pair.bob.accept()
        theirs.confirm()
        pair.send(pair.bob)
        assert len(read_some(theirs) or b"") == 4 * DATA
    assert pair.send(pair.bob)
    assert not pair.send(pair.bob)
    pair.settle()
    assert all(sub.write(bytes(DATA)) == DATA for sub in subs)


def test_streams_take_turns() -> None:
    """A long message does not keep a sub-stream waiting for more than one chunk."""
    pair = Pair()
    pair.settle()
    sub = pair.alice.open(ECHO)
    pair.settle()
    pair.alice.outgoing.write(bytes(DATA))
    sub.write(b"a")
    assert pair.send(pair.alice)
    pair.alice.outgoing.write(bytes(DATA))
    assert pair.send(pair.alice)
    pair.deliver(pair.bob)
    pair.deliver(pair.bob)
    theirs = pair.bob.accept()
    theirs.confirm()
    assert read_some(theirs) == b"a"
