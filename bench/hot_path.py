"""The reactor's part of an echoed request, without system calls: `python -m bench.hot_path`.

The echo services of `bench.echo` run in a reactor whose epoll and sockets are stubs that are always ready. So
poller, loop, generators and streams remain, a seventh of a real request. The figure is exact to one or two
per cent on a busy machine. In a real server the same code costs up to twice as much, because the kernel's
data fill the caches.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Sequence

from bench.echo_servers import READ_BYTES, SERVICES
from reactor import (
    Reactor,
    Service,
    SocketStream,
)
from reactor.core.poller import EpollPoller

__all__ = ["main", "measure"]

_FIRST_FD = 1_000_000
_IN_AND_OUT = 1 | 4
_REQUEST = bytes(64)


class _Socket(socket.socket):
    """Always has a request to read and room to write. No socket of the system is opened."""

    family = None  # type: ignore[assignment]

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.recv = {READ_BYTES: _REQUEST}.__getitem__  # type: ignore[assignment,method-assign]
        self.send = len  # type: ignore[assignment,method-assign]

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, *arguments: object) -> None: ...

    def close(self) -> None: ...


class _Epoll:
    """Reports all descriptors as ready, a given number of times; then does something else."""

    closed = False

    def __init__(self, connections: int, rounds: int, then: Callable[[], None]) -> None:
        self._events = [(_FIRST_FD + number, _IN_AND_OUT) for number in range(connections)]
        self._left = rounds
        self._then = then

    def poll(self, timeout_s: float | None, limit: int) -> list[tuple[int, int]]:
        self._left -= 1
        if self._left == 0:
            self._then()
        return self._events

    def register(self, fd: int, events: int) -> None: ...

    def unregister(self, fd: int) -> None: ...

    def close(self) -> None: ...


def measure(echo: Callable[[SocketStream], Service[None]], connections: int, requests: int) -> float:
    """Return the processor nanoseconds of a request."""
    rounds = max(1, requests // connections)
    poller = EpollPoller()
    with Reactor(poller=poller) as reactor:
        poller._epoll.close()
        poller._epoll = _Epoll(connections, rounds, reactor.stop)  # type: ignore[assignment]
        for number in range(connections):
            reactor.spawn(echo(SocketStream(_Socket(_FIRST_FD + number))))
        started_s = time.process_time()
        reactor.run()
        return (time.process_time() - started_s) / (rounds * connections) * 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hot_path",
        description="Processor nanoseconds that our reactor adds to an echoed request, without system calls.",
        epilog="example: python -m bench.hot_path --connections 1000",
    )
    parser.add_argument("--connections", type=int, default=50, metavar="N")
    parser.add_argument("--requests", type=int, default=200_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="take the least of N counts")
    options = parser.parse_args(arguments)
    for name, echo in SERVICES.items():
        found = [measure(echo, options.connections, options.requests) for _ in range(options.rounds)]
        print(f"{name}: {min(found):,.0f} ns a request, {options.connections} connections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
