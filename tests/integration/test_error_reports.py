"""Alice's error when a hop fails before, during or after the transfer, in every reply and error mode.

Real nodes on real sockets. The failing hop is a node whose layers or links raise errors; the hop that
tampers is a node whose reporter sends wrong bytes. Routes have two proxies in each direction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any, cast

import pytest

from reactor import Service, Signal, TimedOut, timeout_after
from readwrite_comp.wideblock import WidePermutation
from tests.support.logs import texts_of
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import ErrorCode, InnerService, Limits, LocalNetwork, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.codes import Report
from tunnel.errors import PeerError
from tunnel.geometry import INTERACTIVE
from tunnel.link.mux import MuxStream
from tunnel.modes import MODES, ErrorMode
from tunnel.node.query.request import SERVED_MODES
from tunnel.node.relay.status_reporter import Reporter
from tunnel.onion.header import Command, Slot
from tunnel.onion.reports import originate
from tunnel.services import Query, Reply

pytestmark = pytest.mark.full

LIMITS = Limits(idle_s=3.0, answer_s=3.0, linger_s=2.0)
SMALL = Profile(INTERACTIVE)
CONTENT = bytes(60_000)
ANSWERING = [mode for mode in SERVED_MODES if MODES[mode].has_reply]
BLOCK_MODES = [mode for mode in SERVED_MODES if MODES[mode].reply_blocks]


class Failing(InnerService):
    """Echoes, and fails at the point that `fails` names: before, during or after the answer."""

    def __init__(self) -> None:
        self.fails: str | None = None

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        fails, self.fails = self.fails, None
        if fails == "before":
            raise ZeroDivisionError
        while piece := (yield from query.read()):
            yield from reply.write(piece)
            if fails == "during":
                raise ZeroDivisionError
        if fails == "after":
            raise ZeroDivisionError


SERVICE = Failing()


@pytest.fixture(scope="module")
def network() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=6, service=SERVICE, limits=LIMITS) as network:
        yield network


@pytest.fixture
def net(network: LocalNetwork) -> Iterator[LocalNetwork]:
    """Checks after each test that no node has work left."""
    SERVICE.fails = None
    yield network
    wait_until_idle(network)
    assert not any(node.context.own or node.context.pending for node in network)


def ask(net: LocalNetwork, mode: ReplyMode, error_mode: ErrorMode = ErrorMode.STATUS) -> QueryFailed:
    """The error of a query over nodes 1 and 2 to node 3; its reply returns over 4 and 5, or over 2 and 1."""
    route = Route((net[1].id, net[2].id), net[3].id)
    back = Route((net[4].id, net[5].id), net[0].id) if mode is ReplyMode.OTHER_ROUTE else None
    query = net[0].query(
        net[3].id, CONTENT, route=route, mode=mode, error_mode=error_mode, reply_route=back, profile=SMALL
    )
    with pytest.raises(QueryFailed) as caught:
        query.result(PATIENCE_S)
    return caught.value


class _Fault(PeerError):
    code = ErrorCode.BUSY


class _FailingLayer:
    """A layer that fails after a number of chunks."""

    def __init__(self, layer: WidePermutation, chunks: int) -> None:
        self._layer = layer
        self._left = chunks

    def decrypt(self, chunk: memoryview, number: int) -> None:
        if not self._left:
            raise _Fault("this hop gives out")
        self._left -= 1
        self._layer.decrypt(chunk, number)


def fail_hop(
    node: Node, monkeypatch: pytest.MonkeyPatch, chunks: int, *, is_backward: bool, to: bytes | None = None
) -> None:
    """Let a proxy fail after a number of chunks of one direction of a frame (to the node `to`, if given)."""
    tunnel = node.context.codec
    relay_layers = tunnel.relay_layers

    def failing(slot: Slot, profile: Profile) -> tuple[WidePermutation, WidePermutation]:
        forward, backward = relay_layers(slot, profile)
        if to is not None and slot.next_id != to:
            return forward, backward
        layer = cast(WidePermutation, _FailingLayer(backward if is_backward else forward, chunks))
        return (forward, layer) if is_backward else (layer, backward)

    monkeypatch.setattr(tunnel, "relay_layers", failing)


def check(error: QueryFailed, error_mode: ErrorMode, hop: int, code: ErrorCode, text: str = "") -> None:
    """Check that the error names the hop, as far as its mode can."""
    report = error.report
    if report is not None:
        assert not report.succeeded
        assert report.hop == hop
        assert report.suspects == ()
    if error_mode is ErrorMode.STATUS:
        assert report is not None
        assert (report.code, error.code) == (code, code)
        assert len(report.hold_ms) == hop + 1
        name = "the destination" if hop == len(report.route) - 1 else f"hop {hop + 1} of {len(report.route)}"
        assert f"{code.name} at {name}" in str(error)
        assert report.route[hop].hex()[:8] in str(error)
        assert text in str(error)
    elif error_mode is ErrorMode.XOR:
        assert report is not None
        assert report.code is None


# --- a hop of the query's route


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", SERVED_MODES)
@pytest.mark.full
def test_a_proxy_that_fails(
    net: LocalNetwork,
    monkeypatch: pytest.MonkeyPatch,
    mode: ReplyMode,
    error_mode: ErrorMode,
    hop: int,
    when: str,
) -> None:
    """Before its first chunk, in the middle of the content, or before the last chunk."""
    # 61.6 chunks of content and the head's, made 64.
    chunks = {"before": 0, "during": 20, "after": 63}[when]
    fail_hop(net[1 + hop], monkeypatch, chunks, is_backward=False, to=net[2 + hop].id)
    check(ask(net, mode, error_mode), error_mode, hop, ErrorCode.BUSY, "this hop gives out")


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", SERVED_MODES)
def test_a_destination_that_fails(
    net: LocalNetwork, mode: ReplyMode, error_mode: ErrorMode, when: str
) -> None:
    SERVICE.fails = when
    if (mode, error_mode, when) == (ReplyMode.NONE, ErrorMode.NONE, "after"):
        # The whole query has arrived, and Bob reports no outcome.
        query = net[0].query(net[3].id, CONTENT, hops=2, mode=mode, error_mode=error_mode)
        assert query.result(PATIENCE_S).report is None
        return
    error = ask(net, mode, error_mode)
    if error.report is not None or error_mode is not ErrorMode.NONE:
        # In modes with separate replies, the reset of the reply path may arrive first.
        assert error.code is ErrorCode.SERVICE_FAILED or error_mode is not ErrorMode.STATUS
        if error.report is not None and not error.report.is_about_reply:
            check(error, error_mode, 2, ErrorCode.SERVICE_FAILED)


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("error_mode", ErrorMode)
def test_a_proxy_that_fails_under_a_cached_reply(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, error_mode: ErrorMode, hop: int, when: str
) -> None:
    chunks = {"before": 0, "during": 20, "after": 63}[when]
    fail_hop(net[1 + hop], monkeypatch, chunks, is_backward=True)
    check(ask(net, ReplyMode.CACHED, error_mode), error_mode, hop, ErrorCode.BUSY, "this hop gives out")


# --- a hop of the reply path


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("mode", BLOCK_MODES)
def test_a_proxy_that_fails_on_the_reply_route(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, mode: ReplyMode, hop: int, when: str
) -> None:
    """Bob passes on a status that he cannot read, and Alice finds the failed hop of her route."""
    chunks = {"before": 0, "during": 20, "after": 61}[when]
    back = [net[4], net[5]] if mode is ReplyMode.OTHER_ROUTE else [net[2], net[1]]
    following = [*back, net[0]][hop + 1]
    fail_hop(back[hop], monkeypatch, chunks, is_backward=False, to=following.id)
    error = ask(net, mode)
    assert error.report is not None
    assert error.report.is_about_reply
    assert error.report.hop == hop
    assert error.report.route[hop] == back[hop].id
    assert (error.report.code, error.code) == (ErrorCode.BUSY, ErrorCode.BUSY)
    assert f"BUSY at hop {hop + 1} of 3 of the reply path" in str(error)
    assert "this hop gives out" in str(error)


@pytest.mark.parametrize("chunks", [0, 20, 61])
def test_an_answer_to_a_known_destination_that_fails_on_its_route(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    """The route is Bob's: he finds the failed hop, and reports the failure and its reason to Alice."""
    for node in net:
        fail_hop(node, monkeypatch, chunks, is_backward=False, to=net[0].id)
    error = ask(net, ReplyMode.KNOWN_DEST)
    check(error, ErrorMode.STATUS, 2, ErrorCode.BUSY)


# --- tampering


def tamper_at(
    node: Node, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], *, to: Command
) -> None:
    """Let a hop change every STATUS that it makes or passes on, for frames with a command for it."""
    send = Reporter.send

    def tampered(self: Reporter, limit_s: float) -> Service[None]:
        if self.node is node.context and self.slot.command is to and self.status is not None:
            self.status = change(self.status)
        yield from send(self, limit_s)

    monkeypatch.setattr(Reporter, "send", tampered)


def flipped(status: bytes) -> bytes:
    return bytes([status[0] ^ 1]) + status[1:]


@pytest.mark.parametrize(
    ("hop", "fails_at"),
    # A hop after the failing one has no status to change.
    [(0, "proxy"), (1, "proxy"), *((hop, at) for hop in (0, 1, 2) for at in ("destination", "nowhere"))],
)
@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", [ReplyMode.NONE, ReplyMode.CACHED])
def test_a_hop_that_changes_the_status(
    net: LocalNetwork,
    monkeypatch: pytest.MonkeyPatch,
    mode: ReplyMode,
    error_mode: ErrorMode,
    hop: int,
    fails_at: str,
) -> None:
    if fails_at == "proxy":
        fail_hop(net[2], monkeypatch, 5, is_backward=False, to=net[3].id)
    elif fails_at == "destination":
        SERVICE.fails = "before"
    tamper_at(net[1 + hop], monkeypatch, flipped, to=Command.DEST if hop == 2 else Command.RELAY)
    if error_mode is ErrorMode.NONE and fails_at != "proxy":
        # Bob's code is random bytes in this mode: success and failure look alike.
        route = Route((net[1].id, net[2].id), net[3].id)
        query = net[0].query(net[3].id, CONTENT, route=route, mode=mode, error_mode=error_mode)
        assert (query.exception(PATIENCE_S) is None) or fails_at == "destination"
        return
    error = ask(net, mode, error_mode)
    if error_mode is ErrorMode.STATUS:
        assert error.report is not None
        assert error.report.suspects == ((hop - 1, hop) if hop else (0,))
        assert error.report.hop is None
        assert error.report.blamed == error.report.suspects
        assert "the report was changed by, or between, " in str(error)
        assert error.report.route[hop].hex()[:8] in str(error)
    elif error_mode is ErrorMode.XOR:
        assert error.report == Report(error.report.route, False, None, None) if error.report else False
        assert "no node of the route reported what happened" in str(error)


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("error_mode", [ErrorMode.STATUS, ErrorMode.XOR])
def test_a_hop_that_replays_the_status_of_an_earlier_query(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, error_mode: ErrorMode, hop: int
) -> None:
    """The earlier query, over the same route, succeeded. This one fails, and is not to seem a success."""
    recorded: list[bytes] = []

    def record_then_replay(status: bytes) -> bytes:
        recorded.append(status)
        return recorded[0]

    tamper_at(net[1 + hop], monkeypatch, record_then_replay, to=Command.RELAY)
    route = Route((net[1].id, net[2].id), net[3].id)
    first = net[0].query(
        net[3].id, CONTENT, route=route, mode=ReplyMode.NONE, error_mode=error_mode, profile=SMALL
    )
    first.result(PATIENCE_S)
    SERVICE.fails = "before"
    error = ask(net, ReplyMode.NONE, error_mode)
    assert len(recorded) == 2
    assert recorded[0] != recorded[1]
    if error_mode is ErrorMode.STATUS:
        assert error.report is not None
        assert error.report.suspects == ((hop - 1, hop) if hop else (0,))


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("code", [None, ErrorCode.SERVICE_FAILED, ErrorCode.BUSY])
def test_a_hop_that_forges_a_status_speaks_for_itself_only(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, code: ErrorCode | None, hop: int
) -> None:
    """It has the keys of its own slot: neither a success nor a failure of another node comes from those."""
    slots: list[Slot] = []
    begin = Reporter.pass_on

    def noting(self: Reporter, status: bytes) -> Service[None]:
        if self.node is net[1 + hop].context:
            slots.append(self.slot)
        return begin(self, status)

    def forged(status: bytes) -> bytes:
        return originate(slots[-1], SMALL.geometry, code, hold_ms=1, engine=net.engine, text="it was Bob")

    monkeypatch.setattr(Reporter, "pass_on", noting)
    tamper_at(net[1 + hop], monkeypatch, forged, to=Command.RELAY)
    SERVICE.fails = "before"
    error = ask(net, ReplyMode.NONE)
    assert error.report is not None
    assert not error.report.succeeded
    assert hop in error.report.blamed
    assert 2 not in error.report.blamed, "the destination is not blamed"


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_of_the_reply_route_that_changes_the_status(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, hop: int
) -> None:
    """Also after the reply has arrived: a false report does not make it invalid."""
    back = [net[4], net[5], net[0]]
    tamper_at(back[hop], monkeypatch, flipped, to=Command.HOME if hop == 2 else Command.RELAY)
    if hop == 2:
        route = Route((net[1].id, net[2].id), net[3].id)
        way_back = Route((net[4].id, net[5].id), net[0].id)
        query = net[0].query(
            net[3].id, CONTENT, route=route, mode=ReplyMode.OTHER_ROUTE, reply_route=way_back, profile=SMALL
        )
        assert query.result(PATIENCE_S).read() == CONTENT
        return
    fail_hop(net[5], monkeypatch, 5, is_backward=False, to=net[0].id)
    error = ask(net, ReplyMode.OTHER_ROUTE)
    assert error.report is not None
    assert error.report.is_about_reply
    assert error.report.suspects == ((0, 1) if hop else (0,))
    assert "hop 1 of 3 of the reply path" in str(error)


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize("error_mode", [ErrorMode.STATUS, ErrorMode.XOR])
def test_a_status_of_another_length_is_blamed_on_its_sender(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, error_mode: ErrorMode, hop: int
) -> None:
    def cut(status: bytes) -> bytes:
        return status[:100]

    tamper_at(net[1 + hop], monkeypatch, cut, to=Command.DEST if hop == 2 else Command.RELAY)
    error = ask(net, ReplyMode.NONE, error_mode)
    assert error.report is not None
    if hop == 0:
        assert error.report.blamed == (0,)
    elif error_mode is ErrorMode.STATUS:
        assert (error.report.hop, error.report.about_next) == (hop - 1, True)
        assert error.report.blamed == (hop - 1, hop)
        assert error.code is ErrorCode.BAD_CONTENT
    else:
        assert error.report.hop == hop - 1


# --- the nodes themselves


def test_a_fault_in_a_hop_is_reported_as_a_fault_and_logged_there(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(slot: Slot, profile: Profile) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(net[2].context.codec, "relay_layers", broken)
    error = ask(net, ReplyMode.ROUTE)
    check(error, ErrorMode.STATUS, 1, ErrorCode.INTERNAL)
    assert "a bug" not in str(error)
    assert "RuntimeError: a bug" in caplog.text


@pytest.mark.parametrize("mode", SERVED_MODES)
def test_a_query_in_order_ends_its_streams_in_order(
    net: LocalNetwork, mode: ReplyMode, caplog: pytest.LogCaptureFixture
) -> None:
    """No hop sees a RESET in any mode: success looks like failure, and a settled stream like any other."""
    caplog.set_level(logging.DEBUG, logger="tunnel.node")
    route = Route((net[1].id, net[2].id), net[3].id)
    back = Route((net[4].id, net[5].id), net[0].id) if mode is ReplyMode.OTHER_ROUTE else None
    for error_mode in ErrorMode:
        net[0].query(
            net[3].id, CONTENT, route=route, mode=mode, error_mode=error_mode, reply_route=back
        ).result(PATIENCE_S)
    wait_until_idle(net)
    found = texts_of(caplog)
    assert not [line for line in found if "in order" in line or "ended a frame" in line]


def test_a_status_is_made_once(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is busy, and the service that waits to send the status is cancelled. The next attempt sends
    the same status, and makes no second one under the same keys."""
    offered: list[bytes] = []

    def send_status(stream: _Stream, status: bytes) -> None:
        offered.append(status)
        if len(offered) == 1:
            raise BlockingIOError
        stream.is_answered = True

    monkeypatch.setattr(MuxStream, "send_status", send_status)
    stream: Any = _Stream()
    reporter = Reporter(net[0].context, stream, Slot(Command.DEST, 0, bytes(16)))

    def tell() -> Service[None]:
        with pytest.raises(TimedOut):
            yield from timeout_after(0.01, reporter.succeed())
        yield from reporter.fail(_Fault("too late to say so"))
        yield from reporter.succeed()

    net.submit(tell()).result(PATIENCE_S)
    assert len(offered) == 2
    assert offered[0] == offered[1]


class _Stream:
    """The part of a stream that a reporter uses."""

    profile = SMALL
    error = None
    is_answered = False

    def __init__(self) -> None:
        self.writable = Signal()

    def write(self, data: bytes) -> int:
        raise BlockingIOError

    def finish(self) -> None:
        pass
