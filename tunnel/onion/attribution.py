"""The trail of a STATUS: how long each hop held it, and MACs that show between which two hops it was changed.

The difficulty: every hop must vouch for all that came from behind it, in a place of fixed size, without
knowing how many hops are behind it. So each hop writes one MAC for every distance at which it might be from
the route's end, each over just as much as will be left of the trail when Alice looks: for distance y the
first y + 1 hold times and the y MACs behind it that Alice will check too. Alice, who knows the distance,
checks that one. A hop that passes the trail on shifts it by one place and what falls off the end is beyond
every distance that is still possible: N hold times and N + (N − 1) + … + 1 MACs are enough.

    row 0 (who sends)        row 1 (the hop behind)    row 2
    mac_0_2 mac_0_1 mac_0_0  mac_1_1 mac_1_0           mac_2_0            N = 3; mac_x_y: y hops from the end
            \\________\\________________\\_______           (mac_0_2 covers mac_1_1 and mac_2_0)

A MAC is cut to 4 bytes, as in the model: who guesses has one try for each STATUS, and 2^-32 is the chance to
put the blame elsewhere. What must not be forged, code and text, has a MAC of 32 bytes of its own.

Everything here is in the clear form, before a hop's pad is added or after Alice took it off. A geometry
without attribution MACs has hold times only. Rules: lengths come from the geometry; no branch depends on what
a trail holds.

Source: docs/protocol.md, "Status"; the idea is that of Lightning's BOLT 4, "Returning Errors", with the
attribution data of pull request 1044 (Jager).
"""

from __future__ import annotations

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.geometry import Geometry

__all__ = ["HOLD_BYTES", "MAX_HOLD_MS", "TRAIL_MAC_BYTES", "Trail"]

HOLD_BYTES = 4
TRAIL_MAC_BYTES = 4
MAX_HOLD_MS = 2**32 - 1


class Trail:
    """Hold times and MACs of one STATUS, nearest hop first.

    Args:
        geometry: gives N, and says whether there are MACs.
        data: the trail's bytes in a STATUS, or None for an empty one (all zero).
    """

    def __init__(self, geometry: Geometry, data: bytes | None = None) -> None:
        self._slots = geometry.slots
        self._hold_bytes = HOLD_BYTES * self._slots
        self._has_macs = geometry.attribution_bytes > 0
        data = data if data is not None else bytes(self._hold_bytes + geometry.attribution_bytes)
        self._holds = data[: self._hold_bytes]
        self._rows = []
        position = self._hold_bytes
        for row in range(self._slots if self._has_macs else 0):
            end = position + TRAIL_MAC_BYTES * (self._slots - row)
            self._rows.append(data[position:end])
            position = end

    def __bytes__(self) -> bytes:
        return self._holds + b"".join(self._rows)

    @property
    def hold_ms(self) -> int:
        """How long the nearest hop says that it held the frame, in milliseconds."""
        return int.from_bytes(self._holds[:HOLD_BYTES], "big")

    def push(self, key: bytes, body: bytes, hold_ms: int) -> None:
        """Put a hop before all others: its hold time and its MACs.

        Args:
            key: the hop's attribution key, 32 bytes.
            body: the STATUS before the trail, as this hop sends it without its pad.
            hold_ms: capped at 2^32 − 1.
        """
        hold = min(max(hold_ms, 0), MAX_HOLD_MS).to_bytes(HOLD_BYTES, "big")
        self._holds = hold + self._holds[:-HOLD_BYTES]
        if self._has_macs:
            behind = [row[TRAIL_MAC_BYTES:] for row in self._rows[:-1]]  # the farthest distance falls off
            self._rows = [b"", *behind]
            distances = range(self._slots - 1, -1, -1)
            self._rows[0] = b"".join(self._mac(key, body, distance) for distance in distances)

    def check(self, key: bytes, body: bytes, distance: int) -> bool:
        """Whether the nearest hop's MAC for this distance from the route's end fits; True without MACs.

        Args:
            key, body: as in `push`, with the hop's pad taken off. distance: 0 for the route's last node.
        """
        if not self._has_macs:
            return True
        start = TRAIL_MAC_BYTES * (self._slots - 1 - distance)
        written = self._rows[0][start : start + TRAIL_MAC_BYTES]
        return equal(written, self._mac(key, body, distance))

    def pop(self) -> None:
        """Take the nearest hop off. What had fallen off the end comes back as zeros, which nothing covers."""
        self._holds = self._holds[HOLD_BYTES:] + bytes(HOLD_BYTES)
        if self._has_macs:
            self._rows = [*(bytes(TRAIL_MAC_BYTES) + row for row in self._rows[1:]), bytes(TRAIL_MAC_BYTES)]

    def _mac(self, key: bytes, body: bytes, distance: int) -> bytes:
        """The nearest hop's MAC for `distance`. The length of what is covered tells the distance."""
        holds = self._holds[: HOLD_BYTES * (distance + 1)]
        return hmac_sha256(key, body + holds + self._behind(distance))[:TRAIL_MAC_BYTES]

    def _behind(self, distance: int) -> bytes:
        """mac_1_(y−1) … mac_y_0 for y = `distance`."""
        # Row x has the distances N − 1 − x down to 0, and y − x stands at the same place in each.
        start = TRAIL_MAC_BYTES * (self._slots - 1 - distance)
        return b"".join(row[start : start + TRAIL_MAC_BYTES] for row in self._rows[1 : distance + 1])
