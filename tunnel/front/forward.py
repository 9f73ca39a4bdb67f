"""`Forward`: a local port whose connections lead through a tunnel to a target.

    forward = Forward(pool, Target(TargetKind.SERVICE, b"postgres"), port=5432)
    yield from forward.serve()

A connection that cannot be forwarded is reset, so the program sees a failure and not an empty answer. No
connection is ever made directly.
"""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Final

from reactor import Scope, Service, Signal, SocketStream, TimedOut, timeout_after
from tunnel.arguments import MOST_PORT, checked_count, checked_seconds
from tunnel.errors import BadArgument, TunnelError
from tunnel.established import Target
from tunnel.front.entrance import Entrance, is_of_this_machine
from tunnel.front.failures import REACH_S, end_of, failure_of, summary
from tunnel.front.tunnel_pool import TunnelPool
from tunnel.identity.client_key import ClientKey
from tunnel.services.splice import Splice

__all__ = ["MOST_CONNECTIONS", "Forward"]

log = logging.getLogger("tunnel.front")

MOST_CONNECTIONS: Final = 1_024
"""Connections at a time of a port. Further ones wait in the backlog of the system."""


class Forward:
    """Listens at a place of this machine. The constructor binds it.

    Args:
        pool: the tunnels to the node of the target; closed by the caller.
        host: an IP address. One that other machines reach needs `is_public`: they use the tunnels then.
        port: 0: any free one.
        path: of a Unix socket instead, which only its owner can use.
        client_key: for a published service that lists its clients.
        idle_s: end a connection when no byte has moved for this time; None: never.
        most: connections at the same time; more wait in the backlog of the system.
    Attributes:
        address: IP address and port, or the path. connections: open now, or being opened.
    Raises:
        BadArgument: a public address without `is_public`, or a number out of range. ValueError: `host` is no
            IP address. OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        pool: TunnelPool,
        target: Target,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: Path | None = None,
        is_public: bool = False,
        client_key: ClientKey | None = None,
        idle_s: float | None = None,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        checked_count(port, "port", most=MOST_PORT)
        place = (str(ipaddress.ip_address(host)), port) if path is None else path
        if not is_public and not is_of_this_machine(place):
            raise BadArgument(f"other machines could use the tunnels through {host}: listen on 127.0.0.1")
        self._pool = pool
        self._target = target
        self._client_key = client_key
        self._idle_s = None if idle_s is None else checked_seconds(idle_s, "idle_s")
        self._most = checked_count(most, "most", least=1)
        self._entrance = Entrance(place)
        self.address = self._entrance.address
        self._name = str(path) if isinstance(self.address, Path) else f"port {self.address[1]}"
        self._scope = Scope(f"forward from {self._name}", fail_together=False)
        self._has_room = Signal()

    @property
    def connections(self) -> int:
        return len(self._scope)

    def serve(self) -> Service[None]:
        """Forward connections until this is cancelled. Then open connections are reset."""
        try:
            while True:
                while len(self._scope) >= self._most:
                    yield self._has_room
                sock = yield from self._entrance.listener.accept()
                yield from self._start(sock)
        finally:
            self.close()
            yield from self._scope.close()

    def close(self) -> None:
        """Stop listening, if `serve` never ran. Idempotent."""
        self._entrance.close()

    def _start(self, sock: SocketStream) -> Service[None]:
        try:
            yield from self._scope.spawn(self._pass_on(sock), name="forwarded connection")
        except BaseException:
            sock.abort()
            raise

    def _pass_on(self, sock: SocketStream) -> Service[None]:
        try:
            opening = self._pool.open(self._target, self, client_key=self._client_key)
            stream = yield from timeout_after(REACH_S, opening)
            yield from stream.use(Splice(sock, stream.core, idle_s=self._idle_s).run())
        except (TunnelError, TimedOut) as error:
            failed = failure_of(error, end_of(self._target))
            log.warning("a connection to %s failed: %s", self._name, summary(failed))
            log.debug("a connection to %s failed: %s", self._name, error)
        finally:
            sock.abort()  # no effect after an end in order
            self._has_room.set()
