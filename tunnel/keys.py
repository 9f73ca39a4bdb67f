"""A node's secret keys, how they are made, and the file that keeps them.

Everything secret comes from the operating system's generator. The file is JSON with hex values and mode 0600;
it is written to a new name first and then renamed, so that a crash leaves the old file or the new one, whole.
Source: docs/protocol.md, "Keys".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from readwrite_comp.primitives import random_bytes
from tunnel.descriptor import Address, Descriptor, OnionKeyInfo
from tunnel.errors import KeyFileError, LocalTunnelError
from tunnel.geometry import GEOMETRIES, Profile
from tunnel.onion.header import OpeningKey
from tunnel.primitives import TunnelEngine, X25519Private

__all__ = ["EPOCH_S", "NodeKeys", "OnionKey"]

EPOCH_S = 24 * 3600  # life of an onion key
DESCRIPTOR_LIFE_S = 7 * 24 * 3600
_CLOCK_SLACK_S = 600  # an epoch begins so long before its key is made: slow clocks accept it
_LAST_CLOCK_S = 2**32 - DESCRIPTOR_LIFE_S  # times on the wire are u32; in 2106
_FILE_VERSION = 1


@dataclass(frozen=True, slots=True)
class OnionKey:
    """A private onion key and the epoch that it serves (its not-before time)."""

    epoch: int
    private: bytes


def _new_onion_key(now_s: float) -> OnionKey:
    if not _CLOCK_SLACK_S <= now_s < _LAST_CLOCK_S:  # also refuses NaN
        raise LocalTunnelError(f"the clock shows {now_s} s since 1970, which no key can hold: set it first")
    return OnionKey(int(now_s) - _CLOCK_SLACK_S, random_bytes(32))


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Every secret of a node, each 32 bytes.

    Attributes:
        identity: Ed25519 seed; its public key is the node id.
        link: X25519, static key of the link handshake.
        onion: X25519 of one epoch.
        home: MAC key of this node's own reply tickets.
        table: key of the replay tags; lives as long as the onion key.
    """

    identity: bytes
    link: bytes
    onion: OnionKey
    home: bytes
    table: bytes

    @classmethod
    def generate(cls, now_s: float) -> NodeKeys:
        """Fresh keys; the onion key's epoch begins ten minutes ago, so that slow clocks accept it.

        Raises:
            LocalTunnelError: the clock shows a time that the wire has no number for.
        """
        onion = _new_onion_key(now_s)
        return cls(random_bytes(32), random_bytes(32), onion, random_bytes(32), random_bytes(32))

    def rotated(self, now_s: float) -> NodeKeys:
        """The same node with a fresh onion key and table key. Raises as `generate`."""
        onion = _new_onion_key(now_s)
        return replace(self, onion=onion, table=random_bytes(32))

    def node_id(self, engine: TunnelEngine) -> bytes:
        return engine.ed25519_public(self.identity)

    def link_private(self, engine: TunnelEngine) -> X25519Private:
        return engine.x25519_private(self.link)

    def opening_key(self, engine: TunnelEngine) -> OpeningKey:
        return OpeningKey(engine.hpke_private(self.onion.private), self.onion.epoch)

    def descriptor(
        self,
        addresses: tuple[Address, ...],
        now_s: float,
        engine: TunnelEngine,
        *,
        profiles: tuple[int, ...] | None = None,
    ) -> Descriptor:
        """This node's signed descriptor."""
        if profiles is None:
            profiles = tuple(Profile(geometry).byte for geometry in GEOMETRIES.values())
        onion = OnionKeyInfo(
            self.onion.epoch, self.onion.epoch + EPOCH_S, engine.x25519_private(self.onion.private).public
        )
        return Descriptor(
            node_id=self.node_id(engine),
            link_key=self.link_private(engine).public,
            onion_keys=(onion,),
            addresses=addresses,
            profiles=profiles,
            sequence=int(now_s),
            expiry=int(now_s) + DESCRIPTOR_LIFE_S,
            unlisted=not addresses,
        ).sign(self.identity, engine)

    def save(self, path: Path) -> None:
        """Write the keys to `path`, mode 0600, whole or not at all."""
        record = {
            "mtun-keys": _FILE_VERSION,
            "identity": self.identity.hex(),
            "link": self.link.hex(),
            "onion": {"epoch": self.onion.epoch, "private": self.onion.private.hex()},
            "home": self.home.hex(),
            "table": self.table.hex(),
        }
        temporary = path.with_name(path.name + ".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> NodeKeys:
        """Read what `save` wrote.

        Raises:
            KeyFileError: not a key file of this version; names the file and what is wrong with it.
        """
        try:
            record = json.loads(path.read_text(encoding="ascii"))
            if record["mtun-keys"] != _FILE_VERSION:
                raise KeyFileError(
                    f"{path}: key file version {record['mtun-keys']}, expected {_FILE_VERSION}"
                )
            onion = OnionKey(_epoch(record["onion"]["epoch"]), _secret(record["onion"]["private"]))
            names = ("identity", "link", "home", "table")
            identity, link, home, table = (_secret(record[name]) for name in names)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise KeyFileError(f"{path} is not a key file: {type(error).__name__}: {error}") from error
        return cls(identity, link, onion, home, table)


def _epoch(value: object) -> int:
    # bool is an int to isinstance; the wire has 4 bytes.
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"an epoch of {value!r}, expected seconds since 1970")
    return value


def _secret(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise ValueError(f"a key of {len(value)} bytes, expected 32")
    return value
