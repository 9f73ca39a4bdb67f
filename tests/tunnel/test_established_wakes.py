"""No wake is lost: services that retry only after their notifier was set complete a conversation.

Every actor is a generator that yields the notifier for which it waits, like a service in the reactor. An
actor stays parked until its notifier is set. If all are parked, a wake was lost.
"""

from __future__ import annotations

import random
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.tunnels import ECHO, Flag, Pair, Tunnel
from tunnel.errors import ErrorCode, SubStreamReset
from tunnel.established import SubStream, TunnelLimits

Actor = Generator[Flag, None, None]
SMALL = TunnelLimits(window_chunks=4, sub_streams=4, rekey_chunks=9)


class Conversation:
    """Actors over one pair; `run` steps those that were woken, in random order."""

    def __init__(self, seed: int, *, limits: TunnelLimits = SMALL) -> None:
        self.rng = random.Random(seed)
        self.pair = Pair(limits=limits, random_seed=seed)
        self.parked: list[tuple[Actor, Flag | None, int]] = []
        self.read: dict[str, bytes] = {}
        self.progress = [Flag(), Flag()]
        for end in (self.pair.alice, self.pair.bob):
            self.start(self.sender(end))

    def start(self, actor: Actor) -> None:
        self.parked.append((actor, None, 0))

    def run(self) -> None:
        for _ in range(200_000):
            if all(end.is_finished for end in (self.pair.alice, self.pair.bob)):
                return
            ready = [
                i for i, (_, flag, count) in enumerate(self.parked) if flag is None or flag.count > count
            ]
            pipes = [end for end in (self.pair.alice, self.pair.bob) if self.pipe_of(end)]
            assert ready or pipes, "everybody waits: a wake was lost"
            if pipes and (not ready or self.rng.random() < 0.5):
                self.pair.deliver(self.rng.choice(pipes))
                continue
            actor, _, _ = self.parked.pop(self.rng.choice(ready))
            try:
                flag = next(actor)
            except StopIteration:
                continue
            # A level flag: the actor ignores wakes set while it ran, because it tried again afterwards.
            self.parked.append((actor, flag, flag.count))
        raise AssertionError("the conversation does not end")

    def pipe_of(self, end: Tunnel) -> bool:
        return bool(self.pair.to_alice if end is self.pair.alice else self.pair.to_bob)

    def sender(self, end: Tunnel) -> Actor:
        while not end.has_ended_sending:
            while self.pair.send(end):
                pass
            yield end.sendable

    def write_message(self, end: Tunnel, content: bytes, *, messages: int) -> Actor:
        for _ in range(messages):
            view = memoryview(content)
            while view:
                try:
                    view = view[end.outgoing.write(view) :]
                except BlockingIOError:
                    yield end.outgoing.writable
            while True:
                try:
                    end.outgoing.end()
                    break
                except BlockingIOError:
                    yield end.outgoing.writable

    def close_when_read(self, end: Tunnel, echoes: int) -> Actor:
        """Close once all sub-streams of both ends are read. Closing earlier would refuse new ones."""
        while sum(name.startswith("echo") for name in self.read) < echoes:
            yield self.progress[end is self.pair.alice]
        end.close()

    def read_messages(self, end: Tunnel, name: str) -> Actor:
        parts = []
        buffer = bytearray(self.rng.choice([10, 700, 5_000]))
        while True:
            try:
                if not end.incoming.next_message():
                    break
                while count := (yield from self.patient(end.incoming, buffer)):
                    parts.append(bytes(buffer[:count]))
                parts.append(b"|")
            except BlockingIOError:
                yield end.incoming.readable
        self.read[name] = b"".join(parts)

    def patient(self, stream: object, buffer: bytearray) -> Generator[Flag, None, int]:
        while True:
            try:
                count: int = stream.readinto(buffer)  # type: ignore[attr-defined]
            except BlockingIOError:
                yield stream.readable  # type: ignore[attr-defined]
            else:
                return count

    def use_sub_streams(self, end: Tunnel, content: bytes, *, times: int) -> Actor:
        """Open more sub-streams in sequence than may be open; write, close and read each to its end."""
        for _ in range(times):
            while True:
                try:
                    sub = end.open(ECHO)
                    break
                except BlockingIOError:
                    yield end.openable
            self.start(self.write_sub(sub, content))
            self.start(self.read_sub(sub, f"echo {end is self.pair.alice} {sub.number}"))

    def write_sub(self, sub: SubStream[Flag], content: bytes) -> Actor:
        view = memoryview(content)
        while True:
            try:
                sub.check_opened()
                break
            except BlockingIOError:
                yield sub.writable
        while view:
            try:
                view = view[sub.write(view) :]
            except BlockingIOError:
                yield sub.writable
        sub.close()

    def read_sub(self, sub: SubStream[Flag], name: str) -> Actor:
        parts = []
        buffer = bytearray(self.rng.choice([10, 700, 5_000]))
        while count := (yield from self.patient(sub, buffer)):
            parts.append(bytes(buffer[:count]))
        self.read[name] = b"".join(parts)
        for flag in self.progress:
            flag.set()

    def echo_service(self, end: Tunnel) -> Actor:
        while True:
            try:
                sub = end.accept()
            except BlockingIOError:
                yield end.acceptable
                continue
            sub.confirm()
            self.start(self.echo(sub))

    def echo(self, sub: SubStream[Flag]) -> Actor:
        buffer = bytearray(500)
        while count := (yield from self.patient(sub, buffer)):
            view = memoryview(buffer)[:count]
            while view:
                try:
                    view = view[sub.write(view) :]
                except BlockingIOError:
                    yield sub.writable
        sub.close()


@pytest.mark.full
@given(
    seed=st.integers(0, 2**32),
    length=st.sampled_from([0, 1, 974, 5_000, 20_000]),
    messages=st.integers(0, 4),
    times=st.integers(0, 9),
)
def test_a_conversation_ends_by_wakes_only(seed: int, length: int, messages: int, times: int) -> None:
    talk = Conversation(seed)
    content = talk.rng.randbytes(length)
    ends = {"alice": talk.pair.alice, "bob": talk.pair.bob}
    for name, end in ends.items():
        talk.start(talk.read_messages(end, name))
        talk.start(talk.echo_service(end))
    openers = [talk.use_sub_streams(end, content, times=times) for end in ends.values()]

    def then_messages(end: Tunnel, opener: Actor) -> Actor:
        yield from opener
        yield from talk.write_message(end, content, messages=messages)
        yield from talk.close_when_read(end, 2 * times)

    for end, opener in zip(ends.values(), openers, strict=True):
        talk.start(then_messages(end, opener))
    talk.run()
    for actor, _, _ in talk.parked:
        next(actor, None)  # content before the end is read without further chunks
    for name in ends:
        assert talk.read[name] == (content + b"|") * messages
    echoes = [value for name, value in talk.read.items() if name.startswith("echo")]
    assert len(echoes) == 2 * times
    assert all(value == content for value in echoes)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("closed_before", [False, True])
def test_giving_up_wakes_all_waiters(seed: int, closed_before: bool) -> None:
    talk = Conversation(seed)
    alice, bob = talk.pair.alice, talk.pair.bob
    woken = []
    knows_of_close: list[bool] = []

    def waits(end: Tunnel) -> Actor:
        while True:
            try:
                if not end.incoming.next_message():
                    knows_of_close.append(True)
                    end.sendable.set()
                    return
            except BlockingIOError:
                yield end.incoming.readable
            except SubStreamReset as error:
                woken.append(error.code)
                return

    def gives_up(end: Tunnel) -> Actor:
        while not end.is_established or (closed_before and not knows_of_close):
            yield end.sendable
        end.give_up(ErrorCode.SERVICE_FAILED)

    if closed_before:
        alice.close()
    for end in (alice, bob):
        talk.start(waits(end))
    # In a node only the sender waits for `sendable`; here both actors may.
    talk.start(gives_up(bob))
    talk.run()
    for actor, _, _ in talk.parked:
        next(actor, None)
    assert woken == [ErrorCode.SERVICE_FAILED] * (1 if closed_before else 2)
