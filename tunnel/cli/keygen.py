"""`mtun keygen`: the secret keys of one node, in a file that only its owner can read."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from tunnel.cli.options import add_json, command, filled_path, make_folder
from tunnel.cli.terminal import say, say_json
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import ConfigError
from tunnel.identity.keys import NodeKeys

__all__ = ["add_parser"]

_EXAMPLE = """\
example:
  mtun keygen state/keys      where `mtun node` looks for them, unless [node] keys says otherwise
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "keygen", __doc__, _EXAMPLE, run)
    parser.add_argument(
        "file",
        type=filled_path,
        metavar="FILE",
        help="where they go; must not exist yet, its folder is made where there is none",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Make and write them. Returns the exit status."""
    path: Path = options.file
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder", f"name the file in it: mtun keygen {shlex.quote(str(path / 'keys'))}"
        )
    make_folder(path.parent, mode=0o700)
    keys = NodeKeys.generate(time.time())
    try:
        keys.save(path, replace=False)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists: keys are never overwritten",
            "name another file, or move this one away; the node's id is lost with it",
        ) from error
    node_id = keys.node_id(tunnel_engine()).hex()
    if options.json:
        say_json(True, {"file": str(path), "id": node_id})
    else:
        say(f"keys of node {node_id} are in {path}")
    return 0
