"""Real nodes in one reactor with a fake clock, joined by connections in memory.

All is driven from one thread: `run` runs a service to its end, `settle` runs what is ready, `pass_time` lets
time pass. A wait of an hour takes no time, and a node that hangs is noticed at once.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Final, Self, TypeVar, cast

from reactor import Reactor, Scope, Service, Signal, Sleep, TimedOut, timeout_after
from reactor.core.timers import FakeClock
from tests.network_model.wires import MemoryListener, MemorySocket, Wire, Wires
from tests.tunnel.helpers import OPENSSL
from tunnel.directory import Directory, StaticDirectory
from tunnel.identity.keys import NodeKeys
from tunnel.node import Limits, Node
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Route
from tunnel.services import Echo, InnerService, Query, Reply, Services

__all__ = ["PATIENCE_S", "Hang", "MemoryNetwork", "Records", "Unanswered"]

T = TypeVar("T")

PATIENCE_S: Final = 900.0
"""Fake seconds after which what is waited for counts as hanging: longer than every limit of a node."""
HOST: Final = "127.0.0.1"
"""Of every node and every peer: they differ by port."""
_PORTS: Final = range(20_000, 60_000)
_IDENTITIES: Final = 256


class Hang(AssertionError):
    """Something did not end in the time that the longest limit allows."""


class Unanswered(AssertionError):
    """The node has ended, or does not take, what a rule builds on: it cannot be broken here."""


def _silent(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    """An inner service that reads nothing."""
    yield Signal()


class Records(logging.Handler):
    """Keeps what no hostile peer may cause: errors, tracebacks, and services that ended with an exception."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        is_escape = record.name.startswith("reactor") and record.levelno >= logging.WARNING
        if record.levelno >= logging.ERROR or record.exc_info or is_escape:
            self.faults.append(logging.Formatter().format(record))


class MemoryNetwork:
    """A context manager: Alice, the victim and Bob. Honest traffic goes from Alice over the victim to Bob.

    Args:
        service: the victim's inner service.
        directory: the victim's; by default the one that all share.
        limits: of every node.
    Attributes:
        tunnel: from Alice over the victim to Bob, open all the time.
    """

    def __init__(
        self,
        *,
        service: InnerService | None = None,
        directory: Directory | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.clock = FakeClock(1000.0)
        self.reactor = Reactor(clock=self.clock, slow_step_s=None)
        self.wires = Wires(self.reactor)
        self._ports = deque(_PORTS)
        self._identities: deque[NodeKeys] = deque()
        self.directory = StaticDirectory()
        self.records = Records()
        self._start_s = time.time() - self.clock.now()
        self._scope = Scope("memory network", fail_together=False)
        # The honest links must not be replaced because of their age: the tables would change.
        limits = replace(limits or Limits(), link_age_s=2_592_000.0)
        self.alice = self._node(self.directory, limits)
        self.victim = self._node(
            self.directory if directory is None else directory,
            limits,
            service or Services({"echo": Echo(), "silent": _silent}),
        )
        self.bob = self._node(self.directory, limits)
        self.nodes = (self.alice, self.victim, self.bob)
        for node in self.nodes:
            self.directory.publish(node.descriptor)
            if directory is not None:
                directory.publish(node.descriptor)
        self.tunnel: NodeTunnel

    def _node(self, directory: Directory, limits: Limits, service: InnerService | None = None) -> Node:
        return Node(
            NodeKeys.generate(self.wall_s()),
            directory,
            reactor=self.reactor,
            engine=OPENSSL,
            limits=limits,
            service=service,
            port=self._ports.popleft(),
            listen=self.wires.listen,
            connect=self.wires.connect_from(HOST),
            wall_clock=self.wall_s,
        )

    def wall_s(self) -> float:
        """Seconds since 1970 on every node's clock."""
        return self._start_s + self.clock.now()

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self.records)
        self._spool = tempfile.TemporaryDirectory()
        self.run(self._serve())
        self.tunnel = self.run(self.alice.open_tunnel(self.bob.id, route=self.route))
        self.check_honest()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.tunnel.give_up()
            self.run(self._scope.close())
        finally:
            self.reactor.close()
            logging.getLogger().removeHandler(self.records)
            self._spool.cleanup()

    def _serve(self) -> Service[None]:
        for node in self.nodes:
            yield from self._scope.spawn(node.serve(), name="node")

    @property
    def folder(self) -> str:
        """A folder that ends with the network."""
        return self._spool.name

    # -- connections -----------------------------------------------------------------------------------

    def listen(self) -> MemoryListener:
        """A listener for a hostile peer."""
        return self.wires.listen(HOST, self._ports.popleft())

    def unlisten(self, listener: MemoryListener) -> None:
        """Refuse connections there from now on."""
        listener.close()
        self._ports.append(listener.address[1])

    def connect(self, node: Node) -> MemorySocket:
        """Dial a node, without a byte of a handshake."""
        return cast(
            MemorySocket, self.run(self.wires.connect_from(HOST)(node.address.host, node.address.port))
        )

    def wire(self) -> Wire:
        """A connection that nobody has dialled."""
        wire = Wire(self.wires, (HOST, HOST), (1, 1))
        self.wires.live.append(wire)
        return wire

    def identity(self) -> NodeKeys:
        """Keys for a hostile peer: a few hundred, in turn, so that no table of the kit itself grows."""
        if len(self._identities) < _IDENTITIES:
            self._identities.append(NodeKeys.generate(self.wall_s()))
        else:
            self._identities.rotate(-1)
        return self._identities[-1]

    # -- time ------------------------------------------------------------------------------------------

    def run(self, service: Service[T], patience_s: float = PATIENCE_S) -> T:
        """Run a service to its end. Raises Hang, and what it raises."""
        try:
            return self.reactor.run(timeout_after(patience_s, service))
        except TimedOut as error:
            raise Hang(f"no end after {patience_s:g} s") from error

    def settle(self) -> None:
        """Run all that can be run now."""
        self.reactor.run_ready()
        while self.reactor.threads.running:
            self.pass_time(0.0)
            self.reactor.run_ready()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and run all that becomes due."""

        def wait() -> Service[None]:
            yield Sleep(seconds)

        self.reactor.run(wait())

    def wait_until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Raises Hang."""
        end_s = self.clock.now() + patience_s
        while not condition():
            if self.clock.now() >= end_s:
                raise Hang(f"not so after {patience_s:g} s")
            self.settle()
            if not condition():
                self.pass_time(0.25)

    # -- honest traffic --------------------------------------------------------------------------------

    @property
    def route(self) -> Route:
        """From Alice over the victim to Bob."""
        return Route((self.victim.id,), self.bob.id)

    def ask(self) -> None:
        """A message and its echo on the tunnel that is open all the time."""
        message = os.urandom(8)
        assert self.run(self.tunnel.ask(message)) == message

    def check_honest(self) -> None:
        """A query through the victim, and a message on the tunnel through it."""
        content = os.urandom(8)
        query = self.alice.call(self.bob.id, content, route=self.route)
        assert self.run(self.alice.query_service(query)).read() == content
        self.ask()

    def tables(self) -> dict[str, int]:
        """The sizes of what the victim holds for others, and of what its reactor runs."""
        context, links = self.victim.context, self.victim.links
        return {
            "links": len(links),
            "pools": len(links.pools),
            "dials": len(links.dials),
            "streams": links.streams,
            "half open": context.half_open,
            "pending": len(context.pending),
            "queries": len(context.queries),
            "own": len(context.own),
            "invitations": len(context.invitations),
            "receipts": len(context.receipts),
            "unread on links": context.budget.used_bytes,
            "tasks": len(self.reactor.tasks),
            "timers": len(self.reactor.timers),
        }
