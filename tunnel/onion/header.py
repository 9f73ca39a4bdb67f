"""The onion header: N slots of 128 bytes, one opened at each hop, the same length on every link.

A slot is an HPKE one-shot seal to the hop's onion key: enc 32 ‖ sealed fields 80 ‖ tag 16. What follows the
first slot is bound through HPKE's `info`, so a header with any changed bit opens at no hop. A hop removes its
slot, appends 128 zero bytes and XORs a keystream from its slot seed over the whole: the next hop sees a
header that looks like every other. Alice knows all the keystreams, so she can compute beforehand what the
zero bytes will have become (the filler) and seal over it.

Bytes only: the caller brings keys, time and randomness. Source: docs/protocol.md, "Onion header"; the
construction follows Sphinx (Danezis, Goldberg 2009) with HPKE in place of the blinded group element.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256

from tunnel.crypto.primitives import HpkePrivate, TunnelEngine
from tunnel.errors import ErrorCode, PeerError, ProfileError, Refused
from tunnel.geometry import ADDRESS_BYTES, NODE_ID_BYTES, PROTOCOL_VERSION, SEED_BYTES, SLOT_BYTES, Profile
from tunnel.onion.key_schedule import header_key

__all__ = [
    "CLOCK_SKEW_S",
    "HOUR_S",
    "LATEST_S",
    "MAX_DELAY_10MS",
    "NO_ADDRESS",
    "NO_ID",
    "Command",
    "Hop",
    "Opened",
    "OpeningKey",
    "Slot",
    "build_header",
    "check_expiry",
    "clock_text",
    "draw_delay",
    "draw_expiry",
    "open_header",
]


# How expiries are drawn and checked: one rule for queries and reply blocks, so that they look alike.
#
# Source: docs/protocol.md, "Onion header" and "Order of checks".
HOUR_S = 3600
CLOCK_SKEW_S = 600  # clocks of nodes may differ by ten minutes
LATEST_S = 4 * HOUR_S  # now + 1 h + at most 2 h, rounded up to the hour


def draw_expiry(now_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """now + 1 h + uniform(0 … 2 h), rounded up to the hour: seconds since 1970."""
    extra = int.from_bytes(random_bytes(8), "big") % (2 * HOUR_S + 1)
    return -(-(int(now_s) + HOUR_S + extra) // HOUR_S) * HOUR_S


def clock_text(now_s: float) -> str:
    """A time as people see it, in UTC and to the minute: links tell clocks no more exactly either."""
    return f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC"


def check_expiry(expiry: int, now_s: float) -> None:
    """Raises PeerError (EXPIRED) when `expiry` is past, or later than any honest sender draws."""
    if expiry < now_s - CLOCK_SKEW_S:
        raise PeerError(
            f"header expired {int(now_s) - expiry} s ago, by the clock here, which shows {clock_text(now_s)}",
            ErrorCode.EXPIRED,
        )
    if expiry > now_s + LATEST_S + CLOCK_SKEW_S:
        raise PeerError(
            f"header's expiry is {expiry - int(now_s)} s ahead, no honest sender draws more than {LATEST_S}: "
            f"one of the two clocks is wrong; the one here shows {clock_text(now_s)}",
            ErrorCode.EXPIRED,
        )


# How the delay in a slot is drawn: an exponential distribution, as Loopix has it, cut off at 30 s.
#
# With exponential delays a proxy is a queue that forgets: of two frames that it holds, each is equally
# likely to leave first, whichever came first. Source: docs/protocol.md, "Onion header"; Piotrowska et al.,
# "The Loopix Anonymity System" (2017), section 3.
MAX_DELAY_10MS = 3_000  # 30 s
_UNITS_PER_S = 100


def draw_delay(mean_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """A delay for one proxy, in units of 10 ms, 0 to 3,000.

    Args:
        mean_s: of the distribution before it is cut off. 0: no delay, and nothing is drawn.
    """
    if mean_s <= 0:
        return 0
    # In (0, 1]: 0 would have no logarithm.
    uniform = (int.from_bytes(random_bytes(8), "big") + 1) / 2**64
    return min(MAX_DELAY_10MS, round(-math.log(uniform) * mean_s * _UNITS_PER_S))


NO_ID = bytes(NODE_ID_BYTES)
NO_ADDRESS = bytes(ADDRESS_BYTES)
_FIELDS = struct.Struct(">BBHI32s18s16s6s")
_INFO = struct.Struct(">12sBBI32s")
_KNOWN_FLAGS = 0x07  # EXIT, XORERR, NOERR
Seal = Callable[[bytes, bytes, bytes], bytes]


class Command(IntEnum):
    """What the node that opens a slot is to do."""

    RELAY = 1  # forward the frame to `next_id`
    DEST = 2  # the frame is for this node
    HOME = 3  # a reply has reached its owner
    DROP = 4  # cover traffic: consume it


@dataclass(frozen=True, slots=True)
class Slot:
    """The sealed fields of one slot.

    Attributes:
        expiry: seconds since 1970, a whole hour.
        delay_10ms: wait before forwarding, in units of 10 ms.
        flags: bit 0 EXIT (reserved), bit 1 XORERR and bit 2 NOERR: the error mode (see `tunnel.modes`).
        next_id: RELAY: the next node. HOME: the ticket (see `tunnel.onion.reply_block`). Else zero.
        seed: 16 bytes, the source of this hop's keys.
    """

    command: Command
    expiry: int
    seed: bytes
    next_id: bytes = NO_ID
    next_address: bytes = NO_ADDRESS
    flags: int = 0
    delay_10ms: int = 0

    def pack(self) -> bytes:
        return _FIELDS.pack(
            self.command,
            self.flags,
            self.delay_10ms,
            self.expiry,
            self.next_id,
            self.next_address,
            self.seed,
            bytes(6),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Slot:
        """Raises PeerError (BAD_HEADER) for a command or a flag that this version does not know."""
        command, flags, delay, expiry, next_id, address, seed, _reserved = _FIELDS.unpack(data)
        if command not in Command._value2member_map_:
            raise PeerError(
                f"slot command is {command}, expected one of {[int(c) for c in Command]}",
                ErrorCode.BAD_HEADER,
            )
        if flags & ~_KNOWN_FLAGS:
            raise PeerError(
                f"slot flags are 0x{flags:02x}, known bits are 0x{_KNOWN_FLAGS:02x}", ErrorCode.BAD_HEADER
            )
        return cls(Command(command), expiry, seed, next_id, address, flags, delay)


@dataclass(frozen=True, slots=True)
class Hop:
    """What Alice needs of a node to seal a slot to it: its onion public key and that key's epoch."""

    onion_public: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class OpeningKey:
    """A receiver's onion key of one epoch, prepared."""

    private: HpkePrivate
    epoch: int


@dataclass(frozen=True, slots=True)
class Opened:
    """What a header says to the node that opens it.

    Attributes:
        slot: the fields of its first slot.
        next_header: for the next hop; empty for any command but RELAY.
        epoch: of the onion key that opened it.
    """

    slot: Slot
    next_header: bytes
    epoch: int = 0

    @property
    def delay_s(self) -> float:
        """How long to wait before the first byte is forwarded, 0 to 30 seconds."""
        return self.slot.delay_10ms / 100


def _info(profile: Profile, epoch: int, rest: bytes) -> bytes:
    return _INFO.pack(b"mtun1 header", PROTOCOL_VERSION, profile.byte, epoch, sha256(rest).digest())


def _keystream(engine: TunnelEngine, seed: bytes, length: int) -> bytearray:
    stream = bytearray(length)
    engine.layers.xor_keystream(header_key(seed), memoryview(stream))
    return stream


def _xor(left: bytes, right: bytes | bytearray) -> bytes:
    number = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return number.to_bytes(len(left), "big")


def build_header(
    profile: Profile,
    hops: Sequence[tuple[Hop, Slot]],
    *,
    engine: TunnelEngine,
    random_bytes: Callable[[int], bytes],
    seal_for_tests_only: Seal | None = None,
) -> bytes:
    """Build the header for a route.

    Args:
        profile: gives N; its byte is bound into every slot.
        hops: the nodes in order, each with the fields sealed to it; all but the last are RELAY.
        random_bytes: source of the padding behind the last slot.
        seal_for_tests_only: (public key, info, fields) → 128 bytes, in place of HPKE with a fresh ephemeral.
    Returns:
        128·N bytes.
    Raises:
        ProfileError: the route is longer than the profile holds.
    Source: docs/protocol.md, "Building a header".
    """
    slots = profile.geometry.slots
    if not 1 <= len(hops) < slots:
        raise ProfileError(
            f"a route of {len(hops) - 1} proxies does not fit profile {profile.name!r}, "
            f"which holds {profile.geometry.max_proxies}"
        )
    seal = seal_for_tests_only or engine.hpke_seal
    length = profile.geometry.header_bytes
    streams = [_keystream(engine, slot.seed, length) for _, slot in hops[:-1]]
    filler = b""
    for stream in streams:
        filler += bytes(SLOT_BYTES)
        filler = _xor(filler, stream[length - len(filler) :])

    rest = random_bytes((slots - len(hops)) * SLOT_BYTES) + filler
    header = b""
    for i in range(len(hops) - 1, -1, -1):
        hop, slot = hops[i]
        if header:
            rest = _xor(header, streams[i])[: length - SLOT_BYTES]
        header = seal(hop.onion_public, _info(profile, hop.epoch, rest), slot.pack()) + rest
    return header


def open_header(
    header: bytes, profile: Profile, keys: Sequence[OpeningKey], *, engine: TunnelEngine
) -> Opened:
    """Open the first slot with the first of `keys` that fits, and make the header for the next hop.

    Args:
        header: exactly 128·N bytes.
        keys: onion keys to try, in order: current, previous, next.
    Raises:
        PeerError (BAD_HEADER): wrong length, no key opens it, or it holds unknown values. Reset the stream.
    On error: nothing has changed anywhere.
    """
    length = profile.geometry.header_bytes
    if len(header) != length:
        raise PeerError(
            f"header is {len(header)} bytes, profile {profile.name!r} has {length}", ErrorCode.BAD_HEADER
        )
    sealed, rest = header[:SLOT_BYTES], header[SLOT_BYTES:]
    for key in keys:
        try:
            fields = engine.hpke_open(key.private, sealed, _info(profile, key.epoch, rest))
        except Refused:
            continue
        slot = Slot.unpack(fields)
        next_header = b""
        if slot.command is Command.RELAY:
            next_header = _xor(rest + bytes(SLOT_BYTES), _keystream(engine, slot.seed, length))
        return Opened(slot, next_header, key.epoch)
    raise PeerError(
        f"the header's first slot opens with none of this node's {len(keys)} onion keys: it is for another "
        "node, for another epoch, or damaged",
        ErrorCode.BAD_HEADER,
    )


assert _FIELDS.size == SLOT_BYTES - 48

assert len(NO_ID) + ADDRESS_BYTES + SEED_BYTES == 66
