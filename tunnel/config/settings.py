"""Every setting of a node: table, key, kind, unit, default and meaning.

Rules for changing it: settings of the node itself are rows here. Fields of `Limits`, `TunnelLimits`,
`FilesSettings` and `ExitSettings` declare themselves with `tunnel.arguments.setting`: default, unit, range
and help text are there. This file adds only their table (`_TABLE_OF`) and stricter ranges (`_KIND_OF`). Keep
settings few: if users have no reason to change a value, make it a constant, or a plain field of its class.
After a change run `python -m tests.test_config`, which rewrites the tables of docs/configuration.md; a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, dataclass, fields
from enum import Enum
from typing import Any, Final

from tunnel.arguments import LEAST_SECONDS, MOST_BYTES, MOST_PORT, MOST_SECONDS, range_of
from tunnel.config.kinds import (
    Choice,
    ExitRuleText,
    Family,
    FilePath,
    FilesRight,
    HostPort,
    Integer,
    ListOf,
    NetworkId,
    Number,
    Place,
    PrivateRange,
    SettingKind,
    Size,
    Switch,
    Text,
    show,
)
from tunnel.established import TunnelLimits
from tunnel.geometry import ALL_PROFILES
from tunnel.node import LOCAL_NETWORK_ID, Limits
from tunnel.services import ExitSettings, FilesSettings

__all__ = [
    "ENVIRONMENT_PREFIX",
    "REMOVED",
    "REPLACED",
    "REQUIRED",
    "SECRET_VARIABLE",
    "SERVICES",
    "SETTINGS",
    "TABLES",
    "Setting",
    "describe",
    "variable",
]

ENVIRONMENT_PREFIX = "MTUN_"
SECRET_VARIABLE = "MTUN_SECRET"
"""The secret of a command for the files service; no setting."""
REQUIRED: Final = "–"
"""The default of a key that must be given."""
_MOST_ADDRESSES = 4  # the capacity of a descriptor
_MOST_CLIENTS = 1_024
_MOST_FILES = 64
_MOST_RANGES = 16
_MOST_REVERSE = 64
_MOST_RULES = 256  # each connection is compared with all of them

TABLES = {
    "node": "Identity and addresses of the node.",
    "peers": "Sources of other nodes' descriptors, and publication of this node's.",
    "service": "The services that answer queries at this node. Each query names a service.",
    "files": "The files service: storage, and who may use it ([services.md](services.md#files)).",
    "exit": "Connections to other hosts, for users who open tunnels to this node. "
    "[services.md](services.md#exit) explains the rules.",
    "timeouts": "Time limits. The defaults suit ordinary links.",
    "routes": "Routes of this node's own queries and answers.",
    "links": "Connections to neighbours: number and use.",
    "padding": "Cover traffic on links.",
    "limits": "Limits of a node's memory and tables. No peer can exceed them.",
}

SERVICES = ("ping", "echo", "files")

_REMOVED = {
    "peers": "exchange_s exchange_min_s",
    "files": "uploads part_age_s",
    "timeouts": "handshake_s header_s linger_s quiet_s pong_s record_s key_tick_s",
    "links": "links_per_address streams_per_link half_open link_idle_s link_age_s link_tick_s redial_s",
    "padding": "padding_units",
    "limits": "queries",
    "tunnels": "window_chunks sub_streams rekey_chunks rekey_s early",
}
REPLACED = {
    ("files", "may_get"): 'read = [] is for nobody, read = ["everybody"] for everybody',
    ("files", "may_put"): 'write = [] is for nobody, write = ["everybody"] for everybody',
    ("files", "may_list"): 'list = [] is for nobody, list = ["everybody"] for everybody',
}
"""What to write in place of former settings."""
REMOVED = REPLACED.keys() | {(table, key) for table, keys in _REMOVED.items() for key in keys.split()}
"""Former settings, as (table, key): a file that has one gets a specific error."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        table, key: position in the file.
        kind: accepted values.
        default: as TOML represents it.
        meaning: help text for the document.
        unit: of a number; "" if it has none.
        owner: class of the field: "node" (`NodeConfig`), "limits", "tunnel", "files", "rights"
            (`FilesRights`) or "exit".
    """

    table: str
    key: str
    kind: SettingKind
    default: Any
    meaning: str
    unit: str = ""
    owner: str = "node"

    @property
    def variable(self) -> str:
        """Name of the environment variable that overrides the setting."""
        return variable(self.table, self.key)


def variable(table: str, key: str) -> str:
    """Name of the environment variable of a setting."""
    return f"{ENVIRONMENT_PREFIX}{table}_{key}".upper()


_RIGHT = FilesRight(_MOST_CLIENTS)

_OWN = [
    Setting(
        "node",
        "state",
        Text("a path; a relative path starts at the folder of the configuration file"),
        "state",
        "Folder for keys, replay tables and guards. Belongs to one node; mode 0700.",
    ),
    Setting(
        "node",
        "keys",
        Text('a path, or "none"', or_empty=True),
        "",
        "The key file, made by `mtun keygen`. Empty: `keys` in the state folder. "
        '"none": this is a client, which makes fresh keys for each run.',
    ),
    Setting(
        "node",
        "listen",
        Place(or_none=True, least_port=0),
        "127.0.0.1:0",
        'Address to listen on. "none": do not listen. Such a node relays nothing, and receives replies over '
        "the links that it dialled.",
    ),
    Setting(
        "node",
        "advertise",
        ListOf(Place(), _MOST_ADDRESSES),
        [],
        "Addresses at which other nodes reach this one. Empty: the address of `listen`.",
    ),
    Setting(
        "node",
        "network",
        NetworkId(LOCAL_NETWORK_ID),
        "local",
        'The network of this node. "local": one machine, or one LAN if `listen` or `advertise` is an address '
        "of that LAN. In it several nodes may share an address, and the node dials no addresses outside. A "
        "node that other machines reach must set this key. In a network with an id the node dials only "
        "public addresses and those in `private_ranges`.",
    ),
    Setting(
        "node",
        "private_ranges",
        ListOf(PrivateRange(), _MOST_RANGES),
        [],
        "Ranges of a LAN or VPN that belong to the network; use the same list in all nodes. Keep them small: "
        "the node dials every address in them that a peer advertises. Within them only `family` "
        "distinguishes owners.",
    ),
    Setting(
        "node",
        "family",
        Family(),
        "",
        "Declares publicly that several nodes have one owner. A route uses at most one node of a family, "
        "and a node's own routes use none of its family. Empty: no family.",
    ),
    Setting(
        "node",
        "engine",
        Choice({name: name for name in ("auto", "openssl", "pycryptodome")}),
        "auto",
        "Crypto library. `auto`: the fastest installed library.",
    ),
    Setting(
        "node",
        "profiles",
        ListOf(Choice({profile.name: profile for profile in ALL_PROFILES}), len(ALL_PROFILES)),
        [],
        "Profiles that the descriptor offers. Empty: every profile that the engine supports.",
    ),
    Setting(
        "node",
        "log_level",
        Choice({name: name.upper() for name in ("debug", "info", "warning", "error")}),
        "info",
        "Verbosity of the log, which goes to standard error. Peers appear by the first digits of their ids; "
        "their addresses appear at `debug` only.",
    ),
    Setting(
        "peers",
        "files",
        ListOf(Text("a path"), _MOST_FILES),
        [],
        "Peer files with one signed descriptor per line. A folder stands for all files in it.",
    ),
    Setting(
        "peers",
        "publish",
        Text("a path", or_empty=True),
        "",
        "File to which the node writes its own descriptor at each start and key change. Empty: no file.",
    ),
    Setting(
        "peers",
        "refresh_s",
        Number(LEAST_SECONDS, MOST_SECONDS),
        5.0,
        "Interval between checks of the peer files. The node reads changed files again.",
        unit="s",
    ),
    Setting(
        "peers", "exchange", Switch(), True, "Whether the node exchanges known peers with its neighbours."
    ),
    Setting(
        "peers",
        "dht",
        Switch(),
        False,
        "Whether the node also finds peers in a distributed hash table and publishes its descriptor there. "
        "Requires `exchange`, and OpenDHT: `pip install 'mydht-tunnel[dht]'`.",
    ),
    Setting(
        "peers",
        "dht_bootstrap",
        HostPort(or_empty=True),
        "",
        "Any node of the hash table, with its UDP port. Empty: this node starts the table.",
    ),
    Setting(
        "peers",
        "dht_port",
        Integer(0, MOST_PORT),
        0,
        "UDP port of this node in the hash table. 0: any free port.",
    ),
    Setting(
        "service",
        "names",
        ListOf(Choice({name: name for name in SERVICES}), len(SERVICES)),
        ["ping"],
        "`ping` answers `pong`, `echo` returns the query, `files` stores files. Empty: a pure relay.",
    ),
    Setting(
        "service",
        "reverse",
        ListOf(Place(least_port=0), _MOST_REVERSE),
        [],
        "Addresses and ports at which clients may make this node listen (`mtun forward --reverse`). Port 0: "
        "any free port of that address.",
    ),
    Setting(
        "files",
        "folder",
        Text("a path"),
        "files",
        "The only folder that the service serves; created if missing. By default it is public and "
        "writable: see `read`, `write` and `list`.",
    ),
    Setting(
        "files",
        "read",
        _RIGHT,
        ["everybody"],
        "Who may fetch files: the owners of these public client keys (from `mtun keygen --client`); with "
        "`secret`, also clients that know the secret; or everybody in the network.",
        owner="rights",
    ),
    Setting("files", "write", _RIGHT, ["everybody"], "Who may store files.", owner="rights"),
    Setting("files", "list", _RIGHT, ["everybody"], "Who may list files.", owner="rights"),
    Setting(
        "files",
        "secret_file",
        FilePath(),
        "",
        "A file of mode 0600 with one line, a secret of at least 16 bytes for the rights that list `secret`.",
        owner="rights",
    ),
    Setting(
        "exit",
        "rules",
        ListOf(ExitRuleText(), _MOST_RULES, separator=";"),
        [],
        "The hosts and ports to which this node connects. The first matching rule decides; a target without "
        "a matching rule is refused. Empty: the node is not an exit. In the environment, separate rules with "
        "`;`.",
    ),
    Setting(
        "timeouts",
        "stop_s",
        Number(LEAST_SECONDS, MOST_SECONDS),
        5.0,
        "At a clean stop: time allowed for traffic through the node to finish.",
        unit="s",
    ),
]

_TABLE_OF = {
    "routes": "route_hops route_bias answer_hops guards prepared prepared_tunnels",
    "timeouts": "dial_s idle_s answer_s silent_s",
    "links": "links links_ahead link_policy",
    "padding": "padding padding_gap_s",
}
# A configured node carries more traffic than the smallest one of a test.
_KIND_OF: dict[str, SettingKind] = {
    "buffer_bytes": Size(1 << 20, MOST_BYTES),
    "tunnel_bytes": Size(1 << 20, MOST_BYTES),
}


def _kind(each: Field[Any]) -> tuple[SettingKind, Any]:
    """The kind of a field, and its default as TOML represents it."""
    default = each.default
    if isinstance(default, Enum):
        return Choice({member.name.lower(): member for member in type(default)}), default.name.lower()
    if isinstance(default, bool):
        return Switch(), default
    if each.name in _KIND_OF:
        return _KIND_OF[each.name], default
    numbers = Number if isinstance(default, float) else Size if each.metadata["unit"] == "bytes" else Integer
    return numbers(*range_of(each)), default


def _limits(defaults: Any, owner: str, other_table: str) -> list[Setting]:
    """The settings that a class declares. Args: other_table: of those that `_TABLE_OF` does not list."""
    tables = {name: table for table, names in _TABLE_OF.items() for name in names.split()}
    found = []
    for field in fields(defaults):
        if "help" not in field.metadata:
            continue
        name = field.name
        kind, default = _kind(field)
        unit, meaning = field.metadata["unit"], field.metadata["help"]
        found.append(Setting(tables.get(name, other_table), name, kind, default, meaning, unit, owner))
    return found


SETTINGS = tuple(
    sorted(
        [
            *_OWN,
            *_limits(Limits(), "limits", "limits"),
            *_limits(TunnelLimits(), "tunnel", "limits"),
            *_limits(FilesSettings(), "files", "files"),
            *_limits(ExitSettings(), "exit", "exit"),
        ],
        key=lambda setting: list(TABLES).index(setting.table),
    )
)
"""All settings, in the order of `TABLES`."""


def describe(title: str, about: str, settings: Iterable[Setting]) -> str:
    """A section of docs/configuration.md, in Markdown."""
    rows = [
        f"| `{setting.key}` | {_shown_default(setting)} | {setting.unit or '–'} | "
        f"{setting.kind.expected} | {setting.meaning} |\n"
        for setting in settings
    ]
    return (
        f"## {title}\n\n{about}\n\n| key | default | unit | expected | meaning |\n"
        f"| --- | --- | --- | --- | --- |\n{''.join(rows)}"
    )


def _shown_default(setting: Setting) -> str:
    return "required" if setting.default is REQUIRED else f"`{show(setting.default)}`"
