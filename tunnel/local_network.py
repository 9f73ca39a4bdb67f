"""A network of real nodes in this process: real TCP on loopback, real keys and ciphers, one reactor in one
thread.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from reactor import Handle, ReactorThread, Scope, Service, Sleep
from tunnel.arguments import checked_count
from tunnel.codes import short
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import LocalTunnelError, TooManyFiles
from tunnel.identity.keys import NodeKeys
from tunnel.node import FrameReport, Limits, Node
from tunnel.services import InnerService, ServiceFunction
from tunnel.services.base import as_service

__all__ = ["LocalNetwork"]

T = TypeVar("T")

_MOST_PEERS = 10_000  # more than one process can have open files for


class LocalNetwork:
    """A context manager: `peers` nodes that know each other.

        with LocalNetwork(peers=25) as net:
            print(net[0].query(net[24].id, b"ping", hops=23).result(timeout=30).read())

    Args:
        peers: number of nodes.
        service: the inner service of every node; by default `Echo`.
        engine: "auto", "openssl", "pycryptodome", or an engine.
        limits: of every node.
        observe: called in the reactor's thread with a FrameReport for each frame that a node relays.
    Raises:
        TypeError: an argument has the wrong type, or `service` is not a service. BadArgument: `peers` is not
            1 to 10,000.
        EngineUnavailable, BadParameter (both of `readwrite_comp`): the engine is not installed, or unknown.
    Raises (on entry):
        LocalTunnelError: it was entered before.
        TooManyFiles: the longest route through all peers needs more open files than this process may have.
        OSError: no socket can be opened.
    """

    def __init__(
        self,
        peers: int,
        *,
        service: InnerService | ServiceFunction | None = None,
        engine: TunnelEngine | str = "auto",
        limits: Limits | None = None,
        observe: Callable[[FrameReport], None] | None = None,
    ) -> None:
        self._peers = checked_count(peers, "peers", least=1, most=_MOST_PEERS)
        self._service = None if service is None else as_service(service)
        self._engine = tunnel_engine(engine) if isinstance(engine, str) else engine
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits: expected Limits, got {type(limits).__name__}")
        self._limits = limits
        self._observe = observe
        self._thread: ReactorThread | None = None
        self._nodes: list[Node] = []
        self.serving: dict[bytes, Handle[None]] = {}  # by node id; for tests, not API
        self.directory = StaticDirectory()

    @property
    def engine(self) -> TunnelEngine:
        """The engine that all nodes share."""
        return self._engine

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, index: int) -> Node:
        if not self._nodes:
            raise IndexError("the network has no nodes yet: enter it first, `with LocalNetwork(...) as net`")
        try:
            return self._nodes[index]
        except IndexError:
            raise IndexError(f"node {index} of a network of {len(self._nodes)}, counted from 0") from None

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __enter__(self) -> LocalNetwork:
        if self._nodes:
            state = "was closed" if self._thread is None else "is open already"
            raise LocalTunnelError(f"this network {state}: make another one, `with LocalNetwork(...) as net`")
        _check_open_files(self._peers)
        self._thread = ReactorThread().start()
        try:
            for _ in range(self._peers):
                node = Node(
                    NodeKeys.generate(time.time()),
                    self.directory,
                    reactor=self._thread.reactor,
                    service=self._service,
                    engine=self._engine,
                    limits=self._limits,
                    observe=self._observe,
                )
                self._nodes.append(node)
                self.directory.publish(node.descriptor)
            self._thread.submit(self._serve_all(), name="local network")
        except BaseException:
            self.close()
            raise
        return self

    def submit(self, service: Service[T]) -> Future[T]:
        """Run a service in the network's reactor."""
        assert self._thread is not None
        return self._thread.submit(service)

    def stop(self, index: int) -> None:
        """Stop one node like a crash: its connections break, and its address refuses new ones."""

        def stop_in_reactor() -> Service[None]:
            handle = self.serving[self._nodes[index].id]
            handle.cancel()
            while not handle.is_finished:
                yield Sleep(0.001)

        self.submit(stop_in_reactor()).result(timeout=30)

    def _serve_all(self) -> Service[None]:
        scope = Scope("local network", fail_together=False)
        try:
            for node in self._nodes:
                name = f"node {short(node.id)}"
                self.serving[node.id] = yield from scope.spawn(node.serve(), name=name)
            yield from scope.join()
        finally:
            yield from scope.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all nodes and their thread. Running queries are cancelled. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()
            for node in self._nodes:
                node.close()


def _check_open_files(peers: int) -> None:
    """A query through all peers and its reply: a listener each, and both ends of each link, twice."""
    needed = peers + 4 * peers + 64
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise TooManyFiles(
            f"a network of {peers} peers in one process needs up to {needed} open files, the limit here is "
            f"{limit}; raise it with: ulimit -n {max(4096, needed)}"
        )
