"""Maker of the scenario vectors about receipts: Bob's reply with challenges, and what Alice returns.

As in `scenario_makers`, a maker returns a function that builds the scenario with an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from readwrite_comp import ExtWrite
from readwrite_comp.testing import HostileWriter
from tests.tunnel.exchange import Cast, Exchange, receive, walk_back
from tests.tunnel.exchange import exchange as exchanged
from tests.tunnel.helpers import Relayed, chunks_of, relay_frame
from tests.vectors.scenario_makers import (
    NOW_S,
    SMALL,
    Maker,
    Scenario,
    fixed_cast,
    happened,
    nodes_of,
    secret,
    sha_hex,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.geometry import Profile
from tunnel.modes import ReplyMode
from tunnel.onion.key_schedule import Direction, end_to_end_key
from tunnel.onion.message import FrameR, FrameW, MessageW

__all__ = ["bad_challenges", "receipts"]


@dataclass(frozen=True)
class _Reply:
    """Bob's reply on each link, Bob's first, and Alice's reader of it.

    Attributes:
        relayed: the frame of a reply by block; None in mode `cached`.
    """

    links: list[bytes]
    body: bytes
    reader: FrameR
    relayed: Relayed | None


def receipts(name: str, mode: ReplyMode, profile: Profile = SMALL) -> Maker:
    """A reply of three pieces with a challenge behind each of the first two, and Alice's receipts."""

    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        done = exchanged(cast, mode, secret(name, "content", 700), profile=profile)
        pieces = [secret(name, f"piece {number}", 1_500) for number in range(3)]
        challenges = [secret(name, f"challenge {number}", 16) for number in range(2)]

        def write(layer: FrameW | MessageW, w: HostileWriter) -> None:
            for number, piece in enumerate(pieces):
                _write_all(layer, w, piece)
                if number < len(challenges):
                    layer.challenge(challenges[number])
                    layer.flush_into(w)

        reply = _sent(cast, done, write)
        found = reply.reader.take_challenges(lambda: None)
        assert receive(reply.reader, reply.body) == (b"".join(pieces), None)
        assert found == challenges
        if reply.relayed is None:
            returned = {"frames": _frames(cast, profile, challenges)}
        else:
            returned = {"links": _over_backward_halves(cast, done, reply.relayed, challenges)}
        return _scenario(cast, done, mode, reply) | {
            "expect": "ok", "code": "", "answer": b"".join(pieces).hex(),
            "challenges": [each.hex() for each in challenges], "receipts": returned,
        }  # fmt: skip

    return build


def bad_challenges(name: str, kinds: tuple[int, ...]) -> Maker:
    """A reply by block of such chunks, which Alice refuses."""

    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        done = exchanged(cast, ReplyMode.ROUTE, secret(name, "content", 700), profile=SMALL)
        block = done.head.reply_blocks[0]
        aead = engine.layers.aead(end_to_end_key(block.end_to_end_seed, Direction.FORWARD))
        body = b""
        for number, kind in enumerate(kinds):
            data = secret(name, f"data {number}", 16) if number else bytes(16)
            plain = bytes([kind, number == len(kinds) - 1, 0, 0, 0, 16]) + data
            room = SMALL.geometry.chunk_bytes - 16
            body += aead.seal(number.to_bytes(12, "big"), plain.ljust(room, b"\0"))
        reply = _relayed(cast, done, block.header + body)
        reply.reader.take_challenges(lambda: None)
        _, error = receive(reply.reader, reply.body)
        return _scenario(cast, done, ReplyMode.ROUTE, reply) | {
            "expect": type(error).__name__, "code": "BAD_CONTENT", "answer": "",
            "challenges": [], "receipts": {},
        }  # fmt: skip

    return build


def _scenario(cast: Cast, done: Exchange, mode: ReplyMode, reply: _Reply) -> Scenario:
    frame = {"links": [sha_hex(link) for link in reply.links], "last": reply.links[-1].hex()}
    return nodes_of(cast) | happened(done) | {
        "kind": "receipts", "mode": str(mode), "profile": done.query.frame.profile.byte,
        "content": done.content.hex(), "replies": [frame],
    }  # fmt: skip


def _sent(cast: Cast, done: Exchange, write: Callable[[FrameW | MessageW, HostileWriter], None]) -> _Reply:
    """Bob's reply, whose content `write` writes, as it reaches Alice."""
    layer: FrameW | MessageW
    if done.head.mode is ReplyMode.CACHED:
        layer = cast.bob.codec.cached_reply(done.relayed.opened.slot, done.query.frame.profile)
    else:
        layer = cast.bob.codec.reply(done.head.reply_blocks[0], now_s=NOW_S).layer
    w = HostileWriter()
    layer.write_header(w)
    write(layer, w)
    layer.write_end(w)
    if done.head.mode is not ReplyMode.CACHED:
        return _relayed(cast, done, bytes(w.data))
    links = walk_back(cast, done, bytes(w.data))
    assert done.query.backward is not None
    return _Reply(links, links[-1], done.query.backward, None)


def _relayed(cast: Cast, done: Exchange, frame: bytes) -> _Reply:
    """A reply by block, over the query's proxies in reverse."""
    profile, alice = done.query.frame.profile, cast.alice.codec
    relayed = relay_frame(frame, profile, [*cast.proxies[::-1], cast.alice], origin=cast.bob.id)
    slot = relayed.opened.slot
    return _Reply(
        relayed.links, relayed.body, alice.home_reader(slot, alice.home_ticket(slot), profile), relayed
    )


def _write_all(layer: ExtWrite, w: HostileWriter, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[layer.write_into(w, view) :]


def _over_backward_halves(cast: Cast, done: Exchange, relayed: Relayed, challenges: list[bytes]) -> list[str]:
    """Alice's receipts for a reply by block, on each link of its backward half, Alice's first."""
    profile, slot, alice = done.query.frame.profile, relayed.opened.slot, cast.alice.codec
    layer, w = alice.receipts_writer(slot, alice.home_ticket(slot), profile), HostileWriter()
    layer.write_header(w)
    for challenge in challenges:
        _write_all(layer, w, challenge)
        layer.flush_into(w)
    layer.write_end(w)
    links = [bytes(w.data)]
    for peer, opened in list(zip(cast.proxies[::-1], relayed.proxied, strict=True))[::-1]:
        _, backward = peer.codec.relay_layers(opened.slot, profile)
        out = b""
        for number, chunk in enumerate(chunks_of(links[-1], profile)):
            work = bytearray(chunk)
            backward.decrypt(memoryview(work), number)
            out += work
        links.append(out)
    reader = cast.bob.codec.receipts_reader(done.head.reply_blocks[0])
    assert receive(reader, links[-1]) == (b"".join(challenges), None)
    return [link.hex() for link in links]


def _frames(cast: Cast, profile: Profile, challenges: list[bytes]) -> list[str]:
    """Alice's receipts for a reply in mode `cached`: a frame for each, on the first link."""
    frames = [
        cast.alice.codec.receipt(cast.route, profile, challenge, now_s=NOW_S)[1] for challenge in challenges
    ]
    for frame in frames:
        relay_frame(frame, profile, cast.way, origin=cast.alice.id)
    return [frame.hex() for frame in frames]
