r"""STATUS, the report on the outcome of a frame, in a form that only Alice can read.

STATUS comes last on the backward half of a stream. It is always sent, once, for success and failure alike,
and a hop that carries it sees random-looking bytes of one length. The node where the frame ended or failed
originates it, and every earlier hop wraps it. Alice learns which hop originated it, or between which two hops
it was changed, and how long each hop claims to have held the frame.

    body: MAC 32 ‖ code 2 ‖ length 2 ‖ text 220        trail: hold times 4·N ‖ attribution MACs

The trail shows between which two hops a STATUS was changed. The difficulty: every hop must authenticate the
parts of all later hops, in a field of fixed size, without knowing the number of later hops. So each hop
writes one MAC for every possible distance to the end of the route. Each MAC covers exactly the part of the
trail that is left when Alice reads it: for distance y the first y + 1 hold times, and the y MACs after it
that Alice will check too. Alice knows the distance, and checks that MAC. A hop that wraps the trail shifts it
by one place; the part that falls off the end belongs to distances that are no longer possible. So N hold
times and N + (N − 1) + … + 1 MACs suffice.

    row 0 (the sender)       row 1 (the hop behind)    row 2
    mac_0_2 mac_0_1 mac_0_0  mac_1_1 mac_1_0           mac_2_0            N = 3; mac_x_y: y hops to the end
            \________\________________\_______           (mac_0_2 covers mac_1_1 and mac_2_0)

A MAC of the trail has 4 bytes, as in the model: a forger has one try for each STATUS, and shifts the blame
with probability 2^-32. Code and text must not be forged at all, so their MAC has 32 bytes. A geometry without
attribution MACs has hold times only.

Rules: the keys of one slot serve for one STATUS, because their pad is a stream cipher, and two statuses under
one pad would show their difference. A node that could not open the header, or refused it, has no keys for
that stream: it sends RESET, and its upstream neighbour originates with `about_next`. Lengths come from the
geometry. No branch depends on the content of a trail, and reading costs the same for all bytes.

Pure functions. Source: docs/protocol.md, "Status". The model is Lightning's BOLT 4, "Returning Errors", with
the attribution data of pull request 1044 (Jager).
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
    "check_status_length",
    "clean_text",
    "draw_status_wait_ms",
    "originate_status",
    "read_status",
    "wrap_status",
]

HOLD_BYTES = 4
TRAIL_MAC_BYTES = 4
MAX_HOLD_MS = 2**32 - 1
STATUS_TEXT_BYTES = 220
MAX_STATUS_WAIT_MS = 500  # more than the time between a refusal here and one a few hops on
_MAC_BYTES = 32
_BODY = struct.Struct(f">{_MAC_BYTES}sHH{STATUS_TEXT_BYTES}s")
_SUCCESS = 0
_ABOUT_NEXT = 0x100  # the code is from the next node's RESET, or about the link to it


class Trail:
    """Hold times and MACs of one STATUS, nearest hop first.

    Args:
        geometry: gives N, and whether there are MACs.
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
        """The hold time that the nearest hop claims, in milliseconds."""
        return int.from_bytes(self._holds[:HOLD_BYTES], "big")

    def push(self, key: bytes, body: bytes, hold_ms: int) -> None:
        """Put a hop before all others: its hold time and its MACs.

        Args:
            key: the hop's trail key, 32 bytes.
            body: the STATUS before the trail, as this hop sends it, without its pad.
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
        """Check the nearest hop's MAC for a distance from the end of the route. True without MACs.

        Args:
            key, body: as in `push`, with the pad of the hop removed. distance: 0 for the last node.
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
        """Remove the nearest hop. The part that fell off the end returns as zeros, which no MAC covers."""
        self._holds = self._holds[HOLD_BYTES:] + bytes(HOLD_BYTES)
        if self._macs:
            lost = bytes(TRAIL_MAC_BYTES)
            self._macs = b"".join(lost + self._macs[row] for row in _rows(self._slots)[1:]) + lost


@lru_cache
def _rows(slots: int) -> list[slice]:
    """The places of the rows: row x has the MACs of the hop x places on, for distances N − 1 − x to 0."""
    starts = [TRAIL_MAC_BYTES * (row * slots - row * (row - 1) // 2) for row in range(slots + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


@lru_cache
def _order(slots: int) -> Callable[[memoryview], tuple[int, ...]]:
    """Sorts the MACs of all rows by the distance y of the nearest hop: mac_0_y … mac_y_0."""
    firsts = [row.start // TRAIL_MAC_BYTES for row in _rows(slots)]
    return itemgetter(*(firsts[x] + slots - 1 - y for y in range(slots) for x in range(y + 1)))


def _by_distance(macs: bytes, slots: int) -> list[bytes]:
    """The MACs that a new nearest hop vouches for, for each of its possible distances.

    One pass over machine words takes 13 µs for 528 MACs; a slice for each takes 42.
    """
    ordered = array("I", _order(slots)(memoryview(macs).cast("I"))).tobytes()
    ends = [TRAIL_MAC_BYTES * (y * (y + 1) // 2) for y in range(slots)]
    return [b"", *(ordered[start:stop] for start, stop in pairwise(ends))]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The content of a STATUS. Hops are counted along the frame's route; 0 is the first.

    Attributes:
        origin: the hop that wrote it; None: no hop's MAC fits.
        code: the reason; None for success, and if `origin` is None.
        about_next: the report is about the node behind the origin, which has no status keys for this frame.
        text: of the origin, cleaned; often empty.
        suspects: if the STATUS was changed: one hop or two neighbours, or all hops in a geometry without
            attribution MACs. Empty otherwise.
        hold_ms: claimed hold times of the hops from 0 on, up to the change. Not authenticated in a geometry
            without attribution MACs.
    """

    origin: int | None
    code: ErrorCode | None
    about_next: bool
    text: str
    suspects: tuple[int, ...]
    hold_ms: tuple[int, ...]

    @property
    def succeeded(self) -> bool:
        """The last node reports success."""
        return self.origin is not None and self.code is None


def clean_text(text: str) -> str:
    """Replace control and direction characters: the text may reach a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def draw_status_wait_ms(random: bytes) -> int:
    """The wait of an originator, 0 to 500 ms, which hides by timing where a frame ended.

    Args:
        random: 8 random bytes. A network declared local has no wait and draws nothing.
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
    """The STATUS of the node where a frame ended, ready to send upstream: geometry.status_bytes bytes.

    Args:
        keys: of the slot that this node opened.
        code: the reason; None for success.
        hold_ms: time since this node opened the header.
        about_next: `code` is about the node behind: its RESET, a refused connection or a dead link.
        text: for people; cleaned, and cut to 220 bytes of UTF-8. Never a route, an address or a payload.
    Raises:
        LocalTunnelError: success about the next node.
    """
    if code is None and about_next:
        raise LocalTunnelError("only the last node can report success, and about itself")
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
    """Wrap a STATUS from downstream, ready to send upstream. Once per stream.

    Args:
        status: any geometry.status_bytes bytes.
        hold_ms: time since this node opened the header.
    Raises:
        MalformedMessage: wrong length. Reset the stream; originate with about_next upstream.
    """
    check_status_length(status, geometry)
    body = status[: _BODY.size]
    return _sent(body, Trail(geometry, status[_BODY.size :]), keys, hold_ms, engine)


def _sent(body: bytes, trail: Trail, keys: StatusKeys, hold_ms: int, engine: TunnelEngine) -> bytes:
    trail.push(keys.trail, body, hold_ms)
    status = bytearray(body + bytes(trail))
    engine.layers.xor_keystream(keys.pad, memoryview(status))
    return bytes(status)


def read_status(
    status: bytes, route: Sequence[StatusKeys], *, geometry: Geometry, engine: TunnelEngine
) -> StatusReport:
    """Read a STATUS: remove the pads one by one, and check every MAC.

    Args:
        status: as received from hop 0.
        route: the keys of every node on the frame's route, the last one included, 1 to N.
    Raises:
        MalformedMessage: wrong length; the fault of hop 0.
        LocalTunnelError: the route has no hops, or more than N.
    """
    check_status_length(status, geometry)
    if not 1 <= len(route) <= geometry.slots:
        raise LocalTunnelError(f"a route of {len(route)} nodes, expected 1 to {geometry.slots}")
    last = len(route) - 1
    holds, bodies, vouched, written = [], [], [], []
    for hop, keys in enumerate(route):
        clear = bytearray(status)
        engine.layers.xor_keystream(keys.pad, memoryview(clear))
        body, trail = bytes(clear[: _BODY.size]), Trail(geometry, bytes(clear[_BODY.size :]))
        vouched.append(trail.check(keys.trail, body, last - hop))
        written.append(equal(body[:_MAC_BYTES], hmac_sha256(keys.mac, body[_MAC_BYTES:])))
        holds.append(trail.hold_ms)
        bodies.append(body)
        trail.pop()
        status = body + bytes(trail)
    # From here on, time may depend on the content: this is Alice's node.
    return _report(bodies, vouched, written, holds, has_macs=geometry.attribution_bytes > 0)


def _report(
    bodies: Sequence[bytes],
    vouched: Sequence[bool],
    written: Sequence[bool],
    holds: Sequence[int],
    *,
    has_macs: bool,
) -> StatusReport:
    """Find the origin and the suspects.

    The first hop whose body MAC fits is the origin. The first hop whose trail MAC does not fit, or the one
    before it, changed something. Nothing behind the origin counts.
    """
    hops = len(bodies)
    origin = written.index(True) if True in written else None
    end = hops if origin is None else origin + 1
    broken = next((hop for hop in range(end) if not vouched[hop]), None)
    if broken is not None:
        suspects: tuple[int, ...] = (broken - 1, broken) if broken else (0,)
    elif origin is None:
        # The last node vouches for a body that no hop wrote: the last node forged it.
        suspects = (hops - 1,) if has_macs else tuple(range(hops))
    else:
        suspects = ()
    trusted = tuple(holds[: end if broken is None else broken]) if origin is not None or has_macs else ()
    if origin is None:
        return StatusReport(None, None, False, "", suspects, trusted)
    code, about_next, text = _content(bodies[origin])
    if code is None and origin != hops - 1:
        code, text = ErrorCode.PROTOCOL, ""  # only the last node can know of success: this hop is lying
    return StatusReport(origin, code, about_next, text, suspects, trusted)


def _content(body: bytes) -> tuple[ErrorCode | None, bool, str]:
    """Code, about_next and text of an authentic body. An invalid field is the origin's fault: PROTOCOL."""
    _mac, number, length, text = _BODY.unpack(body)
    high, low = divmod(number, _ABOUT_NEXT)
    known = number == _SUCCESS or (high <= 1 and low in ErrorCode._value2member_map_)
    if not known or length > STATUS_TEXT_BYTES or any(text[length:]):
        return ErrorCode.PROTOCOL, False, ""
    code = ErrorCode(low) if low else None
    return code, bool(high), clean_text(text[:length].decode("utf-8", "replace"))


def check_status_length(status: bytes, geometry: Geometry) -> None:
    """Raises MalformedMessage: not the length of a STATUS."""
    if len(status) != geometry.status_bytes:
        raise MalformedMessage(
            f"STATUS is {len(status)} bytes, geometry {geometry.name!r} has {geometry.status_bytes}"
        )
