"""`mtun up`: runs a network that `mtun network` made, one process per node, until Ctrl-C.

It says when all nodes are ready. Each node's log is DIR/node-0/log. A node that dies is reported with the end
of its log while the others go on; `mtun node --config DIR/node-0/node.toml` starts it again. At the end every
node is told to stop (SIGTERM), waited for, and killed if it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reactor import Cancelled, Reactor, Scope, Service, TimedOut, run_main, timeout_after
from tunnel.cli.child import ChildNode
from tunnel.cli.network import STATE_FOLDER, node_folders
from tunnel.cli.options import add_json, command, filled_path, seconds
from tunnel.cli.terminal import ProgressBar, complain, say, say_json
from tunnel.errors import LocalTunnelError
from tunnel.identity.state_dir import StateDir, take_lock

__all__ = ["add_parser"]

_EXAMPLE = """\
example:
  mtun network mynet --nodes 25
  mtun up mynet                      Ctrl-C stops it
  mtun ping node-7 --network mynet   in another terminal
"""
_ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
_STOPPED = 0, 128 + signal.SIGTERM, -signal.SIGTERM  # the latter two of a node that was still being loaded


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "up", __doc__, _EXAMPLE, run)
    add = parser.add_argument
    add("folder", type=filled_path, metavar="DIR", help="made by `mtun network`")
    add("--timeout", type=seconds, default=60.0, metavar="S", help="for all to be ready (default 60)")
    add("--stop-timeout", type=seconds, default=20.0, metavar="S", help="for all to stop (default 20)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the network until told to stop. Returns the exit status: 1 when a node has died."""
    folder: Path = options.folder
    network = _Network(options, node_folders(folder))
    lock = take_lock(
        folder / "lock",
        f"{folder} is running already",
        "stop it with Ctrl-C where it runs, or use it as it is",
    )
    try:
        network.check_stopped()
        with Reactor() as reactor:
            run_main(reactor, network.serve(), name="network")
    finally:
        os.close(lock)
    if network.ended_by is not None:
        signal.raise_signal(network.ended_by)  # now `main` reports it
    return 1 if network.failed else 0


class _Network:
    """All nodes of a network, as their parent sees them."""

    def __init__(self, options: argparse.Namespace, folders: list[Path]) -> None:
        self._options = options
        self._nodes = [ChildNode(folder, verbose=options.verbose) for folder in folders]
        self._bar = ProgressBar(len(folders), enabled=not options.json, unit=" nodes")
        self._is_stopping = False
        self._is_ready = False
        self.failed = False
        self.ended_by: int | None = None
        """The signal that has ended it before all nodes were ready."""

    def check_stopped(self) -> None:
        """Before anything of the network is touched, its logs for one.

        Raises:
            StateError: a node runs already; names it and its process.
        """
        for node in self._nodes:
            state = node.config.parent / STATE_FOLDER
            if state.exists():
                StateDir(state).close()

    def serve(self) -> Service[None]:
        """Start all, watch them, and stop them when this service is cancelled or fails."""
        scope = Scope("network", fail_together=False)
        try:
            for node in self._nodes:
                node.start()
                yield from scope.spawn(self._watch(node), name=node.name)
            with contextlib.closing(self._bar):
                yield from self._wait_ready()
            self._say_ready()
            yield from scope.join()
        except Cancelled as error:
            if not self._is_ready:
                self.ended_by = next((n for n in _ENDING if n.name in str(error)), signal.SIGINT)
            raise
        finally:
            yield from self._stop(scope)

    def _wait_ready(self) -> Service[None]:
        def all_of_them() -> Service[None]:
            for number, node in enumerate(self._nodes, start=1):
                yield node.is_settled
                if node.ready is None:
                    raise LocalTunnelError(self._epitaph(node))
                self._bar.update(number)

        try:
            yield from timeout_after(self._options.timeout, all_of_them())
        except TimedOut as error:
            late = [node.name for node in self._nodes if node.ready is None]
            raise LocalTunnelError(
                f"not ready within {self._options.timeout:g} s: {', '.join(late)}; see their logs"
            ) from error
        self._is_ready = True

    def _say_ready(self) -> None:
        if self._options.json:
            nodes = {node.name: node.ready for node in self._nodes}
            say_json(True, {"event": "ready", "nodes": nodes})
        else:
            say(f"ready: {len(self._nodes)} nodes, Ctrl-C stops them")

    def _watch(self, node: ChildNode) -> Service[None]:
        """Follow one node to its end, and say so where nobody has asked for it."""
        status = yield from node.follow()
        if self._is_stopping and status in _STOPPED:
            return
        self.failed = True
        if not self._is_ready:
            return  # said by whoever waits for it
        if self._options.json:
            event = {"event": "ended", "name": node.name, "status": status, "log_tail": node.log_tail()}
            say_json(False, event)
        complain(f"error: {self._epitaph(node)}")
        complain(f"hint: start it again with: mtun node --config {node.config}")

    def _epitaph(self, node: ChildNode) -> str:
        tail = node.log_tail()
        end = f"; its log {node.log} ends:\n{tail}" if tail else f"; its log {node.log} is empty"
        return f"{node.name} has ended with status {node.status}{end}"

    def _stop(self, scope: Scope) -> Service[None]:
        self._is_stopping = True
        for node in self._running():
            node.terminate()
        try:
            yield from timeout_after(self._options.stop_timeout, scope.join())
        except TimedOut:
            for node in self._running():
                complain(f"error: {node.name} did not stop in time and is killed")
                node.kill()
            yield from scope.join()
        finally:
            # A second Ctrl-C comes by here: nothing is left behind.
            for node in self._nodes:
                node.reap()
        if self._is_ready and not self._options.json:
            # After SIGHUP the terminal is gone.
            with contextlib.suppress(OSError):
                say("stopped")

    def _running(self) -> Iterator[ChildNode]:
        return (node for node in self._nodes if node.is_running)
