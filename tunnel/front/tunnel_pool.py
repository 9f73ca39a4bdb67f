"""`TunnelPool`: the tunnels to one exit. A connection costs a sub-stream of a shared tunnel, not its own
tunnel.

Connections with equal isolation keys share a tunnel; other connections never do, so the exit cannot link them
by it. The first connection of a key opens the tunnel, and later connections wait for it. When the other end
allows no further sub-stream, the key gets another tunnel.

One service owns each tunnel. It opens the tunnel, waits until the tunnel breaks, is too old or is no longer
wanted, lets the open sub-streams finish, and closes it. No other code has to search for ended tunnels. An old
tunnel that was used gets a successor first, so no connection waits for it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Protocol, Unpack

from reactor import (
    CurrentTime,
    Scope,
    Select,
    Service,
    Signal,
    Sleep,
    TimedOut,
    needs_yield_from,
    timeout_after,
)
from readwrite_comp.errors import renewed
from tunnel.errors import ErrorCode, NodeStopped, QueryFailed, TableFull, TunnelError
from tunnel.established import Target
from tunnel.front.failures import Advise, no_advice
from tunnel.identity.client_key import ClientKey
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream

__all__ = ["ATTEMPTS", "LIFE_S", "MOST_TUNNELS", "OPEN_S", "RETRY_S", "ROOM_S", "OpensTunnels", "TunnelPool"]

log = logging.getLogger("tunnel.front")

LIFE_S: Final = 600.0
"""Age at which a tunnel gets no further sub-streams, as circuits in Tor."""

MOST_TUNNELS: Final = 64
"""Tunnels with room for sub-streams, of all keys: 64 × 64 connections by the default limits."""

OPEN_S: Final = 20.0
"""Time limit for opening a tunnel, up to the first chunk of the exit."""

ROOM_S: Final = 15.0
"""How long a connection waits for a tunnel while all are in use."""

ATTEMPTS: Final = 4
"""Tunnels that a connection tries. A node that failed is avoided by the next route, if it is known which."""

RETRY_S: Final = 15.0
"""After this time a failure is final: the program has waited long enough."""

_MOST_ENDING: Final = 4  # times the limit of tunnels: those that only finish their last sub-streams included
_LOOK_S: Final = 1.0  # between two looks at whether the last sub-stream of an old tunnel has ended


class OpensTunnels(Protocol):
    """A node, as the pool uses it."""

    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]: ...


class _Place:
    """A tunnel, or one that is being opened.

    Attributes:
        tunnel: None until it is open. error: why it was not.
        is_used: it has carried a connection.
        leave: set when it is not wanted any more.
    """

    def __init__(self) -> None:
        self.tunnel: NodeTunnel | None = None
        self.error: TunnelError | None = None
        self.is_used = False
        self.leave = Signal()
        self._waiting: list[Signal] = []

    @property
    def has_room(self) -> bool:
        """Whether a sub-stream can be opened now."""
        return self.tunnel is not None and self.tunnel.is_as_new and self.tunnel.core.places > 0

    @property
    def is_idle(self) -> bool:
        """Whether it is open and carries no sub-stream."""
        return self.tunnel is not None and not self.tunnel.core.own_streams

    def settle(self) -> None:
        """Wake the connections that wait for the tunnel."""
        while self._waiting:
            self._waiting.pop().set()

    def wait(self) -> Service[None]:
        """Wait until the tunnel is open. Raises the error that prevented it."""
        signal = Signal()
        self._waiting.append(signal)
        yield signal
        if self.error is not None:
            raise renewed(self.error)


class TunnelPool:
    """The tunnels to one exit. Everything runs in the reactor of the node.

    Args:
        node: opens the tunnels; it gives them out of `Limits.prepared_tunnels`, if it keeps some.
        options: of each tunnel, as for `Node.open_tunnel`.
        most: limit of tunnels that take sub-streams. Above it the idle one that was used least recently is
            closed.
        life_s, open_s, room_s: see `LIFE_S`, `OPEN_S`, `ROOM_S`.
    Attributes:
        advise: gives the hint of an error of `open`, where no tunnel can be opened.
    """

    def __init__(
        self,
        node: OpensTunnels,
        exit_id: bytes,
        options: TunnelOptions | None = None,
        *,
        most: int = MOST_TUNNELS,
        life_s: float = LIFE_S,
        open_s: float = OPEN_S,
        room_s: float = ROOM_S,
    ) -> None:
        self._node = node
        self._exit_id = exit_id
        self._options: TunnelOptions = {} if options is None else options
        self._most = most
        self._life_s = life_s
        self._open_s = open_s
        self._room_s = room_s
        self.advise: Advise = no_advice
        self._places: OrderedDict[Hashable, list[_Place]] = OrderedDict()  # the key used last is last
        self._waiting: dict[Signal, None] = {}  # of those that wait for room, in order
        self._scope = Scope("tunnels of a front", fail_together=False)

    def __len__(self) -> int:
        """Number of tunnels that accept sub-streams, including those being opened."""
        return sum(map(len, self._places.values()))

    @property
    def waiting(self) -> int:
        """Number of connections that wait because all tunnels are in use."""
        return len(self._waiting)

    @needs_yield_from
    def open(
        self,
        target: Target,
        isolation: Hashable | None,
        early: bytes = b"",
        *,
        client_key: ClientKey | None = None,
    ) -> Service[TunnelStream]:
        """Open a sub-stream, and wait for the answer of the target.

        If a tunnel cannot be opened, or breaks before the answer, another tunnel over another route is tried,
        up to `ATTEMPTS` in all. There is no retry after `early` was sent, because the target may have
        received it and must not receive it twice. An error of the target is final.

        Args:
            isolation: connections with equal keys share tunnels; None: a tunnel for this connection alone.
            early: bytes for the target, sent directly after OPEN.
            client_key: for a published service that lists its clients.
        Raises:
            SubStreamReset: the exit refused, or could not connect; `code` is the reason.
            QueryFailed: no tunnel could be opened, or it broke. TableFull: all tunnels are in use.
            BadRoute, ProfileError, LocalTunnelError: no tunnel can be opened.
        Cancellation: the sub-stream is given up.
        """
        attempts = 0
        began_s: float = yield CurrentTime()
        while True:
            attempts += 1
            has_sent = False
            try:
                place = yield from self._take_alone() if isolation is None else self._take(isolation)
                assert place.tunnel is not None
                place.is_used = True
                stream = yield from place.tunnel.start(target, client_key=client_key)
                has_sent = bool(early)
                return (yield from _opened(stream, early))
            except QueryFailed as error:
                is_late = (yield CurrentTime()) - began_s > RETRY_S
                if attempts == ATTEMPTS or is_late or has_sent or isinstance(error, NodeStopped):
                    raise
                log.debug("a connection gets another tunnel: %s", error)

    @needs_yield_from
    def prepare(self, isolation: Hashable) -> Service[None]:
        """Have a tunnel open for the first connection of a key. Raises as `open`, for its tunnel."""
        yield from self._take(isolation)

    @needs_yield_from
    def close(self) -> Service[None]:
        """Give up all tunnels, and wait until they have ended."""
        yield from self._scope.close()

    def _take(self, key: Hashable) -> Service[_Place]:
        """A tunnel of this key with room for a sub-stream, to be opened without another wait."""
        ends_s: float = (yield CurrentTime()) + self._room_s
        while True:
            places = self._places.get(key, [])
            for place in places:
                if place.has_room:
                    self._places.move_to_end(key)
                    return place
            opening = next((place for place in places if place.tunnel is None), None)
            if opening is None and not self._makes_room():
                yield from self._wait_for_room(ends_s)
                continue
            if opening is None:
                opening = yield from self._open_another(key)
            yield from opening.wait()

    def _take_alone(self) -> Service[_Place]:
        """A tunnel for one sub-stream, to be opened without another wait."""
        ends_s: float = (yield CurrentTime()) + self._room_s
        while not self._makes_room():
            yield from self._wait_for_room(ends_s)
        place = yield from self._open_another(object())
        try:
            yield from place.wait()
        finally:
            place.leave.set()  # also if nobody wants it any more
        return place

    def _makes_room(self) -> bool:
        """Whether another tunnel can be opened; an idle one is closed for it."""
        if len(self) >= self._most:
            self._drop_idle()
        # Those that finish their last sub-streams are no longer counted by `len`.
        return len(self) < self._most and len(self._scope) < _MOST_ENDING * self._most

    def _wait_for_room(self, ends_s: float) -> Service[None]:
        """Wait until a tunnel may have become free. Raises TableFull: not before `ends_s`."""
        left_s = ends_s - (yield CurrentTime())
        if left_s <= 0:
            raise self._no_room()
        signal = Signal()
        self._waiting[signal] = None
        try:
            yield Select(signal, Sleep(min(left_s, _LOOK_S)))  # nothing tells that a tunnel has become idle
        finally:
            self._waiting.pop(signal, None)

    def _no_room(self) -> TableFull:
        return TableFull(f"all {self._most} tunnels to that node are in use")

    def _wake(self) -> None:
        """Let those try again that wait for room, the first to come first."""
        waiting, self._waiting = self._waiting, {}
        for signal in waiting:
            signal.set()

    def _open_another(self, key: Hashable) -> Service[_Place]:
        if not self._makes_room():
            raise self._no_room()
        place = _Place()
        self._places.setdefault(key, []).append(place)
        try:
            yield from self._scope.spawn(self._keep(key, place), name="tunnel of a front")
        except BaseException:
            self._forget(key, place)
            raise
        return place

    def _keep(self, key: Hashable, place: _Place) -> Service[None]:
        """Own one tunnel from its opening to its end."""
        tunnel: NodeTunnel | None = None
        try:
            tunnel = yield from self._open_tunnel()
            place.tunnel = tunnel
            place.settle()
            self._wake()
            is_old = yield from tunnel.carrier.stand(place.leave, self._life_s)
            if is_old and place.is_used:
                yield from self._replace(key)
            self._forget(key, place)
            while tunnel.core.own_streams and not tunnel.has_ended:
                yield Select(tunnel.carrier.handle, Sleep(_LOOK_S))
            if not tunnel.has_ended:
                yield from tunnel.close()
        except TunnelError as error:
            if tunnel is None:
                place.error = error
            else:
                log.debug("a tunnel of a front was not closed cleanly: %s", error)
        finally:
            self._forget(key, place)
            if tunnel is not None:
                tunnel.give_up()
            if place.tunnel is None and place.error is None:
                place.error = NodeStopped()
            place.settle()

    def _replace(self, key: Hashable) -> Service[None]:
        """Open the successor of an old tunnel, which takes connections until then."""
        try:
            successor = yield from self._open_another(key)
            yield from successor.wait()
        except TunnelError as error:  # the next connection raises it
            log.debug("an old tunnel has no successor: %s", error)

    def _open_tunnel(self) -> Service[NodeTunnel]:
        tunnel: NodeTunnel | None = None

        def opening() -> Service[None]:
            nonlocal tunnel
            tunnel = yield from self._node.open_tunnel(self._exit_id, **self._options)
            # Until then its limit of sub-streams is not known, and nothing would be sent.
            yield from tunnel.answered()

        try:
            yield from timeout_after(self._open_s, opening())
            assert tunnel is not None
            return tunnel
        except BaseException as error:
            if tunnel is not None:
                tunnel.give_up()
            if isinstance(error, TimedOut):
                text = f"no tunnel within {self._open_s:g} s"
                raise QueryFailed(text, ErrorCode.TIMEOUT) from error
            if isinstance(error, QueryFailed):
                error.hint = self.advise(error)
            raise

    def _drop_idle(self) -> None:
        """Let the idle tunnel go whose key was used least recently."""
        for key, places in self._places.items():
            for place in places:
                if place.is_idle:
                    place.leave.set()
                    self._forget(key, place)
                    return

    def _forget(self, key: Hashable, place: _Place) -> None:
        """Open no further sub-streams in it. No effect if that was so before."""
        places = self._places.get(key, [])
        if place in places:
            places.remove(place)
            if not places:
                del self._places[key]
            self._wake()


def _opened(stream: TunnelStream, early: bytes) -> Service[TunnelStream]:
    """Send the early bytes, and wait for the answer of the other end."""
    try:
        if early:
            yield from stream.write(early)
        yield from stream.opened()
    except BaseException:
        stream.give_up()
        raise
    return stream
