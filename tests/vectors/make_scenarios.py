"""Scenario vectors of the onion protocol: what a node does with given bytes, each failure by its name.

    python -m tests.vectors.make_scenarios             # prints what would change, changes nothing
    python -m tests.vectors.make_scenarios --write     # the files of tests/vectors/onion

One scenario a file, of one of six kinds (tests/vectors/README.md has the fields): `exchange`, a whole
exchange with fixed draws; `open`, headers given to a node; `message`, chunks given to a reader; `block`, a
reply block to be used; `home`, a ticket that came back; `origin`, a claim to be checked. A file has all that
a reader needs. Everything random comes from `secret(scenario, use)`; the ephemeral keys of HPKE too.

The bytes are the project's own: they pin down what it does. `tests/tunnel/test_scenarios.py` makes them again
with both engines, and reads each file without this module.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tests.tunnel.exchange import Cast, Exchange, Reply, exchange, send
from tests.tunnel.helpers import Peer, chunks_of, relay_frame
from tunnel.descriptor import Address
from tunnel.directory import StaticDirectory
from tunnel.geometry import ALL_PROFILES, INTERACTIVE, Profile
from tunnel.key_ring import KeyRing
from tunnel.keys import EPOCH_S, NodeKeys, OnionKey
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.header import Command, Hop, Slot, build_header
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.origin import answer_ticket, claim_origin
from tunnel.onion.reply_block import HomeTicket
from tunnel.primitives import TunnelEngine, tunnel_engine
from tunnel.route import Route
from tunnel.tunnel import Tunnel

__all__ = ["EXPECTED", "FOLDER", "build_all"]

FOLDER = Path(__file__).with_name("onion")
EXPECTED = 82
NOW_S = 1_800_000_123.5  # as the tests have it
FIRST_EPOCH = int(NOW_S) - 600
SMALL = Profile(INTERACTIVE)
HCTR = Profile(INTERACTIVE, 1)
_HOUR = 3_600
_EXPIRY = (int(NOW_S) // _HOUR + 2) * _HOUR
_PROFILE_BYTES = tuple(profile.byte for profile in ALL_PROFILES)
_HEAD = struct.Struct(">BBHH")
_MSG, _END, _PAD = 1, 2, 3

Scenario = dict[str, Any]
Maker = Callable[[TunnelEngine], Scenario]


def secret(scenario: str, use: str, length: int = 32) -> bytes:
    """Everything that is random outside of these files."""
    name = f"mtun1 scenario: {scenario}: {use}".encode("ascii")
    return hashlib.shake_256(name).digest(length)


class _Source:
    """Random bytes of one scenario: draw 0, draw 1, …"""

    def __init__(self, scenario: str, use: str) -> None:
        self._name = (scenario, use)
        self._count = 0

    def __call__(self, length: int) -> bytes:
        scenario, use = self._name
        drawn = secret(scenario, f"{use} {self._count}", length)
        self._count += 1
        return drawn


def _fixed(engine: TunnelEngine, scenario: str) -> TunnelEngine:
    """A copy of `engine` that seals with the scenario's ephemeral keys, in their order."""
    source = _Source(scenario, "ephemeral")

    def seal(public: bytes, info: bytes, plaintext: bytes) -> bytes:
        return engine.hpke_seal_with_ephemeral(
            public, info, plaintext, fixed_ephemeral_for_tests_only=source(32)
        )

    fixed = copy.copy(engine)
    vars(fixed)["hpke_seal"] = seal
    return fixed


def _keys(name: str) -> NodeKeys:
    onion = OnionKey(FIRST_EPOCH, FIRST_EPOCH + EPOCH_S, secret(name, "onion"), secret(name, "table"))
    return NodeKeys(secret(name, "identity"), secret(name, "link"), onion, secret(name, "home"))


def _cast(scenario: str, engine: TunnelEngine) -> Cast:
    fixed, draws = _fixed(engine, scenario), _Source(scenario, "draw")
    directory, peers = StaticDirectory(), []
    for number, name in enumerate(("alice", "proxy 1", "proxy 2", "bob", "other 1", "other 2")):
        keys = _keys(name)
        descriptor = keys.descriptor(
            (Address("127.0.0.1", 4001 + number),),
            NOW_S,
            engine,
            profiles=_PROFILE_BYTES,
        )
        directory.publish(descriptor)
        tunnel = Tunnel(ring=KeyRing(keys, fixed), directory=directory, random_bytes=draws)
        peers.append(Peer(keys, tunnel, descriptor))
    return Cast(peers[0], peers[1:3], peers[3], peers[4:])


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- whole exchanges ---------------------------------------------------------------------------------------


def _exchange(
    name: str, mode: ReplyMode, answers: int, profile: Profile = SMALL, error: ErrorMode = ErrorMode.STATUS
) -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = _cast(name, engine)
        content = secret(name, "content", 700)
        replies = [secret(name, f"answer {number}", 900 + 300 * number) for number in range(answers)]
        done = exchange(cast, mode, content, replies, profile=profile, error_mode=error)
        return _nodes(cast) | _happened(done) | {
            "kind": "exchange", "expect": "ok", "mode": str(mode), "error_mode": str(error),
            "profile": profile.byte, "content": content.hex(), "answers": [each.hex() for each in replies],
        }  # fmt: skip

    return build


def _nodes(cast: Cast) -> Scenario:
    names = {"alice": cast.alice, "proxy 1": cast.proxies[0], "proxy 2": cast.proxies[1], "bob": cast.bob}
    names |= {"other 1": cast.others[0], "other 2": cast.others[1]}
    return {
        "now": NOW_S,
        "nodes": {
            name: {
                "id": peer.id.hex(), "identity": peer.keys.identity.hex(), "epoch": FIRST_EPOCH,
                "onion": peer.keys.onion.private.hex(), "home": peer.keys.home.hex(),
            }
            for name, peer in names.items()
        },
    }  # fmt: skip


def _happened(done: Exchange) -> Scenario:
    def reply_of(reply: Reply) -> Scenario:
        return {"links": [_sha(link) for link in reply.links], "last": reply.links[-1].hex()}

    return {
        "query": {
            "first": done.relayed.links[0].hex(),
            "links": [_sha(link) for link in done.relayed.links],
            "head": done.head.pack().hex(),
        },
        "replies": [reply_of(reply) for reply in done.replies],
    }


def _cover(name: str, is_loop: bool) -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = _cast(name, engine)
        if is_loop:
            route, way = Route(cast.route.proxies, cast.alice.id), [*cast.proxies, cast.alice]
            frame = cast.alice.tunnel.loop(route, SMALL, now_s=NOW_S, mean_delay_s=0.5)
        else:
            route, way = cast.route, cast.way
            frame = cast.alice.tunnel.drop(route, SMALL, now_s=NOW_S, mean_delay_s=0.5)
        relayed = relay_frame(send(frame.layer, bytes(1_500)), SMALL, way, origin=cast.alice.id, now_s=NOW_S)
        return _nodes(cast) | {
            "kind": "exchange", "expect": "ok", "mode": "loop" if is_loop else "drop",
            "error_mode": "status", "profile": SMALL.byte, "content": bytes(1_500).hex(), "answers": [],
            "delays_10ms": [opened.slot.delay_10ms for opened in relayed.proxied],
            "query": {
                "first": relayed.links[0].hex(), "links": [_sha(link) for link in relayed.links], "head": "",
            },
            "replies": [],
        }  # fmt: skip

    return build


# --- headers -----------------------------------------------------------------------------------------------

_NEIGHBOUR = secret("open", "neighbour")
_NEXT = secret("open", "next")


def _open(
    name: str,
    expect: str = "HeaderError",
    code: str = "BAD_HEADER",
    *,
    change: Callable[[bytes], bytes] = lambda header: header,
    times: int = 1,
    wait_s: float = 0.0,
    epoch_shift: int = 0,
    seal_profile: Profile = SMALL,
    raw: Callable[[bytes], bytes] = lambda fields: fields,
    **slot: Any,
) -> Maker:
    """A header for one node, opened `times` times; `wait_s` later, by a ring that goes with the time."""

    def build(engine: TunnelEngine) -> Scenario:
        keys = _keys("opener")
        fields: dict[str, Any] = {"expiry": _EXPIRY, "next_id": _NEXT} | slot
        made = Slot(fields.pop("command", Command.RELAY), seed=secret(name, "seed", 16), **fields)
        if fields["next_id"] == b"self":
            made = replace(made, next_id=keys.node_id(engine))
        public = engine.x25519_private(keys.onion.private).public
        source = _Source(name, "ephemeral")

        def seal(key: bytes, info: bytes, plaintext: bytes) -> bytes:
            return engine.hpke_seal_with_ephemeral(
                key, info, raw(plaintext), fixed_ephemeral_for_tests_only=source(32)
            )

        hop = Hop(public, keys.onion.epoch + epoch_shift)
        header = change(
            build_header(
                seal_profile, [(hop, made)], engine=engine, random_bytes=_Source(name, "padding"),
                seal_for_tests_only=seal,
            )
        )  # fmt: skip
        return {
            "kind": "open", "expect": expect, "code": "" if expect == "ok" else code,
            "profile": SMALL.byte, "now": NOW_S + wait_s, "node": keys.node_id(engine).hex(),
            "neighbour": _NEIGHBOUR.hex(), "epoch": keys.onion.epoch, "onion": keys.onion.private.hex(),
            "header": header.hex(), "times": times, "seed": secret(name, "seed", 16).hex(),
        }  # fmt: skip

    return build


def _flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- messages ----------------------------------------------------------------------------------------------

Chunk = tuple[int, int, int, bytes, bytes]  # type, flags, sub-stream, data, padding's first bytes
_NO_WAY = bytes(4)
_DATA = SMALL.geometry.chunk_data_bytes


def _chunk(
    kind: int, data: bytes, *, last: bool = False, flags: int = 0, sub: int = 0, pad: bytes = b""
) -> Chunk:
    return (kind, flags | last, sub, data, pad)


def _message(
    name: str,
    chunks: list[Chunk] | None,
    expect: str = "Malformed",
    code: str = "BAD_CONTENT",
    *,
    change: Callable[[list[bytes]], list[bytes]] = lambda sealed: sealed,
    length: int | None = None,
) -> Maker:
    """Chunks sealed as they stand; None: those that a writer makes of 4,000 bytes."""

    def build(engine: TunnelEngine) -> Scenario:
        key = secret(name, "key")
        if chunks is None:
            w = HostileWriter()
            write_message(MessageW(SMALL, key, engine=engine), w, secret(name, "content", 4_000))
            sealed = chunks_of(bytes(w.data), SMALL)
        else:
            aead, sealed = engine.layers.aead(key), []
            for number, (kind, flags, sub, data, pad) in enumerate(chunks):
                head = _HEAD.pack(kind, flags, sub, len(data) if length is None else length)
                plain = (head + data + pad).ljust(SMALL.geometry.chunk_bytes - 16, b"\0")
                sealed.append(aead.seal(number.to_bytes(12, "big"), plain))
        wire = b"".join(change(sealed))
        released = read_message(MessageR(SMALL, key, engine=engine), HostileReader(wire), None).content
        return {
            "kind": "message", "expect": expect, "code": "" if expect == "ok" else code,
            "profile": SMALL.byte, "key": key.hex(), "wire": wire.hex(),
            "released_bytes": len(released), "released_sha256": _sha(released),
        }  # fmt: skip

    return build


def _with_head(head: bytes) -> list[Chunk]:
    pieces = [head[at : at + _DATA] for at in range(0, len(head), _DATA)] or [b""]
    return [
        *(_chunk(_MSG, piece) for piece in pieces[:-1]),
        _chunk(_END, pieces[-1], last=True),
    ]


# --- what comes back ---------------------------------------------------------------------------------------


def _block(name: str, expect: str, code: str, *, times: int = 1, late_s: int = 0, own: bool = False) -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = _cast(name, engine)
        done = exchange(cast, ReplyMode.ROUTE, b"q", profile=SMALL)
        (block,) = done.head.reply_blocks
        if own:
            block = replace(block, first_id=cast.bob.id)
        return {
            "kind": "block", "expect": expect, "code": code, "node": cast.bob.id.hex(),
            "identity": cast.bob.keys.identity.hex(), "block": block.pack().hex(),
            "now": block.expiry + late_s if late_s else NOW_S, "times": times,
            "content": "",
            "frame_sha256": "" if expect != "ok" else _sha(
                send(cast.bob.tunnel.reply(block, now_s=NOW_S).layer, b"")
            ),
        }  # fmt: skip

    return build


def _home(name: str, change: Callable[[bytes], bytes], expect: str = "HeaderError") -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        home, master = secret(name, "home"), secret(name, "master", 16)
        ticket = HomeTicket(secret(name, "query id", 8), 5, 2).pack(home, master)
        return {
            "kind": "home", "expect": expect, "code": "" if expect == "ok" else "BAD_HEADER",
            "home": home.hex(), "master": master.hex(), "ticket": change(ticket).hex(),
            "query_id": secret(name, "query id", 8).hex(), "proxies": 5, "number": 2,
        }  # fmt: skip

    return build


def _origin(name: str, what: str, expect: str = "MalformedMessage") -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = _cast(name, engine)
        seed, home = secret(name, "dest seed", 16), cast.alice.keys.home
        ticket = answer_ticket(home, secret(name, "query id", 8))
        claim = claim_origin(
            cast.alice.descriptor, cast.alice.keys.identity, ticket=ticket,
            destination=cast.others[0].id if what == "other node" else cast.bob.id,
            dest_seed=bytes(16) if what == "other query" else seed, engine=engine,
        )  # fmt: skip
        if what == "signature":
            claim = replace(claim, signature=_flipped(40)(claim.signature))
        if what == "descriptor":
            claim = replace(claim, descriptor=cast.others[1].descriptor.signed)
        if what == "damaged descriptor":
            claim = replace(claim, descriptor=_flipped(50)(claim.descriptor))
        return {
            "kind": "origin", "expect": expect, "code": "" if expect == "ok" else "BAD_CONTENT",
            "node": cast.bob.id.hex(), "dest_seed": seed.hex(),
            "head": MessageHead(origin=claim).pack().hex(), "home": home.hex(),
            "query_id": secret(name, "query id", 8).hex(),
        }  # fmt: skip

    return build


# --- the list ----------------------------------------------------------------------------------------------


def _exchanges() -> dict[str, Maker]:
    found = {}
    for mode in ReplyMode:
        if mode is ReplyMode.ESTABLISHED:
            continue
        answers = 0 if mode is ReplyMode.NONE else 1
        for profile in (SMALL, HCTR):
            name = f"exchange_{mode}_{profile.name}".replace("-", "_")
            found[name] = _exchange(name, mode, answers, profile)
    name = "exchange_two_replies"
    found[name] = _exchange(name, ReplyMode.ROUTE, 2)
    for error in (ErrorMode.XOR, ErrorMode.NONE):
        name = f"exchange_error_mode_{error}"
        found[name] = _exchange(name, ReplyMode.CACHED, 1, error=error)
    found["cover_drop"], found["cover_loop"] = _cover("cover_drop", False), _cover("cover_loop", True)
    return found


def _opens() -> dict[str, Maker]:
    def named(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"open_{name}", _open(f"open_{name}", *arguments, **keywords)

    day = EPOCH_S
    late_expiry = _EXPIRY + day
    return dict([
        named("relay", "ok"),
        named("dest", "ok", command=Command.DEST),
        named("longest_delay", "ok", delay_10ms=3_000),
        named("previous_epoch", "ok", wait_s=day, expiry=late_expiry, command=Command.DEST),
        named("epoch_before_the_previous", wait_s=2 * day, expiry=_EXPIRY + 2 * day, command=Command.DEST),
        named("first_slot_changed", change=_flipped(60)),
        named("point_changed", change=_flipped(3)),
        named("tag_changed", change=_flipped(127)),
        named("rest_changed", change=_flipped(1_023)),
        named("another_epoch", epoch_shift=1),
        named("another_profile", seal_profile=HCTR),
        named("too_short", change=lambda header: header[:-1]),
        named("command_0", raw=lambda fields: b"\0" + fields[1:]),
        named("command_5", raw=lambda fields: b"\5" + fields[1:]),
        named("flag_8", raw=lambda fields: fields[:1] + b"\x08" + fields[2:]),
        named("delay_3001", delay_10ms=3_001),
        named("next_is_self", "UnknownNext", "UNKNOWN_NEXT", next_id=b"self"),
        named("next_is_neighbour", "UnknownNext", "UNKNOWN_NEXT", next_id=_NEIGHBOUR),
        named("expired", "ExpiredHeader", "EXPIRED", expiry=int(NOW_S) - 600),
        named("just_not_expired", "ok", expiry=int(NOW_S) - 599),
        named("too_far_ahead", "ExpiredHeader", "EXPIRED", expiry=int(NOW_S) + 15_001),
        named("replayed", "ReplayedHeader", "REPLAYED", times=2),
    ])  # fmt: skip


def _messages() -> dict[str, Maker]:
    def named(name: str, *arguments: Any, **keywords: Any) -> tuple[str, Maker]:
        return f"message_{name}", _message(f"message_{name}", *arguments, **keywords)

    nine = [_chunk(_MSG, _NO_WAY + b"x"), *[_chunk(_MSG, b"x")] * 7]
    return dict([
        named("five_chunks", None, "ok"),
        named("empty", _with_head(_NO_WAY), "ok"),
        named("padded", [*nine, _chunk(_END, b"y"), _chunk(_PAD, b"", last=True)], "ok"),
        named("changed", None, "AuthenticationError", change=lambda s: [s[0], _flipped(500)(s[1]), *s[2:]]),
        named("swapped", None, "AuthenticationError", change=lambda s: [s[0], s[2], s[1], *s[3:]]),
        named("repeated", None, "AuthenticationError", change=lambda s: [s[0], s[0], *s[1:]]),
        named("dropped", None, "AuthenticationError", change=lambda s: [*s[:2], *s[3:]]),
        named("truncated", None, "Truncated", "TRUNCATED", change=lambda s: s[:3]),
        named("truncated_in_a_chunk", None, "Truncated", "TRUNCATED", change=lambda s: [*s[:2], s[2][:500]]),
        named("extended", None, "trailing", change=lambda s: [*s, s[0]]),
        named("padding_not_zero", [_chunk(_END, _NO_WAY, last=True, pad=b"\0\1")]),
        named("sub_stream_1", [_chunk(_END, _NO_WAY, last=True, sub=1)]),
        named("flag_2", [_chunk(_END, _NO_WAY, last=True, flags=2)]),
        named("length_too_long", [_chunk(_END, _NO_WAY, last=True)], length=_DATA + 1),
        named("type_0", [_chunk(0, _NO_WAY, last=True)]),
        named("msg_without_content", [_chunk(_MSG, b""), _chunk(_END, _NO_WAY, last=True)]),
        named("last_too_early", [_chunk(_MSG, _NO_WAY, last=True)]),
        named("last_missing", [_chunk(_END, _NO_WAY)]),
        named("pad_missing", [*nine, _chunk(_END, b"y", last=True)]),
        named("two_ends", [*nine, _chunk(_END, b""), _chunk(_END, b"", last=True)]),
        named("pad_with_content", [*nine, _chunk(_END, b""), _chunk(_PAD, b"x", last=True)]),
        named("head_cut", _with_head(b"\0\0\0")),
        named("head_reserved", _with_head(b"\0\0\0\1")),
        named("head_flag_16", _with_head(b"\0\x10\0\0")),
        named("head_nine_blocks", _with_head(b"\x09\0\0\0")),
        named("head_unknown_profile", _with_head(b"\1\0\0\0\x15")),
        named("head_two_ways_back", _with_head(b"\0\x09\0\0")),
        named("head_wants_blocks_without_any", _with_head(b"\0\x04\0\0")),
        named("head_origin_too_long", _with_head(b"\0\x01\0\0" + bytes(24) + b"\x01\xe7")),
    ])  # fmt: skip


def build_all(engine: TunnelEngine) -> dict[str, Scenario]:
    """Every scenario by its name, made with `engine`."""
    makers = _exchanges() | _opens() | _messages()
    for name, maker in {
        "block_used_twice": _block("block_used_twice", "ReplayedHeader", "REPLAYED", times=2),
        "block_expired": _block("block_expired", "ExpiredHeader", "EXPIRED", late_s=601),
        "block_begins_at_bob": _block("block_begins_at_bob", "UnknownNext", "UNKNOWN_NEXT", own=True),
        "block_used": _block("block_used", "ok", ""),
        "home": _home("home", lambda ticket: ticket, "ok"),
        "home_forged_mac": _home("home_forged_mac", _flipped(31)),
        "home_other_query": _home("home_other_query", _flipped(0)),
        "home_not_zero": _home("home_not_zero", _flipped(12)),
        "origin": _origin("origin", "", "ok"),
    }.items():
        makers[name] = maker
    for what in ("signature", "descriptor", "damaged descriptor", "other node", "other query"):
        name = f"origin_{what}".replace(" ", "_")
        makers[name] = _origin(name, what)
    return {name: make(engine) for name, make in makers.items()}


def main(arguments: list[str] | None = None) -> int:
    """Compare the files with what the code makes, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the files")
    options = parser.parse_args(arguments)
    scenarios = build_all(tunnel_engine("openssl"))
    FOLDER.mkdir(exist_ok=True)
    known = {path.stem for path in FOLDER.glob("*.json")}
    changed = 0
    for name, scenario in scenarios.items():
        path, text = FOLDER / f"{name}.json", json.dumps(scenario, indent=1) + "\n"
        if not path.exists() or path.read_text(encoding="ascii") != text:
            changed += 1
            print(f"{'writes' if options.write else 'would write'} {path.name}")
            if options.write:
                path.write_text(text, encoding="ascii")
    for name in sorted(known - scenarios.keys()):
        changed += 1
        print(f"not made any more: {name}.json")
        if options.write:
            (FOLDER / f"{name}.json").unlink()
    print(f"{len(scenarios)} scenarios, {changed} changed")
    return 0 if options.write or not changed else 1


if __name__ == "__main__":
    sys.exit(main())
