"""STATUS: what came of a frame, said by the node that knows, in a form that only Alice can read.

The last frame of a stream's backward half, once per stream, always sent, success and failure alike: a hop
that carries it sees bytes of one length that look random. The node where the frame ended (or failed)
originates it; every hop on the way back wraps it; Alice reads it, and learns which hop originated it, or
which two hops it was changed between, and how long each says that it held the frame.

    body: MAC 32 ‖ code 2 ‖ length 2 ‖ text 220        trail: hold times 4·N ‖ attribution MACs

Rules, kept by the caller: the keys of one slot serve for one STATUS. Their pad is a stream cipher, so two
statuses under one pad would show their difference. A node that could not open the header, or refused it, has
no keys of that stream: it sends RESET, and its upstream neighbour originates with `about_next`.

Pure functions: bytes, keys and times are arguments. Reading costs the same whatever the bytes are.

Source: docs/protocol.md, "Status"; the model is Lightning's BOLT 4, "Returning Errors".
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

from readwrite_comp.primitives import HmacSha256, equal, hmac_sha256
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.onion.key_schedule import StatusKeys

__all__ = [
    "HOLD_BYTES",
    "MAX_HOLD_MS",
    "MAX_STATUS_WAIT_MS",
    "STATUS_TEXT_BYTES",
    "TRAIL_MAC_BYTES",
    "StatusReport",
    "Trail",
    "clean_text",
    "draw_status_wait_ms",
    "originate_status",
    "read_status",
    "wrap_status",
]

# The trail of a STATUS: how long each hop held it, and MACs that show between which two hops it was
# changed.
#
# The difficulty: every hop must vouch for all that came from behind it, in a place of fixed size, without
# knowing how many hops are behind it. So each hop writes one MAC for every distance at which it might be
# from the route's end, each over just as much as will be left of the trail when Alice looks: for distance y
# the first y + 1 hold times and the y MACs behind it that Alice will check too. Alice, who knows the
# distance, checks that one. A hop that passes the trail on shifts it by one place and what falls off the
# end is beyond every distance that is still possible: N hold times and N + (N − 1) + … + 1 MACs are enough.
#
#     row 0 (who sends)        row 1 (the hop behind)    row 2
#     mac_0_2 mac_0_1 mac_0_0  mac_1_1 mac_1_0           mac_2_0            N = 3; mac_x_y: y hops to the end
#             \________\________________\_______           (mac_0_2 covers mac_1_1 and mac_2_0)
#
# A MAC is cut to 4 bytes, as in the model: who guesses has one try for each STATUS, and 2^-32 is the chance
# to put the blame elsewhere. What must not be forged, code and text, has a MAC of 32 bytes of its own.
#
# Everything here is in the clear form, before a hop's pad is added or after Alice took it off. A geometry
# without attribution MACs has hold times only. Rules: lengths come from the geometry; no branch depends on
# what a trail holds.
#
# Source: docs/protocol.md, "Status"; the idea is that of Lightning's BOLT 4, "Returning Errors", with the
# attribution data of pull request 1044 (Jager).
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


STATUS_TEXT_BYTES = 220
MAX_STATUS_WAIT_MS = 500  # longer than what distinguishes a refusal here from one a few hops on
_MAC_BYTES = 32
_BODY = struct.Struct(f">{_MAC_BYTES}sHH{STATUS_TEXT_BYTES}s")
_SUCCESS = 0
_ABOUT_NEXT = 0x100  # the code is what the next node's RESET said, or what became of the link to it


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a STATUS says. Hops are counted along the frame's route, 0 = the first after its origin.

    Attributes:
        origin: the hop that wrote it; None when no hop's MAC fits.
        code: the reason; None for success, and when `origin` is None.
        about_next: the origin reports of the node behind it, which has no status keys for this frame.
        text: what the origin added, cleaned; empty for most.
        suspects: when something was changed on the way: those who may have done it, one hop or two
            neighbours (all hops in a geometry without attribution MACs). Empty otherwise.
        hold_ms: how long each hop from 0 on says that it held the frame, as far as nothing was changed.
            Without attribution MACs nobody vouches for these.
    """

    origin: int | None
    code: ErrorCode | None
    about_next: bool
    text: str
    suspects: tuple[int, ...]
    hold_ms: tuple[int, ...]

    @property
    def succeeded(self) -> bool:
        """The last node says that all went well."""
        return self.origin is not None and self.code is None


def clean_text(text: str) -> str:
    """Replace whatever does not print (control and direction characters): it may reach a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def draw_status_wait_ms(random: bytes) -> int:
    """How long an originator waits, 0 … 500 ms, so that time does not tell where a frame ended.

    Args:
        random: 8 random bytes. In a network declared local there is no wait and no draw.
    """
    return int.from_bytes(random, "big") % (MAX_STATUS_WAIT_MS + 1)


def originate_status(
    keys: StatusKeys,
    code: ErrorCode | None,
    *,
    geometry: Geometry,
    hold_ms: int,
    engine: TunnelEngine,
    about_next: bool = False,
    text: str = "",
) -> bytes:
    """The STATUS of the node where a frame ended, with its pad added: ready to send upstream.

    Args:
        keys: of the slot that this node opened.
        code: the reason, or None for success.
        hold_ms: since this node opened the header.
        about_next: `code` is about the node behind: its RESET, a refused dial or a dead link.
        text: for people; cleaned, and cut to 220 bytes of UTF-8. Never a route, an address or a payload.
    Returns:
        geometry.status_bytes bytes.
    Raises:
        LocalTunnelError: success about the next node.
    """
    if code is None and about_next:
        raise LocalTunnelError("success is reported by the last node only, not about the next one")
    number = _SUCCESS if code is None else code + _ABOUT_NEXT * about_next
    encoded = clean_text(text).encode("utf-8", "replace")
    if len(encoded) > STATUS_TEXT_BYTES:
        encoded = encoded[:STATUS_TEXT_BYTES].decode("utf-8", "ignore").encode("utf-8")
    content = _BODY.pack(b"", number, len(encoded), encoded)[_MAC_BYTES:]
    body = hmac_sha256(keys.mac, content) + content
    return _sent(body, Trail(geometry), keys, hold_ms, engine)


def wrap_status(
    status: bytes, keys: StatusKeys, *, geometry: Geometry, hold_ms: int, engine: TunnelEngine
) -> bytes:
    """What a hop makes of a STATUS that came from downstream: ready to send upstream. Once per stream.

    Args:
        status: geometry.status_bytes bytes, whatever they are.
        hold_ms: since this node opened the header.
    Raises:
        MalformedMessage: wrong length. Reset the stream; originate with about_next upstream.
    """
    _check_length(status, geometry)
    body = status[: _BODY.size]
    return _sent(body, Trail(geometry, status[_BODY.size :]), keys, hold_ms, engine)


def _sent(body: bytes, trail: Trail, keys: StatusKeys, hold_ms: int, engine: TunnelEngine) -> bytes:
    trail.push(keys.trail, body, hold_ms)
    status = bytearray(body + bytes(trail))
    engine.xor_keystream(keys.pad, memoryview(status))
    return bytes(status)


def read_status(
    status: bytes, route: Sequence[StatusKeys], *, geometry: Geometry, engine: TunnelEngine
) -> StatusReport:
    """Take the pads off one by one and find out who said what.

    Args:
        status: geometry.status_bytes bytes as they came from hop 0.
        route: the keys of every node on the frame's route, the last one included, 1 to N.
    Raises:
        MalformedMessage: wrong length: hop 0 sent what no hop sends.
        LocalTunnelError: a route of no hops, or of more than N.
    """
    _check_length(status, geometry)
    if not 1 <= len(route) <= geometry.slots:
        raise LocalTunnelError(f"a route of {len(route)} nodes, expected 1 to {geometry.slots}")
    last = len(route) - 1
    holds, bodies, vouched, written = [], [], [], []
    for hop, keys in enumerate(route):
        clear = bytearray(status)
        engine.xor_keystream(keys.pad, memoryview(clear))
        body, trail = bytes(clear[: _BODY.size]), Trail(geometry, bytes(clear[_BODY.size :]))
        vouched.append(trail.check(keys.trail, body, last - hop))
        written.append(equal(body[:_MAC_BYTES], hmac_sha256(keys.mac, body[_MAC_BYTES:])))
        holds.append(trail.hold_ms)
        bodies.append(body)
        trail.pop()
        status = body + bytes(trail)
    # From here on the time may depend on what was found: Alice is at home.
    return _report(bodies, vouched, written, holds, has_macs=geometry.attribution_bytes > 0)


def _report(
    bodies: Sequence[bytes],
    vouched: Sequence[bool],
    written: Sequence[bool],
    holds: Sequence[int],
    *,
    has_macs: bool,
) -> StatusReport:
    """The first hop whose own MAC fits is the origin; the first that does not vouch, or the one before it,
    changed something. Behind the origin there is nothing to vouch for."""
    hops = len(bodies)
    origin = written.index(True) if True in written else None
    end = hops if origin is None else origin + 1
    broken = next((hop for hop in range(end) if not vouched[hop]), None)
    if broken is not None:
        suspects: tuple[int, ...] = (broken - 1, broken) if broken else (0,)
    elif origin is None:
        # Vouched for by the last node, and yet written by nobody: the last node made it up.
        suspects = (hops - 1,) if has_macs else tuple(range(hops))
    else:
        suspects = ()
    trusted = tuple(holds[: end if broken is None else broken]) if origin is not None or has_macs else ()
    if origin is None:
        return StatusReport(None, None, False, "", suspects, trusted)
    code, about_next, text = _content(bodies[origin])
    if code is None and origin != hops - 1:
        code, text = ErrorCode.PROTOCOL, ""  # only the last node can know of success: this hop lies
    return StatusReport(origin, code, about_next, text, suspects, trusted)


def _content(body: bytes) -> tuple[ErrorCode | None, bool, str]:
    """Code, about_next and text of an authentic body. What no origin writes is its fault: PROTOCOL."""
    _mac, number, length, text = _BODY.unpack(body)
    high, low = divmod(number, _ABOUT_NEXT)
    known = number == _SUCCESS or (high <= 1 and low in ErrorCode._value2member_map_)
    if not known or length > STATUS_TEXT_BYTES or any(text[length:]):
        return ErrorCode.PROTOCOL, False, ""
    code = ErrorCode(low) if low else None
    return code, bool(high), clean_text(text[:length].decode("utf-8", "replace"))


def _check_length(status: bytes, geometry: Geometry) -> None:
    if len(status) != geometry.status_bytes:
        raise MalformedMessage(
            f"STATUS is {len(status)} bytes, geometry {geometry.name!r} has {geometry.status_bytes}"
        )
