"""Two ends of an established tunnel under random operations, against a model."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.tunnels import Flag, Pair
from tunnel.errors import (
    ErrorCode,
    PeerError,
    SubStreamReset,
)
from tunnel.established import SubStream, Target, TargetKind, TunnelLimits
from tunnel.geometry import INTERACTIVE

DATA = INTERACTIVE.chunk_data_bytes
MANY_KEYS = TunnelLimits(rekey_chunks=5, window_chunks=4, sub_streams=4)


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
