"""Tables that may occur several times: `[[publish]]`, `[[socks]]`.

    [[publish]]
    name = "ssh"
    to = "127.0.0.1:22"

Each occurrence is one entry, an object of a dataclass here. Its keys are the fields; a key without a default
is required. The environment cannot set them.

Rules for changing it: a new table is a dataclass, its rows, and a line in `REPEATED`; afterwards run
`python -m tests.test_config`, as for settings.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tunnel.config.kinds import Choice, ClientKeyId, HostPort, ListOf, LoopbackPlace, NodeId, ServiceName
from tunnel.config.settings import REQUIRED, SETTINGS, TABLES, Setting, describe
from tunnel.front.socks_server import Isolation
from tunnel.identity.descriptor import Address

__all__ = ["REPEATED", "PublishEntry", "RepeatedTable", "SocksEntry", "reference"]

_MOST_CLIENTS = 1_024


@dataclass(frozen=True, slots=True)
class PublishEntry:
    """One published TCP service. Attributes: clients: public keys; empty: everybody may use it."""

    name: str
    to: tuple[str, int]
    clients: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SocksEntry:
    """One SOCKS and CONNECT port of the node. Attributes: exit: id of the exit."""

    exit: bytes
    listen: Address
    isolate: Isolation


@dataclass(frozen=True, slots=True)
class RepeatedTable:
    """A table that may occur several times.

    Attributes:
        about: what an entry is, for the document. entry: its class. rows: its keys.
        most: number of entries.
    """

    about: str
    entry: type[Any]
    rows: tuple[Setting, ...]
    most: int = 64


REPEATED: Final = {
    "publish": RepeatedTable(
        "A TCP server that this node offers to others under a name; see front.md.",
        PublishEntry,
        (
            Setting("publish", "name", ServiceName(), REQUIRED, "The name, unique among the services."),
            Setting(
                "publish",
                "to",
                HostPort(),
                REQUIRED,
                "The server. The node connects to it for each connection of a client.",
            ),
            Setting(
                "publish",
                "clients",
                ListOf(ClientKeyId(), _MOST_CLIENTS),
                [],
                "Public keys of the clients that may use it, from `mtun keygen --client`. Empty: everybody "
                "in the network.",
            ),
        ),
    ),
    "socks": RepeatedTable(
        "A SOCKS5, SOCKS4a and HTTP CONNECT port for programs of this machine, with tunnels from this node "
        "to an exit; see `mtun socks` in cli.md.",
        SocksEntry,
        (
            Setting(
                "socks", "exit", NodeId(), REQUIRED, "The exit: a node whose [exit] rules allow the targets."
            ),
            Setting(
                "socks",
                "listen",
                LoopbackPlace(),
                "127.0.0.1:1080",
                "Where programs connect to. No password.",
            ),
            Setting(
                "socks",
                "isolate",
                Choice({str(kind): kind for kind in Isolation}),
                str(Isolation.AUTH),
                "Connections that share a tunnel: those with the same user and password (auth), all "
                "(listener), or none (connection).",
            ),
        ),
    ),
}
"""The repeated tables by name."""


def reference() -> str:
    """All settings in Markdown, a section for each table: the second part of docs/configuration.md."""
    once = [
        describe(f"[{table}]", about, (each for each in SETTINGS if each.table == table))
        for table, about in TABLES.items()
    ]
    repeated = [describe(f"[[{table}]]", kind.about, kind.rows) for table, kind in REPEATED.items()]
    return "\n".join(once + repeated)
