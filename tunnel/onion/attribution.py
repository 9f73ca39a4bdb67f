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

from array import array
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

from readwrite_comp.primitives import HmacSha256, equal
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
        hold_bytes = HOLD_BYTES * self._slots
        data = data if data is not None else bytes(hold_bytes + geometry.attribution_bytes)
        self._holds = data[:hold_bytes]
        self._macs = data[hold_bytes:]

    def __bytes__(self) -> bytes:
        return self._holds + self._macs

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
        if self._macs:
            behind = _by_distance(self._macs, self._slots)  # as seen from the hop that was nearest so far
            code = HmacSha256(key, body)
            own = [
                code.digest(self._holds[: HOLD_BYTES * (distance + 1)] + behind[distance])[:TRAIL_MAC_BYTES]
                for distance in range(self._slots - 1, -1, -1)
            ]
            # The farthest distance of each falls off.
            rows = [self._macs[row.start + TRAIL_MAC_BYTES : row.stop] for row in _rows(self._slots)[:-1]]
            self._macs = b"".join((*own, *rows))

    def check(self, key: bytes, body: bytes, distance: int) -> bool:
        """Whether the nearest hop's MAC for this distance from the route's end fits; True without MACs.

        Args:
            key, body: as in `push`, with the hop's pad taken off. distance: 0 for the route's last node.
        """
        if not self._macs:
            return True
        # Row x has the distances N − 1 − x down to 0, and y − x stands at the same place in each.
        place = TRAIL_MAC_BYTES * (self._slots - 1 - distance)
        starts = [row.start + place for row in _rows(self._slots)[: distance + 1]]
        written, *behind = (self._macs[start : start + TRAIL_MAC_BYTES] for start in starts)
        covered = self._holds[: HOLD_BYTES * (distance + 1)] + b"".join(behind)
        return equal(written, HmacSha256(key, body).digest(covered)[:TRAIL_MAC_BYTES])

    def pop(self) -> None:
        """Take the nearest hop off. What had fallen off the end comes back as zeros, which nothing covers."""
        self._holds = self._holds[HOLD_BYTES:] + bytes(HOLD_BYTES)
        if self._macs:
            lost = bytes(TRAIL_MAC_BYTES)
            self._macs = b"".join(lost + self._macs[row] for row in _rows(self._slots)[1:]) + lost


@lru_cache
def _rows(slots: int) -> list[slice]:
    """Where the rows are: row x has the MACs of the hop x places on, for distances N − 1 − x down to 0."""
    starts = [TRAIL_MAC_BYTES * (row * slots - row * (row - 1) // 2) for row in range(slots + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


@lru_cache
def _order(slots: int) -> Callable[[memoryview], tuple[int, ...]]:
    """Takes the MACs of all rows, and gives them by the distance y of the nearest hop: mac_0_y … mac_y_0."""
    firsts = [row.start // TRAIL_MAC_BYTES for row in _rows(slots)]
    return itemgetter(*(firsts[x] + slots - 1 - y for y in range(slots) for x in range(y + 1)))


def _by_distance(macs: bytes, slots: int) -> list[bytes]:
    """For each distance of a hop put before all others, the MACs behind it that it vouches for.

    What is y − 1 from the end now, with all that it covers, is behind who is at y. In one pass over machine
    words: 13 µs for 528 MACs, where a slice for each takes 42.
    """
    ordered = array("I", _order(slots)(memoryview(macs).cast("I"))).tobytes()
    ends = [TRAIL_MAC_BYTES * (y * (y + 1) // 2) for y in range(slots)]
    return [b"", *(ordered[start:stop] for start, stop in pairwise(ends))]
