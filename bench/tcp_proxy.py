"""A TCP proxy as a service of the reactor: an attacker on the wire between two nodes.

It sees all bytes and may cut them; it has no keys. Each connection has a `Watcher`, which is called with the
bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from reactor import (
    Broken,
    ConnectError,
    CurrentTime,
    ReadYield,
    Scope,
    Service,
    Signal,
    Sleep,
    SocketStream,
    TcpListener,
    WriteYield,
    connect_tcp,
)
from tunnel.identity.descriptor import Address

__all__ = ["TcpProxy", "Watcher"]

_BUFFER_BYTES = 64 * 1024
_STALL_LOOK_S = 0.005


class Watcher(Protocol):
    """Watches one connection."""

    def passes(self, data: memoryview, *, outward: bool) -> int:
        """Called with received bytes; `outward`: from the side that dialled.

        Returns:
            Number of bytes to pass on. If it is less than all, the connection is cut after them, both ways.
        """
        ...

    def ended(self) -> None:
        """The connection is over."""
        ...


class TcpProxy:
    """Listens from the start; `serve` carries connections to `target`.

    Args:
        watch: makes the watcher of each connection.
        target: where to; may be set later.
        delay_s: time that bytes spend on the wire, in each direction.
    Attributes:
        open: connections that live.
        is_stalled: while true nothing is read, so that the kernel's buffers fill.
    """

    def __init__(
        self, watch: Callable[[], Watcher], target: Address | None = None, *, delay_s: float = 0.0
    ) -> None:
        self._watch = watch
        self._delay_s = delay_s
        self._listener = TcpListener("127.0.0.1", 0)
        self.target = target
        self.open = 0
        self.is_stalled = False

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address("127.0.0.1", self._listener.address[1])

    def close(self) -> None:
        """Stop listening, without `serve`."""
        self._listener.close()

    def serve(self) -> Service[None]:
        """Run until cancelled."""
        scope = Scope("proxy", fail_together=False)
        try:
            while True:
                near = yield from self._listener.accept()
                yield from scope.spawn(self._carry(near), name="proxied connection")
        finally:
            self._listener.close()
            yield from scope.close()

    def _carry(self, near: SocketStream) -> Service[None]:
        watcher = self._watch()
        self.open += 1
        far = None
        scope = Scope("connection", fail_together=False)
        try:
            assert self.target is not None
            far = yield from connect_tcp(self.target.host, self.target.port)
            yield from scope.spawn(self._pump(near, far, watcher, scope, outward=True))
            yield from scope.spawn(self._pump(far, near, watcher, scope, outward=False))
            yield from scope.join()
        except ConnectError:
            pass  # the dialling side sees the end of its connection
        finally:
            yield from scope.close()
            near.close()
            if far is not None:
                far.close()
            self.open -= 1
            watcher.ended()

    def _pump(
        self, source: SocketStream, sink: SocketStream, watcher: Watcher, scope: Scope, *, outward: bool
    ) -> Service[None]:
        """Carry one direction to its end; a break or a cut ends both."""
        wire = _Wire(sink, self._delay_s)
        if self._delay_s:
            yield from scope.spawn(self._deliver(wire, scope), name="wire")
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        reader = ReadYield(source)
        try:
            while count := (yield from reader.readinto(buffer)):
                while self.is_stalled:
                    yield Sleep(_STALL_LOOK_S)
                passed = watcher.passes(buffer[:count], outward=outward)
                yield from wire.take(buffer[:passed])
                if passed < count:
                    scope.cancel()
                    return
            yield from wire.take(buffer[:0])
        except Broken:
            scope.cancel()

    def _deliver(self, wire: _Wire, scope: Scope) -> Service[None]:
        try:
            yield from wire.deliver()
        except Broken:
            scope.cancel()


class _Wire:
    """The bytes of one direction that are under way. Empty bytes are the end."""

    def __init__(self, sink: SocketStream, delay_s: float) -> None:
        self._sink = sink
        self._delay_s = delay_s
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._news = Signal()

    def take(self, data: memoryview) -> Service[None]:
        """Carry these bytes: at once without a delay, otherwise `deliver` does it."""
        if not self._delay_s:
            yield from self._arrive(data)
            return
        now_s: float = yield CurrentTime()
        self._under_way.append((now_s + self._delay_s, bytes(data)))
        self._news.set()

    def deliver(self) -> Service[None]:
        """Hand over what is due, until the end."""
        while True:
            while not self._under_way:
                yield self._news
            due_s, data = self._under_way.popleft()
            now_s: float = yield CurrentTime()
            if due_s > now_s:
                yield Sleep(due_s - now_s)
            yield from self._arrive(data)
            if not data:
                return

    def _arrive(self, data: bytes | memoryview) -> Service[None]:
        if data:
            yield from WriteYield(self._sink).write_all(data)
        else:
            self._sink.shutdown_write()
