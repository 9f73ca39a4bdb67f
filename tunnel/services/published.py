"""`Published`: a TCP server that a node offers by name, to everybody or to clients with a listed key.

    Services({"ssh": Published("127.0.0.1", 22)})

The node connects to the server for each sub-stream, and joins the two. The server sees connections from the
node. A client reaches it with `mtun forward` or `mtun pipe`, or with `NodeTunnel.open("ssh")`.

Source: docs/front.md, "Published services".
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from functools import partial
from typing import Final

from reactor import ConnectError, RunInThread, Service, Signal, SocketStream, TimedOut, connect_tcp
from tunnel.arguments import MOST_PORT, checked_bytes, checked_count, checked_seconds
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import ErrorCode, PeerError, TableFull
from tunnel.established import SubStream
from tunnel.identity.client_key import CLIENT_KEY_BYTES, Claim
from tunnel.services.base import StreamService
from tunnel.services.splice import Splice

__all__ = ["Published", "target_error"]

_CONNECT_S: Final = 10.0
_MOST_CONNECTIONS: Final = 1_024
_OUT_OF_RESOURCES: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)


class Published(StreamService):
    """Passes sub-streams on to a TCP server, for example of this machine.

    Args:
        host: name or address of the server, looked up at each connection. port: 1 to 65,535.
        clients: public client keys, 32 bytes each, that may use it; None: everybody.
        idle_s: end a connection when no byte has moved for this time; None: never.
        most: connections at the same time; more are refused with BUSY.
        engine: checks the clients' signatures; by default the preferred one.
    Attributes:
        connections: open now, or being opened.
    Raises:
        BadArgument: a number out of range, or not a key. TypeError: an argument has the wrong type.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        clients: Collection[bytes] | None = None,
        idle_s: float | None = None,
        most: int = _MOST_CONNECTIONS,
        engine: TunnelEngine | None = None,
    ) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host: expected a name or an address as text, got {type(host).__name__}")
        self._host = host
        self._port = checked_count(port, "port", least=1, most=MOST_PORT)
        self._clients: frozenset[bytes] | None = None
        if clients is not None:  # an empty list admits nobody: its last client may have been removed
            self._clients = frozenset(checked_bytes(key, "clients", CLIENT_KEY_BYTES) for key in clients)
        self._idle_s = None if idle_s is None else checked_seconds(idle_s, "idle_s")
        self._most = checked_count(most, "most", least=1)
        self._engine = engine or tunnel_engine()
        self.connections = 0

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        """Connect one sub-stream to the server.

        Raises:
            TableFull: `most` are open. TargetNotAllowed: not a listed client. PeerError: the server cannot be
                reached, or the connection broke.
        """
        # Checked first: a client that is not listed takes no place and learns nothing about the others.
        if self._clients is not None:
            claim = Claim(stream.binding, stream.target.pack(), stream.proof)
            yield RunInThread(partial(claim.check, self._engine, self._clients))
        if self.connections >= self._most:
            raise TableFull(f"{self.connections} connections are open")
        self.connections += 1
        try:
            with (yield from self._connect()) as sock:
                stream.confirm()
                yield from Splice(sock, stream, idle_s=self._idle_s).run()
        finally:
            self.connections -= 1

    def _connect(self) -> Service[SocketStream]:
        try:
            return (yield from connect_tcp(self._host, self._port, timeout_s=_CONNECT_S))
        except (ConnectError, TimedOut) as error:
            raise target_error(error) from error


def target_error(error: ConnectError | TimedOut) -> PeerError:
    """A failure to reach a server, with the code that the other end of the tunnel receives."""
    # A name may have several addresses; the most informative failure counts.
    numbers = set() if isinstance(error, TimedOut) else {failure.errno for failure in error.errors}
    # A reset comes from a server that accepts and closes at once.
    if numbers & {errno.ECONNREFUSED, errno.ECONNRESET}:
        return PeerError("the target refused the connection", ErrorCode.TARGET_REFUSED)
    if isinstance(error, TimedOut) or errno.ETIMEDOUT in numbers:
        return PeerError("the target did not answer", ErrorCode.TIMEOUT)
    if numbers & _OUT_OF_RESOURCES:
        return TableFull("no descriptor or port is left for a connection")
    return PeerError("there is no route to the target", ErrorCode.TARGET_UNREACHABLE)
