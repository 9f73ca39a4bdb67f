"""Threat: reading recorded frames after seizing a node.

The attacker recorded every link of a route, and later seizes a node: its memory (the key ring) and its disk.
Within the epoch he can open that node's slots, as documented. After the key is erased he has no key that
opens a recorded header or chunk there. The victim is the node's past, and notices nothing.
"""

from __future__ import annotations

from pathlib import Path

from readwrite_comp import AuthenticationError
from tests.support.errors import raises_code
from tests.tunnel.exchange import cast_of, exchange, receive
from tests.tunnel.helpers import NOW_S, SMALL
from tunnel.errors import ErrorCode
from tunnel.identity.key_ring import KEEP_PREVIOUS_S
from tunnel.identity.keys import EPOCH_S, NodeKeys
from tunnel.modes import ReplyMode
from tunnel.onion.header import OpeningKey, Slot, open_header

HEADER = SMALL.geometry.header_bytes


def all_keys(keys: NodeKeys) -> list[OpeningKey]:
    """Each private key of a seized node, tried under every recorded epoch."""
    engine = cast_of(2).bob.codec.engine
    own = [key for key in (keys.onion, keys.previous, keys.next) if key is not None]
    privates = (
        [key.private for key in own] + [keys.identity, keys.link, keys.home] + [key.table for key in own]
    )
    epochs = {key.epoch for key in own} | {int(NOW_S) - 600}
    return [OpeningKey(engine.hpke_private(private), epoch) for private in privates for epoch in epochs]


def test_erased_keys_open_nothing_that_was_recorded(tmp_path: Path) -> None:
    cast = cast_of(4, random_seed=1)
    done = exchange(cast, ReplyMode.CACHED, b"secret" * 500, [b"answer" * 500], profile=SMALL)
    for number, peer in enumerate(cast.way):
        ring, header = peer.codec.ring, done.relayed.links[number][:HEADER]
        ring.advance(NOW_S)
        ring.keys.save(tmp_path / "k")
        # Seized immediately: that node's slot opens, and no other.
        assert open_header(header, SMALL, all_keys(NodeKeys.load(tmp_path / "k")), engine=ring.engine)
        for other, link in enumerate(done.relayed.links):
            if other != number:
                with raises_code(ErrorCode.BAD_HEADER):
                    open_header(link[:HEADER], SMALL, all_keys(ring.keys), engine=ring.engine)
        # Seized after the epoch.
        ring.advance(NOW_S + EPOCH_S)
        ring.advance(NOW_S + EPOCH_S + KEEP_PREVIOUS_S)
        ring.keys.save(tmp_path / "k")
        for keys in (ring.keys, NodeKeys.load(tmp_path / "k")):
            with raises_code(ErrorCode.BAD_HEADER):
                open_header(header, SMALL, all_keys(keys), engine=ring.engine)


def test_a_seized_proxy_cannot_open_content_even_immediately() -> None:
    """Content is sealed end to end: a proxy's seeds give only layers."""
    cast = cast_of(4)
    done = exchange(cast, ReplyMode.ROUTE, b"secret" * 500, [b"answer"], profile=SMALL)
    for peer, opened in zip(cast.proxies, done.relayed.proxied, strict=True):
        for link in done.relayed.links:
            slot = Slot(opened.slot.command, opened.slot.expiry, opened.slot.seed)
            content, error = receive(peer.codec.destination_reader(slot, SMALL), link[HEADER:])
            assert isinstance(error, AuthenticationError)
            assert content == b""
