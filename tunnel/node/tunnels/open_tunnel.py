"""`OpenTunnel`: an established tunnel that its user holds and closes. For services.

`with_tunnel` runs a tunnel around the service that uses it. Here that service only waits, while other
services use the tunnel. When the tunnel breaks, each call raises a `QueryFailed` that names the place.

The user and the node hold different objects. So a tunnel that its user drops is garbage collected, and the
node ends it with a ResourceWarning.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from reactor import Handle, Select, Service, ServiceCancelled, Signal, needs_yield_from
from readwrite_comp.helpers import renewed
from tunnel.codes import Report, short
from tunnel.errors import ErrorCode, NodeStopped, PeerError, QueryFailed
from tunnel.established import Target, TargetKind
from tunnel.geometry import Profile
from tunnel.node.tunnels.sub_streams import TunnelStream
from tunnel.node.tunnels.tunnel import MESSAGE_BYTES, NodeTunnel
from tunnel.node.tunnels.tunnel_call import with_tunnel
from tunnel.node.waits import release_dropped
from tunnel.routing.route import Route
from tunnel.services.names import checked_name

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = ["OpenStream", "OpenTunnel", "open_tunnel"]

T = TypeVar("T")


class OpenTunnel:
    """An established tunnel: messages each way, each of any length, and sub-streams.

    Any number of services may use it at once: `send`, `receive` and `ask` each move a whole message, and each
    `ask` gets its own answer. A message in pieces is for one service at a time. Leaving a `with` block aborts
    the tunnel unless it was closed. A tunnel that is dropped while open is aborted with a ResourceWarning.

    Raises, from each method: QueryFailed: the tunnel has ended early; the text names the place, if
    known, or the reason of the other end. LocalTunnelError: a call out of order.
    """

    def __init__(self, node: NodeContext, carried: _Carried) -> None:
        self._node = node
        self._carried = carried

    @property
    def profile(self) -> Profile:
        """How long its chunks are: `profile.geometry.chunk_bytes`."""
        return self._carried.profile

    # -- messages ------------------------------------------------------------------------------------

    @needs_yield_from
    def send(self, message: bytes) -> Service[None]:
        """Send one whole message. Cancellation in the middle of the message aborts the tunnel."""
        yield from self._use(self._held.send(message))

    @needs_yield_from
    def receive(self, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Receive one whole message; None: the other end sends no more. Cancellation loses nothing.

        Raises:
            FrameTruncated: the message is longer than the limit; read it in pieces.
        """
        return (yield from self._use(self._held.receive(limit_bytes)))

    @needs_yield_from
    def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Send a message and receive one at the same time, so no size of either can deadlock the two ends."""
        return (yield from self._use(self._held.ask(message, limit_bytes)))

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send a part of a message. It leaves in whole chunks, at `flush`, or at `end_message`."""
        yield from self._use(self._held.write(data))

    @needs_yield_from
    def flush(self) -> Service[None]:
        """Send buffered bytes now."""
        yield from self._use(self._held.flush())

    @needs_yield_from
    def end_message(self) -> Service[None]:
        """End the message; the next `write` begins another."""
        yield from self._use(self._held.end_message())

    @needs_yield_from
    def next_message(self) -> Service[bool]:
        """Wait for the next message. False: the other end sends no more."""
        return (yield from self._use(self._held.next_message()))

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read from the message that `next_message` began; b"" at its end."""
        return (yield from self._use(self._held.read(limit_bytes)))

    # -- sub-streams and ends ------------------------------------------------------------------------

    @needs_yield_from
    def open(self, target: str | Target) -> Service[OpenStream]:
        """Open a sub-stream and wait for the other end to accept it.

        Args:
            target: the name of a service of the other end, or any target.
        Raises:
            SubStreamReset: the other end refused, with TARGET_NOT_ALLOWED if its rules forbid the target.
        """
        if isinstance(target, str):
            target = Target(TargetKind.SERVICE, checked_name(target))
        elif not isinstance(target, Target):
            raise TypeError(
                f"target: expected the name of a service or a Target, got {type(target).__name__}"
            )
        stream = yield from self._use(self._held.open(target))
        return OpenStream(self, stream)

    @needs_yield_from
    def stop_sending(self) -> Service[None]:
        """End this end's messages and sub-streams; those of the other end can still be received."""
        yield from self._use(self._held.stop_sending())

    @needs_yield_from
    def close(self) -> Service[Report | None]:
        """Close in order: sent data arrives, incoming data is discarded.

        Returns:
            The report of the route, if it has arrived.
        Cancellation: call `give_up` afterwards.
        """
        carried = self._carried
        carried.is_closing = True
        carried.leave.set()
        yield from carried.join()
        if carried.error is not None:
            raise renewed(carried.error)
        return carried.report

    def give_up(self) -> None:
        """Abort the tunnel in both directions. No effect after its end."""
        self._carried.give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()

    def __del__(self) -> None:
        carried = self._carried
        if carried.is_closing or carried.has_ended:
            return
        text = (
            f"a tunnel to {short(carried.destination)} was dropped while it was open: close it, or leave its "
            "`with` block"
        )
        release_dropped(self._node.post, carried.give_up, text, self)

    @property
    def handle(self) -> Handle[None]:
        """The service that carries the tunnel: finished when the tunnel has ended."""
        assert self._carried.handle is not None
        return self._carried.handle

    @property
    def has_ended(self) -> bool:
        """Whether the tunnel has ended, in order or not."""
        return self._carried.has_ended

    @property
    def is_as_new(self) -> bool:
        """Whether an unused tunnel is as good as a new one: both ends are open."""
        return not self.has_ended and not self._held.other_end_has_closed

    # -- inside --------------------------------------------------------------------------------------

    @property
    def _held(self) -> NodeTunnel:
        assert self._carried.tunnel is not None
        return self._carried.tunnel

    def _use(self, service: Service[T]) -> Service[T]:
        """Run a call on the tunnel, and raise the tunnel's own failure if that is why the call failed."""
        try:
            return (yield from service)
        except PeerError as error:
            tunnel, carried = self._held, self._carried
            if self._node.scope.is_cancelled and not carried.was_given_up:
                raise NodeStopped() from error
            if carried.was_given_up or tunnel.has_failed:
                yield from carried.join()
                raise renewed(carried.error or _given_up_here()) from error
            if tunnel.given_up_by is not None:
                text = f"{error.code.name} at {tunnel.given_up_by}, which gave the tunnel up"
                raise QueryFailed(text, error.code) from error
            raise


class _Carried:
    """The node's side of an open tunnel.

    Attributes:
        leave: set to close the tunnel. is_closing: closed or aborted. was_given_up: aborted by its user.
        report: of a closed tunnel. error: what ended the tunnel otherwise.
    """

    def __init__(self, destination: bytes, profile: Profile) -> None:
        self.destination = destination
        self.profile = profile
        self.tunnel: NodeTunnel | None = None
        self.handle: Handle[None] | None = None
        self.is_open = Signal()
        self.leave = Signal()
        self.is_closing = False
        self.was_given_up = False
        self.report: Report | None = None
        self.error: Exception | None = None

    @property
    def has_ended(self) -> bool:
        assert self.handle is not None
        return self.handle.is_finished or (self.tunnel is not None and self.tunnel.has_failed)

    def give_up(self) -> None:
        self.was_given_up = self.is_closing = True
        if self.handle is not None:
            self.handle.cancel("the tunnel was given up by its user")

    def join(self) -> Service[None]:
        """Wait for the end of the carrying service; `error` then holds the reason."""
        assert self.handle is not None
        try:
            yield from self.handle.join()
        except ServiceCancelled:
            self.error = self.error or (_given_up_here() if self.was_given_up else NodeStopped())

    def run(self, node: NodeContext, route: Route) -> Service[None]:
        try:
            self.report = yield from with_tunnel(node, route, self.profile, self._hold)
        except Exception as error:  # noqa: BLE001 - raised to the users of the tunnel
            self.error = error
        finally:
            self.is_open.set()

    def _hold(self, tunnel: NodeTunnel) -> Service[None]:
        self.tunnel = tunnel
        self.is_open.set()
        yield Select(self.leave, tunnel.when_ended())
        if not (self.is_closing or tunnel.has_failed or tunnel.given_up_by):
            yield self.leave  # both ends have closed; the user may still read buffered data


def _given_up_here() -> QueryFailed:
    return QueryFailed("the tunnel was given up at this end", ErrorCode.CANCELLED)


class OpenStream:
    """A sub-stream of an `OpenTunnel`: bytes in both directions. Concurrent readers take turns, and so do
    writers.

    At the end of a `with` block it is closed; an error aborts it.

    Raises, from each method: SubStreamReset: one of the ends aborted it. QueryFailed: the tunnel has ended.
    """

    def __init__(self, tunnel: OpenTunnel, stream: TunnelStream) -> None:
        self._tunnel = tunnel
        self._stream = stream

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read bytes; b"" when the other end has closed its half."""
        return (yield from self._tunnel._use(self._stream.read(limit_bytes)))

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send bytes immediately."""
        yield from self._tunnel._use(self._stream.write(data))

    def close(self) -> None:
        """Close this half after the written bytes; the other half stays open."""
        self._stream.close()

    def give_up(self) -> None:
        """Abort both halves."""
        self._stream.give_up()

    def leave(self, *, in_order: bool) -> None:
        """End of a `with` block: read no more; in order, send what was written and close this half."""
        if in_order:
            self._stream.close()
        self._stream.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(in_order=error is None)

    def __del__(self) -> None:
        stream, carried = self._stream, self._tunnel._carried
        if stream.stream.has_ended or carried.is_closing or carried.has_ended:
            return
        name = stream.target.address.decode("ascii", "replace")
        text = f"a sub-stream to {name!r} was dropped while it was open: close it, or give it up"
        release_dropped(self._tunnel._node.post, stream.drop, None if stream.stream.is_closed else text, self)


def open_tunnel(node: NodeContext, route: Route, profile: Profile) -> Service[OpenTunnel]:
    """Open a tunnel for immediate use. The first call raises failures beyond the first hop.

    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: the first hop cannot be reached.
        Closed: the node has been stopped.
    """
    carried = _Carried(route.destination, profile)
    running = carried.run(node, route)
    carried.handle = handle = yield from node.scope.spawn(running, name=f"{node.name} tunnel")
    try:
        yield carried.is_open
    except BaseException:
        handle.cancel()
        raise
    if carried.error is not None:
        raise renewed(carried.error)
    if carried.tunnel is None:
        raise NodeStopped()
    return OpenTunnel(node, carried)
