"""The ports for programs that a node opens: SOCKS ports and forwards, from a configuration or a command.

    fronts = Fronts(node)
    fronts.add_forward(node_id, entry)      listens from now on
    yield from fronts.start()
    ...
    yield from fronts.stop()

A node with `[[socks]]` or `[[forward]]` in its configuration opens them, and so do the client nodes of
`mtun socks` and `mtun forward`. A port that cannot be opened is an error before anything runs. An unknown
destination node is not an error: its tunnels fail until its descriptor arrives.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from reactor import Scope, Service
from tunnel.config import NodeConfig
from tunnel.config.repeated import ForwardEntry, SocksEntry
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory.base import ids_by_name
from tunnel.disk import advice_for, os_error_text, read_regular
from tunnel.errors import BadArgument, CannotListen, ConfigError, LocalTunnelError
from tunnel.front.entrance import EntrancePlace, place_text
from tunnel.front.failures import Advise, no_advice
from tunnel.front.forward import Forward
from tunnel.front.handshake import Failed, Request
from tunnel.front.socks_server import SocksServer
from tunnel.front.tunnel_pool import OpensTunnels, TunnelPool
from tunnel.identity.client_key import ClientKey
from tunnel.identity.descriptor import Address
from tunnel.identity.state_dir import check_private
from tunnel.node import Node
from tunnel.node.query.request import TunnelOptions
from tunnel.routing.route import Route

__all__ = ["MOST_USERS", "Fronts", "configured_fronts", "read_users"]

log = logging.getLogger("tunnel.running")

MOST_USERS: Final = 1_000
_MOST_USERS_BYTES: Final = MOST_USERS * 1_024  # above the two lengths that SOCKS allows
_ID = re.compile("[0-9a-f]{64}", re.IGNORECASE)


class Fronts:
    """The ports of one node. Everything but the constructor runs in its reactor.

    Args:
        advise: gives the hint in the log for a tunnel that cannot be opened.
    Attributes:
        socks, forwards: in the order in which they were added.
    """

    def __init__(self, node: OpensTunnels, advise: Advise = no_advice) -> None:
        self._node = node
        self._advise = advise
        self.socks: list[SocksServer] = []
        self.forwards: list[Forward] = []
        self._pools: dict[tuple[bytes, int | None], TunnelPool] = {}
        self._scope = Scope("ports for programs", fail_together=False)

    def add_socks(
        self,
        exit_id: bytes,
        entry: SocksEntry,
        *,
        route: Route | None = None,
        on_failure: Callable[[Request, Failed], None] | None = None,
    ) -> SocksServer:
        """Listen as the entry specifies. Args: route, on_failure: as for `SocksServer`.

        Raises:
            CannotListen. ConfigError: the place needs users, or the file of users is refused.
        """
        users = None if entry.users is None else read_users(entry.users)
        host, port, path = _host_port_path(entry.listen)
        try:
            server = SocksServer(
                self._node,
                exit_id,
                host=host,
                port=port,
                path=path,
                users=users,
                isolation=entry.isolate,
                hops=entry.hops,
                route=route,
                on_failure=on_failure,
            )
        except OSError as error:
            raise _cannot_listen(error) from error
        except LocalTunnelError as error:
            raise ConfigError(str(error), error.hint) from error
        server.pool.advise = self._advise
        self.socks.append(server)
        return server

    def add_forward(self, node_id: bytes, entry: ForwardEntry) -> Forward:
        """Listen as the entry specifies.

        Raises:
            CannotListen. ConfigError: the place is public. KeyFileError: of the client key.
        """
        key = None if entry.key is None else ClientKey.load(entry.key)
        pool = self._pools.get((node_id, entry.hops))
        if pool is None:
            options: TunnelOptions = {} if entry.hops is None else {"hops": entry.hops}
            pool = self._pools[node_id, entry.hops] = TunnelPool(self._node, node_id, options)
            pool.advise = self._advise
        host, port, path = _host_port_path(entry.listen)
        try:
            forward = Forward(
                pool, entry.to[1], host=host, port=port, path=path, client_key=key, is_public=entry.public
            )
        except BadArgument as error:
            raise ConfigError(str(error), "or allow it with --public, or public = true") from error
        except OSError as error:
            raise _cannot_listen(error) from error
        self.forwards.append(forward)
        return forward

    @property
    def _all(self) -> list[SocksServer | Forward]:
        return [*self.socks, *self.forwards]

    @property
    def ports(self) -> list[Address]:
        """The addresses at which they listen, without Unix sockets."""
        return [Address(*each.address) for each in self._all if isinstance(each.address, tuple)]

    def start(self) -> Service[None]:
        """Accept connections. A port that fails is logged, and the others continue."""
        for server in self._all:
            yield from self._scope.spawn(server.serve(), name=f"port {place_text(server.address)}")

    def serve(self) -> Service[None]:
        """Accept connections until cancelled, or until all ports have failed. Raises the first failure."""
        try:
            yield from self.start()
            yield from self._scope.join()
            for error in self._scope.failures:
                raise error
        finally:
            yield from self.stop()

    def close(self) -> None:
        """Stop listening and end all connections, without a wait. Idempotent."""
        self._scope.cancel()
        for server in self._all:
            server.close()

    def stop(self) -> Service[None]:
        """As `close`, and wait until connections and tunnels have ended."""
        self.close()
        yield from self._scope.close()
        for pool in self._pools.values():
            yield from pool.close()


def configured_fronts(config: NodeConfig, node: Node, engine: TunnelEngine) -> Fronts:
    """The ports of a configuration, listening.

    Raises:
        CannotListen. ConfigError: an entry is refused, or no peer file has the name of a node. The text names
            the entry. OSError: a folder of peer files cannot be listed.
    """
    fronts = Fronts(node)
    names = ids_by_name(config.files, engine) if config.socks or config.forwards else {}
    try:
        for number, socks in enumerate(config.socks, start=1):
            with _of_entry(f"[[socks]] {number}"):
                server = fronts.add_socks(_find(socks.exit, names, node.id), socks)
            log.info("SOCKS and CONNECT at %s, with tunnels to %s", place_text(server.address), socks.exit)
        for number, entry in enumerate(config.forwards, start=1):
            with _of_entry(f"[[forward]] {number}"):
                forward = fronts.add_forward(_find(entry.to[0], names, node.id), entry)
            log.info("%s leads through tunnels to %s", place_text(forward.address), entry.to[0])
    except BaseException:
        fronts.close()
        raise
    return fronts


def _host_port_path(place: EntrancePlace) -> tuple[str, int, Path | None]:
    if isinstance(place, Path):
        return "127.0.0.1", 0, place
    return *place, None


def _find(name: str, names: dict[str, bytes], own_id: bytes) -> bytes:
    """The id of the node that an entry names."""
    found = bytes.fromhex(name) if _ID.fullmatch(name) else names.get(name)
    if found is None:
        raise ConfigError(
            f"no peer file with a single descriptor has the name {name!r}",
            "give the id of the node, 64 hex digits, or the name of a file of [peers] files",
        )
    if found == own_id:
        raise ConfigError(f"{name!r} is this node, and a tunnel leads to another", "name another node")
    return found


@contextlib.contextmanager
def _of_entry(place: str) -> Iterator[None]:
    try:
        yield
    except LocalTunnelError as error:
        kind = CannotListen if isinstance(error, CannotListen) else ConfigError
        raise kind(f"{place}: {error}", error.hint) from error


def _cannot_listen(error: OSError) -> CannotListen:
    folder = ", or make its folder" if isinstance(error, FileNotFoundError) else ""
    in_use = "another program listens there: stop it, or " if error.errno == errno.EADDRINUSE else ""
    return CannotListen(
        f"cannot listen: {os_error_text(error, error.filename)}",
        f"{in_use}choose another place (for `mtun socks` with --listen){folder}",
    )


def read_users(path: Path) -> dict[str, str]:
    """Users and passwords from a file. Raises ConfigError: unreadable, malformed, or readable for others."""
    try:
        lines = read_regular(path, _MOST_USERS_BYTES).decode("utf-8-sig").splitlines()
        check_private(path, ConfigError)
    except OSError as error:
        hint = "name a file with lines USER:PASSWORD" if ":" in path.name else advice_for(error)
        raise ConfigError(os_error_text(error, path), hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "it has lines USER:PASSWORD") from error
    except LocalTunnelError as error:
        raise ConfigError(str(error), error.hint or "name a file with lines USER:PASSWORD") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        user, colon, password = line.partition(":")
        if line.strip() and not colon:
            raise ConfigError(f"{path}, line {number}: expected USER:PASSWORD")
        if user in found:
            raise ConfigError(f"{path}, line {number}: expected each user once")
        if colon:
            found[user] = password
    if not 1 <= len(found) <= MOST_USERS:
        raise ConfigError(f"{path} has {len(found)} users: expected 1 to {MOST_USERS} lines USER:PASSWORD")
    return found
