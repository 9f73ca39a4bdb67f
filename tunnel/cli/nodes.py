"""`mtun node` and `mtun up`: nodes that run until they are stopped.

`node` runs one node in this process. `up` runs a network that `mtun network` made, with a child process for
each node, and watches the children.

A child must not outlive its parent, however the parent ends. Therefore the child's standard input is a pipe
that only the parent holds, and the child stops cleanly at end of file (`--stop-at-eof`). Each child has its
own session, so that Ctrl-C reaches only the parent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reactor import (
    Cancelled,
    Reactor,
    RunInThread,
    Scope,
    Service,
    Signal,
    Spawn,
    TimedOut,
    run_main,
    timeout_after,
)
from reactor.core.poller import FileDescriptor
from tunnel.cli.network import NODE_FILE, STATE_FOLDER, node_folders
from tunnel.cli.options import command, filled, filled_path, seconds
from tunnel.cli.terminal import ProgressBar, complain, going_on, say, say_json
from tunnel.codes import short
from tunnel.config import NodeConfig, load_config, with_published
from tunnel.config.kinds import show
from tunnel.errors import ConfigError, LocalTunnelError, StateInUse
from tunnel.front.entrance import place_text
from tunnel.front.forward import MOST_CONNECTIONS as MOST_FORWARDED
from tunnel.front.socks_server import MOST_CONNECTIONS
from tunnel.identity.state_dir import StateDir, take_lock
from tunnel.running.configured_node import ConfiguredNode

__all__ = ["ChildNode", "add_parser", "allow_open_files", "say_node_ready"]

log = logging.getLogger("tunnel.cli")

_NODE = """\
Run the node of a configuration until SIGINT, SIGTERM or SIGHUP.

At the signal it stops cleanly: it informs its neighbours, waits for messages in transit, and saves keys and
replay tables for the next start. A second signal ends it immediately. SIGUSR1 prints the current state of
every service, and the node's counters.
"""
_NODE_EXAMPLE = """\
example:
  mtun keygen state/keys
  mtun node --config node.toml           an empty file is valid; see docs/configuration.md
  kill -USR1 PID                         print the state of every service, and counters
"""
_PUBLISH = """\
Run the node of a configuration, and publish a TCP server under a name.

Clients reach the server through proxies, with `mtun forward` or `mtun pipe`. The server sees connections
from this machine. --client restricts it to listed clients; by default everybody in the network may use it.
If the node is already running, add a table [[publish]] to its configuration and restart it instead.
"""
_PUBLISH_EXAMPLE = """\
example:
  mtun publish ssh 127.0.0.1:22 --config node.toml
  mtun keygen --client friend.key                       prints the public key of a client
  mtun publish web [::1]:8080 --config node.toml --client PUBLICKEY
"""
_UP = """\
Run a network that `mtun network` made, one process per node, until Ctrl-C.

It prints a line when all nodes are ready. The log of node-0 is DIR/node-0/log. When a node dies, `up` prints
the end of its log, and the others continue; `mtun node --config DIR/node-0/node.toml` restarts it. At the end
`up` sends SIGTERM to every node, and kills nodes that do not stop in time.
"""
_UP_EXAMPLE = """\
example:
  mtun network mynet --nodes 25
  mtun up mynet                      Ctrl-C stops it
  mtun ping node-7 --network mynet   in another terminal
"""
_OTHER_FILES = 128  # listener, poller, state, and the open files of a files service
_ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
_STOPPED = 0, 128 + signal.SIGTERM, -signal.SIGTERM  # the last two: the node was still loading
_READ_BYTES = 65_536
_TAIL_BYTES = 2_000


def add_parser(commands: Any) -> None:
    """Add both subcommands to the main parser."""
    parser = command(commands, "node", _NODE, _NODE_EXAMPLE, run_node)
    parser.add_argument(
        "--config", type=filled_path, required=True, metavar="FILE", help="configuration of the node, TOML"
    )
    parser.add_argument("--stop-at-eof", action="store_true", help=argparse.SUPPRESS)
    parser = command(commands, "publish", _PUBLISH, _PUBLISH_EXAMPLE, run_publish)
    add = parser.add_argument
    add("name", type=filled, metavar="NAME", help="the name of the service")
    add("to", type=filled, metavar="HOST:PORT", help="the server, as seen from this machine")
    add("--config", type=filled_path, required=True, metavar="FILE", help="configuration of the node, TOML")
    add(
        "--client",
        action="append",
        default=[],
        metavar="KEY",
        help="public key of a client that may use the server; may be repeated (default: everybody)",
    )
    parser = command(commands, "up", _UP, _UP_EXAMPLE, run_up)
    add = parser.add_argument
    add("folder", type=filled_path, metavar="DIR", help="a folder made by `mtun network`")
    add(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="S",
        help="time limit in seconds until all nodes are ready (default 60)",
    )
    add(
        "--stop-timeout",
        type=seconds,
        default=20.0,
        metavar="S",
        help="time limit in seconds until all nodes have stopped (default 20)",
    )


def run_node(options: argparse.Namespace) -> int:
    """Run the node. Returns the exit status."""
    config = load_config(options.config, os.environ)
    place = shlex.quote(str(options.config))
    advice = (
        f"to use the running node: `mtun peers --config {place}`; if it is stopping, wait some seconds; "
        "for another node, set another [node] state"
    )
    with _advised(advice):
        return _run(config, options, stops_at_eof=options.stop_at_eof)


def run_publish(options: argparse.Namespace) -> int:
    """Run the node with one more published service. Returns the exit status."""
    config = load_config(options.config, os.environ)
    entry = {"name": options.name, "to": options.to, "clients": options.client or ""}
    advice = (
        f"to publish with that node, add the table [[publish]] with name = {show(options.name)} and "
        f"to = {show(options.to)} to {options.config}, and restart it"
    )
    try:
        config = with_published(config, entry, "mtun publish")
    except ConfigError as error:
        if ":" in options.name:
            error.hint = f"did you swap {options.name} and {options.to}? The name is first"
        raise
    with _advised(advice):
        return _run(config, options)


@contextlib.contextmanager
def _advised(advice: str) -> Iterator[None]:
    """Give the advice of a command where a running node has the state folder."""
    try:
        yield
    except StateInUse as error:
        error.hint = advice
        raise


def _run(config: NodeConfig, options: argparse.Namespace, *, stops_at_eof: bool = False) -> int:
    if not options.verbose:
        logging.getLogger().setLevel(config.log_level)
    allow_open_files(
        config.limits.links
        + (config.exit_settings.connections if config.rules else 0)
        + MOST_CONNECTIONS * len(config.socks)
        + MOST_FORWARDED * len(config.forwards)
    )
    _serve(config, stops_at_eof=stops_at_eof, as_json=options.json)
    log.info("stopped in order; the state is saved")
    return 0


def _serve(config: NodeConfig, *, stops_at_eof: bool, as_json: bool) -> None:
    # Contexts exit from the right: the reactor is closed before the state is written.
    reactor = Reactor()
    with ConfiguredNode(config, reactor) as configured, reactor:

        def ready() -> None:
            with going_on():
                say_node_ready(configured, as_json=as_json)

        serve = configured.serve(ready)
        main = _with_watch(serve) if stops_at_eof else serve
        try:
            run_main(reactor, main, name="node process", dump_more=lambda: _counters_text(configured))
        except (KeyboardInterrupt, SystemExit):
            log.warning("stopped by a second signal: messages in transit were cut off")
            raise


def _counters_text(configured: ConfiguredNode) -> str:
    return f"counters since the start:\n{configured.node.counters}"


def allow_open_files(connections: int) -> None:
    """Raise the limit of open files, as far as possible, to the most that these connections can need."""
    needed = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < needed:
            log.warning("%d connections need %d open files; the system allows %d", connections, needed, most)


def _with_watch(serve: Service[None]) -> Service[None]:
    """Run the node, and watch standard input beside it."""
    watching = yield Spawn(_watch_stdin(), "standard input")
    try:
        yield from serve
    finally:
        watching.cancel()


def _watch_stdin() -> Service[None]:
    """Treat the end of standard input as SIGTERM."""
    stdin = FileDescriptor(sys.stdin)
    try:
        while True:
            yield stdin.readable
            if not os.read(stdin.fileno(), 4096):
                signal.raise_signal(signal.SIGTERM)
                return
    finally:
        stdin.close_notify()


def say_node_ready(configured: ConfiguredNode, *, as_json: bool) -> None:
    """Print that the node accepts connections, and what it publishes."""
    node, peers = configured.node, len(configured.directory) - 1
    place = None if node.listens_at is None else str(node.listens_at)
    if as_json:
        event = {
            "event": "ready",
            "id": node.id.hex(),
            "listen": place,
            "addresses": [str(address) for address in node.descriptor.addresses],
            "peers": peers,
            "socks": [place_text(port.address) for port in configured.fronts.socks],
            "forwards": [place_text(port.address) for port in configured.fronts.forwards],
            "pid": os.getpid(),
        }
        say_json(True, event)
    else:
        where = f"listens on {place}" if place else "does not listen"
        say(f"ready: node {short(node.id)} {where} and knows {peers} peer{'' if peers == 1 else 's'}")
        for entry in configured.config.published:
            users = "everybody in the network"
            if entry.clients is not None:
                users = f"{len(entry.clients)} client{'' if len(entry.clients) == 1 else 's'}"
            say(f"  {entry.name} leads to {place_text(entry.to)}, for {users}")


def run_up(options: argparse.Namespace) -> int:
    """Run the network until a signal stops it. Returns the exit status: 1 when a node has died."""
    folder: Path = options.folder
    network = _Network(options, node_folders(folder))
    lock = take_lock(
        folder / "lock",
        f"{folder} is running already",
        "use the running network, or stop it first with Ctrl-C in its terminal",
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
    """All nodes of a network, seen from their parent process.

    Attributes:
        failed: whether a node has died.
        ended_by: the signal that ended the network before all nodes were ready.
    """

    def __init__(self, options: argparse.Namespace, folders: list[Path]) -> None:
        self._options = options
        self._nodes = [ChildNode(folder, verbose=options.verbose) for folder in folders]
        self._bar = ProgressBar(len(folders), enabled=not options.json, unit=" nodes")
        self._is_stopping = False
        self._is_ready = False
        self.failed = False
        self.ended_by: int | None = None

    def check_stopped(self) -> None:
        """Check, before `up` changes any file of the network, that no node is running.

        Raises:
            StateInUse: a node runs already; the text names it and its process.
        """
        for node in self._nodes:
            state = node.config.parent / STATE_FOLDER
            if state.exists():
                with _advised("stop that node first: `mtun up` runs all nodes of its network"):
                    StateDir(state).close()

    def serve(self) -> Service[None]:
        """Start all nodes, watch them, and stop them when this service is cancelled or fails."""
        scope = Scope("network", fail_together=False)
        try:
            for node in self._nodes:
                node.start()
                yield from scope.spawn(self._watch(node), name=node.name)
            with contextlib.closing(self._bar):
                yield from self._wait_ready()
            with going_on():
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
                    raise self._failure(node)
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
            say(f"ready: {len(self._nodes)} nodes; Ctrl-C stops them")

    def _watch(self, node: ChildNode) -> Service[None]:
        """Wait for the end of one node, and report it unless the network is being stopped."""
        status = yield from node.follow()
        if self._is_stopping and status in _STOPPED:
            return
        self.failed = True
        if not self._is_ready:
            return  # `_wait_ready` reports it
        if self._options.json:
            event = {"event": "ended", "name": node.name, "status": status, "log_tail": node.log_tail()}
            with going_on():
                say_json(False, event)
        complain(f"error: {self._epitaph(node)}")
        complain(f"hint: restart it with: mtun node --config {node.config}")

    @staticmethod
    def _epitaph(node: ChildNode) -> str:
        tail = node.log_tail()
        end = f"; its log {node.log} ends:\n{tail}" if tail else f"; its log {node.log} is empty"
        return f"{node.name} ended with status {node.status}{end}"

    @staticmethod
    def _failure(node: ChildNode) -> LocalTunnelError:
        """The reason why a node did not start, in one line: its error, or the last line of a traceback."""
        lines = node.log_tail().splitlines() or ["nothing"]
        reason = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        failure = LocalTunnelError(
            f"{node.name} ended with status {node.status}; its log ends: {reason.removeprefix('error: ')}"
        )
        advice = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
        failure.add_note("; ".join([*advice[-1:], f"the log is {node.log}"]))
        return failure

    def _stop(self, scope: Scope) -> Service[None]:
        self._is_stopping = True
        for node in self._running():
            node.terminate()
        try:
            yield from timeout_after(self._options.stop_timeout, scope.join())
        except TimedOut:
            for node in self._running():
                complain(f"error: {node.name} did not stop in time and was killed")
                node.kill()
            yield from scope.join()
        finally:
            # Also after a second Ctrl-C: no process is left behind.
            for node in self._nodes:
                node.reap()
        if self._is_ready and not self._options.json:
            with going_on():  # after SIGHUP the terminal is gone
                say("stopped")

    def _running(self) -> Iterator[ChildNode]:
        return (node for node in self._nodes if node.is_running)


class ChildNode:
    """One node of a network, run by `mtun up`.

    Attributes:
        name: the name of its folder. config, log: its files.
        ready: its `ready` event; None before.
        is_settled: set when it is ready or has ended.
        status: its exit status, or minus the signal that ended it; None while it runs.
    """

    def __init__(self, folder: Path, *, verbose: int = 0) -> None:
        self.name = folder.name
        self.config = folder / NODE_FILE
        self.log = folder / "log"
        self.ready: dict[str, Any] | None = None
        self.is_settled = Signal()
        self.status: int | None = None
        self._flags = ["-v"] * verbose
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process with an empty log. Raises OSError."""
        arguments = ["-m", "tunnel", *self._flags, "node", "--config", str(self.config), "--json"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, "--stop-at-eof"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def follow(self) -> Service[int]:
        """Read its output until it ends. Returns its exit status."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        stdout = FileDescriptor(process.stdout)
        line = b""
        try:
            while data := (yield from _read(stdout)):
                line = (line + data)[-_READ_BYTES:]
                if self.ready is None and b"\n" in line:
                    event = json.loads(line.split(b"\n", 1)[0])
                    if event["ok"]:  # otherwise an error, which the log has too
                        self.ready = event
                        self.is_settled.set()
            # The process ends shortly after its output.
            self.status = yield RunInThread(process.wait)
        finally:
            stdout.close_notify()
            self.is_settled.set()
        return process.returncode

    def terminate(self) -> None:
        """Request an orderly stop."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it without cleanup."""
        if self._process is not None:
            self._process.kill()

    def reap(self) -> None:
        """Leave no process, zombie or pipe of it behind."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def log_tail(self) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except OSError as error:
            return f"(no log: {error.strerror})"


def _read(source: FileDescriptor) -> Service[bytes]:
    while True:
        try:
            return os.read(source.fileno(), _READ_BYTES)
        except BlockingIOError:
            yield source.readable
