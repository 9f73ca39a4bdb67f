"""Reads a configuration: first the file, then the environment. Every key and value is checked.

An unknown table or key is refused with a hint that gives the closest name. A value of a wrong type or range
is refused with the expected values. Relative paths start at the file's folder, so a node can be started from
any directory.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunnel.arguments import (
    LEAST_SECONDS,
    MOST_PORT,
    MOST_SECONDS,
    checked_count,
    checked_seconds,
    did_you_mean,
)
from tunnel.config.kinds import Choice, FilesClients, FilesRight, HostPort, ListenPlace, ListOf, Place, show
from tunnel.config.misplaced import KEYS, advice_for_key, advice_for_table, advice_for_variable
from tunnel.config.repeated import REPEATED, ForwardEntry, PublishEntry, RepeatedTable, SocksEntry
from tunnel.config.settings import (
    ENVIRONMENT_PREFIX,
    REMOVED,
    REPLACED,
    REQUIRED,
    SECRET_VARIABLE,
    SETTINGS,
    TABLES,
    Setting,
    variable,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import os_error_text, read_regular
from tunnel.errors import BadArgument, ConfigError, LocalTunnelError
from tunnel.established import TunnelLimits
from tunnel.geometry import Profile
from tunnel.identity.client_key import ClientKey
from tunnel.identity.descriptor import Address
from tunnel.node import Limits, address_rules
from tunnel.routing.addresses import IpRange, unmapped
from tunnel.services import ExitSettings, FilesSettings

__all__ = ["FilesRights", "NodeConfig", "load_config", "make_config", "with_published"]

_NO_KEYS = "none"  # of a client
_MOST_FILE_BYTES = 1 << 20  # anything larger is another kind of file


@dataclass(frozen=True, slots=True)
class FilesRights:
    """Who may use the files service. Attributes: secret_file: absolute path; None: no right names it."""

    read: FilesClients
    write: FilesClients
    list: FilesClients
    secret_file: Path | None

    def apply(self, settings: FilesSettings, engine: TunnelEngine) -> FilesSettings:
        """The settings with the public keys of all clients. Reads the secret.

        Raises:
            KeyFileError: as `ClientKey.load_secret`.
        """
        known = frozenset[bytes]()
        if self.secret_file is not None:
            known = frozenset({ClientKey.load_secret(self.secret_file).public(engine)})

        def keys(clients: FilesClients) -> frozenset[bytes] | None:
            return clients.keys | known if clients.keys is not None and clients.with_secret else clients.keys

        return replace(settings, read=keys(self.read), write=keys(self.write), list=keys(self.list))


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A checked configuration. docs/configuration.md explains each setting.

    Attributes:
        files: peer files. folder: of the files service.
        state, keys, files, folder, publish: absolute paths. publish: None: not published.
        listen: None: does not listen. advertise: empty: the address of `listen`. family: None: no family.
        profiles: empty: all that the engine supports. rules: of the exit; empty: no exit.
        reverse: places where clients may let the node listen.
        published: TCP services that the node offers. socks, forwards: its ports for programs.
        is_client: keys = "none": a client, which makes fresh keys for each run.
    """

    state: Path
    keys: Path
    is_client: bool
    listen: Address | None
    advertise: tuple[Address, ...]
    network: bytes = field(repr=False)  # everyone who knows it may connect
    private_ranges: tuple[IpRange, ...]
    family: bytes | None
    engine: str
    profiles: tuple[Profile, ...]
    log_level: str
    files: tuple[Path, ...]
    publish: Path | None
    refresh_s: float
    exchange: bool
    dht: bool
    dht_bootstrap: tuple[str, int] | None
    dht_port: int
    names: tuple[str, ...]
    reverse: tuple[Address, ...]
    folder: Path
    rules: tuple[str, ...]
    published: tuple[PublishEntry, ...]
    socks: tuple[SocksEntry, ...]
    forwards: tuple[ForwardEntry, ...]
    stop_s: float
    limits: Limits
    files_settings: FilesSettings
    files_rights: FilesRights
    exit_settings: ExitSettings

    def __post_init__(self) -> None:
        # For programs that change a loaded configuration with `replace`.
        for name in ("refresh_s", "stop_s"):
            checked_seconds(getattr(self, name), name, least=LEAST_SECONDS, most=MOST_SECONDS)
        checked_count(self.dht_port, "dht_port", most=MOST_PORT)


def load_config(path: Path, environment: Mapping[str, str], *, listens: bool = True) -> NodeConfig:
    """Read the configuration in `path`, with the overrides of the environment.

    Args:
        environment: `os.environ`; only names with the prefix MTUN_ count.
        listens: False: a client; `listen` and `advertise` are ignored.
    Raises:
        ConfigError: unreadable, not TOML, an unknown name or a wrong value.
    """
    try:
        text = read_regular(path, _MOST_FILE_BYTES)
    except LocalTunnelError as error:
        names = ("node.toml", "node-0/node.toml") if listens else ("node.toml", "client.toml")
        inside = (path / name for name in names)
        hint = next((f"did you mean {file}?" for file in inside if file.exists()), "")
        raise ConfigError(str(error), hint or "name the configuration file itself") from error
    except OSError as error:
        raise ConfigError(
            os_error_text(error, path),
            "make one with: mtun network DIR --nodes N, or see docs/configuration.md",
        ) from error
    if len(text) > _MOST_FILE_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_FILE_BYTES:,} bytes, too many for a configuration")
    try:
        tables = tomllib.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with too many digits
        raise ConfigError(f"{path} is not TOML: {error}", 'text is "quoted", tables are [named]') from error
    return make_config(tables, folder=path.parent, source=str(path), environment=environment, listens=listens)


def make_config(
    tables: Mapping[str, Any],
    *,
    folder: Path,
    source: str,
    environment: Mapping[str, str],
    listens: bool = True,
) -> NodeConfig:
    """Check the content of a file.

    Args:
        tables: parsed by `tomllib`.
        folder: base of relative paths. source: name of the file in messages.
        listens: as for `load_config`.
    Raises:
        ConfigError: as `load_config`.
    """
    base = Path(os.path.realpath(folder))
    repeated = {name: _entries(name, tables.get(name, []), base, source) for name in REPEATED}
    tables = {name: entries for name, entries in tables.items() if name not in REPEATED}
    given = _known(tables, source) | _overrides(environment)
    values: dict[str, dict[str, Any]] = {"node": {}, "limits": {}, "tunnel": {}, "files": {}, "exit": {}}
    values["rights"] = {}
    for setting in SETTINGS:
        where, value = given.get((setting.table, setting.key), ("its default", setting.default))
        values[setting.owner][setting.key] = _checked(setting, value, where)
    limits = Limits(**values["limits"], tunnel=TunnelLimits(**values["tunnel"]))
    if not listens or values["node"]["keys"] == _NO_KEYS:
        values["node"] |= {"listen": None, "advertise": ()}
    listen = values["node"]["listen"]
    is_everywhere = listen is not None and ipaddress.ip_address(listen.host).is_unspecified
    if is_everywhere and not values["node"]["advertise"]:
        raise ConfigError(
            f"{source}: [node] listen = {listen.host}: others cannot dial this address",
            "set [node] advertise to the address at which others reach the node",
        )
    if values["node"]["dht"] and not values["node"]["exchange"]:
        raise ConfigError(
            f"{source}: [peers] dht = true needs exchange = true: nodes pass on what they find",
            "remove the line exchange = false",
        )
    config = NodeConfig(
        **_resolved(values["node"], base),
        published=_published(repeated["publish"], values["node"]["names"], source),
        socks=repeated["socks"],
        forwards=repeated["forward"],
        limits=limits,
        files_settings=FilesSettings(**values["files"]),
        files_rights=_files_rights(values["rights"], base, source),
        exit_settings=ExitSettings(**values["exit"]),
    )
    _check_address(config, source, is_network_given=("node", "network") in given)
    _check_files_folder(config, folder, source)
    return config


def _files_rights(values: dict[str, Any], base: Path, source: str) -> FilesRights:
    """Raises ConfigError: a right names a secret without a file, or a file protects nothing."""
    path: Path | None = values["secret_file"]
    rights = FilesRights(**values | {"secret_file": None if path is None else base / path})
    uses = any(clients.with_secret for clients in (rights.read, rights.write, rights.list))
    if uses and path is None:
        raise ConfigError(
            f'{source}: [files] a right names "secret", and secret_file is not given',
            "write the secret to a file with mode 0600, and its path in [files] secret_file",
        )
    if path is not None and not uses:
        raise ConfigError(
            f"{source}: [files] secret_file is given, and no right needs it",
            'name it in those that do, as in: read = ["secret"]',
        )
    return rights


def _check_address(config: NodeConfig, source: str, *, is_network_given: bool) -> None:
    """Refuse an address that no other node would dial: the node would run without any traffic or error.

    A node that other machines reach must name its network, since in "local" nobody hides from anybody.
    """
    shown = config.advertise or ((config.listen,) if config.listen is not None else ())
    if not is_network_given and not all(unmapped(place.host).is_loopback for place in shown):
        raise ConfigError(
            f"{source}: other machines reach this node at {shown[0].host}, and [node] network is not set",
            'network = "local" for the nodes of one LAN; else 32 random hex digits, the same in all nodes of '
            "the network",
        )
    rules = address_rules(config.network, config.private_ranges, shown)
    if config.listen is not None and not rules.dialable(shown):
        key = "advertise" if config.advertise else "listen"
        if rules.is_local:
            raise ConfigError(
                f'{source}: [node] {key} = {shown[0].host}: the network "local" is one machine or one LAN',
                "give all nodes of the network the same [node] network, 32 hex digits",
            )
        raise ConfigError(
            f"{source}: [node] {key} = {shown[0].host}: private addresses are not dialled in this network",
            'name the LAN in [node] private_ranges, or listen = "none" for a node that only sends queries',
        )


def _check_files_folder(config: NodeConfig, folder: Path, source: str) -> None:
    """The served folder is public and writable: it must hold no secrets and no files that the node reads."""
    own = [folder, config.state, config.keys.parent, *config.files]
    own += [path.parent for path in (config.publish, config.files_rights.secret_file) if path is not None]
    if "files" in config.names and os.path.realpath(config.folder) in map(os.path.realpath, own):
        raise ConfigError(
            f"{source}: [files] folder = {str(config.folder)!r}: the node keeps its own files there",
            "give the files service a separate folder",
        )


def _known(tables: Mapping[str, Any], source: str) -> dict[tuple[str, str], tuple[str, Any]]:
    """(table, key) → (its place in the file, value)."""
    given = {}
    for table, entries in tables.items():
        for key in entries if isinstance(entries, dict) else ():
            _check_removed(table, key, f"{source}: [{table}] {key}")
        if table not in TABLES:
            fault = f"there is no table [{table}]"
            is_table = isinstance(entries, dict) or (
                isinstance(entries, list) and any(isinstance(each, dict) for each in entries)
            )
            if not is_table:
                fault = f"{table} = … is in no table"
            raise ConfigError(f"{source}: {fault}", advice_for_table(table))
        if isinstance(entries, list) and all(isinstance(each, dict) for each in entries):
            raise ConfigError(f"{source}: [{table}] occurs once", f"write [{table}], not [[{table}]]")
        if not isinstance(entries, dict):
            raise ConfigError(
                f"{source}: {table} = …: expected a table", f"write [{table}] on a separate line"
            )
        for key, value in entries.items():
            if key not in KEYS[f"[{table}]"]:
                raise ConfigError(
                    f"{source}: [{table}] has no key {key!r}", advice_for_key(f"[{table}]", key, value)
                )
            given[table, key] = f"{source}: [{table}] {key}", value
    return given


def _entries(table: str, given: Any, folder: Path, source: str) -> tuple[Any, ...]:
    """The entries of a repeated table. Raises ConfigError: not such a table, or an entry is wrong."""
    kind = REPEATED[table]
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ConfigError(f"{source}: [{table}] may occur several times", f"write [[{table}]] before each")
    if len(given) > kind.most:
        raise ConfigError(f"{source}: [[{table}]] occurs {len(given)} times, at most {kind.most} are allowed")
    return tuple(
        _entry(kind, entry, folder, f"{source}: [[{table}]] {n}") for n, entry in enumerate(given, 1)
    )


def _entry(kind: RepeatedTable, given: Mapping[str, Any], folder: Path, where: str) -> Any:
    table = f"[[{kind.rows[0].table}]]"
    for key, value in given.items():
        if key not in KEYS[table]:
            raise ConfigError(f"{where}: there is no key {key!r}", advice_for_key(table, key, value))
    values = {}
    for setting in kind.rows:
        value = given.get(setting.key, setting.default)
        if value is REQUIRED:
            raise ConfigError(f"{where}: {setting.key} is missing", f"expected {setting.kind.expected}")
        value = _checked(setting, value, f"{where}: {setting.key}")
        values[setting.key] = folder / value if isinstance(value, Path) else value
    return kind.entry(**values)


def with_published(config: NodeConfig, entry: Mapping[str, Any], where: str) -> NodeConfig:
    """The configuration with one more published service.

    Args:
        entry: as a table [[publish]]. where: its place, for errors.
    Raises:
        ConfigError: the entry is wrong, or its name is taken.
    """
    added = _entry(REPEATED["publish"], entry, Path(), where)
    return replace(config, published=_published((*config.published, added), config.names, where))


def _published(
    entries: tuple[PublishEntry, ...], others: tuple[str, ...], source: str
) -> tuple[PublishEntry, ...]:
    """Check that each published service has a name of its own."""
    taken = set(others)
    for entry in entries:
        if entry.name in taken:
            raise ConfigError(
                f"{source}: two services have the name {entry.name!r}", "give one of them another name"
            )
        taken.add(entry.name)
    return entries


def _check_removed(table: str, key: str, where: str) -> None:
    """Refuse a former setting with a specific text: it is not a typing error with a similar valid name."""
    if (table, key) in REMOVED:
        place = next((setting.table for setting in SETTINGS if setting.key == key), None)
        built_in = REPLACED.get((table, key), "remove it: one value suits every node, and is built in")
        raise ConfigError(f"{where} is no longer a setting", f"it is in [{place}] now" if place else built_in)


def _overrides(environment: Mapping[str, str]) -> dict[tuple[str, str], tuple[str, Any]]:
    variables = {setting.variable: setting for setting in SETTINGS}
    removed = {variable(table, key): (table, key) for table, key in REMOVED}
    given = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == SECRET_VARIABLE:
            continue
        if name in removed:
            _check_removed(*removed[name], f"environment: {name}")
        setting = variables.get(name)
        if setting is None:
            raise ConfigError(f"environment: there is no setting {name}", advice_for_variable(name))
        where = f"environment: {name}"
        try:
            given[setting.table, setting.key] = where, setting.kind.read(text)
        except ValueError as error:
            raise _wrong(setting, text, where) from error
    return given


def _checked(setting: Setting, value: Any, where: str) -> Any:
    try:
        return setting.kind.check(value)
    except BadArgument as error:
        raise ConfigError(f"{where}: {error}", error.hint) from error
    except ValueError as error:
        raise _wrong(setting, value, where) from error


def _wrong(setting: Setting, value: Any, where: str) -> ConfigError:
    unit = {"s": " of seconds", "bytes": " of bytes"}.get(setting.unit, "")
    expected = setting.kind.expected.replace("number", f"number{unit}", 1)
    return ConfigError(f"{where} = {value!r}: expected {expected}", _nearest(setting, value))


def _nearest(setting: Setting, value: Any) -> str:
    """A hint: the form that was meant, such as the closest valid choice, or a place for a port alone."""
    if isinstance(setting.kind, ListOf | FilesRight) and isinstance(value, str) and value:
        return f"write a list: {setting.key} = [{show(value)}]"
    kind = setting.kind.item if isinstance(setting.kind, ListOf) else setting.kind
    if isinstance(kind, Place | HostPort) and re.fullmatch(r"\d{1,5}", str(value)):
        return f'did you mean "127.0.0.1:{value}"?'
    if isinstance(kind, ListenPlace) and type(value) is int:
        return f'did you mean "{value}"?'
    if not isinstance(kind, Choice):
        return ""
    given = value if isinstance(value, list) else str(value).split(",")
    for name in (str(each).strip() for each in given):
        if name not in kind.names and (hint := did_you_mean(name, kind.names)):
            return hint
    return ""


def _resolved(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The node's own settings, with absolute paths."""
    state = folder / values["state"]
    keys, publish = values["keys"], values["publish"]
    return values | {
        "state": state,
        "keys": state / "keys" if keys in ("", _NO_KEYS) else folder / keys,
        "is_client": keys == _NO_KEYS,
        "files": tuple(folder / name for name in values["files"]),
        "folder": folder / values["folder"],
        "publish": folder / publish if publish else None,
    }
