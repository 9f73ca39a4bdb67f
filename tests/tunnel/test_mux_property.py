"""Two multiplexers over a hostile pipe: whatever the order of events, what is read is what was written.

The model is two byte strings for each stream and direction, and four flags. The pipe between the sides moves
any number of bytes at a time, or none; readers read any amount or nothing; the engines change at each call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tests.tunnel.helpers import PROFILES, mixed_engine, seeded_bytes
from tests.tunnel.mux_helpers import Flag, Link, Side, pump
from tunnel.errors import Disconnected, ErrorCode, StreamReset
from tunnel.geometry import Profile
from tunnel.link.mux import MuxLimits, MuxStream


@dataclass
class End:
    """One side's view of a stream, and the model of what it sends."""

    stream: MuxStream[Flag]
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    finished: bool = False
    saw_end: bool = False
    status: bytes | None = None
    other: End | None = None
    was_reset: bool = False

    @property
    def is_reset(self) -> bool:
        return self.was_reset or (self.other is not None and self.other.was_reset)


class TwoSides(RuleBasedStateMachine):
    ends = Bundle("ends")

    def __init__(self) -> None:
        super().__init__()
        limits = MuxLimits(max_streams=6, peer_max_streams=6, window_bytes=2 << 20)
        self.link = Link.make(limits=limits, engine=mixed_engine(7))
        self.all: list[End] = []
        self.opened: dict[tuple[Side, int], End] = {}
        self.has_left = False

    def sides(self, from_a: bool) -> tuple[Side, Side]:
        return (self.link.a, self.link.b) if from_a else (self.link.b, self.link.a)

    @precondition(lambda self: len(self.all) < 24)
    @rule(target=ends, from_a=st.booleans(), profile=st.sampled_from(PROFILES), extra=st.integers(0, 5000))
    def open(self, from_a: bool, profile: Profile, extra: int) -> End:
        side, other = self.sides(from_a)
        if not side.can_open:
            side = other
        if not side.can_open:
            return self.all[0]
        end = End(side.open(profile, extra_window=extra))
        self.opened[other if side is not other else self.link.a, end.stream.id] = end
        self.all.append(end)
        return end

    @rule(target=ends, at_a=st.booleans())
    def accept(self, at_a: bool) -> End:
        side, peer = self.sides(at_a)
        stream = side.accept_nowait()
        if stream is None:
            return self.all[0] if self.all else self.open(True, PROFILES[0], 0)
        opener = next(
            end for end in self.all if end.stream.id == stream.id and end.stream.is_opener
        )
        assert stream.profile == opener.stream.profile
        end = End(stream, other=opener)
        opener.other = end
        self.all.append(end)
        return end

    @rule(end=ends, size=st.integers(1, 70_000), seed=st.integers(0, 1000))
    def write(self, end: End, size: int, seed: int) -> None:
        if end.finished:
            return
        data = seeded_bytes(seed)(size)
        try:
            count = end.stream.write(data)
        except BlockingIOError:
            return
        except StreamReset:
            assert end.is_reset
            return
        assert 0 < count <= size
        end.sent += data[:count]

    @rule(end=ends, size=st.integers(1, 100_000))
    def read(self, end: End, size: int) -> None:
        buffer = memoryview(bytearray(size))
        try:
            count = end.stream.readinto(buffer)
        except BlockingIOError:
            return
        except StreamReset:
            assert end.is_reset
            return
        end.got += buffer[:count]
        if count == 0:
            assert end.other is not None
            assert end.other.finished
            assert end.got == end.other.sent
            end.saw_end = True

    @rule(end=ends)
    def finish(self, end: End) -> None:
        end.stream.finish()
        end.finished = True

    @precondition(lambda self: any(end.finished for end in self.all))
    @rule(end=ends, size=st.integers(1, 2496))
    def send_status(self, end: End, size: int) -> None:
        if not end.finished or end.stream.is_opener or end.status is not None:
            return
        try:
            end.stream.send_status(bytes(size))
        except BlockingIOError:
            return
        except StreamReset:
            assert end.is_reset
            return
        end.status = bytes(size)

    @rule(end=consumes(ends), code=st.sampled_from(ErrorCode))
    def reset(self, end: End, code: ErrorCode) -> None:
        if not end.stream.is_ended:
            end.was_reset = True
        end.stream.reset(code)

    @rule(from_a=st.booleans(), at_most=st.integers(0, 300_000))
    def move(self, from_a: bool, at_most: int) -> None:
        pump(*self.sides(from_a), at_most=at_most)

    @rule(at_a=st.booleans(), units=st.integers(1, 63))
    def pad(self, at_a: bool, units: int) -> None:
        self.sides(at_a)[0].pad(units)

    @rule(at_a=st.booleans())
    def ping(self, at_a: bool) -> None:
        self.sides(at_a)[0].ping()

    @precondition(lambda self: len(self.all) > 8)
    @rule(at_a=st.booleans())
    def go_away(self, at_a: bool) -> None:
        self.has_left = True
        self.sides(at_a)[0].go_away()

    @invariant()
    def what_was_read_is_what_was_written(self) -> None:
        for end in self.all:
            if end.other is not None and not end.is_reset:
                assert end.other.sent.startswith(end.got)

    @invariant()
    def no_queue_exceeds_its_window(self) -> None:
        for side in (self.link.a, self.link.b):
            assert side.error is None
            for stream in side.table.streams.values():
                assert stream.unread_bytes <= stream.window_bytes
            windows = sum(stream.window_bytes for stream in side.table.streams.values())
            assert windows == side.table.window_bytes <= 2 << 20
            assert side.table.own == sum(stream.is_opener for stream in side.table.streams.values())

    @invariant()
    def the_budget_knows_what_is_held(self) -> None:
        held = {self.link.a: 0, self.link.b: 0}
        streams = {end.stream for end in self.all}
        for side in held:
            streams |= set(side.table.streams.values())
        for stream in streams:
            held[stream._mux] += stream.unread_bytes
        for side, count in held.items():
            assert side.budget.used_bytes == count

    def teardown(self) -> None:
        """Whatever happened: when everybody goes on, everything that was not reset arrives."""
        for _ in range(2000):
            self.link.settle()
            for side in (self.link.a, self.link.b):
                while (stream := side.accept_nowait()) is not None:
                    opener = next(e for e in self.all if e.stream.id == stream.id and e.stream.is_opener)
                    opener.other = End(stream, other=opener)
                    self.all.append(opener.other)
            busy = False
            for end in self.all:
                if end.is_reset or end.other is None:
                    continue
                before = len(end.got), end.finished, end.status, end.saw_end
                if not end.saw_end:
                    self.read(end, 200_000)
                if not end.finished:
                    self.finish(end)
                self.send_status(end, 100)
                busy = busy or before != (len(end.got), end.finished, end.status, end.saw_end)
            if not busy:
                break
        self.link.settle()
        for end in self.all:
            if end.other is not None and not end.is_reset:
                assert end.saw_end
                assert end.other.sent == end.got
                if end.stream.is_opener:
                    assert end.stream.status == end.other.status is not None
        assert not self.link.a.streams
        assert not self.link.b.streams
        for side in (self.link.a, self.link.b):
            assert not len(side.sender._turns)
            assert side.sender.is_idle
            assert side.budget.used_bytes == 0
            assert side.ping_sent_s is None
        if self.has_left:
            assert self.link.a.is_drained
            assert self.link.b.is_drained
        assert self.link.buffers.borrowed == 0


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
assert Disconnected
