"""`ReverseForward`: another node listens, and each of its connections leads to a server here.

    reverse = ReverseForward(node, node_id, ("0.0.0.0", 9000), ("127.0.0.1", 8080))
    yield from reverse.serve()

Both ends set limits: the node's owner lists the addresses where clients may make it listen, and this end
connects to the given server only. The node does not learn the address of this end, unless the server sends
it.

Source: docs/front.md, "Reverse forwards"; the other end is `tunnel.services.reverse`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from reactor import Service, Sleep, SocketStream
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    NodeStopped,
    PeerError,
    QueryFailed,
    SubStreamReset,
    TunnelError,
)
from tunnel.established import Target, TargetKind
from tunnel.front.entrance import place_text
from tunnel.front.failures import Advise, failure_of, no_advice, summary
from tunnel.front.tunnel_pool import OpensTunnels
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import TunnelStream
from tunnel.services import Published, Services
from tunnel.services.names import REVERSE
from tunnel.services.reverse import Place, checked_place, pack_request, unpack_port

__all__ = ["PAUSES_S", "ReverseForward"]

log = logging.getLogger("tunnel.front")

_NAME: Final = "back"  # of the service at this end
PAUSES_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Before another tunnel, by the number of failures since the last that worked."""
_IN_USE: Final = "another client or program uses that address there, or the node may not listen at it"
_UNREACHED: Final = {
    ErrorCode.TARGET_REFUSED: "the server refuses the connection",
    ErrorCode.TIMEOUT: "the server does not answer",
    ErrorCode.TARGET_UNREACHABLE: "no route leads to the server, or its name has no address",
    ErrorCode.BUSY: "this machine has no descriptor or port left for a connection",
}


class ReverseForward:
    """A place at another node that leads to a server here.

    Args:
        node: opens the tunnel. node_id: the node that listens.
        place: IP address and port there; port 0: any free one.
        server: host and port of the server, as seen from here.
        options: of the tunnel.
        on_listening: called in the reactor with the port, each time the node has begun to listen.
        advise: gives the hint for a tunnel that cannot be opened.
    Raises:
        TypeError, BadArgument: as `checked_place`; or `server` is no host and port.
    """

    def __init__(
        self,
        node: OpensTunnels,
        node_id: bytes,
        place: Place,
        server: tuple[str, int],
        *,
        options: TunnelOptions | None = None,
        on_listening: Callable[[int], None] = lambda _: None,
        advise: Advise = no_advice,
    ) -> None:
        self._node = node
        self._node_id = node_id
        self._place = checked_place(place)
        self._options: TunnelOptions = {**(options or {}), "services": Services({_NAME: _Server(*server)})}
        self._on_listening = on_listening
        self._advise = advise
        self._failures = 0  # since the last tunnel that worked
        self._has_listened = False  # over any tunnel
        self._is_listening = False  # over the present one

    def serve(self) -> Service[None]:
        """Keep the node listening until this is cancelled. A tunnel that breaks is replaced.

        Raises:
            SubStreamReset: the node refuses that place. NodeStopped: this end's node was stopped.
        """
        while True:
            try:
                yield from self._listen()
                log.warning("the node has stopped listening for the reverse forward")
            except TunnelError as error:
                is_refused = isinstance(error, SubStreamReset) and error.code is ErrorCode.TARGET_NOT_ALLOWED
                if is_refused or isinstance(error, NodeStopped):
                    raise
                self._log_failure(error)
            yield Sleep(PAUSES_S[min(self._failures, len(PAUSES_S) - 1)])
            self._failures += 1

    def _log_failure(self, error: TunnelError) -> None:
        if isinstance(error, QueryFailed):
            error.hint = self._advise(error)
        failed = failure_of(error, "the node")
        if failed.is_at_target and failed.code is ErrorCode.BUSY and not self._is_listening:
            failed = replace(failed, hint=_IN_USE)
        state = "is interrupted" if self._has_listened else "has not begun yet"
        log.warning("the reverse forward %s, and will be tried again: %s", state, summary(failed))
        log.debug("the reverse forward %s: %s", state, error)

    def _listen(self) -> Service[None]:
        """Listen over one tunnel. Returns when the node has stopped in order."""
        self._is_listening = False
        tunnel = yield from self._node.open_tunnel(self._node_id, **self._options)
        with tunnel, (yield from tunnel.open(Target(TargetKind.SERVICE, REVERSE))) as stream:
            yield from stream.write(pack_request(self._place, _NAME))
            port = unpack_port((yield from _read_exactly(stream, 2)))
            self._failures = 0
            self._has_listened = self._is_listening = True
            self._on_listening(port)
            yield from stream.read(1)


class _Server(Published):
    """The server at this end. The log tells when it stops being reachable, and when it answers again.

    Strangers cause the connections, so further failures are not logged.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._place = place_text((host, port))
        self._answers = True  # as far as the last attempt shows

    def _connect(self) -> Service[SocketStream]:
        try:
            sock = yield from super()._connect()
        except PeerError as error:
            if self._answers:
                self._answers = False
                reason = _UNREACHED.get(error.code, str(error))
                log.warning("connections are reset until the server at %s answers: %s", self._place, reason)
            raise
        if not self._answers:
            self._answers = True
            log.warning("the server at %s answers again", self._place)
        return sock


def _read_exactly(stream: TunnelStream, count: int) -> Service[bytes]:
    data = b""
    while len(data) < count:
        piece = yield from stream.read(count - len(data))
        if not piece:
            raise FrameTruncated("the node ended the reverse forward before it listened")
        data += piece
    return data
