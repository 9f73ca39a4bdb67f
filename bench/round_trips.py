"""Services that measure: one node queries another repeatedly, in the node's own reactor.

They run where the node runs, in its own process (`bench.node_process`) or beside all others, so that they
measure the network and not the access to it. All times are in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from reactor import Service, Signal
from tunnel import Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Purpose

__all__ = ["KINDS", "ManyTunnels", "round_trips"]

_PURPOSES: Final[dict[str, Purpose]] = {
    "established": "stream",
    "established, mixed": "mixed",
    "established, interactive": "interactive",
    "established, bulk": "bulk",
}
KINDS: Final = ("route", "cached", *_PURPOSES)
"""Two modes of one-shot queries, and messages of one established tunnel, for each purpose."""

_IDLE_S = 60.0
_PIECE_BYTES = 64 * 1024


def round_trips(
    node: Node, route: Route, kind: str, *, count: int, content_bytes: int
) -> Service[list[float]]:
    """Query the route's destination, which echoes, `count` times in sequence.

    Args:
        kind: one of KINDS. The profile is the default of the node's calls.
    Returns:
        The time of each. The opening of an established tunnel is not counted.
    Raises:
        QueryFailed: a query failed, or other content was returned.
    """
    content = bytes(content_bytes)
    if kind not in _PURPOSES:
        return (yield from _queries(node, route, ReplyMode(kind), content, count))
    times: list[float] = []
    ended = Signal()

    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from _messages(tunnel, content, 1)
        times.extend((yield from _messages(tunnel, content, count)))

    future = node.tunnel(route.destination, use, route=route, purpose=_PURPOSES[kind])
    future.add_done_callback(lambda _: ended.set())
    yield ended
    future.result()
    return times


def _queries(node: Node, route: Route, mode: ReplyMode, content: bytes, count: int) -> Service[list[float]]:
    times = []
    call = node.call(route.destination, content, route=route, mode=mode, idle_s=_IDLE_S)
    for _ in range(count):
        started_s = time.perf_counter()
        result = yield from node.query_service(call)
        times.append(time.perf_counter() - started_s)
        with result:
            _check(result.read(), content)
    return times


def _messages(tunnel: NodeTunnel, content: bytes, count: int) -> Service[list[float]]:
    times = []
    for _ in range(count):
        started_s = time.perf_counter()
        yield from tunnel.send(content)
        answer = yield from tunnel.receive()
        times.append(time.perf_counter() - started_s)
        _check(answer, content)
    return times


def _check(answer: bytes | None, content: bytes) -> None:
    if answer != content:
        raise QueryFailed(f"{len(content)} bytes were sent, and something else came back")


class ManyTunnels:
    """Established tunnels of one node along one route, open side by side. Its methods are services.

    Args:
        profile: of all of them.
    """

    def __init__(self, node: Node, route: Route, profile: Profile) -> None:
        self._node = node
        self._route = route
        self._profile = profile
        self._begin: list[Signal] = []
        self._piece_bytes = 0  # the next amount of each tunnel; 0: close
        self._left = 0
        self._all_done = Signal()
        self._failure: BaseException | None = None

    def open(self, count: int) -> Service[None]:
        """Open `count` tunnels. Returns when a message has passed in each direction of each tunnel."""
        for _ in range(count):
            begin = Signal()
            self._begin.append(begin)
            self._left = 1
            future = self._node.tunnel(
                self._route.destination, self._user(begin), route=self._route, profile=self._profile
            )
            future.add_done_callback(self._ended)
            yield self._all_done
            self._raise_failure()

    def move(self, content_bytes: int) -> Service[float]:
        """Send `content_bytes` through all tunnels together, in equal parts; returns how long it took."""
        self._piece_bytes = content_bytes // len(self._begin)
        started_s = time.perf_counter()
        yield from self._all_go()
        return time.perf_counter() - started_s

    def close(self) -> Service[None]:
        """End all tunnels in order."""
        self._piece_bytes = 0
        yield from self._all_go()
        self._begin.clear()

    def _all_go(self) -> Service[None]:
        self._left = len(self._begin)
        for begin in self._begin:
            begin.set()
        yield self._all_done
        self._raise_failure()

    def _user(self, begin: Signal) -> Callable[[NodeTunnel], Service[None]]:
        def use(tunnel: NodeTunnel) -> Service[None]:
            yield from self._send(tunnel, 1)
            self._done()
            while True:
                yield begin
                if not self._piece_bytes:
                    return
                yield from self._send(tunnel, self._piece_bytes)
                self._done()

        return use

    def _send(self, tunnel: NodeTunnel, content_bytes: int) -> Service[None]:
        """One message, and the empty one that acknowledges all of it."""
        content = memoryview(bytes(min(content_bytes, _PIECE_BYTES)))
        while content_bytes:
            part = content[:content_bytes]
            yield from tunnel.write(bytes(part))
            content_bytes -= len(part)
        yield from tunnel.end_message()
        if (yield from tunnel.receive()) != b"":
            raise QueryFailed("the sink answered with content")

    def _done(self) -> None:
        self._left -= 1
        if not self._left:
            self._all_done.set()

    def _ended(self, future: Future[Any]) -> None:
        """A tunnel has ended: by `close`, or with an error, which ends everything."""
        error = QueryFailed("a tunnel was given up") if future.cancelled() else future.exception()
        if error is None:
            self._done()
        else:
            self._failure = self._failure or error
            self._all_done.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
