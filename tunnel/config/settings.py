"""Every setting of a node: its table, key, kind, unit, default and meaning. One row each.

Rules for changing it: what is a field of `Limits`, `TunnelLimits` or `FilesSettings` has no row here; it is
found by itself, with its default from the class, its unit from its name (`_s`, `_bytes`) and its meaning from
the docstring, and only its table (`_TABLE_OF`) and an unusual range (`_KIND_OF`) are named.
docs/configuration.md is made from this list (`python -m tunnel.config.document`), and a test keeps it equal.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from tunnel.config.kinds import (
    Choice,
    Family,
    HostPort,
    Integer,
    Kind,
    ListOf,
    NetworkId,
    Number,
    Place,
    PrivateRange,
    Size,
    Switch,
    Text,
)
from tunnel.established import TunnelLimits
from tunnel.geometry import ALL_PROFILES, LONG
from tunnel.link.buffers import MAX_UNITS
from tunnel.node import LOCAL_NETWORK_ID, Limits
from tunnel.routing.guards import MOST_GUARDS
from tunnel.services import FilesSettings

__all__ = ["ENVIRONMENT_PREFIX", "SERVICES", "SETTINGS", "TABLES", "Setting"]

ENVIRONMENT_PREFIX = "MTUN_"
_MOST_ADDRESSES = 4  # what a descriptor has room for
_MOST_FILES = 64
_MOST_RANGES = 16
_MOST_COUNT = 100_000_000
_MOST_SECONDS = 30 * 24 * 3600.0
_MOST_BYTES = 1 << 40

TABLES = {
    "node": "Who the node is and where it listens.",
    "peers": "Where the other nodes' descriptors come from, and where this node's goes.",
    "service": "What the node does with the queries that reach it. Each query names its service.",
    "files": "The files service: what it keeps, and for whom.",
    "timeouts": "How long what may take. Safe as they are for links of any quality that people use.",
    "routes": "How this node draws the routes of its own queries and answers.",
    "links": "Connections to neighbours: how many, and how they are used.",
    "padding": "What links send beside content.",
    "limits": "What a node holds at most. A peer can make nothing grow beyond these.",
    "tunnels": "Established tunnels: windows, sub-streams and keys.",
}

SERVICES = ("ping", "echo", "files")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        table, key: where it is in the file.
        kind: what it takes.
        default: as TOML gives it.
        unit: of a number; "" where there is none.
        meaning: for the document.
        owner: "node" for a field of `NodeConfig`, "limits", "tunnel" and "files" for one of those classes.
    """

    table: str
    key: str
    kind: Kind
    default: Any
    unit: str
    meaning: str
    owner: str = "node"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"{ENVIRONMENT_PREFIX}{self.table}_{self.key}".upper()


_OWN = [
    Setting(
        "node",
        "state",
        Text("a path; relative ones begin at the configuration file"),
        "state",
        "",
        "Folder of what the node keeps: keys, replay tables, guards. One node only; mode 0700.",
    ),
    Setting(
        "node",
        "keys",
        Text('a path, or "none"', or_empty=True),
        "",
        "",
        "The key file, as `mtun keygen` makes it. Empty: `keys` in the state folder. "
        '"none": a client, which makes fresh keys each time.',
    ),
    Setting(
        "node",
        "listen",
        Place(or_none=True, least_port=0),
        "127.0.0.1:0",
        "",
        'Where to listen. "none": nowhere; such a node relays nothing, and gets replies over its own links.',
    ),
    Setting(
        "node",
        "advertise",
        ListOf(Place(), _MOST_ADDRESSES),
        [],
        "",
        "Addresses at which others reach it. Empty: where it listens.",
    ),
    Setting(
        "node",
        "network",
        NetworkId(LOCAL_NETWORK_ID),
        "local",
        "",
        'Which network this is. "local": one machine or one room, where addresses are no secret and rules '
        "against many nodes at one address are off. In any other only public addresses are dialled, and "
        "those in `private_ranges`.",
    ),
    Setting(
        "node",
        "private_ranges",
        ListOf(PrivateRange(), _MOST_RANGES),
        [],
        "",
        "Ranges of a LAN or VPN that are part of the network, the same in all nodes. What other nodes name "
        "there is dialled, so keep them small; and only `family` keeps owners there apart.",
    ),
    Setting(
        "node",
        "family",
        Family(),
        "",
        "",
        "Says openly that nodes have one owner: no route passes two of them, and no route of theirs passes "
        "any. Empty: no family.",
    ),
    Setting(
        "node",
        "engine",
        Choice({name: name for name in ("auto", "openssl", "pycryptodome")}),
        "auto",
        "",
        "Crypto library. `auto` takes the faster one that is installed.",
    ),
    Setting(
        "node",
        "profiles",
        ListOf(Choice({profile.name: profile for profile in ALL_PROFILES}), len(ALL_PROFILES)),
        [],
        "",
        "Profiles that the descriptor offers to others. Empty: all that the engine has.",
    ),
    Setting(
        "node",
        "log_level",
        Choice({name: name.upper() for name in ("debug", "info", "warning", "error")}),
        "info",
        "",
        "What is logged, to standard error. Of peers it has the first digits of their ids; their addresses "
        "appear at `debug` only.",
    ),
    Setting(
        "peers",
        "files",
        ListOf(Text("a path"), _MOST_FILES),
        [],
        "",
        "Peer files: one signed descriptor a line. A folder stands for all files in it.",
    ),
    Setting(
        "peers",
        "publish",
        Text("a path", or_empty=True),
        "",
        "",
        "Where the node writes its own descriptor, at each start and key change. Empty: nowhere.",
    ),
    Setting(
        "peers",
        "refresh_s",
        Number(0, _MOST_SECONDS),
        5.0,
        "s",
        "How often peer files are looked at; those that changed are read again.",
    ),
    Setting(
        "peers",
        "exchange",
        Switch(),
        True,
        "",
        "Whether the node learns of others from its neighbours, and tells them whom it knows.",
    ),
    Setting(
        "peers",
        "dht",
        Switch(),
        False,
        "",
        "Whether peers are also found in a distributed hash table, and this node's descriptor is put there. "
        "Needs `exchange`, and OpenDHT: `pip install 'mydht-tunnel[dht]'`.",
    ),
    Setting(
        "peers",
        "dht_bootstrap",
        HostPort(),
        "",
        "",
        "Any node of the hash table, with its UDP port. Empty: this node is the first one.",
    ),
    Setting(
        "peers",
        "dht_port",
        Integer(0, 65_535),
        0,
        "",
        "UDP port of this node in the hash table. 0: any free one.",
    ),
    Setting(
        "service",
        "names",
        ListOf(Choice({name: name for name in SERVICES}), len(SERVICES)),
        ["ping"],
        "",
        "`ping` answers `pong`, `echo` sends queries back, `files` keeps files. Empty: a pure relay.",
    ),
    Setting(
        "files",
        "folder",
        Text("a path"),
        "files",
        "",
        "The folder whose files the service serves, and nothing else; made where there is none.",
    ),
    Setting(
        "timeouts",
        "stop_s",
        Number(0, _MOST_SECONDS),
        5.0,
        "s",
        "At a clean stop: how long what passes through the node may take to end.",
    ),
]

_TABLE_OF = {
    "peers": "exchange_s exchange_min_s",
    "routes": "route_hops route_bias answer_hops guards prepared prepared_tunnels",
    "timeouts": "handshake_s header_s dial_s idle_s answer_s linger_s quiet_s pong_s record_s key_tick_s",
    "links": "links links_per_address links_ahead streams_per_link half_open link_policy link_idle_s "
    "link_age_s link_tick_s redial_s",
    "padding": "padding padding_gap_s padding_units",
}
# Where 1 (a count), or anything above 0 (a time), is not the least that makes sense.
_KIND_OF: dict[str, Kind] = {
    "links_ahead": Integer(0, 1024),
    "padding_units": Integer(1, MAX_UNITS),
    "route_hops": Integer(0, LONG.max_proxies),
    "route_bias": Integer(0, LONG.max_proxies),
    "answer_hops": Integer(0, LONG.max_proxies),
    "guards": Integer(0, MOST_GUARDS),
    "prepared": Integer(0, 1024),
    "prepared_tunnels": Integer(0, 64),
    "streams_per_link": Integer(1, 65_535),
    "buffer_bytes": Size(1 << 20, _MOST_BYTES),
    "tunnel_bytes": Size(1 << 20, _MOST_BYTES),
    "window_chunks": Integer(4, 1024),
    "sub_streams": Integer(4, 32_767),
    "quota_bytes": Size(0, _MOST_BYTES),
    "file_bytes": Size(0, _MOST_BYTES),
    "rekey_chunks": Integer(2, 1 << 24),
}


_NO_SETTING = ("tunnel", "is_name_allowed")  # a class of settings of its own; a function


def _meanings(owner: type) -> dict[str, str]:
    """The entries under "Attributes:" or "Args:" of a docstring; none where docstrings are left out."""
    found: dict[str, str] = {}
    key = ""
    for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
        if (start := re.match(r"    (\w+(?:, \w+)*): (.*)", line)) is not None:
            key = start[1]
            found[key] = start[2]
        elif line.startswith("        ") and key:
            found[key] += " " + line.strip()
        else:
            key = ""
    return {key: text[:1].upper() + text[1:] for keys, text in found.items() for key in keys.split(", ")}


def _kind(name: str, default: Any) -> tuple[Kind, Any]:
    """The kind of a field, and its default as TOML has it."""
    if isinstance(default, Enum):
        return Choice({member.name.lower(): member for member in type(default)}), default.name.lower()
    if name in _KIND_OF:
        return _KIND_OF[name], default
    if isinstance(default, bool):
        return Switch(), default
    if isinstance(default, int):
        return Integer(1, _MOST_COUNT), default
    return Number(0, _MOST_SECONDS), default


def _limits(defaults: Any, owner: str, other_table: str) -> list[Setting]:
    meanings = _meanings(type(defaults))
    tables = {name: table for table, names in _TABLE_OF.items() for name in names.split()}
    found = []
    for name in (field.name for field in fields(defaults)):
        if name in _NO_SETTING:
            continue
        kind, default = _kind(name, getattr(defaults, name))
        unit = "s" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""
        table = tables.get(name, other_table)
        found.append(Setting(table, name, kind, default, unit, meanings.get(name, ""), owner))
    return found


SETTINGS = tuple(
    sorted(
        [
            *_OWN,
            *_limits(Limits(), "limits", "limits"),
            *_limits(TunnelLimits(), "tunnel", "tunnels"),
            *_limits(FilesSettings(), "files", "files"),
        ],
        key=lambda setting: list(TABLES).index(setting.table),
    )
)
"""All of them, table by table."""
