"""Every length of the protocol, in one place.

A `Geometry` says how long headers, chunks and records are; a `Profile` is a geometry with the suite of the
content layers. Nothing else in the package knows a length by heart: code asks a geometry, so that a second
geometry is a row in a table here and nowhere else.

Chunk lengths are 1,024·k − 28, so that a chunk with its frame header (8) and the record's overhead (20) is
exactly one link record of k units: a proxy opens, transforms and seals in place, and every frame of one
profile has records of the same sizes on every link. Source: docs/protocol.md, "Profiles".
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.errors import ProfileError

__all__ = [
    "ADDRESS_BYTES",
    "BULK",
    "DEFAULT",
    "GEOMETRIES",
    "INTERACTIVE",
    "LONG",
    "NODE_ID_BYTES",
    "PROTOCOL_VERSION",
    "SEED_BYTES",
    "SLOT_BYTES",
    "Geometry",
    "Profile",
    "padme",
]

PROTOCOL_VERSION = 1
NODE_ID_BYTES = 32
ADDRESS_BYTES = 18
SEED_BYTES = 16
SLOT_BYTES = 128

_CHUNK_OVERHEAD = 22  # type 1, flags 1, sub-stream 2, length 2, tag 16
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
        """N − 2: one slot for the last node, and one that stays random, so that no header is all filler."""
        return self.slots - 2

    @property
    def reply_block_bytes(self) -> int:
        return _BLOCK_FIXED + self.header_bytes

    @property
    def window_bytes(self) -> int:
        """First credit of each direction of a link stream: max(4·C, 128·N + C).

        At least twice a header or a chunk, so that a sender that waits for credit for a whole one gets it
        from a reader that reads on (docs/protocol.md, "Credit").
        """
        return max(4 * self.chunk_bytes, self.header_bytes + self.chunk_bytes)

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

GEOMETRIES = {geometry.code: geometry for geometry in (INTERACTIVE, DEFAULT, LONG, BULK)}
_SUITES = (0,)  # 0 = LIONESS; 1 = HCTR comes with the second suite


@dataclass(frozen=True, slots=True)
class Profile:
    """A geometry and the suite of its content layers; one byte on the wire: geometry + 16 × suite."""

    geometry: Geometry
    suite: int = 0

    @property
    def byte(self) -> int:
        """The profile as one byte on the wire: geometry + 16 × suite."""
        return self.geometry.code + 16 * self.suite

    @property
    def name(self) -> str:
        """The name of its geometry, as the command line knows it."""
        return self.geometry.name

    @classmethod
    def from_byte(cls, value: int) -> Profile:
        """The profile that a wire byte names.

        Raises:
            ProfileError: unknown geometry or suite. Close the stream with code UNSUPPORTED.
        """
        suite, code = divmod(value, 16)
        geometry = GEOMETRIES.get(code)
        if geometry is None or suite not in _SUITES:
            raise ProfileError(
                f"profile byte 0x{value:02x} names geometry {code}, suite {suite}; "
                f"known are geometries {sorted(GEOMETRIES)}, suites {list(_SUITES)}"
            )
        return cls(geometry, suite)

    @classmethod
    def from_name(cls, name: str) -> Profile:
        """The profile of a command-line name or number ("default", "2").

        Raises:
            ProfileError: no such name; the message lists those that exist.
        """
        for geometry in GEOMETRIES.values():
            if name in (geometry.name, str(geometry.code)):
                return cls(geometry)
        names = ", ".join(f"{g.name} ({g.code})" for g in GEOMETRIES.values())
        raise ProfileError(f"no profile is called {name!r}; there are {names}")

    @classmethod
    def for_proxies(cls, proxies: int) -> Profile:
        """The default profile for a route: geometry 2, or 3 where the route is too long for it.

        Raises:
            ProfileError: no geometry holds so many proxies.
        """
        for geometry in (DEFAULT, LONG):
            if proxies <= geometry.max_proxies:
                return cls(geometry)
        raise ProfileError(f"a route of {proxies} proxies fits no profile; the longest is {LONG.max_proxies}")


def padme(count: int) -> int:
    """Round `count` up to its PADMÉ bucket: at most 12 % more, O(log log) bits of the count leak.

    Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs"
    (PoPETs 2019), algorithm 1. Counts of 1 to 8 stay exact.
    """
    if count < 2:
        return count
    exponent = count.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (count + mask) & ~mask
