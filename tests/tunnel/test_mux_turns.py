"""The scheduler alone: which writer is woken, in which order, and that none is forgotten."""

from __future__ import annotations

import random

import pytest

from tests.tunnel.mux_helpers import Flag
from tunnel.link.scheduler import WriteScheduler

PIECE = 10
ROOM = 35  # three pieces and a half


class Writer:
    """A stream that may wait to write."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writable = Flag()

    def __repr__(self) -> str:
        return self.name


def writers(count: int) -> list[Writer]:
    return [Writer(f"writer {number}") for number in range(count)]


def woken(streams: list[Writer]) -> list[Writer]:
    return [stream for stream in streams if stream.writable.take()]


def test_any_stream_writes_while_there_is_room_and_none_waits() -> None:
    turns = WriteScheduler()
    (stream,) = writers(1)
    assert all(turns.admits(stream, PIECE, ROOM) for _ in range(5))
    assert len(turns) == 0


def test_as_many_are_woken_as_fit_in_the_order_in_which_they_came() -> None:
    turns, streams = WriteScheduler(), writers(6)
    assert not any(turns.admits(stream, PIECE, 0) for stream in streams)
    turns.freed(ROOM, is_empty=False)
    assert woken(streams) == streams[:3]
    turns.freed(ROOM, is_empty=False)
    assert woken(streams) == []  # the room is reserved
    assert turns.admits(streams[1], PIECE, ROOM)
    turns.freed(ROOM, is_empty=False)
    assert woken(streams) == streams[3:4]


def test_a_writer_goes_to_the_end_of_the_queue_after_its_write() -> None:
    turns, (first, second) = WriteScheduler(), writers(2)
    assert not turns.admits(first, PIECE, 0)
    assert not turns.admits(second, PIECE, 0)
    turns.freed(ROOM, is_empty=True)
    assert turns.admits(first, PIECE, ROOM)
    assert not turns.admits(first, PIECE, ROOM - PIECE)
    assert not first.writable.take() or not turns.admits(first, PIECE, ROOM - PIECE)
    assert turns.admits(second, PIECE, ROOM - PIECE)
    assert first.writable.take()  # and now there is another turn for the first
    assert turns.admits(first, PIECE, ROOM - 2 * PIECE)


def test_a_writer_that_finds_less_room_than_promised_stays_first() -> None:
    turns, streams = WriteScheduler(), writers(3)
    for stream in streams:
        assert not turns.admits(stream, PIECE, 0)
    turns.freed(PIECE, is_empty=False)
    assert woken(streams) == streams[:1]
    assert not turns.admits(streams[0], PIECE, 5)  # control cells came first
    turns.freed(PIECE, is_empty=False)
    assert woken(streams) == streams[:1]


@pytest.mark.parametrize("is_woken", [True, False])
def test_a_leaving_writer_passes_its_turn_on(is_woken: bool) -> None:
    turns, streams = WriteScheduler(), writers(3)
    for stream in streams:
        assert not turns.admits(stream, PIECE, 0)
    if is_woken:
        turns.freed(PIECE, is_empty=False)
        assert woken(streams) == streams[:1]
    turns.forget(streams[0], PIECE)
    if not is_woken:
        turns.freed(PIECE, is_empty=False)
    assert woken(streams) == streams[1:2]


def test_a_grant_that_is_not_used_ends_when_the_buffer_was_empty_twice() -> None:
    turns, streams = WriteScheduler(), writers(2)
    for stream in streams:
        assert not turns.admits(stream, PIECE, 0)
    turns.freed(PIECE, is_empty=True)
    turns.freed(PIECE, is_empty=True)
    assert woken(streams) == streams[:1]
    turns.freed(PIECE, is_empty=True)
    assert woken(streams) == streams[1:]


@pytest.mark.parametrize("seed", range(20))
def test_no_writer_starves_and_all_write_about_equally_often(seed: int) -> None:
    """Writers that call only when woken, in any order, and write as often as possible in one call."""
    rng, turns, streams = random.Random(seed), WriteScheduler(), writers(3 + seed % 9)
    counts = dict.fromkeys(streams, 0)
    used = 0

    def write(stream: Writer) -> None:
        nonlocal used
        while turns.admits(stream, PIECE, ROOM - used):
            used += PIECE
            counts[stream] += 1

    for stream in streams:
        write(stream)
    for _ in range(400):
        ready = woken(streams)
        rng.shuffle(ready)
        for stream in ready:
            write(stream)
        sent = rng.randint(0, used)
        if sent or not used:
            used -= sent
            turns.freed(ROOM - used, is_empty=not used)
    assert min(counts.values()) > 30
    assert max(counts.values()) <= 1.2 * min(counts.values())
