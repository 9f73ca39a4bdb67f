"""All lengths of the protocol.

A `Geometry` holds the lengths of header, chunks and status; a `Profile` is a geometry with a cipher suite for
the content layers. No other code contains such a length: it asks a geometry. So a new geometry is one row in
a table here.

A chunk has 1,024·k − 28 bytes. With its cell header (8) and the overhead of a record (20) it fills exactly
one link record of k units: a proxy opens, transforms and seals in place, and every frame of a profile has
records of the same sizes on every link.

Source: docs/protocol.md, "Profiles".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunnel.arguments import did_you_mean, plain_name
from tunnel.errors import ProfileError

__all__ = [
    "ADDRESS_BYTES",
    "ALL_PROFILES",
    "BULK",
    "DEFAULT",
    "GEOMETRIES",
    "HCTR_SUITE",
    "INTERACTIVE",
    "LIONESS_SUITE",
    "LONG",
    "MAX_BLOCKS",
    "MAX_BLOCKS_BYTES",
    "MAX_PROFILES",
    "NODE_ID_BYTES",
    "PROTOCOL_VERSION",
    "SEED_BYTES",
    "SLOT_BYTES",
    "STREAM",
    "SUITES",
    "UNPROVEN_BYTES",
    "Geometry",
    "Profile",
    "padme",
    "unproven_bytes",
]

PROTOCOL_VERSION = 1
NODE_ID_BYTES = 32
ADDRESS_BYTES = 18
SEED_BYTES = 16
SLOT_BYTES = 128

MAX_BLOCKS = 8  # ample, and it bounds what Bob must hold before the content
MAX_BLOCKS_BYTES = 64 * 1024
MAX_PROFILES = 16
"""Places for profile bytes in a descriptor and in a link's settings: this version has ten profiles."""

UNPROVEN_BYTES = 4 * 1024 * 1024
"""Bytes of replies or of a tunnel on all links together, on the longest route, that need no receipt."""

_CHUNK_OVERHEAD = 22  # type 1, flags 1, sub-stream 2, length 2, tag 16
_STATUS_FIXED = 256  # MAC 32, code 2, length 2, text 220
_MOST_ATTRIBUTED_SLOTS = 32  # with 128 slots the attribution MACs alone would be 33,024 bytes
_BLOCK_FIXED = 72  # profile 1, flags 1, expiry 4, first id 32, first address 18, seed 16


@dataclass(frozen=True, slots=True)
class Geometry:
    """Lengths of one frame shape.

    Attributes:
        code: its number on the wire, 1 to 15.
        name: its name on the command line.
        slots: N, the number of header slots.
        chunk_bytes: C, the length of a content chunk on every link.
    """

    code: int
    name: str
    slots: int
    chunk_bytes: int

    @property
    def header_bytes(self) -> int:
        return SLOT_BYTES * self.slots

    @property
    def chunk_data_bytes(self) -> int:
        """Content that one chunk carries: C − 22."""
        return self.chunk_bytes - _CHUNK_OVERHEAD

    @property
    def max_proxies(self) -> int:
        """N − 2: one slot is for the last node, and one stays random, so that no header is only filler."""
        return self.slots - 2

    @property
    def reply_block_bytes(self) -> int:
        return _BLOCK_FIXED + self.header_bytes

    @property
    def window_bytes(self) -> int:
        """First credit of each direction of a link stream: max(4·C, 128·N + C).

        At least two headers or chunks, so that a reader that keeps reading always grants enough for a whole
        one (docs/protocol.md, "Credit").
        """
        return max(4 * self.chunk_bytes, self.header_bytes + self.chunk_bytes)

    @property
    def most_cover_bytes(self) -> int:
        """Most bytes of chunks that a node takes from a frame that ends in DROP: four windows, 16 chunks."""
        return 4 * self.window_bytes

    @property
    def max_reply_blocks(self) -> int:
        """Most reply blocks in a message: at most 8, and 64 KiB."""
        return min(MAX_BLOCKS, MAX_BLOCKS_BYTES // self.reply_block_bytes)

    @property
    def attribution_bytes(self) -> int:
        """Attribution MACs of a STATUS, which locate a change: N·(N + 1)/2 of 4 bytes, or none."""
        if self.slots > _MOST_ATTRIBUTED_SLOTS:
            return 0
        return 4 * (self.slots * (self.slots + 1) // 2)

    @property
    def status_bytes(self) -> int:
        """A STATUS: MAC, code and text; 4 bytes of hold time for each slot; attribution MACs."""
        return _STATUS_FIXED + 4 * self.slots + self.attribution_bytes

    def chunk_count(self, content_bytes: int) -> int:
        """Chunks of a one-shot message: `content_bytes`, reply blocks and their count of 4 bytes included."""
        return padme(max(1, -(-content_bytes // self.chunk_data_bytes)))

    def frame_bytes(self, content_bytes: int) -> int:
        """Bytes of a whole one-shot frame on every link: header and padded chunks."""
        return self.header_bytes + self.chunk_count(content_bytes) * self.chunk_bytes


INTERACTIVE = Geometry(1, "interactive", 8, 996)
DEFAULT = Geometry(2, "default", 32, 16_356)
LONG = Geometry(3, "long", 128, 16_356)
BULK = Geometry(4, "bulk", 32, 64_484)
# 15 slots are the most whose header shares a link record of 2 units with OPEN.
STREAM = Geometry(5, "stream", 15, 8_164)

GEOMETRIES = {geometry.code: geometry for geometry in (INTERACTIVE, DEFAULT, LONG, BULK, STREAM)}
LIONESS_SUITE, HCTR_SUITE = 0, 1
SUITES = {LIONESS_SUITE: "lioness", HCTR_SUITE: "hctr"}


@dataclass(frozen=True, slots=True)
class Profile:
    """A geometry and the suite of its content layers; one byte on the wire: geometry + 16 × suite."""

    geometry: Geometry
    suite: int = 0

    @property
    def byte(self) -> int:
        """The byte on the wire: geometry + 16 × suite."""
        return self.geometry.code + 16 * self.suite

    @property
    def name(self) -> str:
        """The name on the command line: that of the geometry, with the suffix "-hctr" for suite 1."""
        return self.geometry.name if self.suite == LIONESS_SUITE else f"{self.geometry.name}-hctr"

    @classmethod
    def from_byte(cls, value: int) -> Profile:
        """Raises ProfileError: unknown geometry or suite. Close the stream with code UNSUPPORTED."""
        suite, code = divmod(value, 16)
        geometry = GEOMETRIES.get(code)
        if geometry is None or suite not in SUITES:
            raise ProfileError(
                f"profile byte 0x{value:02x} names geometry {code}, suite {suite}; "
                f"known are geometries {sorted(GEOMETRIES)}, suites {list(SUITES)}"
            )
        return cls(geometry, suite)

    @classmethod
    def from_name(cls, name: str) -> Profile:
        """The profile of a command-line name or number ("default", "2"; "bulk-hctr", "20").

        Raises:
            ProfileError: unknown name; the text lists the known ones.
        """
        for profile in ALL_PROFILES:
            if plain_name(name) in (profile.name, str(profile.byte)):
                return profile
        names = ", ".join(f"{profile.name} ({profile.byte})" for profile in ALL_PROFILES)
        hint = did_you_mean(name, [profile.name for profile in ALL_PROFILES])
        raise ProfileError("; ".join(filter(None, [f"unknown profile {name!r}", hint, f"known: {names}"])))

    @classmethod
    def of(cls, profile: Profile | str | None) -> Profile | None:
        """Convert an optional argument that is a profile or its name.

        Raises:
            ProfileError: unknown name. TypeError: neither a profile nor a name.
        """
        if profile is None or isinstance(profile, cls):
            return profile
        if isinstance(profile, str):
            return cls.from_name(profile)
        raise TypeError(f"profile: expected a Profile or its name, got {type(profile).__name__}")

    @classmethod
    def for_proxies(cls, proxies: int) -> Profile:
        """The default profile for a route: geometry 2, or 3 where the route is too long for it.

        Raises:
            ProfileError: too many proxies for any geometry.
        """
        for geometry in (DEFAULT, LONG):
            if proxies <= geometry.max_proxies:
                return cls(geometry)
        raise ProfileError(f"a route of {proxies} proxies fits no profile; the longest is {LONG.max_proxies}")


ALL_PROFILES = tuple(Profile(geometry, suite) for suite in SUITES for geometry in GEOMETRIES.values())
"""All ten profiles of this version."""


def unproven_bytes(geometries: Sequence[Geometry]) -> int:
    """Bytes of chunks that Bob sends before the first receipt: F of docs/protocol.md, "Receipts".

    Args:
        geometries: of all replies that share the limit.
    """
    longest = max(geometry.slots for geometry in geometries)
    # A challenge costs a chunk, and another one is not full because of it.
    spare = 2 * max(geometry.chunk_bytes for geometry in geometries)
    return max(1, UNPROVEN_BYTES // longest - spare)


def padme(count: int) -> int:
    """Round `count` up to its PADMÉ bucket: at most 12 % more; O(log log) bits of the count leak.

    Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs"
    (PoPETs 2019), algorithm 1. Counts of 1 to 8 stay exact.
    """
    if count < 2:
        return count
    exponent = count.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (count + mask) & ~mask
