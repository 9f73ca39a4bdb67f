"""`NetworkMachine`: hypothesis drives a network of nodes, and checks after each step what must always hold.

Rules start, stop, connect, cut, corrupt, lie and let time pass; queries and tunnels run meanwhile. The model
of a query is its content and the time by which it must have ended: `Asked`. The invariants:

* each query ends within its limit, with the exact content or a documented error with a code;
* no table of a node exceeds its limit, and no query that has ended leaves an entry behind;
* no service fails with an error that nobody expected;
* when all is healed, everything becomes idle, and queries succeed again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reactor import YIELD, Service, Sleep
from tests.network_model.hostile import BEHAVIOURS, make_honest, make_hostile
from tests.network_model.network import ModelNetwork, prefixed
from tests.network_model.wires import doubled, flipped, lost, shortened
from tunnel.errors import BadRoute, ErrorCode, QueryFailed
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LONG, STREAM, Geometry, Profile
from tunnel.modes import MODES, ErrorMode
from tunnel.node import Limits, Node, QueryResult
from tunnel.node.query.request import SERVED_MODES
from tunnel.node.tunnels.tunnel import NodeTunnel

__all__ = ["Asked", "NetworkMachine", "some_passes"]

# The documented limits; links are only looked at less often, which costs the test most.
LIMITS: Final = Limits(link_tick_s=15.0)
# What runs after the limit of a wait: cancelled services clean up, a node looks for new keys.
MARGIN_S: Final = 2.0
# Nothing moves for up to 1.5 idle_s: while the header is taken, while content moves, while the reply comes.
ATTEMPT_S: Final = 2 * LIMITS.dial_s + 3 * 1.5 * LIMITS.idle_s + LIMITS.linger_s
# All of a frame's streams are gone then, wherever it was held up.
QUIET_S: Final = LIMITS.answer_s + 1.5 * LIMITS.idle_s + LIMITS.linger_s

MACHINES: Final = st.integers(0, 7)
PAUSES_S: Final = st.sampled_from([0.02, 0.5, 3.0, 12.0, 45.0, 100.0, 700.0])


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
    """The messages of a tunnel, and what came back."""

    messages: tuple[bytes, ...]
    pause_s: float
    answers: list[bytes | None] = field(default_factory=list)

    def use(self, tunnel: NodeTunnel) -> Service[None]:
        """Send each message and wait for its answer."""
        for message in self.messages:
            self.answers.append((yield from tunnel.ask(prefixed("echo", message))))
            yield Sleep(self.pause_s)


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


class NetworkMachine(RuleBasedStateMachine):
    """See the module."""

    net: ModelNetwork

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.liars: set[int] = set()
        self.outcomes: list[str] = []

    @initialize(
        count=st.integers(5, 8),
        seed=st.integers(0, 1 << 20),
        learns=st.booleans(),
        delay_s=st.sampled_from([0.0, 0.05]),
    )
    def begin(self, count: int, seed: int, learns: bool, delay_s: float) -> None:
        self.net = ModelNetwork(count, seed, learns=learns, limits=LIMITS)
        self.net.__enter__()
        for one in range(count):
            for other in range(one):
                self._path(one, other).delay_s = delay_s
        self.net.pass_time(10.0)  # the nodes find each other

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        try:
            self._end_well()
        finally:
            self.net.__exit__()

    # -- machines and wires ------------------------------------------------------------------------------

    @rule(number=MACHINES)
    def crash(self, number: int) -> None:
        if (at := self._running(number)) is not None and len(self.net.nodes) > 2:
            self.net.crash(at)
            self.liars.discard(at)

    @rule(number=MACHINES)
    def leave(self, number: int) -> None:
        if (at := self._running(number)) is not None and len(self.net.nodes) > 2:
            self.net.leave(at)
            self.liars.discard(at)

    @rule(number=MACHINES)
    def start(self, number: int) -> None:
        at = number % len(self.net.machines)
        if self.net.machines[at].node is None:
            self.net.start(at)

    @rule(one=MACHINES, other=MACHINES)
    def cut(self, one: int, other: int) -> None:
        for wire in self.net.wires.between(self._host(one), self._host(other)):
            wire.cut()

    @rule(one=MACHINES, other=MACHINES, how=st.sampled_from(["is_held", "is_silent", "refuses"]))
    def block(self, one: int, other: int, how: str) -> None:
        setattr(self._path(one, other), how, True)

    @rule(one=MACHINES, other=MACHINES, delay_s=st.sampled_from([0.01, 1.0, 8.0]))
    def slow_down(self, one: int, other: int, delay_s: float) -> None:
        self._path(one, other).delay_s = delay_s

    @rule(
        one=MACHINES,
        other=MACHINES,
        side=st.integers(0, 1),
        fault=st.sampled_from([doubled, shortened, lost]) | st.integers(0, 20_000).map(flipped),
    )
    def damage(self, one: int, other: int, side: int, fault: Callable[[bytes], bytes]) -> None:
        for wire in self.net.wires.between(self._host(one), self._host(other)):
            wire.flows[side].fault = fault

    @rule(number=MACHINES, how=st.sampled_from(sorted(BEHAVIOURS)))
    def lie(self, number: int, how: str) -> None:
        if (at := self._running(number)) is not None:
            make_hostile(self.net[at], how)
            self.liars.add(at)

    @rule()
    def heal(self) -> None:
        self.net.wires.heal()
        for at in self.liars:
            make_honest(self.net[at])
        self.liars.clear()

    # -- time --------------------------------------------------------------------------------------------

    @rule(passes=st.integers(1, 60))
    def step(self, passes: int) -> None:
        """Let the nodes run a little, so that the next rule meets them in the middle of something."""
        self.net.run(some_passes(passes))

    @rule(seconds=PAUSES_S)
    def advance(self, seconds: float) -> None:
        self.net.pass_time(seconds)

    @rule(hours=st.sampled_from([1, 5, 25, 60]))
    def sleep(self, hours: int) -> None:
        """All machines sleep: onion keys are changed or have ended when they wake.

        The monotonic clock, by which nodes measure their limits, stands still meanwhile.
        """
        self.net.slept_s += 3600.0 * hours

    @rule(number=MACHINES, ahead_s=st.sampled_from([-90_000.0, -700.0, 0.0, 300.0, 700.0, 90_000.0]))
    def set_clock(self, number: int, ahead_s: float) -> None:
        """Set the wall clock of a machine."""
        self.net.machines[number % len(self.net.machines)].ahead_s = ahead_s

    # -- queries and tunnels -----------------------------------------------------------------------------

    @rule(wanted=st.lists(queries(), min_size=1, max_size=4))
    def query(self, wanted: list[Wanted]) -> None:
        for each in wanted:
            content, options = prefixed(each.service, each.content), each.options

            def ask(node: Node, to: bytes, content: bytes = content, options: Any = options) -> Future[Any]:
                return node.query(to, content, **options)

            asked = self._ask(each.asker, each.destination, ask, str(each), each.limit_s)
            if asked is not None:
                asked.expected, asked.may_fail = each.expected, each.service == "fails"

    @rule(
        asker=MACHINES,
        destination=MACHINES,
        hops=st.integers(0, 3),
        messages=st.lists(st.integers(0, 20_000).map(bytes), min_size=0, max_size=3).map(tuple),
        pause_s=st.sampled_from([0.0, 2.0, 40.0]),
    )
    def talk(
        self, asker: int, destination: int, hops: int, messages: tuple[bytes, ...], pause_s: float
    ) -> None:
        talk = Talk(messages, pause_s)
        self._ask(
            asker,
            destination,
            lambda node, to: _then(node.tunnel(to, talk.use, hops=hops), talk),
            f"tunnel over {hops} with {len(messages)} messages",
            (len(messages) + 2) * (ATTEMPT_S + pause_s),
        )

    def _ask(
        self,
        asker: int,
        destination: int,
        ask: Callable[[Node, bytes], Future[Any]],
        text: str,
        limit_s: float,
    ) -> Asked | None:
        machines, at = self.net.machines, self._running(asker)
        other = machines[destination % len(machines)]
        if at is None or other is machines[at]:
            return None
        try:
            future = ask(self.net[at], other.id)
        except BadRoute:
            self.outcomes.append("no route")
            return None
        asked = Asked(text, future, at, self.net.now_s + limit_s + MARGIN_S)
        self.asked.append(asked)
        return asked

    # -- what must hold ----------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "net"))
    @invariant()
    def each_query_ends_in_time_and_tells_the_truth(self) -> None:
        for asked in list(self.asked):
            if asked.future.done():
                self.asked.remove(asked)
                self.outcomes.append(outcome(asked))
            else:
                late_s = self.net.now_s - asked.ends_s
                assert late_s < 0, f"{asked.text}: {late_s:.0f} s after its limit"

    @precondition(lambda self: hasattr(self, "net"))
    @invariant()
    def tables_are_within_their_limits(self) -> None:
        for at, machine in enumerate(self.net.machines):
            if machine.node is not None:
                running = sum(asked.asker == at for asked in self.asked)
                check_tables(machine.node, running)

    @precondition(lambda self: hasattr(self, "net"))
    @invariant()
    def nothing_fails_unexpectedly(self) -> None:
        assert not self.net.bugs, self.net.bugs[0]

    def _end_well(self) -> None:
        """Heal everything: what runs ends, nothing is left, and queries work."""
        net = self.net
        self.heal()
        for machine in net.machines:
            machine.ahead_s = 0.0
        for at, machine in enumerate(net.machines):
            if machine.node is None:
                net.start(at)
        longest_s = max((asked.ends_s - net.now_s for asked in self.asked), default=0.0)
        net.pass_time(max(QUIET_S, longest_s))
        self.each_query_ends_in_time_and_tells_the_truth()
        self.nothing_fails_unexpectedly()
        for node in net.nodes:
            check_idle(node)
        self._queries_work()

    def _queries_work(self) -> None:
        """Each node asks the next one, as if nothing had happened."""
        machines = self.net.machines
        content = b"all is well" * 100
        asked = [
            node.query(machines[(at + 1) % len(machines)].id, prefixed("echo", content), hops=2, retries=3)
            for at, node in enumerate(self.net.nodes)
        ]
        self.net.pass_time(60.0)
        for at, future in enumerate(asked):
            assert future.done(), f"the query of machine {at} still runs"
            assert future.exception() is None, f"machine {at}: {future.exception()}"
            assert future.result().read() == content

    # -- helpers -----------------------------------------------------------------------------------------

    def _running(self, number: int) -> int | None:
        """The machine of this number if its node runs."""
        at = number % len(self.net.machines)
        return at if self.net.machines[at].node is not None else None

    def _host(self, number: int) -> str:
        return self.net.machines[number % len(self.net.machines)].host

    def _path(self, one: int, other: int) -> Any:
        return self.net.wires.path(self._host(one), self._host(other))


def some_passes(passes: int) -> Service[None]:
    """Let the loop run so many passes."""
    for _ in range(passes):
        yield YIELD


def _then(future: Future[Any], talk: Talk) -> Future[Talk]:
    """A future of the talk when its tunnel has ended in order."""
    talked: Future[Talk] = Future()

    def end(ended: Future[Any]) -> None:
        error = ended.exception()
        if error is None:
            talked.set_result(talk)
        else:
            talked.set_exception(error)

    future.add_done_callback(end)
    return talked


def outcome(asked: Asked) -> str:
    """How a query has ended. Raises AssertionError: with wrong content, or an undocumented error."""
    error = asked.future.exception(timeout=0)
    if error is None:
        result = asked.future.result()
        if isinstance(result, Talk):
            assert tuple(result.answers) == result.messages, asked.text
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


def check_tables(node: Node, running: int) -> None:
    """No table exceeds its limit.

    Args:
        running: queries and tunnels of this node's user that have not ended.
    """
    context, limits = node.context, node.context.limits
    held = {
        "pending": (len(context.pending), running),
        "own": (len(context.own), running),
        "queries": (len(context.queries), running),
        "invitations": (len(context.invitations), limits.queries),
        "half open": (context.half_open, limits.half_open),
        "links": (node.open_links, limits.links + limits.half_open),
        "turns": (len(context.turns), 0),
        "unread": (context.budget.used_bytes, limits.buffer_bytes),
        "tunnels": (context.tunnels.total, limits.tunnel_bytes),
    }
    above = {name: counts for name, counts in held.items() if counts[0] > counts[1]}
    assert not above, f"{node}: {above}"


def check_idle(node: Node) -> None:
    """Nothing is left of queries, tunnels and frames that have ended."""
    context = node.context
    left = {
        "streams": node.open_streams,
        "dialling": node.links.dialling,
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
