"""Threat: memory or processor time spent on bytes of strangers.

Tested here: the replay table, the head of a message, and reply blocks; floods of headers are in
tests/integration/test_header_floods.py. The attacker is a neighbour with unlimited bandwidth. He gets his
share, and then TableFull; the others are served; nothing grows beyond its limit. The victim asks for a new
key early.
"""

from __future__ import annotations

import pytest

from readwrite_comp import Malformed
from readwrite_comp.testing import HostileReader
from tests.tunnel.exchange import Cast, cast_of, receive, send
from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, make_keys
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, PeerError, TableFull
from tunnel.identity.key_ring import EARLY_ROTATION_S, KeyRing
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.routing.route import Route

HOSTILE, HONEST = b"h" * 32, b"o" * 32


def victim(*, limit: int) -> OnionCodec:
    """Bob of `cast_of(2)`, with limits."""
    return OnionCodec(ring=KeyRing(make_keys("1"), OPENSSL, limit=limit), directory=StaticDirectory())


def fresh_header(cast: Cast) -> bytes:
    frame = cast.alice.codec.query(cast.route, ReplyMode.NONE, SMALL, now_s=NOW_S).frame
    return send(frame.layer, b"")[: SMALL.geometry.header_bytes]


def outcome(
    bob: OnionCodec, header: bytes, neighbour: bytes, now_s: float = NOW_S
) -> type[PeerError] | ErrorCode | None:
    try:
        bob.open_frame(header, SMALL, neighbour=neighbour, now_s=now_s)
    except PeerError as error:
        return error.code if type(error) is PeerError else type(error)
    return None


def test_one_neighbour_cannot_fill_the_table_for_the_others() -> None:
    cast, bob = cast_of(2), victim(limit=40)
    found = [outcome(bob, fresh_header(cast), HOSTILE) for _ in range(60)]
    assert found == [None] * 10 + [TableFull] * 50, "a quarter of the table"
    assert [outcome(bob, fresh_header(cast), HONEST) for _ in range(10)] == [None] * 10
    assert bob.ring.wants_rotation
    assert TableFull.code is ErrorCode.BUSY
    # With the new key all start again, the hostile one included.
    later = NOW_S + EARLY_ROTATION_S
    assert bob.ring.rotate_early(later)
    assert len(bob.ring.opening(later)[0].table) == 0


def test_many_hostile_neighbours_close_the_door_and_do_not_open_it() -> None:
    """Fail closed: a full table refuses honest headers too; if it dropped tags, it would accept replays."""
    cast, bob = cast_of(2), victim(limit=8)
    seen = [fresh_header(cast) for _ in range(8)]
    assert [outcome(bob, header, bytes([n]) * 32) for n, header in enumerate(seen)] == [None] * 8
    assert outcome(bob, fresh_header(cast), HONEST) is TableFull
    assert not any(outcome(bob, header, HONEST) is None for header in seen)


def test_a_head_can_make_bob_hold_64_kib_at_most() -> None:
    """Eight of the largest blocks: refused as soon as the bytes cannot be a legal head."""
    block = b"\x03" + bytes(16_455)
    for count in (4, 8):
        head = bytes([count, 0, 0, 0]) + block * count
        error = after_head(head)
        assert isinstance(error, Malformed)
        assert "65536" in str(error)


def after_head(head: bytes) -> Exception | None:
    key = bytes(32)
    front = MessageW(SMALL, key, engine=OPENSSL)
    front.raw_head = head
    wire = send(front, b"")
    reader = MessageR(SMALL, key, engine=OPENSSL)
    try:
        reader.read_header(HostileReader(wire))
    except Malformed as error:
        assert len(reader.raw_head) <= 65_536 + 4 + 1
        return error
    return None


def test_blocks_that_bob_used_fill_no_share() -> None:
    cast = cast_of(3)
    bob = cast.bob.codec
    before = [len(epoch.table) for epoch in bob.ring.opening(NOW_S)]
    blocks = [
        cast.alice.codec.builder.reply_block(
            Route(cast.route.proxies, cast.alice.id), SMALL, user=cast.bob.id, query_id=bytes(8),
            number=number, master_seed=bytes([number]) * 16, now_s=NOW_S,
        )
        for number in range(8)
    ]  # fmt: skip
    for block in blocks:
        bob.reply(block, now_s=NOW_S)
    assert [len(epoch.table) for epoch in bob.ring.opening(NOW_S)] == before


def test_a_head_is_read_in_pieces_of_any_size() -> None:
    """A sender that puts one byte of the head into each chunk pays a chunk for it, and gets no memory."""
    head = MessageHead(backward=True)
    front = MessageW(SMALL, bytes(32), engine=OPENSSL, head=head)
    assert receive(MessageR(SMALL, bytes(32), engine=OPENSSL), send(front, b"x")) == (b"x", None)


@pytest.mark.parametrize("count", [9, 64, 255])
def test_more_blocks_than_allowed(count: int) -> None:
    assert isinstance(after_head(bytes([count, 0, 0, 0])), Malformed)
