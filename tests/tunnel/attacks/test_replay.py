"""Threat: replaying a recorded frame.

The attacker recorded a frame on a link. He sends it again, unchanged or with new content after the old
header, from the same neighbour or another, before and after the receiver dropped the hour; he restarts the
receiver; he makes Bob use a block twice. Nothing is forwarded a second time, so he learns nothing from what
leaves. The victim sees PeerError with code REPLAYED, EXPIRED, or, after a key change, BAD_HEADER.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import raises_code
from tests.tunnel.exchange import Cast, Exchange, cast_of, exchange, send
from tests.tunnel.helpers import NOW_S, SMALL, Peer, make_peers, relay_frame
from tunnel.errors import ErrorCode
from tunnel.identity.key_ring import KEEP_PREVIOUS_S, KeyRing
from tunnel.identity.keys import EPOCH_S
from tunnel.modes import ReplyMode
from tunnel.onion.header import LATEST_S

HEADER = SMALL.geometry.header_bytes
MODES = [ReplyMode.NONE, ReplyMode.ROUTE, ReplyMode.CACHED, ReplyMode.KNOWN_DEST]


def recorded(cast: Cast, done: Exchange) -> list[tuple[Peer, bytes, bytes]]:
    """Every frame of each link: the node that received it, its header, and the sending neighbour."""
    frames = [([cast.alice, *cast.way], done.relayed.links)]
    for reply in done.replies:
        if reply.relayed is not None:
            back = list(cast.proxies[::-1]) if reply.relayed.opened.slot.command == 3 else list(cast.others)
            frames.append(([cast.bob, *back, cast.alice], reply.links))
    return [
        (way[number + 1], link[:HEADER], way[number].id)
        for way, links in frames
        for number, link in enumerate(links)
    ]


def refused(peer: Peer, header: bytes, neighbour: bytes, now_s: float, code: ErrorCode) -> None:
    with raises_code(code):
        peer.codec.open_frame(header, SMALL, neighbour=neighbour, now_s=now_s)


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_is_refused_on_every_link_at_any_time(mode: ReplyMode) -> None:
    """With any content after it: the header alone is refused, before any chunk is read."""
    cast = cast_of(4, random_seed=hash(str(mode)) % 1_000)
    done = exchange(cast, mode, b"q", [b"a"] * (mode is not ReplyMode.NONE), profile=SMALL)
    for peer, header, neighbour in recorded(cast, done):
        for who in (neighbour, b"e" * 32):
            for later_s in (0, 60, 3_000):
                refused(peer, header, who, NOW_S + later_s, ErrorCode.REPLAYED)
    # After the table has dropped it, the header is refused as expired.
    for peer, header, neighbour in recorded(cast, done):
        refused(peer, header, neighbour, NOW_S + LATEST_S + 601, ErrorCode.EXPIRED)


def test_a_used_block_is_refused_by_bob_and_by_each_hop() -> None:
    cast = cast_of(4)
    done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a"], profile=SMALL)
    (block,) = done.head.reply_blocks
    with raises_code(ErrorCode.REPLAYED):
        cast.bob.codec.reply(block, now_s=NOW_S)
    # Another Bob, who drops his records on purpose: the first hop refuses.
    forgetful = make_peers(6)[3]
    frame = forgetful.codec.reply(block, now_s=NOW_S)
    wire = send(frame.layer, b"second")
    with raises_code(ErrorCode.REPLAYED):
        relay_frame(wire, SMALL, [*cast.proxies[::-1], cast.alice], origin=cast.bob.id)


def test_a_block_in_two_queries_serves_once() -> None:
    """Alice herself sends one block twice: Bob uses it only once, so his nonces never repeat."""
    cast = cast_of(3)
    done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a"], profile=SMALL)
    (block,) = done.head.reply_blocks
    again = replace(block, expiry=block.expiry + 3_600)
    with raises_code(ErrorCode.REPLAYED):
        cast.bob.codec.reply(again, now_s=NOW_S)


def test_a_restart_opens_no_door(tmp_path: Path) -> None:
    """After a crash there is no table, and so no key; after a clean stop there is both."""
    cast = cast_of(2)
    done = exchange(cast, ReplyMode.NONE, b"q", profile=SMALL)
    header = done.relayed.links[0][:HEADER]
    ring, keys, table = cast.bob.codec.ring, tmp_path / "k", tmp_path / "t"
    ring.keys.save(keys)
    crashed = KeyRing.resume(keys, table, ring.engine, now_s=NOW_S + 1)
    ring.stop(keys, table)
    clean = KeyRing.resume(keys, table, ring.engine, now_s=NOW_S + 1)
    bob = make_peers(2)[1].codec
    for again, code in ((crashed, ErrorCode.BAD_HEADER), (clean, ErrorCode.REPLAYED)):
        bob.ring = again
        with raises_code(code):
            bob.open_frame(header, SMALL, neighbour=cast.alice.id, now_s=NOW_S + 1)


def test_a_change_of_keys_opens_no_door() -> None:
    cast = cast_of(2, random_seed=5)
    ring = cast.bob.codec.ring
    ring.advance(NOW_S)
    late_s = NOW_S + EPOCH_S - 700  # the last minutes of the epoch
    header = send(cast.alice.codec.query(cast.route, ReplyMode.NONE, SMALL, now_s=late_s).frame.layer, b"")[
        :HEADER
    ]
    cast.bob.codec.open_frame(header, SMALL, neighbour=cast.alice.id, now_s=late_s)
    ring.advance(late_s + 1_000)
    refused(cast.bob, header, cast.alice.id, late_s + 1_000, ErrorCode.REPLAYED)
    ring.advance(late_s + 1_000 + KEEP_PREVIOUS_S)
    refused(cast.bob, header, cast.alice.id, late_s + 1_000 + KEEP_PREVIOUS_S, ErrorCode.BAD_HEADER)
