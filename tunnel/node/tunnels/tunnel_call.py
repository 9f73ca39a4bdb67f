"""Alice's end of an established tunnel: built, opened over the first link, and carried until it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from reactor import RunInThread, Service, Signal, Sleep, TimedOut, WriteYield, timeout_after
from readwrite_comp.helpers import is_same_error, renewed
from tunnel.codes import Report
from tunnel.errors import ErrorCode, FrameTruncated, LocalTunnelError, PeerError, QueryFailed, TunnelStopped
from tunnel.established import End, EstablishedTunnel
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.running import explain
from tunnel.node.relay.status_reporter import wait_status
from tunnel.node.tunnels.sub_streams import refuse_stream, serve_streams
from tunnel.node.tunnels.tunnel import NodeTunnel, pump
from tunnel.node.waits import run_with_guards, with_timeout
from tunnel.onion.header_builder import Circuit
from tunnel.onion.key_schedule import Direction, permutation
from tunnel.onion.reports import read_report
from tunnel.routing.route import Route

__all__ = ["with_tunnel"]

log = logging.getLogger("tunnel.node")


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is needed to read the status of a tunnel."""

    route: Route
    circuit: Circuit
    error_mode: ErrorMode = ErrorMode.STATUS


def with_tunnel(
    node: NodeContext, route: Route, profile: Profile, use: Callable[[NodeTunnel], Service[None]]
) -> Service[Report | None]:
    """Open a tunnel, run `use` with it, and close it.

    When `use` returns, the tunnel is closed in order: sent data arrives, and the other end may finish
    sending. When `use` raises, the tunnel is aborted.

    Returns:
        The report of the route, if it has arrived.
    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: it could not be opened, or it broke;
            the text names the place. any other: raised by `use`.
    """
    if node.queries >= node.limits.queries:
        raise QueryFailed(f"{node.queries} queries are under way already, the limit of this node")
    node.queries += 1
    try:
        circuit: Circuit = yield RunInThread(
            partial(node.tunnel.circuit, route, profile, now_s=node.wall_clock())
        )
        return (yield from _Tunnelled(node, _Sent(route, circuit)).run(use))
    finally:
        node.queries -= 1


class _Tunnelled:
    """A running tunnel."""

    def __init__(self, node: NodeContext, sent: _Sent) -> None:
        self._node = node
        self._sent = sent
        self._stream: Stream | None = None
        self._place: str | None = None  # of the failure, if known without a report
        self._own_error: PeerError | None = None  # raised by `use` while the tunnel worked

    def run(self, use: Callable[[NodeTunnel], Service[None]]) -> Service[Report | None]:
        node, circuit = self._node, self._sent.circuit
        try:
            self._stream = stream = yield from node.links.open_stream(circuit.first_id, circuit.profile)
            try:
                header = WriteYield(stream).write_all(circuit.header)
                yield from with_timeout(node.limits.idle_s, header, "the first node did not take the header")
                status = yield from self._run(stream, use)
            except FrameTruncated as error:
                if not is_same_error(error, self._own_error):
                    yield from self._hear_why(stream, error)
                raise
            finally:
                stream.reset(ErrorCode.CANCELLED)  # no effect after an end in order
        except PeerError as error:
            if is_same_error(error, self._own_error):
                raise
            if isinstance(error, TunnelStopped):
                self._place = "this node"
            failure = explain(node, self._sent, error, self._stream, where=self._place)
            node.peers.query_failed(failure)
            raise failure from error
        report = read_report(self._sent, status, node.engine)
        if report is not None:
            node.peers.reported(report)
        return report

    def _hear_why(self, stream: Stream, truncated: FrameTruncated) -> Service[None]:
        """A failing hop ends the backward half early and sends the reason in its status, which comes next."""
        try:
            yield from with_timeout(
                self._node.limits.linger_s, wait_status(stream), "no status of the tunnel"
            )
        except PeerError as error:
            log.debug("no status of a tunnel that broke: %s", error)
            if stream.error is not None:
                raise renewed(stream.error) from truncated

    def _run(self, stream: Stream, use: Callable[[NodeTunnel], Service[None]]) -> Service[bytes]:
        node, circuit = self._node, self._sent.circuit
        core = EstablishedTunnel(
            circuit.end_to_end_seed,
            circuit.profile.geometry,
            End.ALICE,
            engine=node.engine,
            make_notifier=Signal,
            limits=node.limits.tunnel,
        )
        tunnel = NodeTunnel(core)
        handle = yield from node.scope.spawn(self._carry(stream, core, tunnel), name=f"{node.name} tunnel")
        try:
            yield from use(tunnel)
            yield from self._end(tunnel)
        except BaseException as error:
            if isinstance(error, PeerError):
                if tunnel.has_failed:
                    yield tunnel.when_ended()  # the failure may be known better by then
                    if tunnel.failure is not None:
                        raise renewed(tunnel.failure) from error
                elif (place := tunnel.given_up_by) is not None:
                    self._place = place
                elif self._place is None:
                    self._own_error = error
            core.give_up()
            handle.cancel()
            raise
        if tunnel.failure is not None:
            raise renewed(tunnel.failure)
        return (yield from with_timeout(node.limits.idle_s, wait_status(stream), "no status of the tunnel"))

    def _end(self, tunnel: NodeTunnel) -> Service[None]:
        """Wait for the other end to close as well. Raises PeerError (TIMEOUT): it took too long."""
        limits = self._node.limits

        def end() -> Service[None]:
            with contextlib.suppress(PeerError):  # reported elsewhere
                yield from tunnel.drain()  # else an end that still sends would never close
            yield tunnel.when_ended()

        def end_streams() -> Service[None]:
            tunnel.finish_streams()
            yield Sleep(limits.linger_s)
            tunnel.give_up_streams()

        def both() -> Service[None]:
            yield from run_with_guards(end(), end_streams(), tunnel.stop_sending())

        try:
            yield from timeout_after(limits.answer_s, both())
        except TimedOut as error:
            self._place = "the other end"
            raise PeerError(
                f"it has not closed the tunnel within {limits.answer_s:g} s", ErrorCode.TIMEOUT
            ) from error

    def _carry(self, stream: Stream, core: EstablishedTunnel[Signal], tunnel: NodeTunnel) -> Service[None]:
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
                    core,
                    add_layers=add_layers,
                    remove_layers=remove_layers,
                    heard=self._heard,
                )
                tunnel.end()
            except PeerError as error:
                tunnel.end(error)
            except LocalTunnelError as error:
                self._place = "this node"
                tunnel.end(_as_peer(error))
            except BaseException:
                # Cancelled, perhaps by the sibling service, which saw the failure first.
                tunnel.end(core.failure or TunnelStopped("this node was stopped"))
                raise

        with contextlib.suppress(PeerError):  # the tunnel's end was recorded above
            yield from run_with_guards(
                carry_on(),
                serve_streams(tunnel.accept, refuse_stream, most=self._node.limits.tunnel.sub_streams),
            )

    def _heard(self) -> None:
        """The other end has answered, so every node of the route works.

        The report comes last, and never from an aborted or broken tunnel. Counted once, as for a reply:
        otherwise a hop that fails other queries would never be backed off while a tunnel passes through it.
        """
        for node_id in self._sent.route.nodes:
            self._node.peers.seen(node_id)


def _as_peer(error: LocalTunnelError) -> PeerError:
    """A fault of this node, as an error of the tunnel."""
    return PeerError(str(error), ErrorCode.INTERNAL)
