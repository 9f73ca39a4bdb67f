"""`mtun peers`: the nodes that are known, from their signed descriptors."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tunnel.cli.client import PeerNames, client_config
from tunnel.cli.options import add_json, command, filled_path
from tunnel.cli.terminal import complain, say, say_json, table
from tunnel.client.connect import running_node
from tunnel.control import PeerState
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import DescriptorError
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.running.configured_node import Peers, load_peers, settle

__all__ = ["add_parser"]

_NO_PEERS = "put files that nodes publish ([peers] publish) into the peers folder"
_EXAMPLE = """\
example:
  mtun peers --network mynet
  mtun peers --peers peers.txt --json
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "peers", __doc__, _EXAMPLE, run)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--network", type=filled_path, metavar="DIR", help="a network made by `mtun network`")
    source.add_argument(
        "--peers", type=filled_path, action="append", metavar="PATH", help="a peer file, or a folder of them"
    )
    source.add_argument("--config", type=filled_path, metavar="FILE", help="the peers of this configuration")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """List them. Returns the exit status: 1 when none can be used now."""
    config = client_config(options)
    engine = tunnel_engine(config.engine)
    running = None if options.config is None else running_node(config)
    states: dict[Descriptor, PeerState] = {}
    directory: Peers
    if running is not None:
        with running:
            states = running.peers()
        directory = StaticDirectory(states)
    else:
        directory, _ = load_peers(config, engine)
        settle(directory)
        directory.close()
    names = PeerNames(directory, config.files, engine)
    now_s = time.time()
    peers = [_described(names, peer, now_s, states.get(peer)) for peer in names]
    is_usable = any(peer["usable"] for peer in peers)
    if options.json:
        say_json(is_usable, {"peers": peers}, indent=1)
    else:
        rows = [
            [
                peer["name"],
                peer["id"][:16],
                ", ".join(peer["addresses"]) or "–",
                "backed off" if peer["state"] == "backed-off" else "yes" if peer["usable"] else "no",
                f"{(peer['expires'] - now_s) / 86_400:.1f} days",
            ]
            for peer in peers
        ]
        if rows:
            say(table(["name", "id", "address", "usable", "expires in"], rows))
    if not is_usable:
        complain("error: no peer can be used now" if peers else "error: no peers are known")
        complain(f"hint: {'their keys or descriptors are of another time' if peers else _NO_PEERS}")
    return 0 if is_usable else 1


def _described(names: PeerNames, peer: Descriptor, now_s: float, state: PeerState | None) -> dict[str, Any]:
    try:
        peer.hop(now_s)
        usable = True
    except DescriptorError:
        usable = False
    return {
        "name": names.name(peer.node_id),
        "id": peer.node_id.hex(),
        "addresses": [str(address) for address in peer.addresses],
        "profiles": [Profile.from_byte(byte).name for byte in peer.profiles],
        "unlisted": peer.unlisted,
        "usable": usable,
        "expires": peer.expiry,
        "state": None if state is None else state.name.lower().replace("_", "-"),
    }
