"""An established tunnel that a user holds, and closes when he has done with it: for services.

`with_tunnel` is the whole life of a tunnel around a service that uses it; here that service is one that
waits, and whoever holds the tunnel uses it from where he is. When the tunnel breaks, each call raises the one
`QueryFailed` that says where.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from reactor import Handle, Select, Service, ServiceCancelled, Signal
from tunnel.errors import ErrorCode, PeerError, QueryFailed, SubStreamReset, TunnelStopped
from tunnel.established import Target, TargetKind
from tunnel.geometry import Profile
from tunnel.node.sub_streams import TunnelStream
from tunnel.node.tunnel_call import with_tunnel
from tunnel.node.tunnels import MESSAGE_BYTES, NodeTunnel
from tunnel.reports import Report
from tunnel.route import Route
from tunnel.services.names import checked_name

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = ["OpenStream", "OpenTunnel", "open_tunnel"]

T = TypeVar("T")


class OpenTunnel:
    """An established tunnel: messages each way, each of any length, and sub-streams.

    One service at a time sends, and one receives; both at once is what it is for. It is a context: unless it
    was closed, leaving it gives the tunnel up.

    Raises, from each method: QueryFailed when the tunnel has ended early; it says where, or that the other
    end gave
        it up, and why. LocalTunnelError for a call out of order.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._tunnel: NodeTunnel | None = None
        self._handle: Handle[None] | None = None
        self._is_open = Signal()
        self._leave = Signal()
        self._report: Report | None = None
        self._error: Exception | None = None

    @property
    def profile(self) -> Profile:
        """How long its chunks are: `profile.geometry.chunk_bytes`."""
        return self._profile

    # -- messages ------------------------------------------------------------------------------------

    def send(self, message: bytes) -> Service[None]:
        """Send one whole message. Cancelled in the middle of it, the tunnel is given up."""
        yield from self._use(self._held.send(message))

    def receive(self, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Wait for one whole message. None: the other end sends no more. Cancellation: nothing is lost.

        Raises:
            FrameTruncated: it is longer than the limit; read such messages in pieces.
        """
        return (yield from self._use(self._held.receive(limit_bytes)))

    def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Send a message and receive one, both at once: whatever their sizes, neither end waits for ever."""
        return (yield from self._use(self._held.ask(message, limit_bytes)))

    def write(self, data: bytes) -> Service[None]:
        """Send a part of a message; it leaves in whole chunks, or with `flush` or `end_message`."""
        yield from self._use(self._held.write(data))

    def flush(self) -> Service[None]:
        """Let what was written leave now."""
        yield from self._use(self._held.flush())

    def end_message(self) -> Service[None]:
        """End the message; the next `write` begins another."""
        yield from self._use(self._held.end_message())

    def next_message(self) -> Service[bool]:
        """Wait for the next message. False: the other end sends no more."""
        return (yield from self._use(self._held.next_message()))

    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read from the message that `next_message` began; b"" at its end."""
        return (yield from self._use(self._held.read(limit_bytes)))

    # -- sub-streams and ends ------------------------------------------------------------------------

    def open(self, target: str | Target) -> Service[OpenStream]:
        """Open a sub-stream, and wait until the other end has accepted it.

        Args:
            target: the name of a service there, or any target.
        Raises:
            SubStreamReset: the other end refused; TARGET_NOT_ALLOWED where its rules forbid the target.
        """
        if isinstance(target, str):
            target = Target(TargetKind.SERVICE, checked_name(target))
        stream = yield from self._use(self._held.open(target), is_stream=True)
        return OpenStream(self, stream)

    def close(self) -> Service[Report | None]:
        """End in order: what was sent arrives; what the other end still sends is thrown away.

        Returns:
            What the route says of the tunnel, where it has come.
        Cancellation: `give_up` is still to be called.
        """
        self._leave.set()
        yield from self._join()
        if self._error is not None:
            raise self._error
        return self._report

    def give_up(self) -> None:
        """End it now, both ways. Nothing if it has ended."""
        if self._handle is not None:
            self._handle.cancel("the tunnel was given up by its user")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()

    @property
    def handle(self) -> Handle[None]:
        """Of the service that carries it: finished when the tunnel has ended."""
        assert self._handle is not None
        return self._handle

    @property
    def has_ended(self) -> bool:
        """Whether it is of no more use, in order or not."""
        return self.handle.is_finished or self._held.failure is not None

    @property
    def is_as_new(self) -> bool:
        """Whether one that nobody has used yet is as good as one that is opened now."""
        return not self.has_ended and not self._held.other_end_has_closed

    # -- inside --------------------------------------------------------------------------------------

    @property
    def _held(self) -> NodeTunnel:
        assert self._tunnel is not None
        return self._tunnel

    def _use(self, service: Service[T], *, is_stream: bool = False) -> Service[T]:
        """Run a call on the tunnel; what ended the tunnel is told in one way."""
        try:
            return (yield from service)
        except PeerError as error:
            if self._held.failure is not None or isinstance(error, TunnelStopped):
                yield from self._join()
                raise self._error or error from error
            if isinstance(error, SubStreamReset) and not is_stream:
                text = f"{error.code.name} at the other end, which gave the tunnel up"
                raise QueryFailed(text, error.code) from error
            raise

    def _join(self) -> Service[None]:
        try:
            yield from self.handle.join()
        except ServiceCancelled:
            self._error = self._error or QueryFailed(
                "the tunnel was given up at this end", ErrorCode.CANCELLED
            )

    def _run(self, node: NodeContext, route: Route) -> Service[None]:
        try:
            self._report = yield from with_tunnel(node, route, self._profile, self._hold)
        except Exception as error:  # noqa: BLE001 - raised where the tunnel is used
            self._error = error
        finally:
            self._is_open.set()

    def _hold(self, tunnel: NodeTunnel) -> Service[None]:
        self._tunnel = tunnel
        self._is_open.set()
        yield Select(self._leave, tunnel.ended)


class OpenStream:
    """A sub-stream of an `OpenTunnel`: bytes in both directions. One service reads, one writes.

    Raises, from each method: SubStreamReset when one of both ends gave it up. QueryFailed when the tunnel has
    ended.
    """

    def __init__(self, tunnel: OpenTunnel, stream: TunnelStream) -> None:
        self._tunnel = tunnel
        self._stream = stream

    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """The next bytes; b"" when the other end has closed its half."""
        return (yield from self._tunnel._use(self._stream.read(limit_bytes), is_stream=True))

    def write(self, data: bytes) -> Service[None]:
        """Send bytes; they leave at once."""
        yield from self._tunnel._use(self._stream.write(data), is_stream=True)

    def close(self) -> None:
        """End this half, behind what was written; the other goes on."""
        self._stream.close()

    def give_up(self) -> None:
        """End both halves now."""
        self._stream.give_up()


def open_tunnel(node: NodeContext, route: Route, profile: Profile) -> Service[OpenTunnel]:
    """Open a tunnel; it can be used at once. What fails beyond the first hop is told by the first call.

    Raises:
        BadRoute, ProfileError: no such tunnel can be built. QueryFailed: the first hop cannot be reached.
        Closed: the node has been stopped.
    """
    tunnel = OpenTunnel(profile)
    running = tunnel._run(node, route)
    tunnel._handle = handle = yield from node.scope.spawn(running, name=f"{node.name} tunnel")
    try:
        yield tunnel._is_open
    except BaseException:
        handle.cancel()
        raise
    if tunnel._error is not None:
        raise tunnel._error
    if tunnel._tunnel is None:
        raise QueryFailed("this node was stopped", ErrorCode.CANCELLED)
    return tunnel
