"""`ModelNetwork`: real nodes in one reactor, on a fake clock, over wires in memory.

Nothing here waits for anything outside: time passes in `pass_time` only, calls that a node makes in a thread
are made at once, and random numbers come from the seed (cipher keys of the link handshake excepted). So a run
is the same each time.

Each node has a host of its own in a network of its own (20.n.0.1), so that the rules for public addresses
apply: guards, hearsay, and places by network.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from unittest.mock import patch

from reactor import YIELD, Handle, Reactor, Scope, Service, Sleep
from reactor.core.requests import Waiter
from reactor.core.threads import RunInThread, ThreadCalls
from reactor.core.timers import FakeClock
from tests.network_model.wires import Wires
from tests.tunnel.helpers import OPENSSL
from tunnel.directory import Directory, ExchangeDirectory, StaticDirectory
from tunnel.errors import LocalTunnelError
from tunnel.identity.descriptor import Address
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.node import Limits, Node
from tunnel.services import Echo, InnerService, Query, Reply, Services, service_prefix
from tunnel.services.base import NamedService

__all__ = ["NETWORK_ID", "Machine", "ModelNetwork", "prefixed"]

T = TypeVar("T")

NETWORK_ID: Final = b"model of network"
WALL_S: Final = 1_800_000_000.0  # of the reactor's clock's 0
_PORT: Final = 7000


def prefixed(service: str, content: bytes) -> bytes:
    """The content of a query to one of the services of these nodes."""
    return service_prefix(service) + content


def _slow(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    """Takes twenty seconds for its answer, and gives it in two pieces."""
    content = b""
    while chunk := (yield from query.read()):
        content += chunk
    yield Sleep(10.0)
    yield from reply.write(content[: len(content) // 2])
    yield from reply.flush()
    yield Sleep(10.0)
    yield from reply.write(content[len(content) // 2 :])


def _fails(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    """Fails after the first chunk."""
    yield from query.read()
    raise LocalTunnelError("this service fails on purpose")


def _repeats(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    """Gives the content once for each reply that the query allows."""
    content = b""
    while chunk := (yield from query.read()):
        content += chunk
    yield from reply.write(content)
    while reply.remaining:
        yield from reply.next()
        yield from reply.write(content)


class CallsAtOnce(ThreadCalls):
    """Makes the calls of services in the loop instead of in a thread."""

    def begin(self, request: RunInThread, task: Waiter) -> None:
        """Make the call now; the service gets the outcome in the next turn."""
        call = _DoneCall(request, task)
        task.wait = call
        self._post(call.deliver)


class _DoneCall:
    def __init__(self, request: RunInThread, task: Waiter) -> None:
        self._task: Waiter | None = task
        self._error: BaseException | None = None
        self._result: Any = None
        try:
            self._result = request.function(*request.args)
        except Exception as error:  # noqa: BLE001 - it goes to the service
            self._error = error

    def undo(self, task: Waiter) -> None:
        self._task = None

    def deliver(self) -> None:
        task = self._task
        if task is None:
            return
        if self._error is None:
            task.wake(self._result)
        else:
            task.wake_error(self._error)


@dataclass
class Machine:
    """A machine with the state of its node, which runs or does not.

    Attributes:
        number: from 0. host: its address.
        ring: the onion keys with their replay tables if the node was stopped in order.
        ahead_s: how far its wall clock is ahead.
    """

    number: int
    keys: NodeKeys
    directory: Directory
    service: InnerService
    node: Node | None = None
    handle: Handle[None] | None = None
    ring: KeyRing | None = None
    guards: bytes | None = None
    ahead_s: float = 0.0
    runs: int = 0

    @property
    def host(self) -> str:
        return f"20.{self.number + 1}.0.1"

    @property
    def id(self) -> bytes:
        return self.keys.node_id(OPENSSL)


class _Bugs(logging.Handler):
    """Keeps the records with a traceback: failures that nobody expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and "on purpose" not in str(record.exc_info[1]):
            self.records.append(record)


class ModelNetwork:
    """A context manager: `count` machines whose nodes run and know each other.

    Args:
        seed: of all random numbers.
        limits: of every node.
        learns: each node has two of the others configured, and hears of the rest. Otherwise all know all.
    Attributes:
        machines, wires, clock, reactor: for the test.
        slept_s: for how long all machines have slept. inventors: ids of those that tell of invented nodes.
    """

    def __init__(
        self, count: int, seed: int = 0, *, limits: Limits | None = None, learns: bool = False
    ) -> None:
        self._count = count
        self._limits = Limits() if limits is None else limits
        self._learns = learns
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.slept_s = 0.0
        self.inventors: set[bytes] = set()
        self.machines: list[Machine] = []
        self._shared = StaticDirectory()
        self._exit = ExitStack()

    def __enter__(self) -> ModelNetwork:
        with ExitStack() as undo:
            undo.enter_context(patch("os.urandom", self._fork().randbytes))
            undo.enter_context(patch("tunnel.node.query.frame_io.perf_counter", self.clock.now))
            self._bugs = undo.enter_context(_collected_bugs())
            self.reactor = undo.enter_context(
                Reactor(clock=self.clock, seed=self.rng.randrange(1 << 30), slow_step_s=None)
            )
            self.reactor.threads = CallsAtOnce(self.reactor.post)
            self.wires = Wires(self.reactor)
            self._scope = Scope("machines", fail_together=False)
            undo.callback(self._stop_all)
            for number in range(self._count):
                self._add(number)
            if self._learns:
                self._introduce()
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def __getitem__(self, number: int) -> Node:
        """The node of a machine that runs."""
        node = self.machines[number].node
        assert node is not None, f"machine {number} does not run"
        return node

    @property
    def now_s(self) -> float:
        return self.clock.now()

    @property
    def wall_s(self) -> float:
        """The time of all machines whose clock is right."""
        return WALL_S + self.slept_s + self.clock.now()

    @property
    def nodes(self) -> list[Node]:
        """The nodes that run."""
        return [machine.node for machine in self.machines if machine.node is not None]

    @property
    def bugs(self) -> list[str]:
        """Failures that were logged with a traceback."""
        return [f"{record.getMessage()}: {record.exc_info}" for record in self._bugs.records]

    # -- machines ----------------------------------------------------------------------------------------

    def _add(self, number: int) -> None:
        directory = ExchangeDirectory(engine=OPENSSL, rng=self._fork()) if self._learns else self._shared
        named: dict[str, NamedService] = {"echo": Echo(), "slow": _slow, "fails": _fails, "repeats": _repeats}
        machine = Machine(number, NodeKeys.generate(WALL_S), directory, Services(named))
        self.machines.append(machine)
        self.start(number)

    def _fork(self) -> random.Random:
        return random.Random(self.rng.random())

    def _introduce(self) -> None:
        """Let each node know two others, in a ring, so that all can be found."""
        descriptors = [node.descriptor for node in self.nodes]
        for number, machine in enumerate(self.machines):
            for step in (1, 2):
                machine.directory.publish(descriptors[(number + step) % len(descriptors)])

    def start(self, number: int) -> None:
        """Start the node of a machine: with its keys and replay tables after an orderly stop, else with new
        onion keys."""
        machine = self.machines[number]
        assert machine.node is None
        ring, machine.ring = machine.ring, None
        node = Node(
            machine.keys if ring is None else ring,
            machine.directory,
            reactor=self.reactor,
            service=machine.service,
            engine=OPENSSL,
            limits=self._limits,
            host=machine.host,
            port=_PORT,
            network_id=NETWORK_ID,
            guards=machine.guards,
            wall_clock=lambda: self.wall_s + machine.ahead_s,
            rng=self._fork(),
            listen=self.wires.listen,
            connect=self.wires.connect_from(machine.host),
        )
        machine.directory.publish(node.descriptor)
        machine.node = node
        machine.runs += 1
        machine.handle = self.run(self._spawn(node))

    def _spawn(self, node: Node) -> Service[Handle[None]]:
        return (yield from self._scope.spawn(node.serve(), name=f"node {node.address.host}"))

    def invent(self, number: int, count: int) -> None:
        """Let a node that learns from others tell them of nodes that do not exist."""
        directory = self.machines[number].directory
        if isinstance(directory, ExchangeDirectory):
            self.inventors.add(self.machines[number].id)
            for _ in range(count):
                place = Address(f"30.{self.rng.randrange(256)}.{self.rng.randrange(256)}.1", _PORT)
                keys = NodeKeys.generate(self.wall_s)
                directory.publish(keys.descriptor((place,), self.wall_s, OPENSSL))

    def crash(self, number: int) -> None:
        """End a node as a crash does: its connections break, and its replay tables are lost."""
        machine = self.machines[number]
        machine.keys = self[number].context.codec.ring.keys
        self.end(number)
        for wire in list(self.wires.live):
            if machine.host in wire.hosts:
                wire.cut()

    def leave(self, number: int) -> None:
        """Stop a node in order; it keeps its replay tables and guards."""
        machine, node = self.machines[number], self[number]
        self.run(node.leave(within_s=30.0))
        machine.guards, machine.ring = node.guards, node.context.codec.ring
        self.end(number)

    def end(self, number: int) -> None:
        """Cancel the service of a node."""
        machine = self.machines[number]
        handle = machine.handle
        assert handle is not None
        machine.node = machine.handle = None
        handle.cancel()
        while not handle.is_finished:
            self.pass_time(0.001)

    def _stop_all(self) -> None:
        for machine in self.machines:
            if machine.node is not None:
                self.end(machine.number)
        for machine in self.machines:
            machine.directory.close()

    # -- time --------------------------------------------------------------------------------------------

    def run(self, service: Service[T]) -> T:
        """Run a service to its end; its waits pass."""
        return self.reactor.run(service)

    def step(self, passes: int) -> None:
        """Let the loop run so many passes, and time stand still unless all wait."""
        self.run(_some_passes(passes))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; the nodes do what is due."""
        self.reactor.run(_sleep(seconds))


def _some_passes(passes: int) -> Service[None]:
    for _ in range(passes):
        yield YIELD


def _sleep(seconds: float) -> Service[None]:
    yield Sleep(seconds)


@contextmanager
def _collected_bugs() -> Iterator[_Bugs]:
    bugs = _Bugs()
    loggers = [logging.getLogger(name) for name in ("tunnel", "reactor")]
    for logger in loggers:
        logger.addHandler(bugs)
    try:
        yield bugs
    finally:
        for logger in loggers:
            logger.removeHandler(bugs)
