"""The fast and the ordinary path of a chunk through a proxy: in any order of events both keep bytes, order
and credit.

A proxy relays frames between two links in memory. Hypothesis draws a seed; each step writes at Alice's side,
moves bytes of a wire, runs the proxy's services, or reads at Bob's side, as the seed decides. With no passes
per receive every chunk takes the ordinary path.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Reactor, Service, Signal
from reactor.core.timers import FakeClock
from tests.tunnel.helpers import OPENSSL, SMALL
from tests.tunnel.mux_helpers import KEY_1, KEY_2
from tunnel.errors import ErrorCode, StreamReset
from tunnel.link import mux
from tunnel.link.mux import Multiplexer, MuxLimits
from tunnel.link.noise import LinkKeys
from tunnel.link.records import Budget, BufferPool
from tunnel.node.relay.read_service import relay

CHUNK = SMALL.geometry.chunk_bytes
HEADER = bytes(SMALL.geometry.header_bytes)
Side = Multiplexer[Signal]


def _link(record_units: int = 0) -> tuple[Side, Side]:
    """The two sides of a link: who dialled, who was dialled."""

    def side(keys: LinkKeys, *, is_dialler: bool) -> Side:
        return Multiplexer(
            keys,
            is_dialler=is_dialler,
            engine=OPENSSL,
            limits=MuxLimits(),
            make_notifier=Signal,
            budget=Budget(64 << 20),
            now_s=lambda: 0.0,
            record_units=record_units,
            buffers=BufferPool(),
        )

    return (
        side(LinkKeys(KEY_1, KEY_2, b""), is_dialler=True),
        side(LinkKeys(KEY_2, KEY_1, b""), is_dialler=False),
    )


def _move(source: Side, target: Side, at_most: int) -> int:
    """Move up to so many bytes of the wire. Returns their number."""
    if source.sender.fixed_bytes and not source.sender.is_idle:
        source.tick()
    pending = source.pending
    if not pending:
        return 0
    space = target.space()
    count = min(len(space), len(pending), at_most)
    space[:count] = pending[:count]
    source.sent(count)
    target.received(count)
    return count


_FLIPS = [bytes(byte ^ number for byte in range(256)) for number in range(256)]


def _layer(chunk: memoryview, number: int) -> None:
    """A layer that depends on the number of the chunk and on each byte."""
    chunk[:] = bytes(chunk).translate(_FLIPS[(number + 1) % 256])


class Frame:
    """One direction of one frame through the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.source = proxy.alice.open(SMALL)
        self.source.write(HEADER)
        self.sent, self.got = bytearray(), bytearray()
        self.onward = proxy.outgoing.open(SMALL)
        self.onward.write(HEADER)
        proxy.settle()
        incoming, target = proxy.incoming.accept_nowait(), proxy.bob.accept_nowait()
        assert incoming is not None
        assert target is not None
        self.incoming, self.target = incoming, target
        for stream in (incoming, target):
            assert stream.readinto(memoryview(bytearray(len(HEADER)))) == len(HEADER)
        self.has_ended = False
        self.passed = 0  # chunks that took the short way
        self.layer = _layer
        self.relaying = proxy.reactor.spawn(self._relay())

    def _relay(self) -> Service[None]:
        yield from relay(self.incoming, self.onward, self._permute, CHUNK)
        self.onward.finish()

    def _permute(self, chunk: memoryview, number: int) -> None:
        self.passed += len(memoryview(chunk.obj)) > CHUNK  # in the buffer of the link
        self.layer(chunk, number)

    def write(self, data: bytes) -> None:
        while data:
            try:
                taken = self.source.write(data)
            except BlockingIOError:
                return
            self.sent += data[:taken]
            data = data[taken:]

    def read(self, limit: int) -> bool:
        """Read once. Returns whether more may follow at once."""
        buffer = memoryview(bytearray(limit))
        try:
            count = self.target.readinto(buffer)
        except BlockingIOError:
            return False
        self.got += buffer[:count]
        self.has_ended = not count
        return not self.has_ended

    def check_accounts(self) -> None:
        """When all has been read and nothing is in transit, each window is whole again."""
        for sender, receiver in ((self.source, self.incoming), (self.onward, self.target)):
            assert sender.credit == receiver.granted
            assert receiver.granted + receiver.owed == receiver.window_bytes
            assert sender.content_out == receiver.content_in == len(HEADER) + len(self.sent)


class Proxy:
    """Two links and the services between them."""

    def __init__(self, reactor: Reactor, record_units: int = 0) -> None:
        self.reactor = reactor
        self.alice, self.incoming = _link()
        self.outgoing, self.bob = _link(record_units)

    @property
    def wires(self) -> list[tuple[Side, Side]]:
        pairs = [(self.alice, self.incoming), (self.outgoing, self.bob)]
        return [*pairs, *((target, source) for source, target in pairs)]

    def settle(self) -> None:
        """Move and relay all that can be moved."""
        while True:
            moved = sum(_move(source, target, 1 << 30) for source, target in self.wires)
            self.reactor.turn()
            if not moved and not any(source.pending for source, _ in self.wires):
                return


def _pieces(rng: random.Random) -> Iterator[bytes]:
    while True:
        whole = rng.randbytes(CHUNK)
        if rng.random() < 0.8:
            yield whole
        else:
            cut = rng.randrange(1, CHUNK)
            yield whole[:cut]
            yield whole[cut:]


def _run(seed: int) -> list[Frame]:
    """Run one seed until all frames have ended."""
    rng = random.Random(seed)
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor, rng.choice([0, 0, 0, 5, 16]))
        frames = [Frame(proxy) for _ in range(rng.randint(1, 3))]
        pieces = _pieces(rng)
        for _ in range(rng.randint(5, 120)):
            frame = rng.choice(frames)
            kind = rng.random()
            if kind < 0.4:
                for _ in range(rng.choice([1, 1, 2, 20])):
                    frame.write(next(pieces))
            elif kind < 0.7:
                _move(*rng.choice(proxy.wires), rng.choice([1, 500, 5_000, 300_000]))
            elif kind < 0.85:
                reactor.turn()
            else:
                frame.read(rng.choice([1, CHUNK, 100_000]))
        for frame in frames:
            while rest := -len(frame.sent) % CHUNK:
                frame.write(bytes(rest))
                proxy.settle()
                while frame.read(1 << 16):
                    pass
            frame.source.finish()
        while not all(frame.has_ended for frame in frames):
            proxy.settle()
            for frame in frames:
                while frame.read(1 << 16):
                    pass
        proxy.settle()
        assert proxy.incoming.budget.used_bytes == proxy.bob.budget.used_bytes == 0
        return frames


def _expected(sent: bytes) -> bytes:
    content = bytearray(sent)
    for number in range(len(sent) // CHUNK):
        _layer(memoryview(content)[number * CHUNK : (number + 1) * CHUNK], number)
    return bytes(content)


@pytest.mark.parametrize("most_passes", [0, 32])
@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_bytes_order_and_credit_are_right(most_passes: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mux, "PASSES_PER_RECEIVE", most_passes)
        frames = _run(seed)
    for frame in frames:
        assert frame.got == _expected(bytes(frame.sent))
        frame.check_accounts()
        assert most_passes or not frame.passed


def test_only_a_whole_chunk_with_room_ahead_skips_the_queue() -> None:
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor)
        frame = Frame(proxy)
        proxy.settle()
        # Whole chunks, one in two parts, and a whole one again.
        for part, passed in ((CHUNK, 1), (CHUNK, 2), (10, 2), (CHUNK - 10, 2), (CHUNK, 3)):
            frame.write(bytes(part))
            proxy.settle()
            assert frame.passed == passed
            frame.read(CHUNK)
            proxy.settle()
        assert frame.got == _expected(bytes(4 * CHUNK))


def test_without_credit_behind_the_proxy_chunks_wait_in_order() -> None:
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor)
        frame = Frame(proxy)
        content = random.Random(1).randbytes(SMALL.geometry.window_bytes // CHUNK * 2 * CHUNK)
        sent = 0
        while sent < len(content):  # the windows of both links fill, then Bob reads
            frame.write(content[sent:])
            if len(frame.sent) == sent:
                break
            sent = len(frame.sent)
            proxy.settle()
        assert frame.incoming.unread_bytes
        assert frame.onward.credit < CHUNK
        while len(frame.got) < len(content):
            while frame.read(CHUNK):
                proxy.settle()
            frame.write(content[len(frame.sent) :])
            proxy.settle()
        assert frame.got == _expected(content)


def test_a_receive_with_many_chunks_passes_a_part_and_queues_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mux, "PASSES_PER_RECEIVE", 1)
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor)
        frame = Frame(proxy)
        proxy.settle()
        frame.write(bytes(2 * CHUNK))
        assert len(frame.sent) == 2 * CHUNK
        _move(proxy.alice, proxy.incoming, 1 << 30)
        assert frame.passed == 1
        assert frame.incoming.unread_bytes == CHUNK
        proxy.settle()
        while frame.read(1 << 16):
            pass
        assert frame.got == _expected(bytes(2 * CHUNK))


def test_a_failure_behind_the_proxy_ends_that_frame_only() -> None:
    """The link that receives goes on: the failure is that of another stream."""
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor)
        broken, other = Frame(proxy), Frame(proxy)
        proxy.settle()
        broken.onward.reset(ErrorCode.CANCELLED)
        broken.write(bytes(CHUNK))
        other.write(bytes(CHUNK))
        _move(proxy.alice, proxy.incoming, 1 << 30)
        assert not broken.passed
        assert other.passed == 1
        with pytest.raises(StreamReset):
            reactor.run(broken.relaying.join())
        assert broken.incoming.pass_on is None
        proxy.settle()
        other.read(CHUNK)
        assert other.got == _expected(bytes(CHUNK))


def test_a_layer_that_fails_ends_its_frame_only() -> None:
    with Reactor(clock=FakeClock()) as reactor:
        proxy = Proxy(reactor)
        broken, other = Frame(proxy), Frame(proxy)
        proxy.settle()

        def fail(chunk: memoryview, number: int) -> None:
            raise ZeroDivisionError

        broken.layer = fail
        broken.write(bytes(2 * CHUNK))
        other.write(bytes(CHUNK))
        proxy.settle()
        with pytest.raises(ZeroDivisionError):
            reactor.run(broken.relaying.join())
        other.read(CHUNK)
        assert other.got == _expected(bytes(CHUNK))
        assert not broken.onward.content_out - len(HEADER)
