"""Two ends of an established tunnel: key changes, padding, ends, wrong use, and bounded memory."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from readwrite_comp import AuthenticationError
from tests.tunnel.helpers import OPENSSL, mixed_engine
from tests.tunnel.tunnels import ECHO, SEED, Pair, make_end, message_at, read_some, write_all
from tunnel.crypto.primitives import expand
from tunnel.errors import (
    Disconnected,
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    SubStreamReset,
)
from tunnel.established import End, TunnelLimits
from tunnel.geometry import INTERACTIVE, padme
from tunnel.onion.key_schedule import Direction, end_to_end_key
from tunnel.onion.message import ChunkType

DATA = INTERACTIVE.chunk_data_bytes
MANY_KEYS = TunnelLimits(rekey_chunks=5, window_chunks=4, sub_streams=4)


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


def test_pad_keeps_an_idle_tunnel_alive_and_is_not_sent_with_other_traffic() -> None:
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
