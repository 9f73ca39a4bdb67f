"""The onion header: N slots of 128 bytes. Each hop opens one; the length is the same on every link.

A slot is an HPKE one-shot seal to the hop's onion key: enc 32 ‖ sealed fields 80 ‖ tag 16. HPKE's `info`
binds the rest of the header, so after any change the header opens at no hop. A hop removes its slot, appends
128 zero bytes and XORs the whole with a keystream from its slot seed, so the next hop sees a header like any
other. Alice knows every keystream. She computes in advance what the zero bytes become (the filler), and seals
over that.

Expiries and delays are drawn here, by one rule for queries and reply blocks, so that the two look alike.
Delays are exponential, cut off at 30 s, as in Loopix: of two frames in a proxy each is equally likely to
leave first, whichever came first.

Bytes only: keys, time and randomness are arguments. Source: docs/protocol.md, "Onion header" and "Order of
checks". The construction follows Sphinx (Danezis, Goldberg 2009) with HPKE in place of the blinded group
element; the delays follow Piotrowska et al., "The Loopix Anonymity System" (2017), section 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from tunnel.codes import clock_text
from tunnel.crypto.primitives import HpkePrivate, TunnelEngine
from tunnel.errors import ErrorCode, PeerError, ProfileError, Refused
from tunnel.geometry import ADDRESS_BYTES, NODE_ID_BYTES, PROTOCOL_VERSION, SLOT_BYTES, Profile
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
    "draw_delay",
    "draw_expiry",
    "open_header",
]


HOUR_S = 3600
CLOCK_SKEW_S = 600  # clocks of nodes may differ by ten minutes
LATEST_S = 4 * HOUR_S  # now + 1 h + at most 2 h, rounded up to the hour
MAX_DELAY_10MS = 3_000  # 30 s
NO_ID = bytes(NODE_ID_BYTES)
NO_ADDRESS = bytes(ADDRESS_BYTES)
_UNITS_PER_S = 100
_FIELDS = struct.Struct(">BBHI32s18s16s6s")
_INFO = struct.Struct(">12sBBI32s")
_KNOWN_FLAGS = 0x07  # EXIT, XORERR, NOERR
assert _FIELDS.size == SLOT_BYTES - 48

Seal = Callable[[bytes, bytes, bytes], bytes]


def draw_expiry(now_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """now + 1 h + uniform(0 … 2 h), rounded up to the hour: seconds since 1970."""
    extra = int.from_bytes(random_bytes(8), "big") % (2 * HOUR_S + 1)
    return -(-(int(now_s) + HOUR_S + extra) // HOUR_S) * HOUR_S


def check_expiry(expiry: int, now_s: float) -> None:
    """Check an expiry. Raises PeerError (EXPIRED): past, or later than any honest sender draws."""
    if expiry < now_s - CLOCK_SKEW_S:
        raise PeerError(
            f"header expired {int(now_s) - expiry} s ago; the clock here shows {clock_text(now_s)}",
            ErrorCode.EXPIRED,
        )
    if expiry > now_s + LATEST_S + CLOCK_SKEW_S:
        raise PeerError(
            f"header expires in {expiry - int(now_s)} s, but senders draw at most {LATEST_S}: one of the two "
            f"clocks is wrong; the one here shows {clock_text(now_s)}",
            ErrorCode.EXPIRED,
        )


def draw_delay(mean_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """A delay for one proxy, in units of 10 ms, 0 to 3,000.

    Args:
        mean_s: mean of the distribution before the cut. 0: no delay, and nothing is drawn.
    """
    if mean_s <= 0:
        return 0
    # In (0, 1]: 0 has no logarithm.
    uniform = (int.from_bytes(random_bytes(8), "big") + 1) / 2**64
    return min(MAX_DELAY_10MS, round(-math.log(uniform) * mean_s * _UNITS_PER_S))


class Command(IntEnum):
    """The task of the node that opens a slot."""

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
    seed: bytes = field(repr=False)
    next_id: bytes = field(default=NO_ID, repr=False)
    next_address: bytes = field(default=NO_ADDRESS, repr=False)
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
    """What Alice needs to seal a slot to a node: its onion public key, and the epoch of that key."""

    onion_public: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class OpeningKey:
    """A private onion key, prepared for opening, and its epoch."""

    private: HpkePrivate
    epoch: int


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened header.

    Attributes:
        slot: the fields of the first slot.
        next_header: for the next hop; empty unless the command is RELAY.
        epoch: of the onion key that opened it.
    """

    slot: Slot
    next_header: bytes = field(repr=False)
    epoch: int = 0

    @property
    def delay_s(self) -> float:
        """The wait before the first byte is forwarded, 0 to 30 s."""
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
    """Build the header of a route: 128·N bytes.

    Args:
        profile: gives N; its byte is bound into every slot.
        hops: the nodes in order, each with its fields; all but the last are RELAY.
        random_bytes: source of the padding behind the last slot.
        seal_for_tests_only: (public key, info, fields) → 128 bytes, in place of HPKE with a fresh ephemeral.
    Raises:
        ProfileError: the route does not fit the profile.
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
    """Open the first slot, and make the header for the next hop.

    Args:
        header: exactly 128·N bytes.
        keys: onion keys to try, in order: current, previous, next.
    Raises:
        PeerError (BAD_HEADER): wrong length, no key opens it, or unknown values. Reset the stream.
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
        f"none of this node's {len(keys)} onion keys opens the header's first slot: it is for another node, "
        "for another epoch, or damaged",
        ErrorCode.BAD_HEADER,
    )
