"""Tables that may occur several times: `[[publish]]`, `[[socks]]` and `[[forward]]`.

    [[publish]]
    name = "ssh"
    to = "127.0.0.1:22"

    [[socks]]
    exit = "node-7"

Each occurrence becomes one entry, an object of a dataclass in this module. The keys are the fields; a key
without a default is required. The environment cannot set these tables.

Rules for changing it: a new table needs a dataclass, its rows, and a line in `REPEATED`. Then run
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
        "A TCP server that this node publishes under a name; see [front.md](front.md).",
        PublishEntry,
        (
            Setting(
                "publish", "name", ServiceName(), REQUIRED, "The name, unique among this node's services."
            ),
            Setting(
                "publish",
                "to",
                HostPort(),
                REQUIRED,
                "The server. The node opens a connection to it for each connection of a client.",
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
        "A SOCKS and HTTP CONNECT port whose connections go through tunnels to an exit, like `mtun socks`; "
        "see [front.md](front.md).",
        SocksEntry,
        (
            Setting(
                "socks",
                "exit",
                Text(_NODE),
                REQUIRED,
                "The exit. A name must be that of a peer file with one descriptor, and the file must exist "
                "when the node starts. An id may become known later.",
            ),
            Setting(
                "socks",
                "listen",
                ListenPlace(),
                "127.0.0.1:1080",
                "Where programs connect. An address that other machines can reach needs `users`. Only its "
                "owner can use a Unix socket.",
            ),
            Setting("socks", "hops", Integer(0, _MOST_HOPS, or_empty=True), "", _HOPS),
            Setting(
                "socks",
                "isolate",
                Choice({str(kind): kind for kind in Isolation}),
                str(Isolation.AUTH),
                "Which connections share a tunnel: those with the same user and password (`auth`), all of "
                "the port (`listener`), or none (`connection`).",
            ),
            Setting(
                "socks",
                "users",
                FilePath(),
                "",
                "A file of mode 0600 with lines USER:PASSWORD: only these users may connect. Empty: no login "
                "is needed.",
            ),
        ),
    ),
    "forward": RepeatedTable(
        "A local port whose connections lead to a published service, or to a target behind an exit, like "
        "`mtun forward`; see [front.md](front.md).",
        ForwardEntry,
        (
            Setting(
                "forward",
                "listen",
                ListenPlace(),
                REQUIRED,
                "Where programs connect. Only its owner can use a Unix socket.",
            ),
            Setting(
                "forward",
                "to",
                Destination(),
                REQUIRED,
                f"Where connections lead. NODE has the form of `exit` in [[socks]]: {_NODE}.",
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
                "Allow a `listen` address that other machines can reach; they can then use the tunnels.",
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
