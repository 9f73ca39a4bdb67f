"""What a rule is, and how a case of it is carried out and judged.

A rule has a sentence of the document, a function that breaks it, and the reaction that the document promises.
A case is a rule at a point of a link, in a role, with one of the values that the rule refuses.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, Literal, overload

from tests.hostile.frames import DEST, PROFILE, ChunkSealer, RawSlot, header, status_code
from tests.hostile.network import MemoryNetwork
from tests.hostile.peer import ROLES, HostilePeer, Reaction, Role
from tests.support.second_implementation import expand
from tunnel.errors import ErrorCode, QueryFailed
from tunnel.link.cells import pack_open

__all__ = [
    "ALL_POINTS",
    "CONNECTED",
    "IDLE",
    "Case",
    "Expect",
    "Ranges",
    "Rule",
    "answered",
    "bits",
    "closed",
    "failed",
    "link",
    "nothing",
    "outside",
    "run_case",
    "status",
    "stream",
]


# --- values that a rule refuses ----------------------------------------------------------------------------


class Ranges(Sequence[int]):
    """Several ranges as one sequence; `edges` are the ends of each."""

    def __init__(self, *ranges: range) -> None:
        self._ranges = [each for each in ranges if len(each)]
        self._ends = list(accumulate(len(each) for each in self._ranges))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            raise TypeError("one value at a time")
        place = bisect_right(self._ends, index)
        return self._ranges[place][index - (self._ends[place - 1] if place else 0)]

    @property
    def edges(self) -> list[int]:
        return sorted({end for each in self._ranges for end in (each[0], each[-1])})


def outside(least: int, most: int, of_bits: int) -> Ranges:
    """All values of a field of so many bits but these."""
    return Ranges(range(least), range(most + 1, 1 << of_bits))


def bits(start: int, end: int) -> Ranges:
    """Numbers of the bits of these bytes."""
    return Ranges(range(8 * start, 8 * end))


# --- rules -------------------------------------------------------------------------------------------------

What = Literal["closed", "link", "stream", "status", "query", "answer", "nothing"]


@dataclass(frozen=True)
class Expect:
    """The reaction that the document promises.

    Attributes:
        what: closed: the connection ends without a word. link: it ends with RESET of stream 0, or without one
            if there is no code. stream: RESET of the stream alone. status: a STATUS with the code, and then
            that. query: a query of the node fails with the code, or with any if there is none, and blames the
            peer. answer: the reply, in mode `cached`, begins with these bytes. nothing: the link and
            its other streams go on.
        within_s: fake seconds until then.
        is_about_next: the STATUS tells of the node behind this one.
    """

    what: What
    code: ErrorCode | None = None
    within_s: float = 1.0
    is_about_next: bool = False
    answer: bytes = b""


def closed(within_s: float = 1.0) -> Expect:
    return Expect("closed", within_s=within_s)


def link(code: ErrorCode | None = ErrorCode.PROTOCOL, within_s: float = 1.0) -> Expect:
    return Expect("link", code, within_s)


def stream(code: ErrorCode, within_s: float = 1.0) -> Expect:
    return Expect("stream", code, within_s)


def status(code: ErrorCode, within_s: float = 1.0, *, is_about_next: bool = False) -> Expect:
    return Expect("status", code, within_s, is_about_next)


def failed(code: ErrorCode | None, within_s: float = 5.0) -> Expect:
    return Expect("query", code, within_s)


def answered(begins: bytes) -> Expect:
    return Expect("answer", within_s=3.0, answer=begins)


nothing: Final = Expect("nothing")

CONNECTED: Final = ("handshake",)
IDLE: Final = ("idle",)
_ABOUT_NEXT: Final = 256
_HALF_FRAME_S: Final = 60.0  # a frame of which nothing more comes ends after so long at the earliest
ALL_POINTS: Final = ("idle", "open", "header", "frame", "ended")


@dataclass(frozen=True)
class Rule:
    """One rule of a document.

    Attributes:
        sentence: as it stands in the document.
        do: breaks it, with a value.
        values: that the rule refuses.
        roles, points: where it can be broken.
        is_slow: a case takes seconds.
    """

    name: str
    sentence: str
    do: Callable[[HostilePeer, Any], None]
    expect: Expect
    values: Sequence[Any] = (None,)
    roles: tuple[Role, ...] = ROLES
    points: tuple[str, ...] = IDLE
    document: str = "docs/protocol.md"
    is_slow: bool = False

    @property
    def edges(self) -> Sequence[Any]:
        """The values at the ends of what is refused; all of them if they are listed."""
        if isinstance(self.values, range):
            return Ranges(self.values).edges
        return self.values.edges if isinstance(self.values, Ranges) else self.values


@dataclass(frozen=True)
class Case:
    """One try to break a rule."""

    rule: Rule
    role: Role
    point: str
    value: Any = field(repr=False)


# --- points of a link --------------------------------------------------------------------------------------


def _open(peer: HostilePeer) -> None:
    peer.send_cells(pack_open(peer.next_stream(), PROFILE, 0))


def _valid_header(peer: HostilePeer) -> tuple[bytes, bytes]:
    """A header with DEST for the victim, and its seed."""
    now_s = peer.network.wall_s()
    slot = RawSlot(int(now_s) + 3600, DEST, seed=peer.rng.randbytes(16))
    return header([(peer.target.descriptor, slot)], now_s), slot.seed


def _half_header(peer: HostilePeer) -> None:
    peer.open(PROFILE, peer.rng.randbytes(500), stream=peer.next_stream())


def _half_frame(peer: HostilePeer) -> None:
    peer.open(PROFILE, _valid_header(peer)[0] + peer.rng.randbytes(500), stream=peer.next_stream())


def _whole_frame(peer: HostilePeer) -> None:
    """A query whose service answers; then FIN."""
    head, seed = _valid_header(peer)
    chunk = ChunkSealer.forward(seed).seal(2, bytes(4) + b"\4echohello", flags=1)
    peer.open(PROFILE, head + chunk, stream=peer.next_stream())
    peer.send_fin(stream=peer.stream)


_POINTS: Final[dict[str, Callable[[HostilePeer], None]]] = {
    "idle": lambda peer: None,
    "open": _open,
    "header": _half_header,
    "frame": _half_frame,
    "ended": _whole_frame,
}


# --- a case ------------------------------------------------------------------------------------------------


def run_case(network: MemoryNetwork, case: Case, seed: int = 0) -> None:
    """Carry out a case, and check everything that it must and must not do."""
    rule = case.rule
    before = network.tables()
    network.records.faults.clear()
    peer = HostilePeer(network, case.role, rng=random.Random(seed))
    bystander = 0
    if case.point != "handshake":
        peer.handshake()
        _POINTS[case.point](peer)
        if rule.expect.what != "link" and rule.expect.within_s < _HALF_FRAME_S:
            _half_frame(peer)
            bystander = peer.stream
        peer.look()
    rule.do(peer, case.value)
    network.ask()
    found = peer.reaction(rule.expect.within_s)
    _judge(peer, found, rule.expect, bystander)
    network.check_honest()
    peer.leave()
    check_nothing_is_left(network, before)


def _judge(peer: HostilePeer, found: Reaction, expect: Expect, bystander: int) -> None:
    code = found.streams.get(peer.stream)
    if expect.what == "query":
        _judge_query(peer, expect)
        return
    if expect.what == "closed":
        assert found.is_closed, "the connection is still open"
        assert not peer.handshake_bytes, f"{peer.handshake_bytes} bytes came to one who has proven nothing"
        assert not peer.expects_refusal or peer.dial_error, "the dial has not failed"
        return
    if expect.what == "link":
        assert found.is_closed, f"the link is still open, streams ended with {found.streams}"
        assert found.link == expect.code, f"the link ended with {found.link!r}"
        return
    assert not found.is_closed, f"the link ended with {found.link!r}"
    assert not bystander or bystander not in found.streams, (
        f"another stream ended with {found.streams[bystander]!r}"
    )
    if expect.what == "answer":
        _judge_answer(peer, found, expect)
    if expect.what == "stream":
        assert code == expect.code, f"the stream ended with {code!r}"
        assert peer.stream not in found.statuses, "a STATUS came from one who has no keys"
    if expect.what == "status":
        assert code in (expect.code, None), f"the stream ended with {code!r}"
        assert code or peer.stream in found.ended, "neither RESET nor FIN came"
        assert peer.stream in found.statuses, "no STATUS came"
        told = status_code(found.statuses[peer.stream], peer.frame_seed) if peer.frame_seed else _told(expect)
        assert told == _told(expect), f"the STATUS tells {told}"
    assert peer.is_served(), "the link is not served any more"


def _judge_query(peer: HostilePeer, expect: Expect) -> None:
    assert peer.asked is not None
    peer.network.wait_until(peer.asked.done, expect.within_s)
    error = peer.asked.exception()
    assert isinstance(error, QueryFailed), f"the query ended with {error!r}"
    assert expect.code in (error.code, None), f"the query failed with {error.code!r}: {error}"
    # A report on a reply's way names its reader too, who is never drawn for a route.
    assert set(error.blamed) <= {peer.id, peer.target.id}, "an innocent node is blamed"


def _judge_answer(peer: HostilePeer, found: Reaction, expect: Expect) -> None:
    chunk = found.data.get(peer.stream, b"")[: PROFILE.geometry.chunk_bytes]
    assert len(chunk) == PROFILE.geometry.chunk_bytes, f"no reply came, the stream: {found.streams}"
    key = expand(peer.frame_seed, b"e2e backward", 32)
    plain = peer.engine.layers.aead(key).open(bytes(12), chunk)
    message = plain[6 : 6 + int.from_bytes(plain[4:6], "big")]
    assert message[4:].startswith(expect.answer), f"the reply is {message[4:20].hex()}"


def _told(expect: Expect) -> int:
    assert expect.code is not None
    return expect.code + (_ABOUT_NEXT if expect.is_about_next else 0)


def check_nothing_is_left(network: MemoryNetwork, before: dict[str, int]) -> None:
    """Check that after some seconds nothing is held for the peer, and that nothing was logged as a fault."""
    network.pass_time(12.0)
    network.settle()
    after = network.tables()
    if any(after[name] > before[name] for name in before):
        network.pass_time(120.0)  # frames that wait, and back-off from one who could not be dialled
        after = network.tables()
    grown = {name: (before[name], after[name]) for name in before if after[name] > before[name]}
    assert not grown, f"left behind (before, after): {grown}"
    assert not network.records.faults, network.records.faults[0]
