"""The node that sends the queries of a command, and the options that choose it.

With `--network DIR` (made by `mtun network`) or `--peers FILE` it is a new node with fresh keys, which dials
its first hops and receives its replies over those links. With `--config FILE` it is one of three:

* the node of that configuration, if it runs: over its control socket;
* that node in this process, with its keys and state, if it has a key file and does not run;
* a new node with fresh keys, in the network of that configuration, if it has no keys.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from reactor import Select, Service, ServiceCancelled, Signal, Spawn
from tunnel.arguments import did_you_mean
from tunnel.cli.network import no_network
from tunnel.cli.options import count, filled, filled_path, seconds
from tunnel.cli.terminal import going_on
from tunnel.client.clients import AskingNode
from tunnel.client.connect import CLIENT_FILE, ClientNode, is_client, running_node
from tunnel.codes import short
from tunnel.config import NodeConfig, load_config, make_config
from tunnel.control import ControlClient
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.directory.base import ids_by_name
from tunnel.errors import ConfigError, ErrorCode, QueryFailed, StateInUse, TunnelError
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.routing.route import Route
from tunnel.running.configured_node import Peers

__all__ = [
    "Client",
    "PeerNames",
    "add_client_options",
    "add_hops",
    "add_source",
    "add_target",
    "client_config",
    "proxies_text",
    "wait",
]

T = TypeVar("T")

_MOST_HOPS = 126
_ANOTHER_RUN = "try again: each run draws another route"
_LOOK_S = 0.5  # between two looks for signals
_STOPPING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def add_source(
    parser: argparse.ArgumentParser, *, required: bool = True, opens_tunnels: bool = False
) -> None:
    """Add the options that select the network. Args: opens_tunnels: see `Client.check_opens_tunnels`."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--network", type=filled_path, metavar="DIR", help="a network made by `mtun network`")
    source.add_argument(
        "--peers", type=filled_path, action="append", metavar="PATH", help="a peer file, or a folder of them"
    )
    source.add_argument(
        "--config",
        type=filled_path,
        metavar="FILE",
        help="configuration of a client, or of a node that is not running"
        if opens_tunnels
        else "configuration of a client or node; a running node is used as it is",
    )


def add_client_options(
    parser: argparse.ArgumentParser, *, required: bool = True, timeout_s: float = 60.0
) -> None:
    """Add the options for the network, the number of proxies and the time limit."""
    add_source(parser, required=required)
    add_hops(parser)
    shown = f"time limit in seconds (default {timeout_s:,.0f})"
    parser.add_argument("--timeout", type=seconds, default=timeout_s, metavar="S", help=shown)


def add_hops(parser: argparse._ActionsContainer) -> None:
    """Add the option for the number of proxies."""
    parser.add_argument(
        "--hops",
        type=count(0, _MOST_HOPS),
        metavar="N",
        help="number of proxies (default: [routes] route_hops of the configuration, or 3)",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the node to query."""
    parser.add_argument(
        "id", type=filled, metavar="ID", help="a node: its name, its id, or the first digits of its id"
    )


def client_config(options: argparse.Namespace) -> NodeConfig:
    """The configuration that the options name, for a client.

    Raises:
        ConfigError: as `load_config`; or the folder holds no network.
    """
    if options.config is not None:
        return load_config(options.config, os.environ, listens=False)
    if options.network is not None:
        if not (options.network / CLIENT_FILE).exists():
            node = getattr(options, "id", None)  # `peers` has none
            if node and os.path.exists(os.path.join(node, CLIENT_FILE)):
                swapped = f"{shlex.quote(str(options.network))} --network {shlex.quote(node)}"
                raise ConfigError(f"{options.network} holds no network", f"did you swap them? {swapped}")
            raise no_network(options.network)
        return load_config(options.network / CLIENT_FILE, os.environ)
    for path in options.peers:
        if (path / CLIENT_FILE).exists():
            raise ConfigError(
                f"{path} is the folder of a network, not of peer files",
                f"did you mean --network {shlex.quote(str(path))}?",
            )
    files = [os.path.realpath(path) for path in options.peers]
    tables = {"node": {"listen": "none"}, "peers": {"files": files, "exchange": False}}
    return make_config(tables, folder=Path(), source="--peers", environment=os.environ)


def source_options(options: argparse.Namespace) -> str:
    """The options that name the source of the peers, as the user wrote them."""
    if options.network is not None:
        return f"--network {shlex.quote(str(options.network))}"
    if options.config is not None:
        return f"--config {shlex.quote(str(options.config))}"
    return " ".join(f"--peers {shlex.quote(str(path))}" for path in options.peers)


class PeerNames:
    """The names of nodes: the name of a peer file with a single descriptor, or the first digits of the id.

    Args:
        paths: the peer files, as in the configuration.
        source: the options that name them, for a hint.
        own_id: the asking node, which cannot query itself.
    """

    def __init__(
        self,
        directory: Peers,
        paths: tuple[Path, ...],
        engine: TunnelEngine,
        source: str = "--network DIR",
        own_id: bytes | None = None,
    ) -> None:
        self._own_id = own_id
        self._directory = directory
        self._source = source
        self._ids = ids_by_name(paths, engine)
        self._names = {node_id: name for name, node_id in self._ids.items()}

    def __iter__(self) -> Iterator[Descriptor]:
        """All peers, by name and then by id."""
        names = self._names
        return iter(
            sorted(
                self._directory,
                key=lambda peer: (len(name := names.get(peer.node_id, "~" * 99)), name, peer.node_id),
            )
        )

    def name(self, node_id: bytes) -> str:
        """The name of a node, or the first digits of its id."""
        return self._names.get(node_id) or short(node_id)

    def in_words(self, text: str) -> str:
        """Replace abbreviated ids in a text by the names of their nodes: "node 7f3a90c1" by "node-7"."""

        def name(match: re.Match[str]) -> str:
            found = [name for node_id, name in self._names.items() if node_id.hex().startswith(match[1])]
            return found[0] if len(found) == 1 else match[0]

        return re.sub(r"\b(?:node )?([0-9a-f]{8,64})\b", name, text)

    def knows(self, text: str) -> bool:
        """Whether a text identifies one node."""
        try:
            self._find(text)
        except ConfigError:
            return False
        return True

    def resolve(self, text: str) -> bytes:
        """The id of the node that a text names.

        Raises:
            ConfigError: it names no node, several, or the asking node.
        """
        node_id = self._find(text)
        if node_id == self._own_id:
            raise ConfigError(
                f"{text!r} is the asking node, which cannot query itself", "choose another node"
            )
        return node_id

    def _find(self, text: str) -> bytes:
        if (node_id := self._ids.get(text)) is not None:
            if self._directory.lookup(node_id) is None:
                raise ConfigError(
                    f"the asking node does not know {text!r} yet, or its descriptor has expired",
                    "a running node reads its peer files again every [peers] refresh_s seconds; "
                    f"list its peers with: mtun peers {self._source}",
                )
            return node_id
        found = [peer.node_id for peer in self if text and peer.node_id.hex().startswith(text.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{node_id.hex()[:16]}…" for node_id in found[:4])
            raise ConfigError(
                f"{len(found)} nodes have an id that begins with {text!r}", f"give more digits: {shown}"
            )
        if (name := os.path.basename(text)) in self._ids:
            raise ConfigError(f"{text!r} is a path: expected the name of a node", f"did you mean {name}?")
        listed = f"list the peers with: mtun peers {self._source}"
        nearest = did_you_mean(text.lower(), self._ids)
        raise ConfigError(
            f"no peer has the name {text!r} or an id that begins with it",
            f"{nearest} Or {listed}" if nearest else listed,
        )


class Client:
    """A running client node. A context manager.

    Attributes:
        node, names, directory: not before `with`.
    Raises (on entry):
        ConfigError, KeyFileError, StateError: as `ConfiguredNode`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stack = ExitStack()
        self.node: AskingNode
        self.directory: Peers
        self.names: PeerNames

    def __enter__(self) -> Self:
        options, config = self._options, client_config(self._options)
        engine = tunnel_engine(config.engine)
        with self._stack:
            running = None if options.config is None else running_node(config)
            if running is not None:
                self.node = self._stack.enter_context(running)
                self.directory = StaticDirectory(running.peers())
            else:
                is_node = options.config is not None and not is_client(config)
                if is_node:
                    config = load_config(options.config, os.environ)  # with its address
                try:
                    client = self._stack.enter_context(ClientNode(config, has_identity=is_node))
                except StateInUse as error:
                    error.hint = "that node has no control socket: it is starting or stopping, so try again"
                    raise
                self.node, self.directory = client.node, client.directory
            self.names = PeerNames(
                self.directory, config.files, engine, source_options(options), self.node.id
            )
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if isinstance(error, TunnelError):
            error.args = (self.names.in_words(str(error)),)
        if isinstance(error, QueryFailed):
            error.hint = self.hint(error)

    def run(self, service: Service[None], ready: Callable[[], None]) -> None:
        """Run a service of the node until it fails, or a signal stops the command in order.

        Args:
            ready: called when signals are handled, and before the service starts.
        Raises:
            any: the error of the service.
        """
        reactor, stop = self.node.reactor, Signal()
        # Two signals may arrive at once: unlike an Event, this queue may be used while it is being used.
        wake = SimpleQueue[None]()
        # One that is ignored (SIGHUP by `nohup`) stays ignored.
        stopping = [number for number in _STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        handlers = {number: signal.signal(number, lambda *_: wake.put(None)) for number in stopping}
        try:
            with going_on():
                ready()
            future = reactor.submit(_until(stop, service), name="command")
            future.add_done_callback(lambda _: wake.put(None))
            _get(wake)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        reactor.post(stop.set)
        future.result()

    def check_opens_tunnels(self, table: str = "") -> None:
        """Check that the node runs in this process.

        Args:
            table: the configuration table that has the same effect, for the hint.

        Raises:
            StateInUse: it is the running node of --config.
        """
        if isinstance(self.node, ControlClient):
            instead = f", or add {table} to this configuration and restart its node" if table else ""
            raise StateInUse(
                f"the node of {self._options.config} is running, and opens no tunnels for other programs",
                f"give the configuration of a client{instead}",
                str(self.node.pid),
            )

    def hint(self, error: QueryFailed) -> str:
        """Advice for a failure found on this side, if it is better than the advice of the code."""
        if error.hint:
            return error.hint
        if any(
            failed.code is not ErrorCode.NEXT_REFUSED or failed.report
            for failed in error.attempts or (error,)
        ):
            return self._another_route(error)
        start = ""
        if self._options.network is not None:
            start = f" Start it with: mtun up {shlex.quote(str(self._options.network))}"
        elif self._options.peers is not None:
            start = " --peers works for the network `local`; any other network needs --config."
        options = self._options
        around = ""
        if options.hops != 0:
            if getattr(options, "retries", None) == 0:
                around = " (if only that node is down, --retries 3 avoids it)"
            elif options.command == "pipe":
                around = f" (if only that node is down, {_ANOTHER_RUN})"
        return f"is the network up?{start}{around}"

    def _another_route(self, error: QueryFailed) -> str:
        """Advice for a failure of a proxy: the way of this command to get another route."""
        report, options = error.report, self._options
        if error.code is None or report is None or report.hop is None or report.is_refusal:
            return ""
        hops = len(report.route) - 1
        if report.about_next and report.hop + 1 == hops:
            return "is that node running? Other routes to it end there too"
        if report.hop >= hops:
            return ""
        if options.command == "pipe":
            return _ANOTHER_RUN
        return "--retries 3 tries other routes" if getattr(options, "retries", None) == 0 else ""

    def hops(self) -> int:
        """The number of proxies: that of --hops, or the node's default."""
        return self.node.draw_hops() if self._options.hops is None else int(self._options.hops)

    def route(self, destination: bytes) -> Route:
        """A random route with this number of proxies. Raises BadRoute."""
        hops = self.hops()
        return self.node.choose_route(destination, hops, Profile.for_proxies(hops))


def _until(stop: Signal, service: Service[None]) -> Service[None]:
    """Run a service until it ends, or `stop` is set: then it is cancelled, and cleans up."""
    handle = yield Spawn(service, "command")
    try:
        yield Select(handle, stop)
        if not handle.is_finished:
            handle.cancel("stopped by a signal")
        yield from handle.join()
    except ServiceCancelled:
        pass


def proxies_text(hops: int) -> str:
    """The number of proxies of a result, for people."""
    return "directly, over no proxy" if not hops else f"over {hops} {'proxy' if hops == 1 else 'proxies'}"


def _get(wake: SimpleQueue[None]) -> None:
    """Wait for an entry, and let Python call the handlers of signals meanwhile.

    The system may deliver a signal to another thread, for example after SIGCONT. That does not interrupt a
    wait of this thread, so the wait is repeated.
    """
    while True:
        with contextlib.suppress(Empty):
            return wake.get(timeout=_LOOK_S)


def wait(future: Future[T], timeout_s: float, spent_s: float = 0.0) -> T:
    """The result of a future. If the wait ends early, for example by Ctrl-C, the future is cancelled.

    Args:
        spent_s: of the time limit, before this call.
    Raises:
        QueryFailed: no answer in time, or the node was stopped. Errors of the future.
    """
    try:
        return future.result(max(0.0, timeout_s - spent_s))
    except FutureTimeout as error:
        if future.done():
            raise
        raise QueryFailed(f"no answer within {timeout_s:g} s (--timeout)") from error
    except CancelledError as error:
        raise QueryFailed("the query was cancelled") from error
    finally:
        future.cancel()  # without effect on one that is done
