"""Two multiplexers over a hostile pipe: in any order of events, the bytes read are the bytes written.

The model is two byte strings for each stream and direction, and a few flags. Hypothesis draws a seed and a
number of steps; each step writes, reads, moves bytes of the pipe, opens, accepts, ends, resets or pads, as
the seed decides. The pipe moves any number of bytes at a time, or none; readers read any amount or nothing;
the engines change at each call.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import PROFILES, mixed_engine
from tests.tunnel.mux_helpers import Flag, Link, Side, pump
from tunnel.errors import ErrorCode, StreamReset
from tunnel.link.mux import MuxLimits, MuxStream

LIMITS = MuxLimits(max_streams=6, peer_max_streams=6, window_bytes=4 << 20)


@dataclass
class End:
    """One side's view of a stream, and the model of its sent bytes."""

    stream: MuxStream[Flag]
    other: End | None = None
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    finished: bool = False
    saw_end: bool = False
    status: bytes | None = None
    was_reset: bool = False
    write_waits: bool = False
    read_waits: bool = False

    @property
    def is_reset(self) -> bool:
        return self.was_reset or (self.other is not None and self.other.was_reset)


class TwoSides:
    """The two multiplexers and the model of their content."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # One run in four has a constant rate, where the clock decides what moves.
        units = self.rng.choice([0, 0, 0, 0, 0, 0, 5, 16])
        self.link = Link.make(limits=LIMITS, engine=mixed_engine(seed), record_units=units)
        self.ends: list[End] = []
        self.has_left = False
        # Some runs mostly move content, others mostly open and close streams.
        self.ends_often = self.rng.random()

    def step(self) -> None:
        rng = self.rng
        side, other = self.sides(rng.random() < 0.5)
        actions = {
            self.write: 6.0,
            self.read: 5.0,
            self.finish: 0.6 * self.ends_often,
            self.send_status: self.ends_often,
            self.reset: 0.15 * self.ends_often,
        }
        kind = rng.random()
        if kind < 0.3:
            if side.sender.fixed_bytes:
                side.tick()
            pump(side, other, at_most=rng.choice([1, 500, 5_000, 70_000, 300_000]))
        elif kind < 0.4:
            self.open(side)
        elif kind < 0.5:
            self.accept(side)
        elif kind < 0.52:
            side.pad(rng.randint(1, 63))
        elif kind < 0.54:
            side.ping()
        elif kind < 0.542:
            self.has_left = True
            side.go_away()
        elif self.ends:
            (action,) = rng.choices(list(actions), list(actions.values()))
            action(rng.choice(self.ends))

    def sides(self, from_a: bool) -> tuple[Side, Side]:
        return (self.link.a, self.link.b) if from_a else (self.link.b, self.link.a)

    def open(self, side: Side) -> None:
        if side.can_open:
            extra = self.rng.choice([0, 0, self.rng.randint(1, 9_000)])
            self.ends.append(End(side.open(self.rng.choice(PROFILES), extra_window=extra)))

    def accept(self, side: Side) -> None:
        stream = side.accept_nowait()
        if stream is not None:
            ours = (end for end in self.ends if end.stream.id == stream.id and end.stream.is_opener)
            opener = next(ours)
            assert stream.profile == opener.stream.profile
            opener.other = End(stream, other=opener)
            self.ends.append(opener.other)

    def write(self, end: End) -> None:
        if end.finished or (end.write_waits and not end.stream.writable.take()):
            return
        end.write_waits = False
        data = self.rng.randbytes(self.rng.choice([1, 30, 1_024, 4_096, 16_356, 70_000]))
        try:
            while True:
                count = end.stream.write(data)
                assert 0 < count <= len(data)
                end.sent += data[:count]
                if self.rng.random() < 0.3:
                    return
        except BlockingIOError:
            end.write_waits = True
        except StreamReset:
            assert end.is_reset

    def read(self, end: End) -> None:
        if end.read_waits and not end.stream.readable.take():
            return
        end.read_waits = False
        buffer = memoryview(bytearray(self.rng.choice([1, 1_000, 16_356, 200_000])))
        if self.rng.random() < 0.5 and (piece := end.stream.take_piece(len(buffer))) is not None:
            assert len(piece) == len(buffer)
            end.got += piece
            piece[:] = bytes(len(piece))  # no other object uses it
        try:
            while count := end.stream.readinto(buffer):
                end.got += buffer[:count]
                if self.rng.random() < 0.3:
                    return
        except BlockingIOError:
            end.read_waits = True
            return
        except StreamReset:
            assert end.is_reset
            return
        assert end.other is not None
        assert end.other.finished
        assert end.got == end.other.sent
        end.saw_end = True

    def finish(self, end: End) -> None:
        end.stream.finish()
        end.finished = True

    def send_status(self, end: End) -> None:
        if not end.finished or end.stream.is_opener or end.status is not None:
            return
        status = self.rng.randbytes(self.rng.choice([1, 432, 2_496]))
        try:
            end.stream.send_status(status)
        except BlockingIOError:
            return
        except StreamReset:
            assert end.is_reset
            return
        end.status = status

    def reset(self, end: End) -> None:
        end.was_reset = end.was_reset or not end.stream.is_ended or end.stream.unread_bytes > 0
        end.stream.reset(self.rng.choice(list(ErrorCode)))

    def check(self) -> None:
        for end in self.ends:
            if end.other is not None and not end.is_reset:
                assert end.other.sent.startswith(end.got)
        sides = self.link.a, self.link.b
        held = {side.table: 0 for side in sides}
        streams = {end.stream for end in self.ends}
        for side in sides:
            assert side.error is None
            table = side.table
            streams |= set(table.streams.values())
            for stream in table.streams.values():
                assert stream.unread_bytes <= stream.window_bytes
            assert sum(stream.window_bytes for stream in table.streams.values()) == table.window_bytes
            assert table.window_bytes <= LIMITS.window_bytes
            assert table.own == sum(stream.is_opener for stream in table.streams.values())
            assert len(side.table.arrived) <= LIMITS.max_streams
        for stream in streams:
            held[stream.table] += stream.unread_bytes
        for side in sides:
            assert side.budget.used_bytes == held[side.table]

    def check_credit(self) -> None:
        """With nothing in transit, each sender's credit equals its receiver's grant."""
        for number, stream in self.link.a.table.streams.items():
            twin = self.link.b.table.streams.get(number)
            if twin is not None:
                for sender, receiver in ((stream, twin), (twin, stream)):
                    assert sender.credit == receiver.granted
                    if receiver.late_bytes:
                        read = receiver.unread_bytes + receiver.owed
                        assert sender.credit + read == receiver.window_bytes

    def end(self) -> None:
        """After any history, when all continue, everything that was not reset arrives."""
        goals = {id(end): len(end.sent) + 100_000 for end in self.ends if not end.finished}
        while True:
            self.link.settle()
            for side in (self.link.a, self.link.b):
                for _ in range(LIMITS.max_streams):
                    self.accept(side)
            self.check_credit()
            before = self.progress()
            for end in self.ends:
                if not end.is_reset and end.other is not None:
                    if not end.saw_end:
                        self.read(end)
                    if len(end.sent) < goals.get(id(end), 0):
                        self.write(end)
                    else:
                        self.finish(end)
                    self.send_status(end)
            if before == self.progress():
                break
        for end in self.ends:
            if end.other is not None and not end.is_reset:
                assert end.saw_end
                assert end.other.sent == end.got
                if end.stream.is_opener:
                    assert end.stream.status == end.other.status is not None
            end.stream.reset(ErrorCode.CANCELLED)
        self.link.settle()
        for side in (self.link.a, self.link.b):
            assert not side.streams
            assert not len(side.sender.turns)
            assert side.sender.is_idle
            assert side.budget.used_bytes == 0
            assert not side.budget.holders
            assert not side.table.arrived
            assert side.ping_sent_s is None
            assert side.is_drained is self.has_left
        assert self.link.buffers.borrowed == 0

    def progress(self) -> list[tuple[int, int, bool, bool]]:
        """Values that change while anything moves. After a lost notification they stand still."""
        return [(len(end.sent), len(end.got), end.saw_end, end.status is None) for end in self.ends]


def simulate(seed: int, steps: int) -> None:
    world = TwoSides(seed)
    for number in range(steps):
        world.step()
        if number % 16 == 0:
            world.check()
    world.end()


@pytest.mark.full
@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(10, 250))
def test_random_histories_read_what_was_written(seed: int, steps: int) -> None:
    simulate(seed, steps)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.full] if seed > 2 else []) for seed in range(8)]
)
def test_long_lives(seed: int) -> None:
    """The same, long enough that windows grow and buffers are reused many times."""
    simulate(seed, 1_500)
