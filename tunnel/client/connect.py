"""A network in a program: `connect` returns a node that can send queries.

    with connect("mynet") as node:
        print(Client(node).query(bob_id, b"hello", service="echo").result(timeout=30).read())

There are two kinds. The node of a configuration may run already: the program uses it over its control socket
(`ControlClient`). Otherwise the program gets a new client node (`ClientNode`) with fresh keys. Both have the
asking side of a `Node`, so `Client`, `ServiceClient`, `AsyncClient` and the files functions accept either.
The commands choose in the same way.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from reactor import ReactorThread, Service, Sleep
from tunnel.arguments import EnteredOnce
from tunnel.client.clients import AskingNode
from tunnel.config import NodeConfig, load_config
from tunnel.control import CONTROL_FILE, ControlClient, PeerState, peer_states
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import NodeNotRunning
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.node import Node
from tunnel.running import ConfiguredNode, Peers, load_peers, make_node, reach_some, settle

__all__ = ["CLIENT_FILE", "ClientNode", "ConnectedNode", "connect", "is_client", "running_node"]

CLIENT_FILE: Final = "client.toml"
"""The configuration for clients in a folder that `mtun network` has made."""

_LEAVE_S: Final = 1.0  # a program that is done does not wait for long


class ConnectedNode(AskingNode, Protocol):
    """A node that sends this program's queries. A context manager: leaving it closes it and cancels them."""

    @property
    def pid(self) -> int:
        """The process of the node."""

    def peers(self) -> dict[Descriptor, PeerState]:
        """The known nodes, each with its state as last observed; this node has THIS_NODE."""

    def close(self) -> None:
        """Cancel running queries. Idempotent."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def connect(place: str | Path) -> ConnectedNode:
    """Use a network from this program.

    Args:
        place: the configuration file or the state folder of a running node: that node is used. The
            configuration file of a client, or a folder made by `mtun network`: a client node is started in
            a thread of this program.
    Returns:
        The asking node. Use it as a context manager, or close it.
    Raises:
        NodeNotRunning: the configuration has keys, and its node does not run; `open_node` would run it.
        ControlError: the running node does not answer, or is of another version. ConfigError: as
        `load_config`. StateError: the state folder is not private, or has another owner. KeyFileError,
        MissingLibrary, OSError: as `load_peers`.
    """
    path = Path(place)
    is_state = path.is_dir() and not any((path / name).exists() for name in (CLIENT_FILE, "node.toml"))
    if is_state:
        try:
            return ControlClient(path / CONTROL_FILE)
        except NodeNotRunning as error:
            above = path.resolve().parent
            if (above / CLIENT_FILE).exists():
                error.hint = f"did you mean {above}?"
            raise
    file = path / CLIENT_FILE
    config = load_config(file if file.exists() else path, os.environ, listens=False)
    if not is_client(config):
        return ControlClient(config.state / CONTROL_FILE)
    return running_node(config) or ClientNode(config)


def is_client(config: NodeConfig) -> bool:
    """Whether a configuration is that of a client: `keys = "none"`, or no key file at the default place."""
    return config.is_client or (config.keys == config.state / "keys" and not config.keys.exists())


def running_node(config: NodeConfig) -> ControlClient | None:
    """The node of a configuration, if it runs now. Raises ControlError, StateError: it cannot be used."""
    if config.is_client:
        return None
    try:
        return ControlClient(config.state / CONTROL_FILE)
    except NodeNotRunning:
        return None


class ClientNode(EnteredOnce):
    """A client node of this program: it does not listen, and its reactor runs in a thread.

    Args:
        config: gives network, peers and limits.
        has_identity: whether the client is the node of the configuration, with its keys, state and services.
            By default it has fresh keys and no services.
    Attributes:
        node: the node that runs. directory: its peers.
        id, reactor, call, query, query_service, ask, choose_route, draw_hops, open_tunnel: as of the node.
        pid: this process.
    Raises:
        ConfigError, KeyFileError, StateError, MissingLibrary, OSError: as `load_peers` and, with
        `has_identity`, `ConfiguredNode`.
    """

    def __init__(self, config: NodeConfig, *, has_identity: bool = False) -> None:
        self.node: Node
        self.directory: Peers
        with ExitStack() as stack:
            thread = ReactorThread(name="client")
            stack.callback(thread.close)  # also where it never comes to start
            if has_identity:
                configured = stack.enter_context(ConfiguredNode(config, thread.reactor))
                self.node, self.directory = configured.node, configured.directory
            else:
                engine = tunnel_engine(config.engine)
                self.directory, files = load_peers(config, engine)
                stack.callback(self.directory.close)
                keys = NodeKeys.generate(time.time())
                serves_nothing = replace(config, names=())
                self.node = make_node(serves_nothing, keys, self.directory, thread.reactor, engine)
                self.node.context.refresh = files.refresh
            settle(self.directory)
            # Entered last, left first: nothing runs any more when the state is written.
            stack.enter_context(thread)
            serving = thread.submit(self.node.serve(), name="client node")

            def leave() -> None:
                thread.submit(self.node.leave(_LEAVE_S), name="leave").result()
                serving.result()

            stack.callback(leave)
            thread.submit(reach_some(self.node, self.directory), name="first peers").result()
            self._stack = stack.pop_all()
        node = self.node
        self.id, self.reactor, self.pid = node.id, node.reactor, os.getpid()
        # The asking side of a node. Methods that only forward would repeat its signatures.
        self.call, self.query, self.query_service = node.call, node.query, node.query_service
        self.ask, self.open_tunnel = node.ask, node.open_tunnel
        self.choose_route, self.draw_hops = node.choose_route, node.draw_hops

    def peers(self) -> dict[Descriptor, PeerState]:
        """The known nodes, each with its state as last observed; this node has THIS_NODE."""

        def look() -> Service[dict[Descriptor, PeerState]]:
            yield Sleep(0)  # the table of peers belongs to the reactor's thread
            return peer_states(self.node, self.directory)

        return self.reactor.submit(look()).result()

    def close(self) -> None:
        """Wait at most a second for running queries, then stop. Idempotent."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.enter_once("client", "with connect(...) as node", is_closed=self.reactor.is_closed)

    def __exit__(self, *_: object) -> None:
        self.close()
