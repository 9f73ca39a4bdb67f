"""Tables that may occur several times: `[[publish]]`, `[[socks]]` and `[[forward]]`.

    [[publish]]
    name = "ssh"
    to = "127.0.0.1:22"

    [[socks]]
    exit = "node-7"

Each occurrence is one entry, an object of a dataclass here. Its keys are the fields; a key without a default
is required. The environment cannot set them.

Rules for changing it: a new table is a dataclass, its rows, and a line in `REPEATED`; afterwards run
`python -m tests.test_config`, as for settings.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tunnel.config.kinds import (
    Choice,
    ClientKeyId,
    Destination,
    FilePath,
    HostPort,
    Integer,
    ListenPlace,
    ListOf,
    ServiceName,
    Switch,
    Text,
)
from tunnel.config.settings import REQUIRED, SETTINGS, TABLES, Setting, describe
from tunnel.established import Target
from tunnel.front.entrance import EntrancePlace
from tunnel.front.socks_server import Isolation

__all__ = ["REPEATED", "ForwardEntry", "PublishEntry", "RepeatedTable", "SocksEntry", "reference"]

_MOST_CLIENTS = 1_024
_MOST_HOPS = 126


@dataclass(frozen=True, slots=True)
class PublishEntry:
    """One published TCP service. Attributes: clients: public keys; None: everybody may use it."""

    name: str
    to: tuple[str, int]
    clients: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class SocksEntry:
    """One SOCKS port. Attributes: hops: None: `route_hops`. users: absolute path; None: no login."""

    exit: str
    listen: EntrancePlace
    hops: int | None
    isolate: Isolation
    users: Path | None


@dataclass(frozen=True, slots=True)
class ForwardEntry:
    """One forwarded port. Attributes: to: node, and target there. key: absolute path; None: no key."""

    listen: EntrancePlace
    to: tuple[str, Target]
    hops: int | None
    key: Path | None
    public: bool


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


_NODE = "64 hex digits, or the name of a peer file"
_HOPS = "Proxies of each tunnel. Empty: `[routes] route_hops`."

REPEATED: Final = {
    "publish": RepeatedTable(
        "A TCP server that this node offers to others under a name; see [front.md](front.md).",
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
                ListOf(ClientKeyId(), _MOST_CLIENTS, or_empty=True),
                "",
                "Public keys of the clients that may use it, from `mtun keygen --client`. Empty: everybody "
                "in the network.",
            ),
        ),
    ),
    "socks": RepeatedTable(
        "A SOCKS and HTTP CONNECT port for programs, with tunnels to an exit behind it, as of `mtun socks`; "
        "see [front.md](front.md).",
        SocksEntry,
        (
            Setting(
                "socks",
                "exit",
                Text(_NODE),
                REQUIRED,
                "The exit. A name must be that of a peer file with one descriptor when the node starts; the "
                "node of an id may become known later.",
            ),
            Setting(
                "socks",
                "listen",
                ListenPlace(),
                "127.0.0.1:1080",
                "Where programs connect. An address that other machines reach needs `users`; a Unix socket "
                "is for its owner only.",
            ),
            Setting("socks", "hops", Integer(0, _MOST_HOPS, or_empty=True), "", _HOPS),
            Setting(
                "socks",
                "isolate",
                Choice({str(kind): kind for kind in Isolation}),
                str(Isolation.AUTH),
                "Connections that share a tunnel: those with the same user and password, all of the port "
                "(`listener`), or none (`connection`).",
            ),
            Setting(
                "socks",
                "users",
                FilePath(),
                "",
                "A file with lines USER:PASSWORD, mode 0600: only they may connect. Empty: no login is "
                "needed.",
            ),
        ),
    ),
    "forward": RepeatedTable(
        "A local port whose connections lead to a published service, or to a target behind an exit, as of "
        "`mtun forward`; see [front.md](front.md).",
        ForwardEntry,
        (
            Setting(
                "forward",
                "listen",
                ListenPlace(),
                REQUIRED,
                "Where programs connect. A Unix socket is for its owner only.",
            ),
            Setting(
                "forward",
                "to",
                Destination(),
                REQUIRED,
                f"Where connections lead. NODE is as `exit` of [[socks]]: {_NODE}.",
            ),
            Setting("forward", "hops", Integer(0, _MOST_HOPS, or_empty=True), "", _HOPS),
            Setting(
                "forward",
                "key",
                FilePath(),
                "",
                "A client key from `mtun keygen --client`, for a service that lists its clients.",
            ),
            Setting(
                "forward",
                "public",
                Switch(),
                False,
                "Allow a `listen` address that other machines reach; they can then use the tunnels.",
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
