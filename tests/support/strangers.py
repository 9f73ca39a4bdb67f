"""Nodes in one reactor without a common directory: each knows its first peers and what it learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from reactor import Handle, ReactorThread, Scope, Service, Sleep
from tests.support.network import PATIENCE_S, wait_until
from tests.tunnel.helpers import OPENSSL
from tunnel.directory import ExchangeDirectory
from tunnel.directory.base import Directory
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.node import Limits, Node
from tunnel.routing.addresses import LOCAL

__all__ = ["Stranger", "Strangers", "strangers"]

T = TypeVar("T")


@dataclass
class Stranger:
    """A node and its directory."""

    node: Node
    directory: Directory
    handle: Handle[None] | None = None


class Strangers:
    """Nodes; the first one is the bootstrap of the others.

    Args:
        limits: of every node.
        make_directory: makes the directory of one node; by default one that learns from neighbours.
        knows_bootstrap: whether each node knows the first one.
    """

    def __init__(
        self,
        thread: ReactorThread,
        limits: Limits,
        make_directory: Callable[[], Directory] | None,
        knows_bootstrap: bool,
    ) -> None:
        self._knows_bootstrap = knows_bootstrap
        self._thread = thread
        self._limits = limits
        self._make_directory = make_directory or (lambda: ExchangeDirectory(engine=OPENSSL, rules=LOCAL))
        self._scope = Scope("strangers", fail_together=False)
        self.all: list[Stranger] = []

    def __getitem__(self, index: int) -> Node:
        return self.all[index].node

    def add(
        self,
        *,
        keys: NodeKeys | None = None,
        port: int = 0,
        ahead_s: float = 0,
        bootstrap: Descriptor | None = None,
    ) -> Stranger:
        """Start one more node, which knows only the first one's descriptor.

        Args:
            ahead_s: how far its clock is ahead of the others'.
            bootstrap: the descriptor of the first one that it gets; by default the current one.
        """
        directory = self._make_directory()
        node = Node(
            keys or NodeKeys.generate(time.time()),
            directory,
            reactor=self._thread.reactor,
            engine=OPENSSL,
            limits=self._limits,
            port=port,
            wall_clock=lambda: time.time() + ahead_s,
        )
        directory.publish(node.descriptor)
        if self.all and self._knows_bootstrap:
            directory.publish(bootstrap or self.all[0].node.descriptor)
        stranger = Stranger(node, directory)
        self.all.append(stranger)

        def start() -> Service[None]:
            stranger.handle = yield from self._scope.spawn(node.serve(), name="stranger")

        self._thread.submit(start()).result(PATIENCE_S)
        return stranger

    def submit(self, service: Service[T]) -> Future[T]:
        """Run a service in the network's reactor."""
        return self._thread.submit(service)

    def stop(self, stranger: Stranger) -> None:
        """End a node as a crash would."""

        def stop() -> Service[None]:
            assert stranger.handle is not None
            stranger.handle.cancel()
            while not stranger.handle.is_finished:
                yield Sleep(0.001)

        self._thread.submit(stop()).result(PATIENCE_S)

    def wait_until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until a condition holds; it is checked in the reactor's thread. Raises TimeoutError."""
        wait_until(self._thread, condition, patience_s)

    def close(self) -> None:
        """End all nodes."""

        def close() -> Service[None]:
            yield from self._scope.close()

        self._thread.submit(close()).result(PATIENCE_S)
        for stranger in self.all:
            stranger.node.close()
            stranger.directory.close()


@contextmanager
def strangers(
    count: int,
    *,
    limits: Limits,
    make_directory: Callable[[], Directory] | None = None,
    knows_bootstrap: bool = True,
) -> Iterator[Strangers]:
    """`count` nodes, for as long as the context lasts."""
    with ReactorThread() as thread:
        network = Strangers(thread, limits, make_directory, knows_bootstrap)
        try:
            for _ in range(count):
                network.add()
            yield network
        finally:
            network.close()
