"""Nodes in this process that differ, unlike those of a `LocalNetwork`.

Each has its own directory, limits and addresses, and can be stopped alone.

    with NodeGroup() as group:
        bob = group.add(directory)
        alice = group.add(directory, port=None, limits=Limits(links_ahead=1))
        directory.publish(bob.descriptor)
        group.start(alice), group.start(bob)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from reactor import Reactor, ReactorThread, Service, Sleep
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import ExchangeDirectory, StaticDirectory
from tunnel.identity.keys import NodeKeys
from tunnel.node import Node

__all__ = ["NodeGroup"]

T = TypeVar("T")

_PATIENCE_S = 120.0  # reached only when something hangs
_LOOK_S = 0.002


class NodeGroup:
    """A context manager that holds one reactor in a thread, and nodes on it.

    Args:
        engine: "auto", "openssl" or "pycryptodome".
    """

    def __init__(self, engine: str = "auto") -> None:
        self.engine = tunnel_engine(engine)
        self._thread = ReactorThread()
        self._nodes: list[Node] = []
        self._serving: dict[bytes, Future[None]] = {}

    @property
    def reactor(self) -> Reactor:
        """Runs all of it."""
        return self._thread.reactor

    def add(
        self, directory: StaticDirectory | ExchangeDirectory, *, keys: NodeKeys | None = None, **options: Any
    ) -> Node:
        """Make a node. It is bound to its port, but not started.

        Args:
            keys: fresh ones by default. options: more arguments of `Node`.
        """
        node = Node(
            keys or NodeKeys.generate(time.time()),
            directory,
            reactor=self.reactor,
            engine=self.engine,
            **options,
        )
        self._nodes.append(node)
        return node

    def start(self, node: Node) -> Future[None]:
        """Start a node. The future ends when the node does."""
        future = self._serving[node.id] = self.submit(node.serve())
        return future

    def stop(self, node: Node) -> None:
        """Stop a node without an orderly end, as a crash would."""
        self._serving[node.id].cancel()
        self.wait_until(lambda: not node.open_links)

    def submit(self, service: Service[T]) -> Future[T]:
        """Run a service in the reactor."""
        return self._thread.submit(service)

    def run(self, service: Service[T]) -> T:
        """The same, and wait for its end."""
        return self.submit(service).result(_PATIENCE_S)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the reactor's thread."""

        def service() -> Service[None]:
            function()
            yield from ()

        self.run(service())

    def wait_until(self, condition: Callable[[], object], patience_s: float = _PATIENCE_S) -> None:
        """Wait until a condition holds; it is checked in the reactor's thread. Raises TimeoutError."""

        def watch() -> Service[None]:
            while not condition():
                yield Sleep(_LOOK_S)

        future = self.submit(watch())
        try:
            future.result(patience_s)
        except TimeoutError:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()
        for node in self._nodes:
            node.close()
