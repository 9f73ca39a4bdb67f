"""A node in a program: `open_node` does for a program what `mtun node` does for a shell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path

from reactor import ReactorThread
from tunnel.config import NodeConfig, load_config
from tunnel.node import Node
from tunnel.running.configured_node import ConfiguredNode
from tunnel.services import InnerService, ServiceFunction

__all__ = ["open_node"]


@contextmanager
def open_node(
    config: str | Path | NodeConfig,
    *,
    services: Mapping[str, InnerService | ServiceFunction] | None = None,
) -> Iterator[Node]:
    """Run the node of a configuration in a thread of this program, until the block ends.

        with open_node("node.toml", services={"upper": upper}) as node:
            print(node.id.hex(), node.listens_at)
            signal.pause()

    The node is the one that `mtun node` would run: it locks its state folder, reads its peer files again
    every `refresh_s`, and opens its control socket. At the end of the block it stops in order: its neighbours
    are informed, running queries get `stop_s` to end, and keys, replay tables and guards are saved.

    Args:
        config: the configuration file, read with the MTUN_ variables of the environment; or one that is
            loaded already.
        services: by name, beside those that the configuration names; a service with the same name replaces
            the configured one.
    Returns:
        A context manager; its value is the node, which accepts connections. Clients take it: `Client(node)`.
    Raises (on entry):
        ConfigError, KeyFileError, ReplayFileError, StateError, OSError: as `ConfiguredNode`.
        LocalTunnelError: an invalid name of a service. TypeError: a service that is none.
    Raises (on exit):
        StateError: the state is not saved; says where the keys are. What ended the node early.
    """
    if not isinstance(config, NodeConfig):
        config = load_config(Path(config), os.environ)
    thread = ReactorThread(name="node")
    # Left from the right: the state is saved when nothing of the node runs any more.
    with ConfiguredNode(config, thread.reactor, services=services) as configured, thread:
        is_ready: Future[None] = Future()
        serving = thread.submit(configured.serve(lambda: is_ready.set_result(None)), name="node")
        wait((is_ready, serving), return_when=FIRST_COMPLETED)
        try:
            if not serving.done():
                yield configured.node
        finally:
            if not serving.done():
                thread.submit(configured.stop(), name="stop").result()
            serving.result()
