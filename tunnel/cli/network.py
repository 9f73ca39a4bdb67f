"""`mtun network` and `mtun keygen`: the files that nodes need before their first start.

The layout of a network's folder is defined here (`_NETWORK`); `mtun up` runs it. Secrets are never
overwritten, and an unfinished network is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shlex
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from tunnel.arguments import MOST_PORT
from tunnel.cli.options import command, count, filled_path, make_folder
from tunnel.cli.terminal import say, say_json
from tunnel.client.connect import CLIENT_FILE
from tunnel.config.kinds import write_toml
from tunnel.config.settings import SERVICES
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory.base import write_descriptor
from tunnel.disk import naming
from tunnel.errors import ConfigError, LocalTunnelError
from tunnel.identity.client_key import ClientKey
from tunnel.identity.descriptor import Address
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.identity.state_dir import StateDir
from tunnel.node import Limits

__all__ = ["NODE_FILE", "PEERS_FOLDER", "STATE_FOLDER", "add_parser", "no_network", "node_folders"]

NODE_FILE, PEERS_FOLDER, STATE_FOLDER = "node.toml", "peers", "state"
_HOST = "127.0.0.1"
# Below the ports that systems give to outgoing connections, which would take them while a node is down.
_FIRST_PORT, _LAST_PORT = 10_000, 32_000
_MOST_NODES = 1_000
# Only programs on this machine can use the exit, and they can reach these hosts without it.
_EXIT_RULES = ["allow 127.0.0.0/8", "allow ::1", "allow *"]
_NETWORK = """\
Create the keys, descriptors and configurations of a network on this machine. `mtun up DIR` runs it.

    DIR/peers/node-0            descriptor of node-0; each node writes its own and reads all
    DIR/node-0/node.toml        its configuration
    DIR/node-0/state/           its keys and replay tables
    DIR/node-0/files/           files stored there by `mtun send`
    DIR/client.toml             configuration of clients, used by --network DIR
"""
_NETWORK_EXAMPLE = """\
example:
  mtun network mynet --nodes 25
  mtun up mynet
  mtun network other --nodes 8 --exit node-7
"""
_KEYGEN = """\
Create the secret keys of a node, in a file that only its owner can read.

With --client, create the key of a client for services that list their clients, and print its public key for
the list.
"""
_KEYGEN_EXAMPLE = """\
example:
  mtun keygen state/keys             the default file; [node] keys can name another
  mtun keygen --client friend.key    for `mtun forward --key friend.key`
"""


def add_parser(commands: Any) -> None:
    """Add both subcommands to the main parser."""
    parser = command(commands, "network", _NETWORK, _NETWORK_EXAMPLE, run_network)
    add = parser.add_argument
    add("folder", type=filled_path, metavar="DIR", help="the new folder; may exist if it is empty")
    add("--nodes", type=count(1, _MOST_NODES), default=5, metavar="N", help="number of nodes (default 5)")
    add("--port", type=count(1, MOST_PORT), metavar="P", help="use the ports P, P+1, … (default: free ones)")
    add(
        "--exit",
        action="append",
        default=[],
        metavar="NODE",
        help="make this node, such as node-4, an exit to all hosts, including this machine; may be repeated",
    )
    parser = command(commands, "keygen", _KEYGEN, _KEYGEN_EXAMPLE, run_keygen)
    parser.add_argument(
        "file",
        type=filled_path,
        metavar="FILE",
        help="the new key file; must not exist. Its folder is created if needed",
    )
    parser.add_argument("--client", action="store_true", help="create the key of a client, not of a node")


def run_network(options: argparse.Namespace) -> int:
    """Make a network. Returns the exit status."""
    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", "name a folder that is empty or does not exist yet")
    names = [f"node-{index}" for index in range(options.nodes)]
    for name in options.exit:
        if name not in names:
            raise ConfigError(f"--exit {name}: no such node", f"the nodes are {names[0]} to {names[-1]}")
    is_new = not folder.exists()
    if not is_new and any(folder.iterdir()):
        raise _not_empty(folder)
    ports = _free_ports(options.nodes, options.port)
    make_folder(folder)
    try:
        (folder / PEERS_FOLDER).mkdir()
    except FileExistsError:  # another `mtun network` makes it now
        raise _not_empty(folder) from None
    try:
        made = _make_all(folder, dict(zip(names, ports, strict=True)), options.exit)
    except BaseException:
        # `up` would refuse an unfinished network, and the next `network` a folder that is not empty.
        for part in (folder / PEERS_FOLDER, *folder.glob("node-*")):
            shutil.rmtree(part)
        (folder / CLIENT_FILE).unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty: something else was put there
                folder.rmdir()
        raise
    if options.json:
        say_json(True, {"folder": str(folder), "nodes": made}, indent=1)
    else:
        nodes = "1 node is" if len(ports) == 1 else f"{len(ports)} nodes are"
        say(f"{nodes} in {folder}; run with: mtun up {shlex.quote(str(folder))}")
        usual, most = Limits().route_hops, len(ports) - 1  # all but the node that is asked
        if most < usual:
            say(
                f"clients use {usual} proxies by default; this network has {most} at most: give --hops {most}"
            )
    return 0


def _not_empty(folder: Path) -> ConfigError:
    return ConfigError(f"{folder} is not empty", "name a folder that is empty or does not exist yet")


def _make_all(folder: Path, ports: dict[str, int], exits: list[str]) -> dict[str, dict[str, object]]:
    engine = tunnel_engine()
    made = {}
    for name, port in ports.items():
        rules = _EXIT_RULES if name in exits else []
        made[name] = _make_node(folder, name, Address(_HOST, port), rules, engine)
    client: dict[str, dict[str, Any]] = {
        "node": {"keys": "none", "listen": "none", "network": "local"},
        "peers": {"files": [PEERS_FOLDER], "exchange": False},
    }
    _write(folder / CLIENT_FILE, write_toml(client))
    return made


def _make_node(
    folder: Path, name: str, address: Address, rules: list[str], engine: TunnelEngine
) -> dict[str, object]:
    place = str(address)
    home = folder / name
    home.mkdir(mode=0o700)
    tables: dict[str, dict[str, Any]] = {
        "node": {"state": STATE_FOLDER, "listen": place, "network": "local"},
        # The folder has all peers, so neighbours have nothing to add.
        "peers": {
            "files": [f"../{PEERS_FOLDER}"],
            "publish": f"../{PEERS_FOLDER}/{name}",
            "exchange": False,
        },
        "service": {"names": list(SERVICES)},
    }
    if rules:
        tables["exit"] = {"rules": rules}
    _write(home / NODE_FILE, write_toml(tables))
    now_s = time.time()
    with StateDir(home / STATE_FOLDER) as state:
        ring = KeyRing(NodeKeys.generate(now_s), engine)
        ring.advance(now_s)
        # As after a clean stop: the first run continues with the keys that are published here.
        ring.stop(state.path / "keys", state.replay)
    write_descriptor(folder / PEERS_FOLDER / name, ring.keys.descriptor((address,), now_s, engine))
    return {"id": ring.keys.node_id(engine).hex(), "listen": place}


def no_network(folder: Path) -> ConfigError:
    """The error for a folder that holds no network, with a guess of what the user meant."""
    name = shlex.quote(str(folder))
    if not folder.exists():
        return ConfigError(f"no such folder: {folder}", f"create a network there with: mtun network {name}")
    if not folder.is_dir():
        return ConfigError(f"{folder} is not a folder", "name the folder that `mtun network` created")
    if (folder.absolute().parent / CLIENT_FILE).exists():
        hint = f"did you mean {folder.parent if folder.name else folder.absolute().parent}?"
    elif any(folder.iterdir()):
        hint = "name the folder that `mtun network` created"
    else:
        hint = f"create a network with: mtun network {name}"
    return ConfigError(f"{folder} holds no network", hint)


def node_folders(folder: Path) -> list[Path]:
    """The nodes of a network, by number.

    Raises:
        ConfigError: the folder holds no network.
    """
    found = [entry.parent for entry in folder.glob(f"node-*/{NODE_FILE}")]
    if not found:
        raise no_network(folder)
    return sorted(found, key=lambda entry: (len(entry.name), entry.name))


def _free_ports(wanted: int, first: int | None) -> list[int]:
    """Ports that are free now."""
    if first is not None:
        candidates = range(first, first + wanted)
        if candidates[-1] > MOST_PORT:
            raise ConfigError(
                f"{wanted} nodes, starting at --port {first}, need ports up to {candidates[-1]}; the highest "
                f"port is {MOST_PORT}",
                f"--port {MOST_PORT + 1 - wanted} is the highest for {wanted} nodes",
            )
        taken = [port for port in candidates if not _is_free(port)]
        if taken:
            raise ConfigError(f"port {taken[0]} is in use", "choose another --port, or omit the option")
        return list(candidates)
    found: list[int] = []
    candidates = range(_FIRST_PORT, _LAST_PORT)
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if len(found) == wanted:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < wanted:
        raise ConfigError(f"{_HOST} has {len(found)} free ports, {wanted} are needed", "use fewer --nodes")
    return sorted(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def _write(path: Path, text: str) -> None:
    with naming(path):
        path.write_text(text, encoding="utf-8")


def run_keygen(options: argparse.Namespace) -> int:
    """Make a key file. Returns the exit status."""
    path: Path = options.file
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder",
            f"name the file in it: mtun keygen {'--client ' if options.client else ''}"
            f"{shlex.quote(str(path / ('client.key' if options.client else 'keys')))}",
        )
    make_folder(path.parent, mode=0o700)
    save = _save_client_key if options.client else _save_node_keys
    try:
        entry, text = save(path)
    except FileExistsError as error:
        use = _use_of_client_key(path) if options.client else "a node without its key file loses its id"
        raise ConfigError(
            f"{path} exists: keys are never overwritten", f"name another file, or move this one away; {use}"
        ) from error
    if options.json:
        say_json(True, {"file": str(path), **entry})
    else:
        say(text)
    return 0


def _save_node_keys(path: Path) -> tuple[dict[str, str], str]:
    """Make the keys of a node. Returns what to print, as JSON and as text. Raises FileExistsError."""
    keys = NodeKeys.generate(time.time())
    keys.save(path, replace=False)
    node_id = keys.node_id(tunnel_engine()).hex()
    return {"id": node_id}, f"keys of node {node_id} are in {path}"


def _save_client_key(path: Path) -> tuple[dict[str, str], str]:
    """As `_save_node_keys`, the key of a client."""
    key = ClientKey.generate()
    key.save(path)
    public = key.public(tunnel_engine()).hex()
    return {"public": public}, f"the client key is in {path}; its public key is {public}"


def _use_of_client_key(path: Path) -> str:
    """Why a file that is in the way may be needed. Its owner may only want to see the public key again."""
    try:
        public = ClientKey.load(path).public(tunnel_engine()).hex()
    except LocalTunnelError:
        return "it is no client key"
    return f"services may list its public key, {public}"
