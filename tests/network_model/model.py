"""What the network machine asks of nodes, and what must hold of each: `Asked`, `outcome`, `check_tables`.

Queries and tunnels are drawn by `queries` and `talks`. The model of one is its content and the time by which
it must have ended.
"""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hypothesis import strategies as st

from reactor import Service, Sleep
from tests.network_model.network import ModelNetwork, prefixed
from tunnel.errors import BadRoute, ErrorCode, QueryFailed
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LONG, STREAM, Geometry, Profile
from tunnel.modes import MODES, ErrorMode
from tunnel.node import Limits, Node, QueryResult
from tunnel.node.query.request import SERVED_MODES
from tunnel.node.tunnels.tunnel import NodeTunnel

__all__ = [
    "ATTEMPT_S",
    "LIMITS",
    "MACHINES",
    "MARGIN_S",
    "QUIET_S",
    "SMALL",
    "Asked",
    "Talk",
    "Wanted",
    "check_idle",
    "check_tables",
    "outcome",
    "queries",
]

# The documented limits; links are only looked at less often, which costs the test most.
LIMITS: Final = Limits(link_tick_s=15.0)
# The same with tables that a few queries fill.
SMALL: Final = replace(
    LIMITS, links=6, streams_per_link=5, queries=3, half_open=2, links_per_address=3, replay_tags=500
)
# What runs after the limit of a wait: cancelled services clean up, a node looks for new keys.
MARGIN_S: Final = 2.0
# Nothing moves for up to 1.5 idle_s: while the header is taken, while content moves, while the reply comes.
ATTEMPT_S: Final = 2 * LIMITS.dial_s + 3 * 1.5 * LIMITS.idle_s + LIMITS.linger_s
# All of a frame's streams are gone then, wherever it was held up.
QUIET_S: Final = LIMITS.answer_s + 1.5 * LIMITS.idle_s + LIMITS.linger_s

MACHINES: Final = st.integers(0, 7)


@dataclass
class Asked:
    """A query or tunnel under way.

    Attributes:
        text: for messages. ends_s: by then it must have ended. expected: the content of each reply.
        may_fail: its service fails on purpose.
    """

    text: str
    future: Future[Any]
    asker: int
    ends_s: float
    expected: tuple[bytes, ...] = ()
    may_fail: bool = False


@dataclass
class Talk:
    """What passes a tunnel, and what came back: messages, and the same contents in sub-streams.

    Attributes:
        pause_s: after each message.
    """

    messages: tuple[bytes, ...]
    pause_s: float
    answers: list[bytes | None] = field(default_factory=list)

    def use(self, tunnel: NodeTunnel) -> Service[None]:
        """Send each message and wait for its answer."""
        for message in self.messages:
            self.answers.append((yield from tunnel.ask(prefixed("echo", message))))
            yield Sleep(self.pause_s)
            self.answers.append((yield from _echoed(tunnel, message)))

    @property
    def expected(self) -> list[bytes | None]:
        return [message for message in self.messages for _ in range(2)]


def _echoed(tunnel: NodeTunnel, content: bytes) -> Service[bytes]:
    """Send content over a sub-stream of its own, and read what comes back."""
    with (yield from tunnel.open("echo")) as stream:
        yield from stream.write(content[: len(content) // 2])
        received = b""
        if len(content) > 1:
            received = yield from stream.read()
        yield from stream.write(content[len(content) // 2 :])
        stream.close()
        while piece := (yield from stream.read()):
            received += piece
    return received


@dataclass(frozen=True)
class Wanted:
    """A query as drawn: who asks whom, for what."""

    asker: int
    destination: int
    service: str
    size: int
    options: dict[str, Any]

    @property
    def content(self) -> bytes:
        return random.Random(self.size).randbytes(self.size)

    @property
    def expected(self) -> tuple[bytes, ...]:
        """The content of each reply."""
        content = self.content if MODES[self.options["mode"]].has_reply else b""
        return tuple(content for _ in range(self.options["replies"]))

    @property
    def limit_s(self) -> float:
        """By then it has ended: its own limit, or that of all its attempts and one for new keys."""
        timeout_s: float | None = self.options["timeout_s"]
        return (self.options["retries"] + 2) * (ATTEMPT_S + 20.0) if timeout_s is None else timeout_s

    def __str__(self) -> str:
        return f"{self.service} with {self.size} bytes, {self.options}"


@st.composite
def queries(draw: st.DrawFn) -> Wanted:
    """Any query; the length of its content is near the end of a chunk."""
    geometry: Geometry = draw(st.sampled_from([INTERACTIVE, DEFAULT, LONG, BULK, STREAM]))
    mode = draw(st.sampled_from(SERVED_MODES))
    service = draw(st.sampled_from(["echo", "echo", "slow", "fails", "repeats"]))
    edge = draw(st.integers(0, 3)) * geometry.chunk_data_bytes - 4 - len(prefixed(service, b""))
    size = max(0, edge + draw(st.integers(-1, 1)))
    options = {
        "hops": draw(st.integers(0, 2 if MODES[mode].reply_blocks else 3)),
        "mode": mode,
        "error_mode": draw(st.sampled_from(ErrorMode)),
        "profile": Profile(geometry, draw(st.sampled_from([0, HCTR_SUITE]))).name,
        "retries": draw(st.integers(0, 3)),
        "timeout_s": draw(st.sampled_from([None, None, 1.0, 40.0])),
        "replies": 2 if service == "repeats" and MODES[mode].reply_blocks else 1,
    }
    return Wanted(draw(MACHINES), draw(MACHINES), service, size, options)


def outcome(asked: Asked) -> str:
    """How a query has ended. Raises AssertionError: with wrong content, or an undocumented error."""
    error = asked.future.exception(timeout=0)
    if error is None:
        result = asked.future.result()
        if isinstance(result, Talk):
            assert result.answers == result.expected, asked.text
            return "exact"
        assert isinstance(result, QueryResult)
        received = tuple(reply.read() for reply in result.replies)
        result.close()
        assert received == asked.expected, f"{asked.text}: got {[len(each) for each in received]} bytes"
        return "exact"
    if isinstance(error, BadRoute):
        return "no route"
    assert isinstance(error, QueryFailed), f"{asked.text}: {error!r}"
    assert isinstance(error.code, ErrorCode), f"{asked.text}: no code in {error!r}"
    if asked.may_fail:
        return "failed on purpose"
    return error.code.name


def check_tables(net: ModelNetwork, node: Node, running: int) -> None:
    """No table exceeds its limit, and none has entries of nodes that do not exist.

    Args:
        running: queries and tunnels of this node's user that have not ended.
    """
    context, limits, real = node.context, node.context.limits, {machine.id for machine in net.machines}
    held = {
        "pending": (len(context.pending), running),
        "own": (len(context.own), running),
        "queries": (len(context.queries), running),
        "invitations": (len(context.invitations), limits.queries),
        "half open": (context.half_open, limits.half_open),
        "links": (node.open_links, limits.links + limits.half_open),
        "streams": (node.open_streams, 2 * limits.streams_per_link * node.open_links),
        "turns": (len(context.turns), 0),
        "unread": (context.budget.used_bytes, limits.buffer_bytes),
        "tunnels": (context.tunnels.total, limits.tunnel_bytes),
        "replay tags": (max(len(each.table) for each in context.codec.ring.opening(0)), limits.replay_tags),
        # Hearsay and its failed dials leave no trace in what routes are drawn from.
        "peers": (len(context.peers), len(real)),
        "invented": (len({peer.node_id for peer in context.directory.sample()} - real), 0),
    }
    if node.id in net.inventors:  # it believes its own inventions
        del held["invented"], held["peers"]
    above = {name: counts for name, counts in held.items() if counts[0] > counts[1]}
    assert not above, f"{node}: {above}"


def check_idle(net: ModelNetwork, node: Node) -> None:
    """Nothing is left of queries, tunnels and frames that have ended."""
    context = node.context
    left = {
        "streams": node.open_streams,
        # Nodes that somebody has invented are dialled for as long as he tells of them.
        "dialling": 0 if net.inventors else node.links.dialling,
        "half open": context.half_open,
        "pending": len(context.pending),
        "own": len(context.own),
        "queries": len(context.queries),
        "receipts": len(context.receipts),
        "turns": len(context.turns),
        "unread": context.budget.used_bytes,
        "tunnels": context.tunnels.total,
    }
    assert not any(left.values()), f"{node} at rest holds {left}"
