"""Makers of the scenario vectors, one for each kind (see `make_scenarios`).

A maker takes the scenario's name and parameters, and returns a function that builds the scenario
with an engine. All random values come from `secret(scenario, use)`, the ephemeral keys of HPKE included.
"""

from __future__ import annotations

import copy
import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tests.support.hpke import seal_with_ephemeral
from tests.tunnel.exchange import Cast, Exchange, Reply, exchange, send
from tests.tunnel.helpers import Peer, chunks_of, relay_frame
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.geometry import ALL_PROFILES, INTERACTIVE, Profile
from tunnel.identity.descriptor import Address
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Command, Hop, Slot, build_header
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead, answer_ticket, claim_origin
from tunnel.onion.reply_block import HomeTicket
from tunnel.routing.route import Route

__all__ = [
    "CHUNK_DATA",
    "EXPIRY",
    "HCTR",
    "NEIGHBOUR",
    "NOW_S",
    "SMALL",
    "Maker",
    "Scenario",
    "block",
    "chunk",
    "cover",
    "exchanged",
    "fixed_cast",
    "flipped",
    "happened",
    "home",
    "message",
    "nodes_of",
    "opened",
    "origin",
    "secret",
    "sha_hex",
    "with_head",
]

NOW_S = 1_800_000_123.5  # as the tests have it
FIRST_EPOCH = int(NOW_S) - 600
SMALL = Profile(INTERACTIVE)
HCTR = Profile(INTERACTIVE, 1)
_HOUR = 3_600
EXPIRY = (int(NOW_S) // _HOUR + 2) * _HOUR
_PROFILE_BYTES = tuple(profile.byte for profile in ALL_PROFILES)
_HEAD = struct.Struct(">BBHH")
_MSG, _END, _PAD = 1, 2, 3

Scenario = dict[str, Any]
Maker = Callable[[TunnelEngine], Scenario]


def secret(scenario: str, use: str, length: int = 32) -> bytes:
    """All values that are random outside these files."""
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
    """A copy of `engine` that seals with the scenario's ephemeral keys, in order."""
    source = _Source(scenario, "ephemeral")

    def seal(public: bytes, info: bytes, plaintext: bytes) -> bytes:
        return seal_with_ephemeral(engine, public, info, plaintext, ephemeral=source(32))

    fixed = copy.copy(engine)
    vars(fixed)["hpke_seal"] = seal
    return fixed


def _keys(name: str) -> NodeKeys:
    onion = OnionKey(FIRST_EPOCH, FIRST_EPOCH + EPOCH_S, secret(name, "onion"), secret(name, "table"))
    return NodeKeys(secret(name, "identity"), secret(name, "link"), onion, secret(name, "home"))


def fixed_cast(scenario: str, engine: TunnelEngine) -> Cast:
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
        tunnel = OnionCodec(ring=KeyRing(keys, fixed), directory=directory, random_bytes=draws)
        peers.append(Peer(keys, tunnel, descriptor))
    return Cast(peers[0], peers[1:3], peers[3], peers[4:])


def sha_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- whole exchanges ---------------------------------------------------------------------------------------


def exchanged(
    name: str,
    mode: ReplyMode,
    answers: int,
    profile: Profile = SMALL,
    error: ErrorMode = ErrorMode.STATUS,
    unused: int = 0,
) -> Maker:
    """`unused`: number of further blocks, along which Bob sends an empty reply."""

    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        content = secret(name, "content", 700)
        replies = [secret(name, f"answer {number}", 900 + 300 * number) for number in range(answers)]
        replies += [b""] * unused
        done = exchange(cast, mode, content, replies, profile=profile, error_mode=error)
        return nodes_of(cast) | happened(done) | {
            "kind": "exchange", "expect": "ok", "mode": str(mode), "error_mode": str(error),
            "profile": profile.byte, "content": content.hex(), "answers": [each.hex() for each in replies],
        }  # fmt: skip

    return build


def nodes_of(cast: Cast) -> Scenario:
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


def happened(done: Exchange) -> Scenario:
    def reply_of(reply: Reply) -> Scenario:
        return {"links": [sha_hex(link) for link in reply.links], "last": reply.links[-1].hex()}

    return {
        "query": {
            "first": done.relayed.links[0].hex(),
            "links": [sha_hex(link) for link in done.relayed.links],
            "head": done.head.pack().hex(),
        },
        "replies": [reply_of(reply) for reply in done.replies],
    }


def cover(name: str, is_loop: bool) -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        if is_loop:
            route, way = Route(cast.route.proxies, cast.alice.id), [*cast.proxies, cast.alice]
            frame = cast.alice.codec.loop(route, SMALL, now_s=NOW_S, mean_delay_s=0.5)
        else:
            route, way = cast.route, cast.way
            frame = cast.alice.codec.drop(route, SMALL, now_s=NOW_S, mean_delay_s=0.5)
        relayed = relay_frame(send(frame.layer, bytes(1_500)), SMALL, way, origin=cast.alice.id, now_s=NOW_S)
        return nodes_of(cast) | {
            "kind": "exchange", "expect": "ok", "mode": "loop" if is_loop else "drop",
            "error_mode": "status", "profile": SMALL.byte, "content": bytes(1_500).hex(), "answers": [],
            "delays_10ms": [opened.slot.delay_10ms for opened in relayed.proxied],
            "query": {
                "first": relayed.links[0].hex(),
                "links": [sha_hex(link) for link in relayed.links], "head": "",
            },
            "replies": [],
        }  # fmt: skip

    return build


# --- headers -----------------------------------------------------------------------------------------------

NEIGHBOUR = secret("open", "neighbour")
_NEXT = secret("open", "next")


def opened(
    name: str,
    expect: str = "PeerError",
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
    """A header for one node, opened `times` times; `wait_s` later, by a ring that was advanced."""

    def build(engine: TunnelEngine) -> Scenario:
        keys = _keys("opener")
        fields: dict[str, Any] = {"expiry": EXPIRY, "next_id": _NEXT} | slot
        made = Slot(fields.pop("command", Command.RELAY), seed=secret(name, "seed", 16), **fields)
        if fields["next_id"] == b"self":
            made = replace(made, next_id=keys.node_id(engine))
        public = engine.x25519_private(keys.onion.private).public
        source = _Source(name, "ephemeral")

        def seal(key: bytes, info: bytes, plaintext: bytes) -> bytes:
            return seal_with_ephemeral(engine, key, info, raw(plaintext), ephemeral=source(32))

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
            "neighbour": NEIGHBOUR.hex(), "epoch": keys.onion.epoch, "onion": keys.onion.private.hex(),
            "header": header.hex(), "times": times, "seed": secret(name, "seed", 16).hex(),
        }  # fmt: skip

    return build


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- messages ----------------------------------------------------------------------------------------------

Chunk = tuple[int, int, int, bytes, bytes]  # type, flags, sub-stream, data, padding's first bytes
_NO_WAY = bytes(4)
CHUNK_DATA = SMALL.geometry.chunk_data_bytes


def chunk(
    kind: int, data: bytes, *, last: bool = False, flags: int = 0, sub: int = 0, pad: bytes = b""
) -> Chunk:
    return (kind, flags | last, sub, data, pad)


def message(
    name: str,
    chunks: list[Chunk] | None,
    expect: str = "Malformed",
    code: str = "BAD_CONTENT",
    *,
    change: Callable[[list[bytes]], list[bytes]] = lambda sealed: sealed,
    length: int | None = None,
) -> Maker:
    """Chunks sealed as given; None: those that a writer makes of 4,000 bytes."""

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
            "released_bytes": len(released), "released_sha256": sha_hex(released),
        }  # fmt: skip

    return build


def with_head(head: bytes) -> list[Chunk]:
    pieces = [head[at : at + CHUNK_DATA] for at in range(0, len(head), CHUNK_DATA)] or [b""]
    return [
        *(chunk(_MSG, piece) for piece in pieces[:-1]),
        chunk(_END, pieces[-1], last=True),
    ]


# --- replies -----------------------------------------------------------------------------------------------


def block(name: str, expect: str, code: str, *, times: int = 1, late_s: int = 0, own: bool = False) -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        done = exchange(cast, ReplyMode.ROUTE, b"q", profile=SMALL)
        (given,) = done.head.reply_blocks
        if own:
            given = replace(given, first_id=cast.bob.id)
        return {
            "kind": "block", "expect": expect, "code": code, "node": cast.bob.id.hex(),
            "identity": cast.bob.keys.identity.hex(), "block": given.pack().hex(),
            "now": given.expiry + late_s if late_s else NOW_S, "times": times,
            "content": "",
            "frame_sha256": "" if expect != "ok" else sha_hex(
                send(cast.bob.codec.reply(given, now_s=NOW_S).layer, b"")
            ),
        }  # fmt: skip

    return build


def home(name: str, change: Callable[[bytes], bytes], expect: str = "PeerError") -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        home_key, master = secret(name, "home"), secret(name, "master", 16)
        ticket = HomeTicket(secret(name, "query id", 8), 5, 2).pack(home_key, master)
        return {
            "kind": "home", "expect": expect, "code": "" if expect == "ok" else "BAD_HEADER",
            "home": home_key.hex(), "master": master.hex(), "ticket": change(ticket).hex(),
            "query_id": secret(name, "query id", 8).hex(), "proxies": 5, "number": 2,
        }  # fmt: skip

    return build


def origin(name: str, what: str, expect: str = "MalformedMessage") -> Maker:
    def build(engine: TunnelEngine) -> Scenario:
        cast = fixed_cast(name, engine)
        seed, home_key = secret(name, "dest seed", 16), cast.alice.keys.home
        ticket = answer_ticket(home_key, secret(name, "query id", 8))
        claim = claim_origin(
            cast.alice.descriptor, cast.alice.keys.identity, ticket=ticket,
            destination=cast.others[0].id if what == "other node" else cast.bob.id,
            dest_seed=bytes(16) if what == "other query" else seed, engine=engine,
        )  # fmt: skip
        if what == "signature":
            claim = replace(claim, signature=flipped(40)(claim.signature))
        if what == "descriptor":
            claim = replace(claim, descriptor=cast.others[1].descriptor.signed)
        if what == "damaged descriptor":
            claim = replace(claim, descriptor=flipped(50)(claim.descriptor))
        return {
            "kind": "origin", "expect": expect, "code": "" if expect == "ok" else "BAD_CONTENT",
            "node": cast.bob.id.hex(), "dest_seed": seed.hex(),
            "head": MessageHead(origin=claim).pack().hex(), "home": home_key.hex(),
            "query_id": secret(name, "query id", 8).hex(),
        }  # fmt: skip

    return build
