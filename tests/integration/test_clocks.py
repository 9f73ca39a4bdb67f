"""Nodes with wrong clocks: the suspects, the error texts, and that the nodes can be reached again afterwards.

Each node of a network has its own clock, which the test sets.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from reactor import ReactorThread, Service
from tests.support.network import PATIENCE_S, wait_until
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.codes import clock_text
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, TunnelError
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.node.tunnels.tunnel import NodeTunnel

HOUR_S: Final = 3_600.0
DAY_S: Final = 24 * HOUR_S
# At this difference no expiry of an honest sender is accepted by both.
FAR_S: Final = 4.5 * HOUR_S


class _Clock:
    """A wall clock that is `ahead_s` ahead of the right one."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class _Net:
    """Running nodes. `ahead_s`: how far the clock of each was ahead when its keys were made."""

    def __init__(self, thread: ReactorThread, ahead_s: list[float], limits: Limits) -> None:
        self.thread = thread
        self.clocks = [_Clock(ahead) for ahead in ahead_s]
        directory = StaticDirectory()
        self.nodes = [
            Node(
                NodeKeys.generate(clock()), directory, reactor=thread.reactor, limits=limits, wall_clock=clock
            )
            for clock in self.clocks
        ]
        for node in self.nodes:
            directory.publish(node.descriptor)
            thread.submit(node.serve())

    def set(self, ahead_s: float, *indices: int) -> None:
        for index in indices or range(len(self.nodes)):
            self.clocks[index].ahead_s = ahead_s

    def wait_new_keys(self, *indices: int) -> Callable[[], None]:
        """Begin to wait for new descriptors of these nodes; call the result to wait."""
        before = {index: self.nodes[index].descriptor for index in indices}
        return lambda: wait_until(
            self.thread, lambda: all(self.nodes[at].descriptor is not known for at, known in before.items())
        )

    def ask(self, asks: int, answers: int, *proxies: int, mode: ReplyMode = ReplyMode.ROUTE) -> bytes:
        route = Route(tuple(self.nodes[index].id for index in proxies), self.nodes[answers].id)
        query = self.nodes[asks].query(route.destination, b"x", route=route, mode=mode)
        return query.result(PATIENCE_S).read()

    def short(self, index: int) -> str:
        return self.nodes[index].id.hex()[:8]


@contextlib.contextmanager
def clocked(*ahead_s: float, tick_s: float = 60.0) -> Iterator[_Net]:
    with ReactorThread() as thread:
        net = _Net(thread, list(ahead_s), Limits(key_tick_s=tick_s))
        try:
            yield net
        finally:
            for node in net.nodes:
                node.close()


def shows(text: str, ahead_s: float) -> bool:
    """Whether a text contains the time of a clock, to the minute."""
    return any(clock_text(time.time() + ahead_s + more_s) in text for more_s in (-60, 0, 60))


# --- wrong clocks


@pytest.mark.parametrize("ahead_s", [660, 3_600, 86_400, -660, -7_200, -86_400])
def test_one_wrong_clock_does_not_spoil_the_queries_between_others(ahead_s: float) -> None:
    with clocked(0, 0, 0, 0, ahead_s) as net:
        for _ in range(10):
            query = net.nodes[0].query(net.nodes[1].id, b"x", hops=2, retries=3)
            assert query.result(PATIENCE_S).read() == b"x"


@pytest.mark.parametrize("ahead_s", [-FAR_S, FAR_S])
def test_a_reply_route_that_begins_at_a_wrong_clock_is_not_blamed_on_the_destination(ahead_s: float) -> None:
    """The first hop of the reply path refuses the header, so it cannot report. Bob reports about it."""
    with clocked(*[-DAY_S / 2] * 8) as net:
        net.set(0)
        net.set(ahead_s, 4)
        there = Route((net.nodes[1].id, net.nodes[2].id), net.nodes[3].id)
        back = Route((net.nodes[4].id, net.nodes[5].id), net.nodes[0].id)
        query = net.nodes[0].query(
            there.destination, b"x", route=there, reply_route=back, mode=ReplyMode.OTHER_ROUTE, retries=3
        )
        result = query.result(PATIENCE_S)
        assert result.read() == b"x"
        (failure,) = result.attempts
        assert failure.blamed == (net.nodes[3].id, net.nodes[4].id)
        assert "(EXPIRED at the destination about the first hop of the reply path)" in str(failure)
        assert net.short(4) in str(failure)
        assert shows(str(failure), ahead_s)


@pytest.mark.parametrize("ahead_s", [-FAR_S, FAR_S, -DAY_S, DAY_S])
def test_the_error_shows_both_clocks_when_the_sender_has_the_wrong_one(ahead_s: float) -> None:
    with clocked(*[-DAY_S / 2] * 4) as net:
        net.set(0)
        net.set(ahead_s, 0)
        with pytest.raises(TunnelError) as caught:
            net.ask(0, 3, 1, 2)
        text = str(caught.value)
        assert shows(text, ahead_s), text
        if isinstance(caught.value, QueryFailed):
            # A link was made: the first hop has sent its time in the handshake.
            assert shows(text, 0)
            assert f"the clock of {net.short(1)} shows" in text
            assert "set the clock that is wrong" in caught.value.hint
        else:
            assert isinstance(caught.value, BadRoute)
            assert "this machine's clock" in text
            assert "set this machine's clock" in caught.value.hint


@pytest.mark.parametrize("ahead_s", [-FAR_S, FAR_S, -DAY_S / 2 - 4_000, DAY_S / 2 + 4_000])
@pytest.mark.parametrize("place", [1, 2, 3], ids=["first", "second", "destination"])
def test_the_error_shows_both_clocks_when_a_node_of_the_route_has_a_wrong_one(
    ahead_s: float, place: int
) -> None:
    """The handshake shows the clock of the first hop; the previous hop reports that of any other."""
    with clocked(*[-DAY_S / 2] * 4) as net:
        net.set(0)
        net.set(ahead_s, place)
        with pytest.raises(QueryFailed) as caught:
            net.ask(0, 3, 1, 2)
        text = str(caught.value)
        assert shows(text, ahead_s), text
        assert shows(text, 0), text
        assert net.short(place) in text


def test_most_neighbours_differing_means_this_clock(caplog: pytest.LogCaptureFixture) -> None:
    with clocked(*[-DAY_S / 2] * 4) as net:
        net.set(0)
        net.set(FAR_S, 0)
        with caplog.at_level(logging.WARNING, "tunnel.node"):
            for first in (1, 2, 3):
                with pytest.raises(QueryFailed) as caught:
                    net.ask(0, 3 if first != 3 else 2, first)
        assert "its own clock is probably wrong" in str(caught.value)
        assert "most neighbours of this node differ" in str(caught.value)
        logged = [record.message for record in caplog.records]
        assert any("(this node's own is probably wrong)" in line for line in logged)


def test_clock_differences_within_ten_minutes_are_accepted(caplog: pytest.LogCaptureFixture) -> None:
    with clocked(0, 300, -300, 0) as net, caplog.at_level(logging.WARNING, "tunnel.node"):
        assert net.ask(0, 3, 1, 2) == b"x"
        assert net.ask(3, 1, 0) == b"x"
    assert "clock" not in caplog.text


# --- clocks that were wrong for a moment


@pytest.mark.parametrize("ahead_s", [3 * HOUR_S, 48 * HOUR_S, 365 * DAY_S])
def test_a_clock_that_jumps_ahead_once_leaves_a_node_that_can_be_reached(
    ahead_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    with clocked(*[0.0] * 5, tick_s=0.01) as net:
        assert net.ask(0, 4, 1) == b"x"
        moved_on = net.wait_new_keys(4)
        net.set(ahead_s, 4)
        if ahead_s > DAY_S:
            moved_on()
        for _ in range(6):
            # A header that is accepted leaves the time of the jump in tables.
            with contextlib.suppress(TunnelError):
                net.ask(0, 4, 1)
            with contextlib.suppress(TunnelError):
                net.ask(4, 0, 1)
        net.set(0, 4)
        # A tick at which the clock is right.
        wait_until(net.thread, lambda: net.nodes[4].descriptor.onion_keys[0].not_before < time.time())
        ring = net.nodes[4].context.codec.ring
        wait_until(net.thread, lambda: ring.clock_fault(time.time()) is None)
        for mode in (ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.CACHED):
            if mode is not ReplyMode.OTHER_ROUTE:
                assert net.ask(0, 4, 1, mode=mode) == b"x"
                assert net.ask(4, 0, 1, mode=mode) == b"x"
                assert net.ask(0, 1, 4, mode=mode) == b"x"
            query = net.nodes[0].query(net.nodes[4].id, b"x", hops=1, mode=mode)
            assert query.result(PATIENCE_S).read() == b"x"
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    if ahead_s > DAY_S:
        assert any("this node's onion key begins at" in line for line in errors)


@pytest.mark.parametrize("back_s", [HOUR_S, 25 * HOUR_S])
def test_all_clocks_set_back_heal_with_the_next_look_at_the_keys(back_s: float) -> None:
    with clocked(*[0.0] * 4, tick_s=0.01) as net:
        assert net.ask(0, 3, 1) == b"x"
        healed = net.wait_new_keys(0, 1, 2, 3)
        net.set(-back_s)
        healed()
        assert net.ask(0, 3, 1, 2) == b"x"
        assert net.ask(2, 0, 1) == b"x"

        def use(tunnel: NodeTunnel) -> Service[None]:
            assert (yield from tunnel.ask(b"hello")) == b"hello"

        net.nodes[1].tunnel(net.nodes[2].id, use, hops=2).result(PATIENCE_S)


def test_until_then_the_error_shows_both_times() -> None:
    with clocked(*[0.0] * 4) as net:
        net.set(-HOUR_S)
        with pytest.raises(BadRoute) as caught:
            net.nodes[0].query(net.nodes[3].id, b"x", hops=2)
        assert shows(str(caught.value), -HOUR_S)
        assert clock_text(net.nodes[3].descriptor.onion_keys[0].not_before) in str(caught.value)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_step_of_the_clock_is_logged_with_its_size(step_s: float, caplog: pytest.LogCaptureFixture) -> None:
    with clocked(0, 0, tick_s=0.01) as net:
        assert net.ask(0, 1) == b"x", "both are running"
        net.set(step_s, 1)
        way = "ahead" if step_s > 0 else "back"
        wait_until(net.thread, lambda: f"moved {way} by 1 h 0 min" in caplog.text)
        assert shows(caplog.text, step_s)


def test_guards_outlive_a_clock_that_jumps_ahead() -> None:
    """Guards are kept for months of elapsed time, whatever the clock shows for a second."""
    clock = _Clock(0)
    with ReactorThread() as thread:
        directory = StaticDirectory()
        peers = []
        for number in range(8):
            keys = NodeKeys.generate(time.time())
            peers.append(keys.descriptor((Address(f"{50 + number}.1.1.1", 1),), time.time(), OPENSSL))
            directory.publish(peers[-1])
        node = Node(
            NodeKeys.generate(time.time()), directory, reactor=thread.reactor, wall_clock=clock,
            network_id=b"a public one....", port=None,
        )  # fmt: skip
        profile = Profile.for_proxies(2)
        first = node.choose_route(peers[0].node_id, 2, profile).proxies[0]
        kept = node.guards
        clock.ahead_s = 365 * DAY_S
        with pytest.raises(BadRoute):
            node.choose_route(peers[0].node_id, 2, profile)
        clock.ahead_s = 0
        assert node.choose_route(peers[0].node_id, 2, profile).proxies[0] == first
        assert node.guards == kept
        node.close()
