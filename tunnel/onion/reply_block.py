"""Reply blocks: a prepared header with which Bob can send one frame to Alice, without knowing her address.

Bob sends the header unchanged, then his chunks, sealed under the end-to-end seed. Each proxy of the reply
path adds a layer. All seeds derive from one master seed, which travels in Alice's own slot (HOME) with the
query id and a MAC under her home key. So Alice stores nothing for a block, and the ticket identifies the
query of each reply.

Source: docs/protocol.md, "Reply block".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, MalformedMessage, PeerError
from tunnel.geometry import NODE_ID_BYTES, SEED_BYTES, Profile
from tunnel.onion.header import NO_ADDRESS, Command, Hop, Seal, Slot, build_header
from tunnel.onion.key_schedule import reply_end_to_end_seed, reply_hop_seed

__all__ = ["HomeTicket", "ReplyBlock", "build_reply_block"]

_FIXED = struct.Struct(">BBI32s18s16s")
_TICKET = struct.Struct(">8sBB6s16s")


@dataclass(frozen=True, slots=True)
class ReplyBlock:
    """What Bob needs to send one frame to Alice.

    Attributes:
        expiry: seconds since 1970; no proxy forwards the frame after it.
        first_id: the first proxy of the reply path, or Alice herself.
        end_to_end_seed: 16 bytes; Bob seals his chunks under its `e2e forward` key.
        header: 128·N bytes, sent unchanged.
    """

    profile: Profile
    expiry: int
    first_id: bytes = field(repr=False)
    first_address: bytes = field(repr=False)
    end_to_end_seed: bytes = field(repr=False)
    header: bytes = field(repr=False)

    def pack(self) -> bytes:
        fixed = _FIXED.pack(
            self.profile.byte, 0, self.expiry, self.first_id, self.first_address, self.end_to_end_seed
        )
        return fixed + self.header

    @classmethod
    def unpack(cls, data: bytes) -> ReplyBlock:
        """Raises MalformedMessage (length, flags) or ProfileError (first byte)."""
        if not data:
            raise MalformedMessage("reply block is empty")
        profile = Profile.from_byte(data[0])
        expected = profile.geometry.reply_block_bytes
        if len(data) != expected:
            raise MalformedMessage(
                f"reply block is {len(data)} bytes, profile {profile.name!r} has {expected}"
            )
        _, flags, expiry, first_id, address, seed = _FIXED.unpack_from(data)
        if flags:
            raise MalformedMessage(f"reply block flags are 0x{flags:02x}, expected 0")
        return cls(profile, expiry, first_id, address, seed, data[_FIXED.size :])


@dataclass(frozen=True, slots=True)
class HomeTicket:
    """The 32 bytes in a HOME slot's `next id`: query id 8 ‖ proxies 1 ‖ number 1 ‖ zero 6 ‖ MAC 16.

    Attributes:
        query_id: 8 bytes, of the query that carried the block.
        proxies: number of proxies on the reply path.
        number: of this block among those of its query, from 0. Each serves once, and one may be lost.
    """

    query_id: bytes
    proxies: int
    number: int = 0

    def pack(self, home_key: bytes, master_seed: bytes) -> bytes:
        mac = _ticket_mac(home_key, master_seed, self.query_id, self.proxies, self.number)
        return _TICKET.pack(self.query_id, self.proxies, self.number, bytes(6), mac)

    @classmethod
    def unpack(cls, slot: Slot, home_key: bytes) -> HomeTicket:
        """Check the ticket of an opened HOME slot.

        Raises:
            PeerError (BAD_HEADER): wrong MAC, so another node sealed this slot. Reset the stream.
        """
        query_id, proxies, number, zero, mac = _TICKET.unpack(slot.next_id)
        expected = _ticket_mac(home_key, slot.seed, query_id, proxies, number)
        if zero != bytes(6) or not equal(mac, expected):
            raise PeerError("the ticket in the HOME slot was not made here", ErrorCode.BAD_HEADER)
        return cls(query_id, proxies, number)


def _ticket_mac(home_key: bytes, master_seed: bytes, query_id: bytes, proxies: int, number: int) -> bytes:
    return hmac_sha256(home_key, master_seed, query_id, bytes([proxies, number]), bytes(6))[:16]


def build_reply_block(
    profile: Profile,
    route: Sequence[tuple[bytes, Hop]],
    home: tuple[bytes, Hop],
    *,
    query_id: bytes,
    master_seed: bytes,
    home_key: bytes,
    draw_expiry: Callable[[], int],
    engine: TunnelEngine,
    number: int = 0,
    draw_delay: Callable[[], int] = lambda: 0,
    random_bytes: Callable[[int], bytes],
    seal_for_tests_only: Seal | None = None,
) -> ReplyBlock:
    """Build a reply block over `route` back to `home`.

    Args:
        route: (node id, keys) of each proxy, in the order in which the reply travels; may be empty.
        home: id and keys of this node.
        query_id: 8 bytes; master_seed: 16 bytes; home_key: 32 bytes.
        draw_expiry: called once for each slot, then once for the block.
        draw_delay: in units of 10 ms; called once for each proxy, after its expiry is drawn.
    Raises:
        ProfileError: the route does not fit the profile.
    """
    assert len(query_id) == 8
    assert len(master_seed) == SEED_BYTES
    ids = [node_id for node_id, _ in route] + [home[0]]
    assert all(len(node_id) == NODE_ID_BYTES for node_id in ids)
    hops = [
        (
            hop,
            Slot(
                Command.RELAY,
                draw_expiry(),
                reply_hop_seed(master_seed, i),
                next_id=ids[i + 1],
                delay_10ms=draw_delay(),
            ),
        )
        for i, (_, hop) in enumerate(route)
    ]
    ticket = HomeTicket(query_id, len(route), number).pack(home_key, master_seed)
    hops.append((home[1], Slot(Command.HOME, draw_expiry(), master_seed, next_id=ticket)))
    header = build_header(
        profile, hops, engine=engine, random_bytes=random_bytes, seal_for_tests_only=seal_for_tests_only
    )
    return ReplyBlock(profile, draw_expiry(), ids[0], NO_ADDRESS, reply_end_to_end_seed(master_seed), header)
