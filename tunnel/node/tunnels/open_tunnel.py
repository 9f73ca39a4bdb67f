"""An established tunnel that a user holds, and closes when he has done with it: for services.

`with_tunnel` is the whole life of a tunnel around a service that uses it; here that service is one that
waits, and the tunnel is used from elsewhere. When it breaks, each call raises one `QueryFailed` that says
where.

What the user holds and what the node holds are two objects: a user who drops his loses the tunnel, and the
node ends it, with a ResourceWarning.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from reactor import Handle, Select, Service, ServiceCancelled, Signal, needs_yield_from
from readwrite_comp.helpers import renewed
from tunnel.errors import ErrorCode, NodeStopped, PeerError, QueryFailed
from tunnel.established import Target, TargetKind
from tunnel.geometry import Profile
from tunnel.identity.descriptor import short
from tunnel.node.relay.relay_loop import release_dropped
from tunnel.node.tunnels.sub_streams import TunnelStream
from tunnel.node.tunnels.tunnel import MESSAGE_BYTES, NodeTunnel
from tunnel.node.tunnels.tunnel_call import with_tunnel
from tunnel.onion.reports import Report
from tunnel.routing.route import Route
from tunnel.services.base import checked_name

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = ["OpenStream", "OpenTunnel", "open_tunnel"]

T = TypeVar("T")


class OpenTunnel:
    """An established tunnel: messages each way, each of any length, and sub-streams.

    Any number of services may use it at once: `send`, `receive` and `ask` each move a whole message, and an
    `ask` gets its own answer. A message in pieces is for one service at a time. It is a context: unless it
    was closed, leaving it gives the tunnel up. One that is dropped without either is given up with a
    ResourceWarning.

    Raises, from each method: QueryFailed when the tunnel has ended early; it says where, or that the place is
    not known, or that the other end gave it up, and why. LocalTunnelError for a call out of order.
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
        """Send one whole message. Cancelled in the middle of it, the tunnel is given up."""
        yield from self._use(self._held.send(message))

    @needs_yield_from
    def receive(self, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Wait for one whole message. None: the other end sends no more. Cancellation: nothing is lost.

        Raises:
            FrameTruncated: it is longer than the limit; read such messages in pieces.
        """
        return (yield from self._use(self._held.receive(limit_bytes)))

    @needs_yield_from
    def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Send a message and receive one, both at once: whatever their sizes, neither end waits for ever."""
        return (yield from self._use(self._held.ask(message, limit_bytes)))

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send a part of a message; it leaves in whole chunks, or with `flush` or `end_message`."""
        yield from self._use(self._held.write(data))

    @needs_yield_from
    def flush(self) -> Service[None]:
        """Let what was written leave now."""
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
        """Open a sub-stream, and wait until the other end has accepted it.

        Args:
            target: the name of a service there, or any target.
        Raises:
            SubStreamReset: the other end refused; TARGET_NOT_ALLOWED where its rules forbid the target.
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
        """Send no more messages and open no more sub-streams; the other end's can still be received."""
        yield from self._use(self._held.stop_sending())

    @needs_yield_from
    def close(self) -> Service[Report | None]:
        """End in order: what was sent arrives; what the other end still sends is thrown away.

        Returns:
            What the route says of the tunnel, where it has come.
        Cancellation: `give_up` is still to be called.
        """
        carried = self._carried
        carried.is_closing = True
        carried.leave.set()
        yield from carried.join()
        if carried.error is not None:
            raise renewed(carried.error)
        return carried.report

    def give_up(self) -> None:
        """End it now, both ways. Nothing if it has ended."""
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
        """Of the service that carries it: finished when the tunnel has ended."""
        assert self._carried.handle is not None
        return self._carried.handle

    @property
    def has_ended(self) -> bool:
        """Whether it is of no more use, in order or not."""
        return self._carried.has_ended

    @property
    def is_as_new(self) -> bool:
        """Whether one that nobody has used yet is as good as one that is opened now."""
        return not self.has_ended and not self._held.other_end_has_closed

    # -- inside --------------------------------------------------------------------------------------

    @property
    def _held(self) -> NodeTunnel:
        assert self._carried.tunnel is not None
        return self._carried.tunnel

    def _use(self, service: Service[T]) -> Service[T]:
        """Run a call on the tunnel; what ended the tunnel is told in one way."""
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
    """What the node holds of an open tunnel.

    Attributes:
        leave: set to close the tunnel; is_closing: it was. was_given_up: by its user.
        report: of a tunnel that was closed. error: of one that ended otherwise.
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
        """Wait for the end of the service that carries it; `error` then says how it ended."""
        assert self.handle is not None
        try:
            yield from self.handle.join()
        except ServiceCancelled:
            self.error = self.error or (_given_up_here() if self.was_given_up else NodeStopped())

    def run(self, node: NodeContext, route: Route) -> Service[None]:
        try:
            self.report = yield from with_tunnel(node, route, self.profile, self._hold)
        except Exception as error:  # noqa: BLE001 - raised where the tunnel is used
            self.error = error
        finally:
            self.is_open.set()

    def _hold(self, tunnel: NodeTunnel) -> Service[None]:
        self.tunnel = tunnel
        self.is_open.set()
        yield Select(self.leave, tunnel.when_ended())
        if not (self.is_closing or tunnel.has_failed or tunnel.given_up_by):
            yield self.leave  # both ends have closed, and the user may still read what came


def _given_up_here() -> QueryFailed:
    return QueryFailed("the tunnel was given up at this end", ErrorCode.CANCELLED)


class OpenStream:
    """A sub-stream of an `OpenTunnel`: bytes in both directions. Several that read, or write, take turns.

    It is a context: left in order it is closed, left by an error it is given up.

    Raises, from each method: SubStreamReset when one of both ends gave it up. QueryFailed when the tunnel has
    ended.
    """

    def __init__(self, tunnel: OpenTunnel, stream: TunnelStream) -> None:
        self._tunnel = tunnel
        self._stream = stream

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """The next bytes; b"" when the other end has closed its half."""
        return (yield from self._tunnel._use(self._stream.read(limit_bytes)))

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send bytes; they leave at once."""
        yield from self._tunnel._use(self._stream.write(data))

    def close(self) -> None:
        """End this half, behind what was written; the other goes on."""
        self._stream.close()

    def give_up(self) -> None:
        """End both halves now."""
        self._stream.give_up()

    def leave(self, *, in_order: bool) -> None:
        """End of a block: in order, what was written is sent and closed, and no more is read."""
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
    """Open a tunnel; it can be used at once. What fails beyond the first hop is told by the first call.

    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: the first hop cannot be reached.
        Closed: the scope of the node was cancelled: it has been stopped.
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
