"""Two ends of an established tunnel: messages, sub-streams, credit, key changes, ends; bounded memory."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import AuthenticationError
from tests.tunnel.helpers import OPENSSL, mixed_engine
from tests.tunnel.tunnels import ECHO, SEED, Flag, Pair, Tunnel, make_end, read_some, write_all
from tunnel.crypto.primitives import expand
from tunnel.errors import (
    Disconnected,
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    PeerError,
    SubStreamReset,
)
from tunnel.established import End, SubStream, Target, TargetKind, TunnelLimits
from tunnel.established.streams import END_COST_BYTES
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, STREAM, Geometry, padme
from tunnel.onion.key_schedule import Direction, end_to_end_key
from tunnel.onion.message import ChunkType

DATA = INTERACTIVE.chunk_data_bytes
MANY_KEYS = TunnelLimits(rekey_chunks=5, window_chunks=4, sub_streams=4)


def message_at(end: Tunnel) -> bytes:
    """The next message, which has arrived completely."""
    assert end.incoming.next_message()
    parts = []
    while part := read_some(end.incoming):  # type: ignore[arg-type]
        parts.append(part)
    assert part == b""
    return b"".join(parts)


def test_hello_both_ways_and_then_keys_that_the_seed_does_not_give() -> None:
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


def test_both_give_up_at_once() -> None:
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


def test_a_key_is_replaced_by_count_and_by_age() -> None:
    pair = Pair(limits=TunnelLimits(rekey_chunks=4))
    pair.settle()
    before = len(pair.recorded)
    for number in range(9):
        pair.alice.outgoing.write(bytes([number]))
        pair.alice.outgoing.end()
        pair.settle()
        assert message_at(pair.bob) == bytes([number])
    assert len(pair.recorded) - before == 9 + 2  # a REKEY before each fourth chunk
    pair = Pair()
    pair.settle()
    for now_s, chunks in [(599.0, 1), (600.0, 2), (1_199.0, 1), (1_200.0, 2), (1e6, 2)]:
        pair.now_s = now_s
        pair.alice.outgoing.write(b"x")
        pair.alice.outgoing.end()
        assert pair.settle() == chunks
        message_at(pair.bob)
    pair.now_s = 2e6
    assert pair.settle() == 0  # nothing due, nothing sent


def test_pad_keeps_a_tunnel_alive_and_is_not_sent_beside_something_else() -> None:
    pair = Pair()
    pair.settle()
    pair.alice.pad()
    pair.alice.pad()
    assert pair.settle() == 1
    pair.alice.pad()
    pair.alice.outgoing.write(b"x")
    pair.alice.outgoing.end()
    assert pair.settle() == 1


@pytest.mark.parametrize("chunks", [0, 1, 5, 20, 77])
def test_ending_pads_to_a_bucket_and_marks_the_last(chunks: int) -> None:
    pair = Pair()
    for _ in range(chunks):
        pair.alice.outgoing.write(b"x")
        pair.alice.outgoing.end()
        pair.settle()
        message_at(pair.bob)
    pair.alice.close()
    pair.alice.close()
    pair.settle()
    assert not pair.alice.has_ended_sending  # Bob may still send, and she must grant credit
    with pytest.raises(LocalTunnelError, match="closed"):
        pair.alice.outgoing.write(b"x")
    with pytest.raises(LocalTunnelError, match="closed"):
        pair.alice.open(ECHO)
    with pytest.raises(FrameTruncated):
        make_end(End.BOB).received_fin()
    pair.bob.outgoing.write(b"a last word")
    pair.bob.outgoing.end()
    pair.bob.close()
    pair.settle()
    assert message_at(pair.alice) == b"a last word"
    for end, name in [(pair.alice, "alice"), (pair.bob, "bob")]:
        assert end.is_finished
        end.received_fin()
        sent = sum(who == name for who, _ in pair.recorded)
        assert padme(sent) == sent
    assert pair.settle() == 0
    pair.alice.give_up()


def test_close_waits_for_sub_streams_and_refuses_new_ones() -> None:
    pair = Pair()
    sub = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    pair.bob.close()
    late = pair.alice.open(ECHO)
    pair.settle()
    with pytest.raises(SubStreamReset) as caught:
        late.check_opened()
    assert caught.value.code is ErrorCode.CANCELLED
    pair.alice.close()
    pair.settle()
    assert not pair.alice.has_ended_sending
    sub.write(b"still")
    pair.settle()
    assert read_some(theirs) == b"still"
    sub.close()
    theirs.close()
    pair.settle()
    assert pair.alice.is_finished
    assert pair.bob.is_finished


def test_close_inside_a_message_is_refused() -> None:
    pair = Pair()
    pair.alice.outgoing.write(b"half")
    with pytest.raises(LocalTunnelError, match="inside a message"):
        pair.alice.close()
    pair.alice.outgoing.end()
    pair.alice.close()
    pair.bob.close()
    pair.settle()
    assert pair.bob.is_finished
    assert message_at(pair.bob) == b"half"


@pytest.mark.parametrize("who", ["alice", "bob", "both"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_giving_the_tunnel_up_reaches_the_other_end_and_ends_both(who: str, when: str) -> None:
    pair = Pair(limits=TunnelLimits(early=True))
    if when == "after":
        sub = pair.bob.open(ECHO) if pair.settle() else None
        assert sub
        pair.settle()
        pair.alice.accept().confirm()
    pair.alice.outgoing.write(bytes(DATA))
    pair.bob.outgoing.write(bytes(DATA))
    for end in (pair.alice, pair.bob) if who == "both" else (getattr(pair, who),):
        end.give_up(ErrorCode.SERVICE_FAILED)
        end.give_up(ErrorCode.INTERNAL)
    pair.settle()
    for end in (pair.alice, pair.bob):
        assert end.is_finished
        end.received_fin()
        calls: list[Callable[[], object]] = [end.outgoing.flush, end.incoming.next_message]
        for call in calls:
            with pytest.raises(SubStreamReset) as caught:
                call()
            assert caught.value.code is ErrorCode.SERVICE_FAILED
    if when == "after":
        assert sub is not None
        with pytest.raises(SubStreamReset):
            sub.write(b"x")


def test_a_dead_link_fails_every_stream_with_its_error_and_wakes_the_waiters() -> None:
    pair = Pair()
    sub = pair.alice.open(ECHO)
    pair.settle()
    counts = [
        (flag, flag.count)
        for flag in (
            sub.readable,
            sub.writable,
            pair.alice.incoming.readable,
            pair.alice.outgoing.writable,
            pair.alice.acceptable,
            pair.alice.openable,
            pair.alice.sendable,
        )
    ]
    error = Disconnected("the link to the first hop broke")
    pair.alice.fail(error)
    pair.alice.fail(FrameTruncated("later"))
    assert all(flag.count > count for flag, count in counts)
    calls: list[Callable[[], object]] = [
        lambda: sub.write(b"x"),
        lambda: sub.readinto(bytearray(1)),
        sub.check_opened,
        sub.confirm,
        lambda: pair.alice.outgoing.write(b"x"),
        pair.alice.outgoing.end,
        pair.alice.outgoing.flush,
        lambda: pair.alice.incoming.readinto(bytearray(1)),
        pair.alice.incoming.next_message,
        lambda: pair.alice.open(ECHO),
        pair.alice.accept,
        lambda: pair.alice.received(memoryview(bytearray(996))),
    ]
    for call in calls:
        with pytest.raises(Disconnected):
            call()
    sub.close()
    sub.give_up()
    pair.alice.close()
    pair.alice.give_up()
    assert not pair.send(pair.alice)


def test_truncation_is_seen() -> None:
    pair = Pair()
    pair.alice.outgoing.write(b"x")
    pair.alice.outgoing.end()
    pair.settle()
    with pytest.raises(FrameTruncated):
        pair.bob.received_fin()
    with pytest.raises(FrameTruncated):
        pair.bob.incoming.next_message()


@pytest.mark.parametrize("length", [0, 995, 997])
def test_wrong_lengths_are_this_sides_fault(length: int) -> None:
    end = make_end(End.ALICE)
    with pytest.raises(LocalTunnelError):
        end.next_chunk(memoryview(bytearray(length)), 0.0)
    with pytest.raises(LocalTunnelError):
        end.received(memoryview(bytearray(length)))


@pytest.mark.parametrize(
    "limits",
    [
        {"window_chunks": 3},
        {"window_chunks": 1_025},
        {"sub_streams": 3},
        {"sub_streams": 32_768},
        {"rekey_chunks": 1},
        {"rekey_chunks": 2**24 + 1},
        {"rekey_s": 0.0},
    ],
)
def test_limits_out_of_range(limits: dict[str, Any]) -> None:
    with pytest.raises(LocalTunnelError):
        TunnelLimits(**limits)


def test_reading_no_message_and_no_bytes() -> None:
    pair = Pair()
    with pytest.raises(LocalTunnelError, match="next_message"):
        pair.bob.incoming.readinto(bytearray(1))
    sub = pair.alice.open(ECHO)
    assert sub.readinto(bytearray()) == 0
    assert sub.write(b"") == 0


def test_recorded_chunks_do_not_open_with_the_keys_of_a_seized_node() -> None:
    """Forward secrecy: the header's seeds become known later, but the ephemeral keys are erased."""
    pair = Pair(limits=TunnelLimits(rekey_chunks=6))
    for _ in range(20):
        pair.alice.outgoing.write(b"secret")
        pair.alice.outgoing.end()
        pair.bob.outgoing.write(b"secret too")
        pair.bob.outgoing.end()
        pair.settle()
        message_at(pair.alice)
        message_at(pair.bob)
    opened = []
    for direction in Direction:
        keys = [end_to_end_key(SEED, direction)]
        for _ in range(6):
            keys.append(expand(keys[-1], b"rekey", 32))
        for who, chunk in pair.recorded:
            for key in keys:
                for counter in range(12):
                    try:
                        plain = OPENSSL.layers.aead(key).open(counter.to_bytes(12, "big"), chunk)
                    except AuthenticationError:
                        continue
                    opened.append((who, ChunkType(plain[0])))
    assert opened == [("alice", ChunkType.HELLO), ("alice", ChunkType.REKEY), ("bob", ChunkType.HELLO)]
    # Neither end keeps the key material.
    for end in (pair.alice, pair.bob):
        assert end.keys.ephemeral is None
        assert end.keys.seed == b""


def test_both_engines_send_the_same_chunks() -> None:
    runs = []
    for engine_seed in (1, 2):
        pair = Pair(engine=mixed_engine(engine_seed), limits=MANY_KEYS)
        sub = pair.alice.open(ECHO)
        for number in range(12):
            write_all(pair, sub, bytes([number]) * 300)
            pair.bob.outgoing.write(b"m" * number)
            pair.bob.outgoing.end()
            pair.settle()
            if number == 0:
                theirs = pair.bob.accept()
                theirs.confirm()
            read_some(theirs)
            message_at(pair.alice)
        runs.append(pair.recorded)
    assert runs[0] == runs[1]


@pytest.mark.full
def test_any_length_in_bounded_memory() -> None:
    """6,000 chunks each way through messages and sub-streams, concurrently: buffered and allocated bytes."""
    pair = Pair(limits=TunnelLimits(window_chunks=4, rekey_chunks=1_000))
    sub = pair.alice.open(ECHO)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    pair.settle()
    bound = 2 * (4 + 1) * DATA
    piece, sink = memoryview(bytes(DATA)), bytearray(3 * DATA)
    moved = {"sub": 0, "echo": 0, "message": 0}
    started = False
    peak = 0
    tracemalloc.start()
    try:
        for turn in range(6_000):
            if turn == 500:
                tracemalloc.reset_peak()
                base = tracemalloc.get_traced_memory()[0]
            for writer in (sub, theirs, pair.alice.outgoing):
                with contextlib.suppress(BlockingIOError):
                    writer.write(piece)
            for end in (pair.alice, pair.bob):
                pair.send(end)
                peak = max(peak, end.held_bytes)
            pair.recorded.clear()
            for end in (pair.alice, pair.bob):
                pair.deliver(end)
            if turn % 3:
                continue
            for name, reader in (("sub", theirs), ("echo", sub), ("message", pair.bob.incoming)):
                with contextlib.suppress(BlockingIOError):
                    if reader is pair.bob.incoming and not started:
                        started = pair.bob.incoming.next_message()
                    moved[name] += reader.readinto(sink)
        allocated = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    assert min(moved.values()) > 1_000 * DATA
    assert peak <= bound
    assert allocated < 3 * bound


# --- everything at once, against a model ------------------------------------------------------------------


class Model:
    """The bytes written to one direction of one stream, and the number read."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.read = 0
        self.closed = False
        self.saw_end = False

    def took(self, part: bytes) -> None:
        assert self.written[self.read : self.read + len(part)] == part
        self.read += len(part)


class Everything:
    """A pair, its streams, and their models; each step does one random thing."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        limits = TunnelLimits(
            window_chunks=4, sub_streams=4, rekey_chunks=7, rekey_s=50.0, early=bool(seed % 2)
        )
        self.pair = Pair(limits=limits, random_seed=seed)
        self.ends = {"alice": self.pair.alice, "bob": self.pair.bob}
        self.sent: dict[str, list[bytearray]] = {"alice": [bytearray()], "bob": [bytearray()]}
        self.got: dict[str, list[bytearray]] = {"alice": [], "bob": []}
        self.reading = {"alice": False, "bob": False}
        self.subs: dict[tuple[str, int], SubStream[Flag]] = {}
        self.models: dict[tuple[str, int], Model] = {}  # without those that an end gave up
        self.closed: set[tuple[str, int]] = set()

    def other(self, name: str) -> str:
        return "bob" if name == "alice" else "alice"

    def step(self) -> None:
        name = self.rng.choice(["alice", "bob"])
        action = self.rng.choice(
            [
                *[
                    self.chunk,
                    self.chunk,
                    self.chunk,
                    self.message,
                    self.read_message,
                    self.open,
                    self.accept,
                ],
                *[self.write, self.write, self.read, self.read, self.close, self.clock, self.give_up],
            ]
        )
        with contextlib.suppress(BlockingIOError):
            action(name)

    def chunk(self, name: str) -> None:
        self.pair.step(self.rng)

    def clock(self, name: str) -> None:
        self.pair.now_s += self.rng.choice([1.0, 60.0])
        self.ends[name].pad()

    def message(self, name: str) -> None:
        writer = self.ends[name].outgoing
        if self.rng.random() < 0.3:
            writer.end()
            self.sent[name].append(bytearray())
            return
        data = self.rng.randbytes(self.rng.choice([1, 10, 400, DATA, 3 * DATA]))
        self.sent[name][-1] += data[: writer.write(data)]
        if self.rng.random() < 0.3:
            writer.flush()

    def read_message(self, name: str) -> None:
        reader = self.ends[name].incoming
        if not self.reading[name]:
            if not reader.next_message():
                return
            self.reading[name] = True
            self.got[name].append(bytearray())
        buffer = bytearray(self.rng.choice([1, 100, 2_000]))
        count = reader.readinto(buffer)
        self.got[name][-1] += buffer[:count]
        if not count:
            self.reading[name] = False

    def open(self, name: str) -> None:
        target = Target(TargetKind.DOMAIN, f"t{self.rng.randrange(9)}.example".encode(), 80)
        sub = self.ends[name].open(target)
        self.subs[name, sub.number] = sub
        self.models[name, sub.number] = Model()
        self.models[self.other(name), sub.number] = Model()

    def accept(self, name: str) -> None:
        sub = self.ends[name].accept()
        sub.confirm()
        self.subs[name, sub.number] = sub

    def _pick(self, name: str) -> tuple[SubStream[Flag], int]:
        numbers = [number for who, number in self.subs if who == name]
        if not numbers:
            raise BlockingIOError
        number = self.rng.choice(numbers)
        return self.subs[name, number], number

    def _given_up(self, name: str, number: int) -> None:
        for who in (name, self.other(name)):
            self.models.pop((who, number), None)
        self.subs.pop((name, number), None)

    def write(self, name: str) -> None:
        sub, number = self._pick(name)
        model = self.models.get((name, number))
        if (name, number) in self.closed:
            return
        data = self.rng.randbytes(self.rng.choice([1, 50, DATA, 2 * DATA]))
        try:
            count = sub.write(data)
        except SubStreamReset:
            self._given_up(name, number)
            return
        if model is not None:
            model.written += data[:count]

    def read(self, name: str) -> None:
        sub, number = self._pick(name)
        buffer = bytearray(self.rng.choice([1, 100, 3 * DATA]))
        try:
            count = sub.readinto(buffer)
        except SubStreamReset:
            self._given_up(name, number)
            return
        model = self.models.get((self.other(name), number))
        if model is not None:
            model.took(bytes(buffer[:count]))
            if not count:
                assert model.closed
                assert model.read == len(model.written)
                model.saw_end = True

    def close(self, name: str) -> None:
        sub, number = self._pick(name)
        sub.close()
        self.closed.add((name, number))
        if (name, number) in self.models:
            self.models[name, number].closed = True

    def give_up(self, name: str) -> None:
        if self.rng.random() < 0.15:
            sub, number = self._pick(name)
            sub.give_up()
            self._given_up(name, number)

    def finish(self) -> None:
        """End both ends in order: every byte must arrive, and every stream must reach its end."""
        for name in self.ends:
            while True:
                try:
                    self.ends[name].outgoing.end()
                    break
                except BlockingIOError:
                    self.drain()
            self.ends[name].close()
        for _ in range(3_000):
            self.drain()
            for sub in list(self.subs.values()):
                sub.close()
            for key in list(self.models):
                self.models[key].closed = True
            if all(end.is_finished for end in self.ends.values()):
                break
        for end in self.ends.values():
            assert end.is_finished
            end.received_fin()
        for _ in range(200):
            self.drain()
        for name in self.ends:
            assert self.got[name] == self.sent[self.other(name)]

    def drain(self) -> None:
        self.pair.settle()
        for name in self.ends:
            for action in (self.accept, self.read_message):
                with contextlib.suppress(BlockingIOError):
                    action(name)
        for name, number in list(self.subs):
            try:
                sub = self.subs[name, number]
                buffer = bytearray(10_000)
                count = sub.readinto(buffer)
            except BlockingIOError:
                continue
            except SubStreamReset:
                self._given_up(name, number)
                continue
            model = self.models.get((self.other(name), number))
            if model is not None:
                model.took(bytes(buffer[:count]))


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 600))
def test_everything_at_once_in_any_order(seed: int, steps: int) -> None:
    run = Everything(seed)
    for _ in range(steps):
        run.step()
    run.finish()
    assert all(m.read == len(m.written) for m in run.models.values())


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 200), place=st.integers(0, 996 * 8 - 1))
def test_one_changed_bit_anywhere_ends_the_tunnel(seed: int, steps: int, place: int) -> None:
    run = Everything(seed)
    for _ in range(steps):
        run.step()
    for pipe, end in [(run.pair.to_bob, run.pair.bob), (run.pair.to_alice, run.pair.alice)]:
        if pipe:
            chunk = bytearray(pipe[0])
            chunk[place // 8] ^= 1 << place % 8
            with pytest.raises(PeerError) as caught:
                end.received(memoryview(chunk))
            assert caught.value.code is ErrorCode.BAD_CONTENT
            with pytest.raises(PeerError):
                end.incoming.next_message()
