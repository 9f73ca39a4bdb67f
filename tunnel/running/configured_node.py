"""A node from its configuration: from the state folder to a clean stop.

    with Reactor() as reactor, ConfiguredNode(config, reactor) as configured: ...   # `mtun node`
    with open_node("node.toml") as node: ...                                        # in a program

Order matters. The folder is locked before it is read. The replay tables are read and removed before the node
can open a header, and written when it no longer can.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self, TypeAlias

from reactor import CurrentTime, Reactor, ReactorThread, RunInThread, Service, Sleep, Spawn
from tunnel.arguments import EnteredOnce
from tunnel.codes import short
from tunnel.config import NodeConfig, load_config
from tunnel.control import CONTROL_FILE, ControlServer
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import DhtDirectory, ExchangeDirectory, StaticDirectory
from tunnel.directory.base import PeerFiles, write_descriptor
from tunnel.disk import advice_for
from tunnel.errors import CannotListen, ConfigError, KeyFileError, StateError
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys, keygen_hint
from tunnel.identity.state_dir import StateDir, check_private
from tunnel.node import Node, address_rules
from tunnel.running.fronts import Fronts, configured_fronts
from tunnel.running.peer_log import PeerLog
from tunnel.services import (
    Echo,
    Exit,
    Files,
    InnerService,
    NamedService,
    Ping,
    Published,
    Reverse,
    Services,
)

__all__ = [
    "ConfiguredNode",
    "Peers",
    "load_peers",
    "make_node",
    "make_service",
    "open_node",
    "reach_some",
    "settle",
]

Peers: TypeAlias = StaticDirectory | ExchangeDirectory
"""The peers of a configuration: from its files, and if `exchange` or `dht` is on from other nodes."""

log = logging.getLogger("tunnel.running")

_REPORT_AGAIN_S = 3_600.0
_SETTLE_S = 15.0
_ENOUGH = 8  # reached nodes: a route of three proxies, and some choice
_LOOK_S = 0.05
_LISTEN_HINTS = {
    errno.EADDRINUSE: "another program, or this node itself, listens there; otherwise change [node] listen",
    errno.EADDRNOTAVAIL: 'this machine does not have that address: listen on "0.0.0.0:PORT", and give the '
    "address at which others reach it in [node] advertise",
    errno.EACCES: "ports below 1024 need a privilege: choose a higher one in [node] listen",
}
_GUARDS = "guards", 1  # name and version of their state file


def make_service(
    config: NodeConfig, own: Mapping[str, NamedService] = {}, exit: Exit | None = None
) -> InnerService:
    """The inner services of a node, each query addressed to one by name.

    Args:
        own: the program's services by name, beside those that the configuration names; one with the same name
            replaces the configured one.
        exit: for sub-streams to addresses and domains; None: the node is no exit.
    Raises:
        LocalTunnelError: an invalid name. TypeError: an object that cannot serve.
        ConfigError: the folder of the files service cannot be made. KeyFileError: its secret
            cannot be used.
    """

    def files() -> Files:
        try:
            return Files(config.folder, config.files_rights.apply(config.files_settings, tunnel_engine()))
        except OSError as error:
            raise ConfigError(
                f"the files service cannot use its folder {config.folder}: {error.strerror}",
                "name another one in [files] folder",
            ) from error

    makers: dict[str, Callable[[], InnerService]] = {"ping": Ping, "echo": Echo, "files": files}
    if not isinstance(own, Mapping):
        raise TypeError(f"services: expected a dict of services by name, got {own!r}")
    configured: dict[str, NamedService] = {name: makers[name]() for name in config.names if name not in own}
    for entry in config.published:
        configured[entry.name] = Published(*entry.to, clients=entry.clients)
    places = [(place.host, place.port) for place in config.reverse]
    return Services(configured | dict(own), exit=exit, reverse=Reverse(places) if places else None)


def load_peers(config: NodeConfig, engine: TunnelEngine) -> tuple[Peers, PeerFiles]:
    """Open the directory of the configuration, to be closed by the caller, and load the peer files.

    Raises:
        KeyFileError: none of the files can be read. ConfigError: none of them exists. MissingLibrary: OpenDHT
            is not installed. OSError: its port is taken.
    """
    missing = [path for path in config.files if not path.exists()]
    if missing and len(missing) == len(config.files):
        raise ConfigError(
            f"there is no peer file or folder {missing[0]}",
            "correct [peers] files, or --peers; or put the peer files of the network there",
        )
    own = config.advertise or tuple(filter(None, [config.listen]))
    rules = address_rules(config.network, config.private_ranges, own)
    directory: Peers
    if config.dht:
        directory = DhtDirectory(
            engine=engine,
            network_id=config.network,
            rules=rules,
            bootstrap=config.dht_bootstrap,
            port=config.dht_port,
        )
        log.info("this node of the hash table has UDP port %d", directory.port)
    else:
        directory = ExchangeDirectory(engine=engine, rules=rules) if config.exchange else StaticDirectory()
    files = PeerFiles(directory, config.files, engine)
    try:
        files.load()
    except BaseException:
        directory.close()
        raise
    if not own and isinstance(directory, ExchangeDirectory):
        places = [place for peer in directory.sample() for place in peer.addresses]
        directory.rules = address_rules(config.network, config.private_ranges, places)
    return directory, files


def settle(directory: Peers) -> None:
    """Wait for the peers of the hash table, for a client, which needs its peers immediately."""
    if isinstance(directory, DhtDirectory) and not directory.wait_settled(_SETTLE_S):
        log.error("the hash table has shown no peers within %g s: is [peers] dht_bootstrap right?", _SETTLE_S)


def reach_some(node: Node, directory: Peers) -> Service[None]:
    """Wait until a client has reached enough peers of the hash table for a route, or has tried them all. Its
    node must be running."""
    now_s: float = yield CurrentTime()
    ends_s = now_s + _SETTLE_S
    while isinstance(directory, DhtDirectory) and now_s < ends_s and len(directory.sample()) < _ENOUGH:
        # The first message on a link shows whether the node itself answered.
        is_unsure = any(directory.is_hearsay(node_id) for node_id in node.links.linked)
        if not directory.undialled and not node.links.dialling and not is_unsure:
            return
        yield Sleep(_LOOK_S)
        now_s = yield CurrentTime()


def make_node(
    config: NodeConfig,
    keys: NodeKeys | KeyRing,
    directory: Peers,
    reactor: Reactor,
    engine: TunnelEngine,
    *,
    services: Mapping[str, NamedService] = {},
    guards: bytes | None = None,
    on_publish: Callable[[Descriptor], None] | None = None,
) -> Node:
    """A node with the settings of a configuration. Args: services: as `own` of `make_service`.

    Raises:
        CannotListen. ConfigError: as `make_service`. KeyFileError: the state of the
        guards is damaged.
    """
    listen = config.listen
    exit = Exit(config.rules, config.exit_settings) if config.rules else None
    service = make_service(config, services, exit)
    try:
        node = Node(
            keys,
            directory,
            reactor=reactor,
            service=service,
            engine=engine,
            limits=config.limits,
            host="127.0.0.1" if listen is None else listen.host,
            port=None if listen is None else listen.port,
            addresses=config.advertise or None,
            network_id=config.network,
            private_ranges=config.private_ranges,
            profiles=tuple(profile.byte for profile in config.profiles) or None,
            family=config.family,
            guards=guards,
            on_publish=on_publish,
        )
    except OSError as error:
        if listen is None:
            raise
        raise CannotListen(
            f"cannot listen on {listen.host}, port {listen.port}: {error.strerror}",
            _LISTEN_HINTS.get(error.errno or 0, "change [node] listen"),
        ) from error
    if exit is not None:
        exit.avoid([*node.descriptor.addresses, *filter(None, [node.listens_at])])
        log.info("this node is an exit, with %d rules", len(config.rules))
    return node


class ConfiguredNode(EnteredOnce):
    """A node with its state, ready to serve. A context manager: leaving it writes the state.

    Leave it when the reactor is closed or the node has ended: no header may be opened afterwards.

    Attributes:
        node, directory: not before `with`. fronts: its ports for programs, not before `serve`.
    Raises (on entry):
        StateInUse: a running node uses the state folder. StateError: it is not private, or cannot be written.
        ConfigError: no key file. CannotListen. KeyFileError, ReplayFileError: keys, peers or replay tables
        cannot be read. OSError.
    Raises (on exit):
        StateError: the state is not saved; the text names the place of the keys.
    """

    def __init__(
        self,
        config: NodeConfig,
        reactor: Reactor,
        *,
        services: Mapping[str, NamedService] | None = None,
    ) -> None:
        self.config = config
        self._services = services or {}
        self._reactor = reactor
        self._engine = tunnel_engine(config.engine)
        self._unwritten: Descriptor | None = None
        self._problem = ""
        self._reported_s = 0.0
        self._control: ControlServer | None = None
        self.node: Node
        self.directory: Peers
        self.fronts: Fronts

    def __enter__(self) -> Self:
        self.enter_once("node", "with ConfiguredNode(...) as configured")
        config, engine = self.config, self._engine
        if config.is_client:
            raise ConfigError(
                '[node] keys = "none" is for clients, and a node has keys',
                f"remove the line, and make keys with: mtun keygen {config.keys}",
            )
        if config.keys.is_dir():
            hint = f"name the file in [node] keys; {keygen_hint(config.keys)}"
            raise ConfigError(f"{config.keys} is a folder, not a key file", hint)
        if not config.keys.exists():
            raise ConfigError(f"there is no key file {config.keys}", keygen_hint(config.keys))
        with ExitStack() as undo:
            with _as_state_error():
                self._state = StateDir(config.state)
            undo.callback(self._state.close)
            if config.publish is not None:
                _make_folder_of(config.publish)
            self.directory, self._files = load_peers(config, engine)
            undo.callback(self.directory.close)
            with _as_state_error():
                self._guards = self._state.read(*_GUARDS)
                self._ring = self._resume()
            undo.callback(self._ring.stop, config.keys, self._state.replay)
            self._warn_of_other_keys()
            self.node = make_node(
                config,
                self._ring,
                self.directory,
                self._reactor,
                engine,
                services=self._services,
                guards=self._guards,
                on_publish=self._publish,
            )
            undo.callback(self.node.close)
            self.node.context.refresh = self._files.refresh
            self.directory.publish(self.node.descriptor)
            with _as_state_error():
                self._write(self.node.descriptor)
            self._peer_log = PeerLog(self._reactor.now, self.directory)
            self.node.peers.listeners.append(self._peer_log)
            undo.pop_all()
        return self

    def _resume(self) -> KeyRing:
        check_private(self.config.keys, KeyFileError)
        return KeyRing.resume(
            self.config.keys,
            self._state.replay,
            self._engine,
            now_s=time.time(),
            limit=self.config.limits.replay_tags,
        )

    def _warn_of_other_keys(self) -> None:
        """Warn if `publish` holds another node's descriptor: two nodes may be using one key file."""
        place, own_id = self.config.publish, self._ring.keys.node_id(self._engine)
        if place is None or not place.is_file():
            return
        try:
            published = StaticDirectory.load(place, self._engine, on_bad_line=lambda _: None)
        except KeyFileError:
            return  # it is written again
        if others := [peer.node_id for peer in published if peer.node_id != own_id]:
            log.warning(
                "%s contained the descriptor of node %s and now gets that of node %s: if %s is the key file "
                "of another node, stop this node and give it a key file of its own",
                place,
                short(others[0]),
                short(own_id),
                self.config.keys,
            )

    def _write(self, descriptor: Descriptor) -> None:
        if not self._is_state_here():
            self._restore()
        # With its sequence number: the next start needs a higher one, even if the clock was set back.
        self._ring.keys.save(self.config.keys)
        if self.config.publish is not None:
            write_descriptor(self.config.publish, descriptor)

    def _publish(self, descriptor: Descriptor) -> None:
        """Write a new descriptor. If that fails, `refresh` tries again."""
        try:
            self._write(descriptor)
        except (OSError, StateError) as error:
            if self._unwritten is None:
                log.error("the new descriptor is not written yet: %s", _text_of(error))
            self._unwritten = descriptor
        else:
            self._unwritten = None

    def _keep_guards(self) -> None:
        """Save the guards while the node runs: after a crash it must start with the same ones."""
        guards = self.node.guards
        if guards is not None and guards != self._guards:
            self._state.write(*_GUARDS, guards)
            self._guards = guards

    def serve(self, ready: Callable[[], None]) -> Service[None]:
        """Run the node until this service is cancelled or `stop` is called, then leave in order.

        Args:
            ready: called once it accepts connections.
        Raises:
            CannotListen, ConfigError: a port for programs cannot be opened; nothing was started then.
        """
        self.fronts = configured_fronts(self.config, self.node, self._engine)
        service = self.node.context.service
        if isinstance(service, Services) and isinstance(service.exit, Exit):
            # Its users must not get at the tunnels and client keys that this node's own programs use.
            service.exit.avoid(self.fronts.ports)
        serving = yield Spawn(self.node.serve(), "node")
        refreshing = yield Spawn(self.refresh(), "peer files")
        self._control = control = self._open_control()
        if control is not None:
            yield Spawn(control.serve(), "control socket")
        try:
            yield from self.fronts.start()
            ready()
            yield from serving.join()
        finally:
            refreshing.cancel()
            if control is not None:
                control.close()
            yield from self.fronts.stop()  # their tunnels would keep the node from leaving
            if not serving.is_finished:
                yield from self.node.leave(self.config.stop_s)
                yield from serving.join()
            if control is not None:
                yield from control.finish()

    def stop(self) -> Service[None]:
        """Stop in order: `serve` ends when running frames and queries have ended, after `stop_s` at most."""
        if self._control is not None:
            self._control.close()
        yield from self.fronts.stop()
        yield from self.node.leave(self.config.stop_s)

    def _open_control(self) -> ControlServer | None:
        """The control socket; without one the node still relays."""
        path = self._state.path / CONTROL_FILE
        try:
            return ControlServer(self.node, self.directory, path)
        except (OSError, StateError) as error:
            log.error("no control socket, so --config cannot use this node while it runs: %s", error)
            return None

    def refresh(self) -> Service[None]:
        while True:
            yield Sleep(self.config.refresh_s)
            if self._unwritten is not None:
                self._publish(self._unwritten)
            found = yield RunInThread(self._files.refresh)
            for descriptor in found:
                self.directory.publish(descriptor)
            self._peer_log.look()
            is_here = yield RunInThread(self._is_state_here)
            try:
                if not is_here:
                    self._restore()
                    if self._control is not None:
                        self._control.restore()
                self._keep_guards()  # a few bytes, rarely: not worth a thread
            except (OSError, StateError) as error:
                self._report_problem(_text_of(error))
            else:
                self._report_problem("")

    def _is_state_here(self) -> bool:
        return self._state.is_here and self.config.keys.exists()

    def _restore(self) -> None:
        """Create the state folder and keys again if they were removed while the node runs.

        Raises:
            StateError: the folder now belongs to another node. OSError.
        """
        config = self.config
        has_keys = config.keys.exists()
        if has_keys and not self._are_keys_whole():
            # A new network was made at the same place: its keys must not be replaced by these.
            raise StateError(f"{config.keys} holds other keys now", "give each node its own state folder")
        self._state.restore()
        if not has_keys:
            config.keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ring.keys.save(config.keys)
        self._guards = None
        log.error("%s, or the keys, were removed while the node runs; they are created again", config.state)

    def _are_keys_whole(self) -> bool:
        """Whether the key file exists and belongs to this node."""
        try:
            return NodeKeys.load(self.config.keys).identity == self._ring.keys.identity
        except KeyFileError:
            return False

    def _report_problem(self, problem: str) -> None:
        """Log that the state cannot be saved: when it begins, each hour, and when it is over."""
        now_s = time.monotonic()
        if problem and (problem != self._problem or now_s - self._reported_s > _REPORT_AGAIN_S):
            self._reported_s = now_s
            log.error("the state of the node is not saved: %s", problem)
        elif self._problem and not problem:
            log.warning("the state of the node is saved again")
        self._problem = problem

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.node.close()
            try:
                if not self._is_state_here():
                    self._restore()
                self._ring.stop(self.config.keys, self._state.replay)
                self._keep_guards()
            except (OSError, StateError) as failure:
                unsaved = self._rescue(failure)
                if error is None:
                    raise unsaved from failure
                log.error("%s (%s)", unsaved, unsaved.hint)  # the error that ended the node is raised
        finally:
            self.directory.close()
            self._state.close()

    def _rescue(self, failure: OSError | StateError) -> StateError:
        """Save at least the keys at another place, because they are the node's identity.

        Returns:
            The error to raise; it names the place of the keys.
        """
        keys = self.config.keys
        text = f"the state of the node is not saved: {_text_of(failure)}"
        if self._are_keys_whole():
            hint = f"{keys} is unharmed: the node stays the same"
            return StateError(f"{text}; the next start makes new onion keys", hint)
        for folder in (
            str(self.config.state.parent),
            ".",
            os.path.expanduser("~"),
            None,
        ):  # None: for temporaries
            try:
                made = mkdtemp(prefix=f"mtun-keys-{short(self.node.id)}-", dir=folder)
            except OSError:
                continue
            place = Path(made).resolve() / "keys"
            try:
                self._ring.keys.save(place)
            except OSError:
                place.parent.rmdir()
                continue
            return StateError(f"{text}; its keys are in {place}", f"before the next start: mv {place} {keys}")
        return StateError(f"{text}; its keys are lost", f"make new ones: mtun keygen {keys}")


class OpenNode(EnteredOnce):
    """Made by `open_node`."""

    def __init__(self, running: AbstractContextManager[Node]) -> None:
        self._running = running

    def __enter__(self) -> Node:
        self.enter_once("node", "with open_node(...) as node")
        return self._running.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._running.__exit__(kind, error, trace)


def open_node(
    config: str | Path | NodeConfig,
    *,
    services: Mapping[str, NamedService] | None = None,
) -> OpenNode:
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
        ConfigError, CannotListen, KeyFileError, ReplayFileError, StateError, OSError: as `ConfiguredNode`.
        LocalTunnelError: an invalid service name. TypeError: an object that cannot serve.
    Raises (on exit):
        StateError: the state is not saved; the text names the place of the keys. Or the error that ended
        the node early. LocalTunnelError (on entry): it was entered before.
    """
    return OpenNode(_run_node(config, services))


@contextmanager
def _run_node(config: str | Path | NodeConfig, services: Mapping[str, NamedService] | None) -> Iterator[Node]:
    if not isinstance(config, NodeConfig):
        config = load_config(Path(config), os.environ)
    thread = ReactorThread(name="node")
    # Contexts exit from the right: the state is saved after all services of the node have ended.
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


def _make_folder_of(publish: Path) -> None:
    try:
        publish.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the descriptor cannot be written to {publish}: {error.filename}: {error.strerror}",
            "change [peers] publish",
        ) from error


@contextmanager
def _as_state_error() -> Iterator[None]:
    """Report refusals of the disk (read-only, full, not this user's) as errors of the state."""
    try:
        yield
    except OSError as error:
        hint = advice_for(error) or "is [node] state right?"
        raise StateError(f"the state of the node cannot be used: {_place_of(error)}", hint) from error


def _place_of(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _text_of(error: OSError | StateError) -> str:
    """The text of an error with its place and advice."""
    if isinstance(error, StateError):
        return f"{error} ({error.hint})"
    advice = advice_for(error)
    return _place_of(error) + (f" ({advice})" if advice else "")
