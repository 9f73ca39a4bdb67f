"""Makers of the two kinds of scenario vectors about events after a reply by block.

`handed_on`: the STATUS of a reply path, which Bob passes on in a chunk of the query's backward half.
`follow_up`: a frame of Alice's along a block that Bob's reply carried, and his answers to it.
As in `scenario_makers`, a maker returns a function that builds the scenario with an engine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tests.tunnel.exchange import Cast, Reply, by_block, exchange, walk_back
from tests.vectors.scenario_makers import (
    NOW_S,
    SMALL,
    Maker,
    Scenario,
    fixed_cast,
    flipped,
    happened,
    nodes_of,
    secret,
    sha_hex,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, PeerError
from tunnel.geometry import Profile
from tunnel.modes import ReplyMode
from tunnel.onion.key_schedule import Direction, block_status_keys, end_to_end_key
from tunnel.onion.status import originate_status, read_status, wrap_status
from tunnel.routing.route import Route

__all__ = ["follow_up", "handed_on", "report_of"]

_HEAD = struct.Struct(">BBHH")
_STATUS = 4
_LAST = 1


def report_of(report: Any) -> Scenario:
    """The fields of a `StatusReport` as Alice reads it."""
    return {
        "origin": report.origin, "code": "" if report.code is None else report.code.name,
        "about_next": report.about_next, "text": report.text, "suspects": list(report.suspects),
        "hold_ms": list(report.hold_ms), "succeeded": report.succeeded,
    }  # fmt: skip


# --- the STATUS of a reply path ----------------------------------------------------------------------------


def handed_on(
    name: str,
    number: int,
    *,
    blocks: int = 3,
    origin: int = 2,
    failure: ErrorCode | None = None,
    about_next: bool = False,
    profile: Profile = SMALL,
    second: int | None = None,
    kind: int = _STATUS,
    flags: int = _LAST,
    pad: bytes = b"",
    damage: Callable[[bytes], bytes] = lambda status: status,
    changed: bool = False,
    expect: str = "ok",
) -> Maker:
    """Bob's chunk for block `number`, on each link of the query's backward half.

    Args:
        origin: the hop of the reply's way that writes the STATUS: 2 is Alice. failure: its code.
        second: one more chunk behind it, for this block. damage: what Bob does to the STATUS.
        changed: the proxy next to Bob changes the chunk.
    """

    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        content = secret(name, "content", 700)
        done = exchange(cast, ReplyMode.ROUTE, content, profile=profile, unused_blocks=blocks)
        masters = [way_back.master_seed for way_back in done.query.reply_paths]
        keys = block_status_keys(masters[min(number, blocks - 1)], len(cast.proxies))
        geometry = profile.geometry
        status = originate_status(
            keys[origin], failure, geometry=geometry, hold_ms=10 * (origin + 1), engine=engine,
            about_next=about_next,
        )  # fmt: skip
        for hop in range(origin - 1, -1, -1):
            status = wrap_status(status, keys[hop], geometry=geometry, hold_ms=10 * (hop + 1), engine=engine)
        status = damage(status)
        aead = engine.layers.aead(end_to_end_key(done.query.circuit.end_to_end_seed, Direction.BACKWARD))
        body = b""
        for counter, block in enumerate([number] if second is None else [number, second]):
            plain = _HEAD.pack(kind, flags, block, len(status)) + status + pad
            body += aead.seal(counter.to_bytes(12, "big"), plain.ljust(geometry.chunk_bytes - 16, b"\0"))
        links = walk_back(cast, done, body)
        if changed:
            links = [body, *walk_back(cast, done, flipped(500)(links[1]), first=0)]
        report = None
        if expect in ("ok", "trailing"):
            report = report_of(read_status(status, keys, geometry=geometry, engine=engine))
        return nodes_of(cast) | happened(done) | {
            "kind": "handed_on", "expect": expect, "code": "" if expect == "ok" else "BAD_CONTENT",
            "profile": profile.byte, "content": content.hex(), "number": number, "status": status.hex(),
            "links": [sha_hex(link) for link in links], "wire": links[-1].hex(),
            "seeds": [seed.hex() for seed in done.query.circuit.seeds],
            "masters": [master.hex() for master in masters], "report": report,
        }  # fmt: skip

    return build


# --- follow-ups along a block of Bob's ---------------------------------------------------------------------


def follow_up(
    name: str,
    *,
    answers: int = 1,
    wants_blocks: bool = False,
    own_first: bool = False,
    profile: Profile = SMALL,
    expect: str = "ok",
) -> Maker:
    """Query in mode reply-on-reply, Bob's reply with two blocks, Alice's frame along the second, his answers.

    Args:
        answers: to the follow-up: as many blocks are in its head.
        own_first: Bob's first block begins at Alice, whom he does not know, so she cannot use it.
    """

    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        alice, bob = cast.alice, cast.bob
        contents = [secret(name, use, 700) for use in ("content", "reply", "follow-up")]
        done = exchange(cast, ReplyMode.REPLY_ON_REPLY, contents[0], profile=profile)
        first, last = cast.proxies
        ways = (
            Route((alice.id if own_first else first.id, last.id), bob.id),
            Route((last.id, first.id), bob.id),
        )
        frame = bob.codec.reply(done.head.reply_blocks[0], now_s=NOW_S, reply_routes=ways)
        reply = by_block(frame, bob, [*cast.others], alice, contents[1], done.query.query_id, 0)
        if own_first:
            try:
                alice.codec.reply(reply.head.reply_blocks[0], now_s=NOW_S)
            except PeerError as error:
                if error.code is not ErrorCode.UNKNOWN_NEXT:
                    raise
            else:
                raise AssertionError("Alice sends to herself")
        further = alice.codec.reply(
            reply.head.reply_blocks[1],
            now_s=NOW_S,
            reply_routes=(cast.other_route,) if answers else (),
            blocks=answers or None,
            wants_blocks=wants_blocks,
        )
        followed = by_block(further, alice, [last, first], bob, contents[2], frame.query_id, 1)
        said = [secret(name, f"answer {number}", 900 + 300 * number) for number in range(answers)]
        replies = [
            _answered(cast, followed, number, each, further.query_id, ways)
            for number, each in enumerate(said)
        ]
        return nodes_of(cast) | happened(done) | {
            "kind": "follow_up", "expect": expect, "code": "" if expect == "ok" else "UNKNOWN_NEXT",
            "profile": profile.byte, "contents": [each.hex() for each in contents],
            "answers": [each.hex() for each in said], "wants_blocks": wants_blocks,
            "replies": [_frame(reply)], "follow_up": _frame(followed),
            "follow_up_replies": [_frame(each) for each in replies],
        }  # fmt: skip

    return build


def _answered(
    cast: Cast, followed: Reply, number: int, content: bytes, query_id: bytes | None, ways: tuple[Route, ...]
) -> Reply:
    frame = cast.bob.codec.reply(
        followed.head.reply_blocks[number],
        now_s=NOW_S,
        reply_routes=ways if followed.head.wants_blocks else (),
    )
    return by_block(frame, cast.bob, [*cast.others], cast.alice, content, query_id, number)


def _frame(reply: Reply) -> Scenario:
    return {"links": [sha_hex(link) for link in reply.links], "last": reply.links[-1].hex()}
