"""Files and texts of this machine's user: configuration, keys, peers, state, users, sizes and times."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.target import ENGINE, Input, raised, scratch_folder, target
from tests.tunnel.helpers import NOW_S, make_keys
from tunnel.arguments import MOST_SECONDS
from tunnel.cli.main import make_parser
from tunnel.cli.options import COMMANDS, count, seconds, size
from tunnel.config import SETTINGS, load_config, make_config
from tunnel.config.kinds import parse_size
from tunnel.directory import StaticDirectory
from tunnel.errors import ConfigError, KeyFileError, PeerError, ProfileError, ReplayFileError, StateError
from tunnel.geometry import Profile
from tunnel.identity.client_key import LEAST_SECRET_BYTES, ClientKey
from tunnel.identity.descriptor import Address
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.identity.state_dir import StateDir, write_private
from tunnel.running.fronts import read_users

_KEYS = make_keys("fuzzed files")
_PEERS = StaticDirectory([_KEYS.descriptor((Address("192.0.2.1", 1),), NOW_S, ENGINE)])
_MOST_BYTES = 1 << 40


_command_line = cache(make_parser)


def _file(name: str, data: bytes) -> Path:
    """A private file with this content."""
    path = scratch_folder() / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@cache
def _written(save: Callable[[Path], None]) -> bytes:
    path = scratch_folder() / "written"
    path.unlink(missing_ok=True)
    save(path)
    return path.read_bytes()


def _changed(text: bytes, given: Input) -> bytes:
    """A file with one place replaced, or any bytes."""
    if not given.number(0, 3):
        return given.rest()
    start = given.number(0, len(text))
    return text[:start] + given.some(64) + text[start + given.number(0, 80) :]


@target(ConfigError, most_bytes=2048)
def config_file(given: Input) -> None:
    """Any bytes as a configuration."""
    folder = scratch_folder()
    config = load_config(_file("node.toml", given.rest()), {}, listens=given.flag())
    assert config.state.is_absolute()
    assert repr(config)
    assert folder.is_dir()


def _value(given: Input, example: object) -> object:
    """A value of TOML, often of the kind of a setting's default."""
    text = given.some(40).decode("utf-8", "replace")
    number = given.number(0, 1 << 66)
    return given.one_of(
        [
            example,
            text,
            [text],
            [],
            {},
            number,
            -number,
            number / 1000,
            float("inf"),
            float("nan"),
            True,
            ["127.0.0.1:4000"],
            "127.0.0.1:4000",
            "[::1]:0",
            "none",
            "64MiB",
            [text, text],
            "ab" * 16,
        ]
    )


@target(ConfigError, most_bytes=1024)
def config_values(given: Input) -> None:
    """Any values of known keys, and any text in the environment."""
    tables: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for _ in range(given.number(0, 6)):
        setting = given.one_of(SETTINGS)
        if given.number(0, 3):
            tables.setdefault(setting.table, {})[setting.key] = _value(given, setting.default)
        else:
            environment[setting.variable] = given.some(40).decode("utf-8", "surrogateescape")
    repeated = given.one_of(["", "publish", "socks", "forward"])
    if repeated:
        keys = ["name", "to", "clients", "exit", "listen", "hops", "isolate", "users", "key", "public"]
        entry = {given.one_of(keys): _value(given, "node-7:ssh") for _ in range(given.number(0, 5))}
        tables[repeated] = given.one_of([[entry], [entry, entry], entry])
    config = make_config(tables, folder=scratch_folder(), source="node.toml", environment=environment)
    assert repr(config)


@target(KeyFileError, most_bytes=1024)
def key_file(given: Input) -> None:
    """A key file: what is read is written and read as the same."""
    path = _file("keys", _changed(_written(_KEYS.save), given))
    keys = NodeKeys.load(path)
    keys.save(path)
    assert NodeKeys.load(path) == keys
    ring = KeyRing(keys, ENGINE)
    ring.advance(NOW_S)
    assert ring.opening(NOW_S)
    keys.descriptor((Address("192.0.2.1", 1),), NOW_S, ENGINE)


@target(KeyFileError, ReplayFileError, most_bytes=1024)
def key_ring_files(given: Input) -> None:
    """The replay tables of the last run: those of these keys, or a refusal."""
    ring = KeyRing(_KEYS, ENGINE)
    for _ in range(given.number(0, 3)):
        raised(PeerError, ring.state.current.table.insert, given.take(1), int(NOW_S), now_s=NOW_S)
    keys, tables = scratch_folder() / "ring", scratch_folder() / "tables"
    ring.stop(keys, tables)
    data = _changed(tables.read_bytes(), given)
    write_private(tables, data)
    again = KeyRing.resume(keys, tables, ENGINE, now_s=NOW_S)
    assert not tables.exists()
    assert len(again.state.current.table) == len(ring.state.current.table)


@target(KeyFileError, StateError, most_bytes=512)
def client_key_file(given: Input) -> None:
    """A client key: what is read has 32 bytes and signs."""
    path = _file("client", _changed(_written(ClientKey(bytes(range(32))).save), given))
    key = ClientKey.load(path)
    assert len(key.seed) == 32
    assert len(key.proof(ENGINE, bytes(32), b"target")) == 96


@target(KeyFileError, StateError, most_bytes=1100)
def secret_file(given: Input) -> None:
    """A secret that clients share: one line of text, long enough. Making its key takes 50 ms."""
    text = given.rest()
    key = ClientKey.load_secret(_file("secret", text))
    assert len(text.strip()) >= LEAST_SECRET_BYTES
    assert len(key.seed) == 32


@target(KeyFileError, most_bytes=2048)
def peer_file(given: Input) -> None:
    """A peer file: strict, it is read whole or refused; else its good lines are read."""
    path = _file("peers", _changed(_written(_PEERS.save), given))
    bad: list[str] = []
    found = StaticDirectory.load(path, ENGINE, on_bad_line=bad.append)
    assert all(each.signed for each in found)
    strict = StaticDirectory.load(path, ENGINE)
    assert not bad
    assert list(strict) == list(found)


@target(StateError, most_bytes=512)
def state_file(given: Input) -> None:
    """A file of the state folder: its body, or a refusal."""
    body = given.some(64)
    digest = hashlib.sha256(body).hexdigest().encode()
    version = given.one_of([b"1", given.some(20), b"9" * 5_000])
    _file("fuzz", _changed(b"mtun-state fuzz " + version + b" " + digest + b"\n" + body, given))
    scratch_folder().chmod(0o700)
    with StateDir(scratch_folder()) as state:
        found = state.read("fuzz", 1)
        assert found is not None
        state.write("fuzz", 1, found)
        assert state.read("fuzz", 1) == found


@target(ConfigError, most_bytes=512)
def users_file(given: Input) -> None:
    """Users and passwords of a SOCKS port."""
    users = read_users(_file("users", given.rest()))
    assert users
    assert all("\n" not in user + password for user, password in users.items())


_OPTIONS = ["--hops", "--json", "-v", "--", "-", "3", "-1", "--size", "64MiB", "--network", "--help"]
_ARGUMENTS = [*COMMANDS, *_OPTIONS, "file"]


@target(ConfigError, most_bytes=200)
def command_line(given: Input) -> None:
    """Any arguments of any command: a command to run, a text, or the documented error."""
    arguments = []
    while not given.is_empty:
        known = given.number(0, len(_ARGUMENTS))
        is_known = known < len(_ARGUMENTS)
        arguments.append(_ARGUMENTS[known] if is_known else given.some(12).decode("utf-8", "surrogateescape"))
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        options = _command_line().parse_args(arguments)
    if shown.getvalue():  # --help and --version
        return
    assert options.command in COMMANDS
    assert callable(options.run)


@target(argparse.ArgumentTypeError, ProfileError, most_bytes=120)
def command_values(given: Input) -> None:
    """Sizes, counts, times and profiles as the command line takes them: in range, or refused."""
    kind = given.one_of(["size", "count", "seconds", "profile"])
    text = given.rest().decode("utf-8", "surrogateescape")
    match kind:
        case "size":
            value = size(0, _MOST_BYTES)(text)
            assert 0 <= value <= _MOST_BYTES
            assert parse_size(str(value)) == value
        case "count":
            assert 3 <= count(3, 70)(text) <= 70
        case "seconds":
            assert 0 < seconds(text) <= MOST_SECONDS
        case _:
            found = Profile.from_name(text)
            assert Profile.from_name(found.name) == found == Profile.from_byte(found.byte)
