"""`NetworkMachine`: hypothesis drives a network of nodes, and checks after each step what must always hold.

Rules start, stop, connect, cut, corrupt, lie and let time pass; queries and tunnels run meanwhile. The model
of a query is its content and the time by which it must have ended: `Asked`. The invariants:

* each query ends within its limit, with the exact content or a documented error with a code;
* no table of a node exceeds its limit, and no query that has ended leaves an entry behind;
* no service fails with an error that nobody expected;
* when all is healed, everything becomes idle, and queries succeed again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.network_model.hostile import BEHAVIOURS, make_honest, make_hostile
from tests.network_model.model import (
    ATTEMPT_S,
    LIMITS,
    MACHINES,
    MARGIN_S,
    QUIET_S,
    SMALL,
    Asked,
    Talk,
    Wanted,
    check_idle,
    check_tables,
    outcome,
    queries,
)
from tests.network_model.network import ModelNetwork, prefixed
from tests.network_model.wires import Path, doubled, flipped, lost, shortened
from tunnel.errors import BadRoute
from tunnel.node import Limits, Node

__all__ = ["NetworkMachine"]

PAUSES_S: Final = st.sampled_from([0.02, 0.5, 3.0, 12.0, 45.0, 100.0, 700.0])


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
        limits=st.sampled_from([LIMITS, LIMITS, SMALL]),
    )
    def begin(self, count: int, seed: int, learns: bool, delay_s: float, limits: Limits) -> None:
        self.net = ModelNetwork(count, seed, learns=learns, limits=limits)
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

    @rule(number=MACHINES, count=st.integers(1, 40))
    def invent(self, number: int, count: int) -> None:
        """Let a machine tell the others of nodes that do not exist."""
        self.net.invent(number % len(self.net.machines), count)

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
        self.net.step(passes)

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
            (len(messages) + 2) * (2 * ATTEMPT_S + pause_s),
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
        # One that finds all places of its node taken waits for one of them.
        before = [each.ends_s for each in self.asked if each.asker == at]
        waits_s = max(before, default=0.0) - self.net.now_s if len(before) >= SMALL.queries else 0.0
        asked = Asked(text, future, at, self.net.now_s + waits_s + limit_s + MARGIN_S)
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
                check_tables(self.net, machine.node, running)

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
            check_idle(net, node)
        self._queries_work()

    def _queries_work(self) -> None:
        """Each node asks the next one, as if nothing had happened."""
        net, content = self.net, b"all is well" * 100
        for at, node in enumerate(net.nodes):
            if node.id in net.inventors:
                continue  # it believes its own inventions
            to = net.machines[(at + 1) % len(net.machines)].id
            future = node.query(to, prefixed("echo", content), hops=2, retries=3, timeout_s=60.0)
            while not future.done():
                net.pass_time(1.0)
            assert future.exception() is None, f"machine {at}: {future.exception()}"
            assert future.result().read() == content

    # -- helpers -----------------------------------------------------------------------------------------

    def _running(self, number: int) -> int | None:
        """The machine of this number if its node runs."""
        at = number % len(self.net.machines)
        return at if self.net.machines[at].node is not None else None

    def _host(self, number: int) -> str:
        return self.net.machines[number % len(self.net.machines)].host

    def _path(self, one: int, other: int) -> Path:
        return self.net.wires.path(self._host(one), self._host(other))


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
