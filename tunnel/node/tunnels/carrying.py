"""The services that carry a tunnel: `Carrier` is Alice's end, and `tunnel_service` Bob's.

Alice's node opens the tunnel over the first link, adds and removes the layers of the proxies, and reads the
status at the end. `open_tunnel` returns a tunnel that its user holds and closes; `with_tunnel` runs a service
with a tunnel. When a tunnel breaks, the carrier determines the place for the errors of its users. `pump` in
pump.py moves the chunks of both ends.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from reactor import (
    Handle,
    RunInThread,
    Select,
    Service,
    ServiceCancelled,
    Signal,
    Sleep,
    TimedOut,
    WriteYield,
    needs_yield_from,
    timeout_after,
)
from readwrite_comp.errors import is_same_error, renewed
from tunnel.codes import Report, short
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    MalformedMessage,
    NodeStopped,
    PeerError,
    QueryFailed,
    SubStreamReset,
    TunnelStopped,
    UnreadableRequest,
)
from tunnel.established import End, EstablishedTunnel
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.attempts import explain, in_query_place
from tunnel.node.relay.status_reporter import Reporter, wait_status
from tunnel.node.tunnels.pump import pump
from tunnel.node.tunnels.sub_streams import refuse_stream, serve_streams, service_handler
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream
from tunnel.node.upkeep import had_old_keys, known_descriptors
from tunnel.node.waits import run_with_guards, with_timeout
from tunnel.onion.header import Slot
from tunnel.onion.header_builder import Circuit
from tunnel.onion.key_schedule import Direction, permutation
from tunnel.onion.reports import read_report
from tunnel.routing.route import Route
from tunnel.services import InnerService
from tunnel.services.base import run_service, running

__all__ = ["Carrier", "TunnelLife", "open_tunnel", "tunnel_service", "with_tunnel"]

log = logging.getLogger("tunnel.node")

T = TypeVar("T")


class TunnelLife:
    """An established tunnel as its node sees it: the state machine, and the end of the tunnel.

    Args:
        seed: of the DEST slot. end: which of its ends this node is.
    Attributes:
        core: the state machine. profile: of its frame. counters: of the node.
        has_ended: both directions have ended. failure: the reason of an early end.
    """

    def __init__(self, node: NodeContext, seed: bytes, profile: Profile, end: End) -> None:
        self.core = EstablishedTunnel(
            seed,
            profile.geometry,
            end,
            engine=node.engine,
            make_notifier=Signal,
            limits=node.limits.tunnel_ends,
        )
        self.profile = profile
        self.counters = node.counters
        self.has_ended = False
        self.failure: PeerError | None = None
        self._waiting_for_end: list[Signal] = []

    @property
    def has_failed(self) -> bool:
        """Whether the tunnel has ended early; `failure` follows when the reason is known."""
        return self.core.failure is not None

    @property
    def given_up_by(self) -> str | None:
        """The end that gave the tunnel up, "the other end" or "this node"; None: neither."""
        if not self.core.is_given_up:
            return None
        return "the other end" if self.core.other_end_gave_up else "this node"

    @property
    def other_end_has_closed(self) -> bool:
        """The other end sends no more messages, and usually reads none either: its service has returned."""
        return self.core.incoming.has_ended

    def end(self, failure: PeerError | None = None) -> None:
        """Record that both directions have ended."""
        self.has_ended, self.failure = True, failure
        for signal in self._waiting_for_end:
            signal.set()
        self._waiting_for_end.clear()

    def when_ended(self) -> Signal:
        """A signal for one service, set when both directions have ended."""
        signal = Signal()
        if self.has_ended:
            signal.set()
        else:
            self._waiting_for_end.append(signal)
        return signal

    @needs_yield_from
    def accept(self) -> Service[TunnelStream]:
        """Wait for a sub-stream that the other end opens."""
        while True:
            try:
                stream = TunnelStream(self.core.accept())
            except BlockingIOError:
                yield self.core.acceptable
            else:
                self.counters.sub_streams_accepted += 1
                return stream


def with_tunnel(
    node: NodeContext, route: Route, profile: Profile, use: Callable[[NodeTunnel], Service[None]]
) -> Service[Report | None]:
    """Open a tunnel, run `use` with it, and close it.

    When `use` returns, the tunnel is closed cleanly: sent data arrives, and the other end may finish
    sending. When `use` raises, the tunnel is aborted.

    Returns:
        The report of the route, if it has arrived.
    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: it could not be opened, or it broke;
            the text names the place. any other: raised by `use`.
    """

    def run(life: TunnelLife) -> Service[NodeTunnel]:
        tunnel = NodeTunnel(life)
        yield from use(tunnel)
        return tunnel

    return (yield from _carried(node, route, profile, run))


def open_tunnel(
    node: NodeContext, route: Route, profile: Profile, services: InnerService | None = None
) -> Service[NodeTunnel]:
    """Open a tunnel for immediate use. The first call raises failures beyond the first hop.

    Args:
        services: for sub-streams that the other end opens; None: they are refused.

    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: the first hop cannot be reached.
        Closed: the node has been stopped.
    """
    carrier = Carrier(node, route.destination, services)
    running = carrier.run(route, profile)
    carrier.handle = handle = yield from node.scope.spawn(running, name=f"{node.name} tunnel")
    try:
        yield carrier.is_open
    except BaseException:
        handle.cancel()
        raise
    if carrier.error is not None:
        raise renewed(carrier.error)
    if carrier.life is None:
        raise NodeStopped()
    return NodeTunnel(carrier.life, carrier)


class Carrier:
    """The node's side of a tunnel that its user holds.

    Attributes:
        handle: of the service that carries the tunnel; finished when the tunnel has ended.
        life: None until the tunnel is open, which sets `is_open`. is_closing: closed or aborted.
        is_left: its user, in another thread, is about to abort it.
        report: of a closed tunnel. error: the reason of any other end.
    """

    handle: Handle[None]

    def __init__(self, node: NodeContext, destination: bytes, services: InnerService | None) -> None:
        self._node = node
        self._destination = destination
        self._services = services
        self.life: TunnelLife | None = None
        self.is_open = Signal()
        self.is_closing = self.is_left = False
        self.report: Report | None = None
        self.error: Exception | None = None
        self._was_given_up = False  # by its user
        self._leave = Signal()
        self._closed: NodeTunnel | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the tunnel has ended, cleanly or not."""
        return self.handle.is_finished or (self.life is not None and self.life.has_failed)

    def run(self, route: Route, profile: Profile) -> Service[None]:
        """Carry the tunnel until it has ended."""
        try:
            self.report = yield from _carried(self._node, route, profile, self._hold, self._services)
        except Exception as error:  # noqa: BLE001 - raised to the users of the tunnel
            self.error = error
        finally:
            self._closed = None
            self.is_open.set()

    def _hold(self, life: TunnelLife) -> Service[NodeTunnel]:
        """Wait until the user closes the tunnel, or the tunnel ends."""
        self.life = life
        self.is_open.set()
        yield Select(self._leave, life.when_ended())
        if not (self.is_closing or life.has_failed or life.given_up_by):
            yield self._leave  # both ends have closed; the user may still read buffered data
        return self._closed or NodeTunnel(life)

    def close(self, tunnel: NodeTunnel) -> Service[Report | None]:
        """Close the tunnel in order, for its user."""
        self._closed = tunnel
        self.is_closing = True
        self._leave.set()
        yield from self._join()
        if self.error is not None:
            raise renewed(self.error)
        return self.report

    def stand(self, leave: Signal, life_s: float) -> Service[bool]:
        """Own a prepared tunnel: wait until `leave` is set, `life_s` has passed or the tunnel has ended.

        While it carries no sub-stream, a probe replaces the chunk that keeps it alive. A dead tunnel
        therefore ends before a user waits for it.

        Returns:
            Whether the time has passed.
        """
        node, tick_s = self._node, self._node.limits.idle_s / 3
        ends_s = node.now_s() + life_s
        waiting = Select(leave, self.handle, Sleep(min(tick_s, life_s)))
        while node.now_s() < ends_s:
            chosen = yield waiting
            if not isinstance(chosen.source, Sleep):
                return False
            if self.life is not None and not self.life.core.own_streams:
                self.life.core.silence.probe()
        return True

    def give_up(self) -> None:
        """Abort the tunnel in both directions, for its user. No effect after its end."""
        self._was_given_up = self.is_closing = True
        self.handle.cancel("the tunnel was given up by its user")

    def explained(self, call: Service[T]) -> Service[T]:
        """Run a call on the tunnel. If the tunnel's failure is the cause, raise an error with its place."""
        try:
            return (yield from call)
        except PeerError as error:
            explained = yield from self._explain(error)
            if explained is error:
                raise
            raise explained from error

    def _explain(self, error: PeerError) -> Service[Exception]:
        life = self.life
        assert life is not None
        if self._node.scope.is_cancelled and not self._was_given_up:
            return NodeStopped()
        if self._was_given_up or life.has_failed:
            yield from self._join()
            return renewed(self.error or _given_up_here())
        if life.given_up_by is not None:
            # A reset has no more to say than its code, unlike an error of this end.
            reason = "" if isinstance(error, SubStreamReset) else f": {error}"
            text = f"{error.code.name} at {life.given_up_by}, which gave the tunnel up{reason}"
            return QueryFailed(text, error.code)
        return error

    def _join(self) -> Service[None]:
        """Wait for the end of the tunnel; `error` then holds the reason."""
        try:
            yield from self.handle.join()
        except ServiceCancelled:
            self.error = self.error or (_given_up_here() if self._was_given_up else NodeStopped())

    def post(self, function: Callable[[], object]) -> None:
        """Have a function called in the reactor, from any thread."""
        self._node.post(function)

    @property
    def dropped_text(self) -> str:
        """The warning about a tunnel that its user dropped."""
        return (
            f"a tunnel to {short(self._destination)} was dropped while it was open: close it, or leave its "
            "`with` block"
        )


def _given_up_here() -> QueryFailed:
    return QueryFailed("the tunnel was given up at this end", ErrorCode.CANCELLED)


def _carried(
    node: NodeContext,
    route: Route,
    profile: Profile,
    use: Callable[[TunnelLife], Service[NodeTunnel]],
    services: InnerService | None = None,
) -> Service[Report | None]:
    """Open a tunnel, wait for `use`, and close the tunnel that it returns. Raises as `with_tunnel`."""
    node.counters.tunnels += 1

    def carry() -> Service[Report | None]:
        circuit: Circuit = yield RunInThread(
            partial(node.codec.circuit, route, profile, now_s=node.wall_clock())
        )
        return (yield from _Carriage(node, _Sent(route, circuit), services).run(use))

    try:
        return (yield from in_query_place(node, carry()))
    except BaseException:
        node.counters.tunnels_failed += 1
        raise


@dataclass(frozen=True, slots=True)
class _Sent:
    """The data that reading a tunnel's status needs."""

    route: Route
    circuit: Circuit
    error_mode: ErrorMode = ErrorMode.STATUS


class _Carriage:
    """Alice's end of a running tunnel."""

    def __init__(self, node: NodeContext, sent: _Sent, services: InnerService | None) -> None:
        self._node = node
        self._sent = sent
        self._handler = refuse_stream if services is None else service_handler(services, node)
        self._stream: Stream | None = None
        self._place: str | None = None  # of the failure, if known without a report
        self._own_error: PeerError | None = None  # raised by `use` while the tunnel worked

    def run(self, use: Callable[[TunnelLife], Service[NodeTunnel]]) -> Service[Report | None]:
        node, circuit = self._node, self._sent.circuit
        used = known_descriptors(node, self._sent.route.nodes)
        try:
            self._stream = stream = yield from node.links.open_stream(
                circuit.first_id, circuit.profile, is_own=True
            )
            try:
                header = WriteYield(stream).write_all(circuit.header)
                yield from with_timeout(node.limits.idle_s, header, "the first node did not take the header")
                status = yield from self._run(stream, use)
            except FrameTruncated as error:
                if not is_same_error(error, self._own_error):
                    yield from self._read_reason(stream, error)
                raise
            finally:
                stream.reset(ErrorCode.CANCELLED)  # no effect after an end in order
        except PeerError as error:
            if is_same_error(error, self._own_error):
                raise
            if isinstance(error, TunnelStopped):
                self._place = "this node"
            failure = explain(node, self._sent, error, self._stream, where=self._place)
            if not (yield from had_old_keys(node, failure, used)):
                node.peers.query_failed(failure)
            raise failure from error
        report = read_report(self._sent, status, node.engine)
        if report is not None:
            node.peers.reported(report)
        return report

    def _read_reason(self, stream: Stream, truncated: FrameTruncated) -> Service[None]:
        """Read the reason of an early end: a failing hop ends the backward half, then sends its status."""
        try:
            yield from with_timeout(
                self._node.limits.linger_s, wait_status(stream), "no status of the tunnel"
            )
        except PeerError as error:
            log.debug("no status of a tunnel that broke: %s", error)
            if stream.error is not None:
                raise renewed(stream.error) from truncated

    def _run(self, stream: Stream, use: Callable[[TunnelLife], Service[NodeTunnel]]) -> Service[bytes]:
        node, circuit = self._node, self._sent.circuit
        life = TunnelLife(node, circuit.end_to_end_seed, circuit.profile, End.ALICE)
        handle = yield from node.scope.spawn(self._carry(stream, life), name=f"{node.name} tunnel")
        try:
            tunnel = yield from use(life)
            yield from self._end(tunnel, life)
        except BaseException as error:
            if isinstance(error, PeerError):
                if life.has_failed:
                    yield life.when_ended()  # the failure may be known better by then
                    if life.failure is not None:
                        raise renewed(life.failure) from error
                elif (place := life.given_up_by) is not None:
                    self._place = place
                elif self._place is None:
                    self._own_error = error
            life.core.give_up()
            handle.cancel()
            raise
        if life.failure is not None:
            raise renewed(life.failure)
        return (yield from with_timeout(node.limits.idle_s, wait_status(stream), "no status of the tunnel"))

    def _end(self, tunnel: NodeTunnel, life: TunnelLife) -> Service[None]:
        """Wait for the other end to close as well. Raises PeerError (TIMEOUT): it took too long."""
        limits = self._node.limits

        def end() -> Service[None]:
            with contextlib.suppress(PeerError):  # reported elsewhere
                yield from tunnel.drain()  # otherwise an end that still sends would never close
            yield life.when_ended()

        def end_streams() -> Service[None]:
            life.core.finish_streams()
            yield Sleep(limits.linger_s)
            life.core.give_up_streams()

        def both() -> Service[None]:
            yield from run_with_guards(end(), end_streams(), tunnel.end_sending())

        try:
            yield from timeout_after(limits.answer_s, both())
        except TimedOut as error:
            self._place = "the other end"
            raise PeerError(
                f"it did not close the tunnel within {limits.answer_s:g} s", ErrorCode.TIMEOUT
            ) from error

    def _carry(self, stream: Stream, life: TunnelLife) -> Service[None]:
        engine, profile, seeds = self._node.engine, self._sent.circuit.profile, self._sent.circuit.proxy_seeds
        outward = [permutation(profile, seed, Direction.FORWARD, engine) for seed in reversed(seeds)]
        homeward = [permutation(profile, seed, Direction.BACKWARD, engine) for seed in seeds]

        def add_layers(chunk: memoryview, number: int) -> None:
            for layer in outward:
                layer.encrypt(chunk, number)

        def remove_layers(chunk: memoryview, number: int) -> None:
            for layer in homeward:
                layer.encrypt(chunk, number)

        def carry_on() -> Service[None]:
            try:
                yield from pump(
                    self._node,
                    stream,
                    life.core,
                    add_layers=add_layers,
                    remove_layers=remove_layers,
                    heard=self._heard,
                )
                life.end()
            except PeerError as error:
                life.end(error)
            except LocalTunnelError as error:
                self._place = "this node"
                life.end(PeerError(str(error), ErrorCode.INTERNAL))

        most = self._node.limits.tunnel.sub_streams
        try:
            with contextlib.suppress(PeerError):  # the tunnel's end was recorded above
                yield from run_with_guards(
                    carry_on(), serve_streams(self._node, life.accept, self._handler, most=most)
                )
        finally:
            if not life.has_ended:
                # Cancelled: before `carry_on` has begun, or by the sibling service, which saw the failure.
                life.core.fail(TunnelStopped("this node was stopped"))
                life.end(life.core.failure)

    def _heard(self) -> None:
        """Record that every node of the route works, because the other end has answered.

        The report comes last, and never from an aborted or broken tunnel. This is recorded once, as for a
        reply: otherwise a hop that fails other queries would never be backed off while a tunnel passes
        through it.
        """
        for node_id in self._sent.route.nodes:
            self._node.peers.seen(node_id)


def tunnel_service(
    node: NodeContext, stream: Stream, slot: Slot, first: memoryview, reporter: Reporter
) -> Service[None]:
    """Serve one tunnel until it ends: pump its chunks and let the inner service use it.

    Args:
        first: its first chunk, the HELLO.
    Raises:
        PeerError: the stream broke, its content is not a tunnel, or (SERVICE_FAILED) the inner service raised
            another error, which is logged.
    """
    life = TunnelLife(node, slot.seed, stream.profile, End.BOB)
    core, tunnel = life.core, NodeTunnel(life)
    node.counters.tunnels_accepted += 1
    failed: list[PeerError] = []

    def use() -> Service[None]:
        try:
            yield from run_service(node.service.tunnel, tunnel)
            yield from tunnel.end_sending()
            # Otherwise a peer that still writes would wait forever.
            yield from tunnel.drain()
        except PeerError as error:
            # While the tunnel works, what its service cannot read has arrived as it was sent.
            is_services = isinstance(error, MalformedMessage) and core.failure is None
            failure = UnreadableRequest(str(error)) if is_services else error
            core.give_up(failure.code)
            raise failure  # noqa: B904 - it may be the same one
        except Exception as error:  # noqa: BLE001 - the other end gets its code
            text = f"inner service {(yield from running())} failed"
            node.log_limit.failure("failed in an inner service", error, text)
            core.give_up(ErrorCode.SERVICE_FAILED)
            # The end travels to Alice in the tunnel; the status follows.
            failed.append(
                PeerError(f"inner service failed: {type(error).__name__}", ErrorCode.SERVICE_FAILED)
            )

    def carry_on() -> Service[None]:
        yield from pump(node, stream, core, first=first)
        life.end()

    handler = service_handler(node.service, node)
    streams = serve_streams(node, life.accept, handler, most=2 * node.limits.tunnel.sub_streams)
    try:
        yield from run_with_guards(carry_on(), use(), streams)
        if failed:
            raise failed[0]
    except BaseException:
        node.counters.tunnels_failed += 1
        raise
    yield from reporter.succeed()
