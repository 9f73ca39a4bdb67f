"""docs/configuration.md, made from the list of settings: `python -m tunnel.config.document > …`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tunnel.config.kinds import show
from tunnel.config.settings import SETTINGS, TABLES

__all__ = ["document", "write_toml"]

_HEAD = """\
# Configuration of a node, or of a client

Made from `tunnel/config/settings.py` by `python -m tunnel.config.document`; a test keeps the two equal.

`mtun node --config FILE` reads one TOML file. Every setting has a default, so an empty file is a valid one.
Unknown names are refused, and so are values of a wrong type or range: `error:` says file, key and what is
expected, `hint:` the name that is closest. Relative paths begin at the file's folder.

Each setting can be overridden by an environment variable: `MTUN_`, table, `_`, key, in capitals
(`MTUN_NODE_LISTEN=0.0.0.0:4000`). Text is written without quotes, lists with commas. An unknown variable
that begins with `MTUN_` is refused too.

## A node

In an empty folder, this file as `node.toml`:

```toml
[node]
listen = "0.0.0.0:4000"  # every address of this machine
advertise = ["10.8.0.7:4000"]  # the one at which the others reach it
network = "6f1d0c9b4e7a43d2a5c8e0f19b3d7a64"  # 32 hex digits, the same for all nodes
private_ranges = ["10.8.0.0/24"]  # its LAN or VPN; none on the open internet

[peers]
files = ["peers"]
publish = "peers/me"

[service]
names = ["ping", "files"]
```

Then its keys, once, and the node:

```sh
mtun keygen state/keys
mtun node --config node.toml
```

The folders `peers` and `files` are made where they are missing. The node writes its own descriptor to
`peers/me`; copy that file into the `peers` folder of every other node, and theirs into this one (under any
name). One peer that both know is enough: nodes learn of the others from their neighbours. Files that come are
read within `refresh_s`.

## A client

`mtun ping`, `send`, `get`, `peers`, `route` and `bench` take a file as well, with `--config`. A client has no
keys: it makes fresh ones each time, listens nowhere, and takes network, ranges, peers and limits from the
file. `client.toml`, beside a `peers` folder:

```toml
[node]
keys = "none"  # a client: fresh keys each time
network = "6f1d0c9b4e7a43d2a5c8e0f19b3d7a64"
private_ranges = ["10.8.0.0/24"]

[peers]
files = ["peers"]
```

A file that names no `keys`, and has none in its state folder, is that of a client too. With the file of a
node these commands use that node: cli.md, "Clients". `--network DIR` uses `DIR/client.toml`. `--peers` is for
the network `local`; for another one the client needs a file like this one in its place, or
`MTUN_NODE_NETWORK` and `MTUN_NODE_PRIVATE_RANGES`.
"""


def document() -> str:
    """The whole document."""
    parts = [_HEAD]
    for table, about in TABLES.items():
        rows = [
            f"| `{setting.key}` | `{show(setting.default)}` | {setting.unit or '–'} | "
            f"{_cell(setting.kind.expected)} | {_cell(setting.meaning)} |"
            for setting in SETTINGS
            if setting.table == table
        ]
        parts.append(
            f"\n## [{table}]\n\n{about}\n\n| key | default | unit | expected | meaning |\n"
            "| --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration file of these values, as TOML gives them."""
    parts = []
    for table, entries in tables.items():
        parts.append(f"[{table}]\n" + "".join(f"{key} = {show(value)}\n" for key, value in entries.items()))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(document())
