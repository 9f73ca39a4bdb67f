"""A node's secret keys, and their file.

All secrets come from the operating system's generator. The file is JSON with hex values, mode 0600, written
atomically (`tunnel.identity.state_dir`). `tunnel.identity.key_ring` decides when onion keys are made,
published and erased. Source: docs/protocol.md, "Keys".
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from readwrite_comp.primitives import random_bytes
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.disk import read_regular
from tunnel.errors import KeyFileError, LocalTunnelError
from tunnel.geometry import ALL_PROFILES
from tunnel.identity.descriptor import Address, Descriptor, OnionKeyInfo
from tunnel.identity.state_dir import make_private, write_private
from tunnel.onion.header import OpeningKey

__all__ = ["EPOCH_S", "NodeKeys", "OnionKey", "keygen_hint", "new_onion_key", "offered_profiles"]

EPOCH_S = 24 * 3600  # life of an onion key
DESCRIPTOR_LIFE_S = 7 * 24 * 3600
_CLOCK_SLACK_S = 600  # the first epoch begins before its key is made, so that slow clocks accept it
_LAST_CLOCK_S = 2**32 - DESCRIPTOR_LIFE_S  # times on the wire are u32; in 2106
_FILE_VERSION = 2
_MOST_FILE_BYTES = 1 << 16  # larger than any key file
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]+")
# What people name by mistake, by its first bytes.
_OTHER_FILES = {
    b"-----BEGIN": "a PEM file, as SSH and TLS use it",
    b"mtun-state": "another file of a state folder",
    b"mtunrpl": "a replay table",
    b"#": "a configuration, or a peer file",
    b"[": "a configuration",
}


@dataclass(frozen=True, slots=True)
class OnionKey:
    """A private onion key with its lifetime and the key of its replay table.

    Attributes:
        epoch: its not-before time, which is also its name. not_after: when senders stop using it.
        private: X25519, 32 bytes. table: key of the replay table, 32 bytes.
    """

    epoch: int
    not_after: int
    private: bytes = field(repr=False)
    table: bytes = field(repr=False)

    def info(self, engine: TunnelEngine) -> OnionKeyInfo:
        """The public part, for the descriptor."""
        return OnionKeyInfo(self.epoch, self.not_after, engine.x25519_private(self.private).public)

    def opening_key(self, engine: TunnelEngine) -> OpeningKey:
        """The key in the form that `open_header` takes."""
        return OpeningKey(engine.hpke_private(self.private), self.epoch)


def new_onion_key(not_before: int) -> OnionKey:
    """A fresh onion key, with a fresh table key."""
    return OnionKey(not_before, not_before + EPOCH_S, random_bytes(32), random_bytes(32))


def _first_onion_key(now_s: float) -> OnionKey:
    if not _CLOCK_SLACK_S <= now_s < _LAST_CLOCK_S:  # also refuses NaN
        raise LocalTunnelError(f"the clock shows {now_s} s since 1970, out of range for keys: set it first")
    return new_onion_key(int(now_s) - _CLOCK_SLACK_S)


def offered_profiles(engine: TunnelEngine) -> tuple[int, ...]:
    """The profile bytes that a node with this engine offers: 4 or 8."""
    return tuple(profile.byte for profile in ALL_PROFILES if profile.suite in engine.suites)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Every secret of a node, each 32 bytes.

    Attributes:
        identity: Ed25519 seed; its public key is the node id.
        link: X25519, static key of the link handshake.
        onion: the current onion key.
        home: MAC key of this node's reply tickets.
        previous, next: the onion keys before and after the current one, if any.
        sequence: of the last descriptor signed with these keys; 0: unknown.
    """

    identity: bytes = field(repr=False)
    link: bytes = field(repr=False)
    onion: OnionKey
    home: bytes = field(repr=False)
    previous: OnionKey | None = None
    next: OnionKey | None = None
    sequence: int = 0

    @classmethod
    def generate(cls, now_s: float) -> NodeKeys:
        """Fresh keys. The onion key's epoch began ten minutes ago, so that slow clocks accept it.

        Raises:
            LocalTunnelError: the time does not fit the wire format.
        """
        onion = _first_onion_key(now_s)
        return cls(random_bytes(32), random_bytes(32), onion, random_bytes(32))

    def rotated(self, now_s: float) -> NodeKeys:
        """The same node with a single, fresh onion key, so that older headers no longer open.

        For a start without the replay tables of the last run. Raises as `generate`.
        """
        return replace(self, onion=_first_onion_key(now_s), previous=None, next=None)

    def node_id(self, engine: TunnelEngine) -> bytes:
        """The node id, 32 bytes: the public key of `identity`."""
        return engine.ed25519_public(self.identity)

    def link_private(self, engine: TunnelEngine) -> X25519Private:
        """The static key of the handshake on links."""
        return engine.x25519_private(self.link)

    def descriptor(
        self,
        addresses: tuple[Address, ...],
        now_s: float,
        engine: TunnelEngine,
        *,
        profiles: tuple[int, ...] | None = None,
        sequence: int | None = None,
        family: bytes | None = None,
    ) -> Descriptor:
        """This node's signed descriptor, with the current onion key and the next one, if any.

        Args:
            profiles: profile bytes; by default all that the engine supports.
            sequence: by default the time in seconds. A higher number replaces a lower one.
            family: 16 bytes, the same in all nodes of one owner.
        """
        published = (self.onion,) if self.next is None else (self.onion, self.next)
        return Descriptor(
            node_id=self.node_id(engine),
            link_key=self.link_private(engine).public,
            onion_keys=tuple(key.info(engine) for key in published),
            addresses=addresses,
            profiles=offered_profiles(engine) if profiles is None else profiles,
            sequence=int(now_s) if sequence is None else sequence,
            expiry=int(now_s) + DESCRIPTOR_LIFE_S,
            unlisted=not addresses,
            family=family,
        ).sign(self.identity, engine)

    def save(self, path: Path, *, replace: bool = True) -> None:
        """Write the keys to `path`, mode 0600, atomically if it replaces a file.

        Old content may survive in unused blocks of the disk. After a crash, a file at a new path may be
        incomplete.

        Raises:
            FileExistsError: the file exists and `replace` is false. OSError.
        """
        record = {
            "mtun-keys": _FILE_VERSION,
            "identity": self.identity.hex(),
            "link": self.link.hex(),
            "home": self.home.hex(),
            "onion": _record(self.onion),
            "previous": _record(self.previous),
            "next": _record(self.next),
            "sequence": self.sequence,
        }
        write = write_private if replace else make_private
        write(path, json.dumps(record, indent=1).encode("ascii"))

    @classmethod
    def load(cls, path: Path) -> NodeKeys:
        """Read a file of `save`.

        Raises:
            KeyFileError: not a key file of this version, or it cannot be read; the text has file and fault,
                the hint a command.
        """
        try:
            data = read_regular(path, _MOST_FILE_BYTES)
        except FileNotFoundError as error:
            raise KeyFileError(f"there is no key file {path}", keygen_hint(path)) from error
        except OSError as error:
            raise KeyFileError(
                f"the key file {path} cannot be read: {error.strerror}",
                f"the node runs as the owner of its keys, which have mode 600: chmod 600 {_quoted(path)}",
            ) from error
        except LocalTunnelError as error:
            raise KeyFileError(f"{path} is not a key file: {error}", keygen_hint(path)) from error
        try:
            return _parsed(json.loads(data.decode("ascii")))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise KeyFileError(
                f"{path} is not a key file, as `mtun keygen` writes it: {_fault(data, error)}",
                keygen_hint(path),
            ) from error


def keygen_hint(path: Path) -> str:
    """The commands that make a key file at a path, for people. An existing file is moved or kept."""
    if path.is_dir():
        inside = path / "keys"
        is_meant = inside.is_file()
        return (
            f"did you mean {inside}?" if is_meant else f"make keys in it with: mtun keygen {_quoted(inside)}"
        )
    if path.is_symlink() and not path.exists():
        return f"remove the link, which leads nowhere, and make new keys: rm {_quoted(path)} && " + _keygen(
            path
        )
    if path.exists():
        old = path.with_name(path.name + ".old")
        return (
            "name the right file in [node] keys, or restore it; new keys make it another node: "
            f"mv {_quoted(path)} {_quoted(old)} && {_keygen(path)}"
        )
    return f"make one with: {_keygen(path)}"


def _keygen(path: Path) -> str:
    # `mtun keygen` makes the file's folder, and no folder above it.
    above = "" if path.parent.parent.exists() else f"mkdir -p {_quoted(path.parent.parent)} && "
    return f"{above}mtun keygen {_quoted(path)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _fault(data: bytes, error: Exception) -> str:
    """Describe a file that is not a key file. Never shows its content, which may be secret."""
    if not data.strip():
        return "it is empty"
    for beginning, kind in _OTHER_FILES.items():
        if data.startswith(beginning):
            return f"it is {kind}"
    if _BASE64.fullmatch(data):
        return "it is a peer file, which holds the public part of a node"
    if b"mtun-client-key" in data:
        return "it is the key of a client, which `mtun keygen --client` writes"
    if not data.startswith(b"{"):
        return "its content has another form"
    if isinstance(error, json.JSONDecodeError):
        return f"it is damaged, or cut short, at byte {error.pos}"
    if isinstance(error, KeyError):
        return f"its field {error} is missing"
    return str(error)


def _parsed(record: Mapping[str, Any]) -> NodeKeys:
    """Raises ValueError, KeyError, TypeError: not a key file."""
    if record["mtun-keys"] != _FILE_VERSION:
        raise ValueError(f"version {record['mtun-keys']}, expected {_FILE_VERSION}: make new keys")
    identity, link, home = (_secret(record[name]) for name in ("identity", "link", "home"))
    onion = _onion(record["onion"])
    if onion is None:
        raise ValueError("the current onion key is missing")
    previous, following = _onion(record["previous"]), _onion(record["next"])
    sequence = record.get("sequence", 0)  # files of older versions have none
    if type(sequence) is not int or not 0 <= sequence < 1 << 63:
        raise ValueError(f"a sequence number of {sequence!r}")
    return NodeKeys(identity, link, onion, home, previous, following, sequence)


def _record(key: OnionKey | None) -> dict[str, int | str] | None:
    if key is None:
        return None
    return {
        "epoch": key.epoch,
        "not-after": key.not_after,
        "private": key.private.hex(),
        "table": key.table.hex(),
    }


def _onion(record: Mapping[str, Any] | None) -> OnionKey | None:
    if record is None:
        return None
    epoch, not_after = _time(record["epoch"]), _time(record["not-after"])
    if epoch >= not_after:
        raise ValueError(f"an onion key from {epoch} to {not_after} is never valid")
    return OnionKey(epoch, not_after, _secret(record["private"]), _secret(record["table"]))


def _time(value: object) -> int:
    # bool is an int to isinstance; the wire has 4 bytes.
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"a time of {value!r}, expected seconds since 1970")
    return value


def _secret(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise ValueError(f"a key of {len(value)} bytes, expected 32")
    return value
