"""Threat: memory or processor time spent on bytes of strangers.

Tested here: the replay table, the head of a message, and reply blocks; floods of headers are in
tests/integration/test_header_floods.py. The attacker is a neighbour with unlimited bandwidth. He gets his
share, and then TableFull; the others are served; nothing grows beyond its limit. The victim asks for a new
key early.
"""

from __future__ import annotations

import itertools

import pytest

from readwrite_comp import Malformed
from readwrite_comp.testing import HostileReader
from tests.tunnel.exchange import Cast, cast_of, receive, send
from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, make_keys
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, PeerError, TableFull
from tunnel.identity.key_ring import EARLY_ROTATION_S, FULL_ROTATION_S, KeyRing
from tunnel.link.turns import HEADERS_PER_S
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.replay import DEFAULT_LIMIT, ReplayTable
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
    assert found == [None] * 8 + [TableFull] * 52, "a quarter of what is free"
    assert [outcome(bob, fresh_header(cast), HONEST) for _ in range(6)] == [None] * 6
    assert bob.ring.wants_rotation
    assert TableFull.code is ErrorCode.BUSY
    assert not bob.ring.rotate_early(NOW_S + FULL_ROTATION_S), "one neighbour alone does not hurry the node"
    # With the new key all start again, the hostile one included.
    later = NOW_S + EARLY_ROTATION_S
    assert bob.ring.rotate_early(later)
    assert len(bob.ring.opening(later)[0].table) == 0


def test_dozens_of_hostile_neighbours_leave_room() -> None:
    """Each takes what it gets, one after the other. Without shares of what is free, four filled the table."""
    table = ReplayTable(bytes(32), limit=100_000)
    number = itertools.count()

    def insert(neighbour: bytes) -> bool:
        try:
            table.insert(b"%d" % next(number), int(NOW_S) + 7_200, now_s=NOW_S, neighbour=neighbour)
        except TableFull:
            return False
        return True

    for hostile in range(32):
        while insert(b"%d" % hostile):
            pass
    assert all(insert(HONEST) for _ in range(10))


def test_a_flood_in_a_keys_first_hour_closes_no_node() -> None:
    """All headers that the node opens in a second (here one for a thousand), from ever new identities, and
    every twentieth of an honest neighbour, who is never refused. The key is looked at each minute."""
    ring = KeyRing(make_keys("1"), OPENSSL, limit=DEFAULT_LIMIT // HEADERS_PER_S["openssl"])
    identity, changes = 0, 0
    for second in range(2 * 3_600):
        now_s = NOW_S + second
        if second % 60 == 59:
            changes += ring.wants_rotation and ring.rotate_early(now_s)
        table, expiry = ring.opening(now_s)[0].table, (int(now_s) // 3_600 + 3) * 3_600
        header = b"%d" % second
        if second % 20 == 0:
            table.insert(header, expiry, now_s=now_s, neighbour=HONEST)
            continue
        while True:
            try:
                table.insert(header, expiry, now_s=now_s, neighbour=b"%d" % identity)
                break
            except TableFull:
                identity += 1
    assert changes == 11, "every ten minutes and no more often"


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
