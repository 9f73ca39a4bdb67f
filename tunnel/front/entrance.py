"""`Entrance`: the TCP port or Unix socket of this machine where programs connect.

    entrance = Entrance(("127.0.0.1", 1080))
    sock = yield from entrance.listener.accept()

All users of the machine can use a port; only its owner can use a Unix socket.
"""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import TypeAlias

from reactor import TcpListener, UnixListener

__all__ = ["Entrance", "EntrancePlace", "is_of_this_machine", "place_text"]

EntrancePlace: TypeAlias = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""


class Entrance:
    """Listens from its construction on.

    Args:
        place: port 0: any free port. A Unix socket without a listener is replaced.
        backlog: connections that may wait to be accepted.
    Attributes:
        address: the place, with the port that was chosen. listener: accepts the connections.
    Raises:
        OSError: the place cannot be listened on. ValueError: a host that is no name, or a port out of range.
    """

    def __init__(self, place: EntrancePlace, backlog: int = 128) -> None:
        self.listener: TcpListener | UnixListener
        self.address: EntrancePlace
        self._inode = 0
        if isinstance(place, Path):
            self.listener = UnixListener(place, backlog, replace_stale=True)
            self.address = place
            self._inode = place.stat().st_ino
        else:
            self.listener = TcpListener(*place, backlog)
            host, port = self.listener.address[:2]
            self.address = host, port

    def close(self) -> None:
        """Stop listening, and remove the Unix socket if it is still this one. Idempotent."""
        self.listener.close()
        if isinstance(self.address, Path):
            with contextlib.suppress(OSError):  # removed by somebody else
                if self.address.stat().st_ino == self._inode:
                    self.address.unlink()


def is_of_this_machine(place: EntrancePlace) -> bool:
    """Whether only this machine reaches a place."""
    if isinstance(place, Path):
        return True
    try:
        return ipaddress.ip_address(place[0]).is_loopback
    except ValueError:
        return place[0] == "localhost"


def place_text(place: EntrancePlace) -> str:
    """A place as users write it: `127.0.0.1:1080`, `[::1]:1080`, or a path."""
    if isinstance(place, Path):
        return str(place)
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
