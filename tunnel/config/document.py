"""docs/configuration.md, made from the list of settings: `python -m tunnel.config.document > …`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tunnel.config.kinds import show
from tunnel.config.settings import SETTINGS, TABLES

__all__ = ["document", "write_toml"]

_HEAD = """\
# Configuration of a node

Made from `tunnel/config/settings.py` by `python -m tunnel.config.document`; a test keeps the two equal.

`mtun node --config FILE` reads one TOML file. Every setting has a default, so an empty file is a valid one.
Unknown names are refused, and so are values of a wrong type or range: `error:` says file, key and what is
expected, `hint:` the name that is closest. Relative paths begin at the file's folder.

Each setting can be overridden by an environment variable: `MTUN_`, table, `_`, key, in capitals
(`MTUN_NODE_LISTEN=0.0.0.0:4000`). Text is written without quotes, lists with commas. An unknown variable
that begins with `MTUN_` is refused too.

```toml
[node]
listen = "10.8.0.7:4000"
network = "6f1d0c9b4e7a43d2a5c8e0f19b3d7a64"  # 32 hex digits, the same for all nodes
private_ranges = ["10.8.0.0/24"]  # its LAN or VPN; none on the open internet

[peers]
files = ["peers"]
publish = "peers/me"

[service]
names = ["ping", "files"]
```
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
