"""A tunnel whose other end no longer answers: noticed in time while traffic waits, and only then.

All tests use a fake clock. Each end is driven as by a node: `look` once every tick while it is not settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from tests.tunnel.tunnels import ECHO, Pair, RawEnd, Tunnel, make_end, read_some
from tunnel.errors import LocalTunnelError, MalformedMessage, TunnelSilent
from tunnel.established import End, TunnelLimits
from tunnel.established.layouts import Pad
from tunnel.link.handshake import PaddingMode
from tunnel.node import Limits
from tunnel.onion.message import ChunkType

SILENT_S = 10.0
TICK_S = 1.0
LIMITS = TunnelLimits(silent_s=SILENT_S)
PADS = {pad: pad.pack() for pad in (Pad.PROBE, Pad.ANSWER)}


class Timed:
    """A pair of ends on one clock, whose paths can be cut.

    Attributes:
        cuts: ends whose chunks are lost: a hop swallows them. paused: ends that do nothing at all.
        blind: ends that do not look.
        dead: when each end noticed, and why.
    """

    def __init__(self, *, bob_limits: TunnelLimits | None = None) -> None:
        self.pair = Pair(limits=LIMITS, bob_limits=bob_limits)
        self.names = {"alice": self.pair.alice, "bob": self.pair.bob}
        self.cuts: set[str] = set()
        self.paused: set[str] = set()
        self.blind: set[str] = set()
        self.dead: dict[str, tuple[float, str]] = {}
        self.sent = {"alice": 0, "bob": 0}

    def settle(self) -> None:
        """Move chunks until nothing moves."""
        while any(
            [self._move("alice", "bob", self.pair.to_bob), self._move("bob", "alice", self.pair.to_alice)]
        ):
            pass

    def _move(self, name: str, other: str, pipe: deque[bytes]) -> bool:
        """Move all chunks of one end. Whether there were any."""
        sent = 0
        while name not in self.paused and self.pair.send(self.names[name]):
            sent += 1
        self.sent[name] += sent
        if name in self.cuts or other in self.dead:
            pipe.clear()
        arrived = 0
        while other not in self.paused and self.pair.deliver(self.names[other]):
            arrived += 1
        return sent + arrived > 0

    def run(self, seconds: float, *, each: Callable[[], object] = lambda: None) -> None:
        """Let time pass, in ticks; `each` is called in each."""
        for _ in range(round(seconds / TICK_S)):
            self.settle()
            self.pair.now_s += TICK_S
            each()
            for name, end in self.names.items():
                if name not in self.blind | self.paused | set(self.dead) and not end.silence.is_settled:
                    try:
                        end.look(self.pair.now_s)
                    except TunnelSilent as error:
                        self.dead[name] = self.pair.now_s, str(error)
                        end.fail(error)
        self.settle()


@pytest.fixture
def timed() -> Timed:
    """An established pair without anything under way."""
    timed = Timed()
    timed.run(20)
    assert timed.pair.alice.is_established
    assert timed.sent == {"alice": 2, "bob": 1}  # HELLO and REKEY, no probe
    timed.pair.now_s = 0.0
    return timed


def message(end: Tunnel, text: bytes = b"hello") -> None:
    end.outgoing.write(text)
    end.outgoing.end()


def test_nothing_waits_so_nothing_is_sent_and_nothing_noticed(timed: Timed) -> None:
    timed.paused.add("bob")
    before = dict(timed.sent)
    timed.run(1_000)
    assert timed.sent == before
    assert not timed.dead
    assert timed.pair.alice.silence.is_settled


@pytest.mark.parametrize("sender", ["alice", "bob"])
@pytest.mark.parametrize("fault", ["paused", "swallowed", "swallowed on the way back"])
def test_a_message_into_silence_fails_in_time(timed: Timed, sender: str, fault: str) -> None:
    other = "bob" if sender == "alice" else "alice"
    if fault == "paused":
        timed.paused.add(other)
    else:
        timed.cuts.add(sender if fault == "swallowed" else other)
    message(timed.names[sender])
    timed.run(20)
    when_s, why = timed.dead[sender]
    assert 8 <= when_s <= SILENT_S
    assert "nothing has arrived for" in why
    with pytest.raises(TunnelSilent):
        message(timed.names[sender])


def test_keystrokes_do_not_put_it_off(timed: Timed) -> None:
    """Small writes go on in the window, one a second: the time counts from the first without an answer."""
    stream = timed.pair.alice.open(ECHO)
    timed.settle()
    timed.pair.bob.accept().confirm()
    timed.run(10)
    timed.pair.now_s = 0.0
    timed.paused.add("bob")

    def press() -> None:
        if not timed.dead:
            stream.write(b"k")

    stream.write(b"k")
    timed.run(20, each=press)
    assert timed.dead["alice"][0] <= SILENT_S


def test_a_download_that_stops_is_noticed_by_its_reader(timed: Timed) -> None:
    """The reader sends nothing while it reads the first part: it has no credit to grant yet."""
    stream = timed.pair.alice.open(ECHO)
    timed.settle()
    other = timed.pair.bob.accept()
    other.confirm()
    timed.run(10)
    timed.pair.now_s = 0.0
    other.write(b"the first part")
    timed.settle()
    assert read_some(stream) == b"the first part"
    timed.paused.add("bob")
    timed.run(20)
    assert timed.dead["alice"][0] <= SILENT_S
    assert stream.failure is timed.pair.alice.failure


def test_one_probe_after_traffic_and_no_more(timed: Timed) -> None:
    """An open sub-stream on which nobody sends costs a probe, however long it stays."""
    timed.pair.alice.open(ECHO)
    timed.settle()
    timed.pair.bob.accept().confirm()
    before = dict(timed.sent)
    timed.run(1_000)
    assert not timed.dead
    # Each end asks once, and answers once.
    assert {name: timed.sent[name] - before[name] for name in before} == {"alice": 2, "bob": 3}


def test_content_without_an_answer_holds_the_verdict_back(timed: Timed) -> None:
    """On a slow path the answer is behind a long queue: whatever arrives shows that the path works."""
    message(timed.pair.alice)
    timed.cuts.add("alice")
    timed.blind.add("bob")
    timed.run(60, each=lambda: message(timed.pair.bob, b"x"))
    assert "alice" not in timed.dead
    timed.paused.add("bob")
    timed.run(10)
    assert "alice" in timed.dead


def test_content_that_arrives_after_the_probe_starts_the_whole_time_again(timed: Timed) -> None:
    """The answer may be behind it, in a queue that a slow link takes seconds to send."""
    message(timed.pair.alice)
    timed.cuts.add("alice")
    timed.blind.add("bob")
    timed.run(6)  # the probe has left
    message(timed.pair.bob)
    timed.run(8)
    assert "alice" not in timed.dead
    timed.run(2)
    assert "alice" in timed.dead


def test_chunks_that_keep_alive_do_not_hold_the_verdict_back(timed: Timed) -> None:
    message(timed.pair.alice)
    timed.cuts.add("alice")
    timed.run(12, each=timed.pair.bob.pad)
    assert timed.dead["alice"][0] <= SILENT_S


def test_the_padding_of_a_closing_end_holds_the_verdict_back(timed: Timed) -> None:
    """A direction of many chunks is filled up with many, which takes a slow path a while."""
    for _ in range(1_030):
        message(timed.pair.bob, b"x" * 900)
        timed.settle()
        assert timed.pair.alice.incoming.next_message()
        assert timed.pair.alice.incoming.readinto(bytearray(1_000)) == 900
    timed.pair.alice.close()
    timed.settle()
    timed.pair.bob.close()
    padding: list[bytes] = []
    while timed.pair.send(timed.pair.bob):
        padding.append(timed.pair.to_alice.pop())
    assert len(padding) > 30
    timed.cuts.add("bob")  # what it sends is in `padding`, and arrives by hand
    timed.run(3 * len(padding), each=lambda: deliver_one_of_three(timed, padding))
    assert not timed.dead
    assert timed.pair.alice.is_finished


def deliver_one_of_three(timed: Timed, padding: list[bytes]) -> None:
    if padding and round(timed.pair.now_s) % 3 == 0:
        timed.pair.alice.received(memoryview(bytearray(padding.pop(0))))


def test_a_closed_tunnel_whose_other_end_is_gone_is_noticed(timed: Timed) -> None:
    timed.pair.bob.close()
    timed.settle()
    timed.paused.add("bob")
    timed.pair.alice.close()
    timed.run(20)
    assert timed.pair.alice.has_ended_sending
    assert timed.dead["alice"][0] <= SILENT_S + 2 * TICK_S


def test_a_closed_tunnel_may_wait_for_an_end_that_answers(timed: Timed) -> None:
    """Only one end has closed: the other may go on for as long as it likes."""
    timed.pair.alice.close()
    timed.run(1_000)
    assert not timed.dead


def test_the_first_answer_may_take_longer() -> None:
    timed = Timed()
    timed.paused.add("bob")
    timed.run(14)
    assert not timed.dead
    timed.run(3)
    assert timed.dead["alice"][1] == "no answer to HELLO within 15 s"


def test_a_probe_by_request(timed: Timed) -> None:
    """For a tunnel that stands ready: nothing waits, and it is checked all the same."""
    timed.pair.alice.silence.probe()
    timed.run(20)
    assert not timed.dead
    timed.pair.now_s = 0.0
    timed.paused.add("bob")
    timed.pair.alice.silence.probe()
    timed.run(20)
    assert timed.dead["alice"][0] <= SILENT_S


def test_the_time_of_a_probe_begins_when_it_has_left(timed: Timed) -> None:
    """The node asks for the next chunk when the last has left; before, that one is in its own queue."""
    end, out = timed.pair.alice, bytearray(timed.pair.geometry.chunk_bytes)

    def take() -> bool:
        return end.next_chunk(memoryview(out), timed.pair.now_s)

    def look_until(now_s: float) -> None:
        while timed.pair.now_s < now_s:
            timed.pair.now_s += TICK_S
            end.look(timed.pair.now_s)

    message(end)
    assert take()
    assert not take()
    look_until(3)
    assert end.silence.is_due
    assert take()  # the probe, which the link takes four seconds later
    look_until(7)
    assert not take()
    look_until(11)
    with pytest.raises(TunnelSilent, match="nothing has arrived for 12 s"):
        look_until(13)


def test_a_first_link_that_takes_nothing(timed: Timed) -> None:
    """No probe can leave behind a chunk that the link does not take."""
    end, out = timed.pair.alice, bytearray(timed.pair.geometry.chunk_bytes)
    message(end)
    assert end.next_chunk(memoryview(out), 0.0)  # and is never called again
    for now_s in range(1, 8):
        end.look(float(now_s))
    with pytest.raises(TunnelSilent, match="the first link has taken nothing for 8 s"):
        end.look(8.0)


def test_a_link_with_occasional_chunks_counts_as_slow_not_dead(timed: Timed) -> None:
    """It takes one each six seconds: a message, then the probe that asks for it, and so on."""
    end, bob = timed.pair.alice, timed.pair.bob
    out = bytearray(timed.pair.geometry.chunk_bytes)
    message(end)
    assert end.next_chunk(memoryview(out), 0.0)
    for now_s in range(1, 121):
        end.look(float(now_s))
        if now_s % 6 == 0:
            bob.received(memoryview(out))
            while timed.pair.send(bob):
                timed.pair.deliver(end)
            if now_s % 12 == 0:
                message(end)
            assert end.next_chunk(memoryview(out), float(now_s))


def test_a_node_that_was_itself_stopped_starts_over(timed: Timed) -> None:
    """What arrived meanwhile is still to be read: the clock alone must not end the tunnel."""
    message(timed.pair.alice)
    timed.paused.add("bob")
    timed.run(5)
    timed.pair.now_s += 3_600
    timed.pair.alice.look(timed.pair.now_s)
    timed.paused.clear()
    timed.run(20)
    assert not timed.dead
    assert timed.pair.alice.silence.is_settled


def test_content_sent_after_a_probe_is_probed_again(timed: Timed) -> None:
    message(timed.pair.alice)
    timed.run(2)
    timed.paused.add("bob")
    timed.run(2)  # the probe has left
    message(timed.pair.alice)
    timed.settle()
    timed.pair.to_bob.pop()  # a later chunk is lost
    timed.paused.clear()
    timed.settle()  # the answer to the probe has come
    assert not timed.pair.alice.silence.is_settled
    timed.cuts.add("alice")
    timed.run(10)
    assert "alice" in timed.dead


def hand(end: End = End.ALICE) -> RawEnd:
    """An end written by hand, established with a real one."""
    other = End.BOB if end is End.ALICE else End.ALICE
    raw = RawEnd(make_end(other, limits=LIMITS), end)
    raw.establish()
    return raw


@pytest.mark.parametrize("end", End)
def test_a_flood_of_probes_gets_one_answer_at_a_time(end: End) -> None:
    raw = hand(end)
    for _ in range(1_000):
        raw.send(ChunkType.PAD, PADS[Pad.PROBE])
    assert raw.take_all() == [(ChunkType.PAD, 0, 0, PADS[Pad.ANSWER])]
    raw.send(ChunkType.PAD, PADS[Pad.PROBE])
    assert raw.take_all() == [(ChunkType.PAD, 0, 0, PADS[Pad.ANSWER])]


def test_an_answer_is_sent_before_content() -> None:
    raw = hand()
    message(raw.other)
    raw.send(ChunkType.PAD, PADS[Pad.PROBE])
    assert [kind for kind, *_ in raw.take_all()] == [ChunkType.PAD, ChunkType.END]


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("data", [b"\x00", b"\x03", b"\xff", b"\x01\x01", b"\x02" * 900])
def test_a_pad_with_other_data_ends_the_tunnel(end: End, data: bytes) -> None:
    assert isinstance(hand(end).refused(ChunkType.PAD, data), MalformedMessage)


@pytest.mark.parametrize("end", End)
def test_an_answer_to_nothing_ends_the_tunnel(end: End) -> None:
    error = hand(end).refused(ChunkType.PAD, PADS[Pad.ANSWER])
    assert str(error) == "PAD answers a probe that was not sent"


def test_one_answer_more_than_probes_ends_the_tunnel() -> None:
    raw = hand()
    raw.other.silence.probe()
    assert raw.take_all() == [(ChunkType.PAD, 0, 0, PADS[Pad.PROBE])]
    raw.send(ChunkType.PAD, PADS[Pad.ANSWER])
    assert isinstance(raw.refused(ChunkType.PAD, PADS[Pad.ANSWER]), MalformedMessage)


def test_a_last_chunk_has_no_data() -> None:
    raw = hand()
    raw.other.close()
    raw.send(ChunkType.CLOSE, bytes(2))
    assert isinstance(raw.refused(ChunkType.PAD, PADS[Pad.PROBE], flags=1), MalformedMessage)


@pytest.mark.parametrize("silent_s", [0.0, -1.0, float("nan"), float("inf")])
def test_the_limit_is_a_time(silent_s: float) -> None:
    with pytest.raises(LocalTunnelError, match="silent_s"):
        TunnelLimits(silent_s=silent_s)


def test_links_of_a_constant_rate_have_more_patience() -> None:
    """16 KiB a second by default: some chunks take longer than ten seconds."""
    assert Limits(idle_s=40.0).tunnel_ends.silent_s == 10.0
    assert Limits(idle_s=40.0, padding=PaddingMode.CONSTANT).tunnel_ends.silent_s == 40.0
    assert Limits(idle_s=4.0, padding=PaddingMode.CONSTANT).tunnel_ends.silent_s == 10.0
