"""Helpers of these tests: engines that alternate at each call, nodes with fixed keys, seeded bytes, a frame
relayed over a route without sockets, and `settle`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import sha256

from hypothesis import strategies as st

from reactor import Service, Sleep
from readwrite_comp import ExtRead, ExtWrite, LayerError
from readwrite_comp.primitives import Aead, BlockCipher, CtrStream, ReadableBuffer
from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.geometry import ALL_PROFILES, BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LONG, STREAM, Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Opened
from tunnel.onion.replay import DEFAULT_LIMIT

__all__ = [
    "ALL_PROFILE_BYTES",
    "ENGINES",
    "NOW_S",
    "OPENSSL",
    "PROFILES",
    "PYCRYPTODOME",
    "SMALL",
    "SMALL_HCTR",
    "Peer",
    "Relayed",
    "chunks_of",
    "cut_in_pieces",
    "engines",
    "make_keys",
    "make_peers",
    "mixed_engine",
    "read_all",
    "relay_frame",
    "seeded_bytes",
    "settle",
    "written",
]

OPENSSL, PYCRYPTODOME = tunnel_engine("openssl"), tunnel_engine("pycryptodome")
ENGINES = (OPENSSL, PYCRYPTODOME)
NOW_S = 1_800_000_123.5
SMALL = Profile(INTERACTIVE)
SMALL_HCTR = Profile(INTERACTIVE, HCTR_SUITE)
PROFILES = [Profile(geometry) for geometry in (INTERACTIVE, DEFAULT, LONG, BULK, STREAM)]
ALL_PROFILE_BYTES = tuple(profile.byte for profile in ALL_PROFILES)


# --- engines -----------------------------------------------------------------------------------------------


class _MixedAead:
    """One key prepared in both engines; each call is made by either."""

    def __init__(self, rng: random.Random, key: bytes) -> None:
        self._rng = rng
        self._both = [engine.layers.aead(key) for engine in ENGINES]

    def seal_into(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        self._rng.choice(self._both).seal_into(nonce, plaintext, aad, out)

    def open_into(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        self._rng.choice(self._both).open_into(nonce, sealed, aad, out)

    def seal(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes = b"") -> bytes:
        return self._rng.choice(self._both).seal(nonce, plaintext, aad)

    def open(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes = b"") -> bytes:
        return self._rng.choice(self._both).open(nonce, sealed, aad)


class _MixedLayers:
    name = "mixed"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def aead(self, key: bytes) -> Aead:
        return _MixedAead(self._rng, key)

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        self._rng.choice(ENGINES).layers.xor_keystream(key, view)

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        return self._rng.choice(ENGINES).layers.ctr(key, counter_block)

    def block_cipher(self, key: bytes) -> BlockCipher:
        return self._rng.choice(ENGINES).layers.block_cipher(key)

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        return self._rng.choice(ENGINES).layers.gmac(key)


def mixed_engine(seed: int) -> TunnelEngine:
    """An engine that makes each call in one of the two, drawn from `seed`: a mixed network in one
    object.
    """
    rng = random.Random(seed)
    engine = copy(OPENSSL)
    engine.name, engine.suites, engine.layers = "mixed", (0, 1), _MixedLayers(rng)
    for name in (
        "x25519_private",
        "ed25519_public",
        "ed25519_sign",
        "ed25519_verify",
        "hpke_private",
        "hpke_seal",
    ):
        setattr(engine, name, lambda *args, name=name: getattr(rng.choice(ENGINES), name)(*args))
    return engine


engines = st.integers(0, 2**32 - 1).map(mixed_engine)


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    """A source of bytes that returns the same bytes for the same seed."""
    return random.Random(seed).randbytes


# --- nodes -------------------------------------------------------------------------------------------------


def settle() -> Service[None]:
    """Run all ready services, and take results of other threads, without advancing a fake clock."""
    for _ in range(8):
        yield Sleep(0)


def make_keys(name: str, now_s: float = NOW_S) -> NodeKeys:
    """The same keys for the same name."""

    def secret(use: str) -> bytes:
        return sha256(f"{name} {use}".encode()).digest()

    epoch = int(now_s) - 600
    onion = OnionKey(epoch, epoch + EPOCH_S, secret("onion"), secret("table"))
    return NodeKeys(secret("identity"), secret("link"), onion, secret("home"))


@dataclass(frozen=True)
class Peer:
    """A node without sockets."""

    keys: NodeKeys
    codec: OnionCodec
    descriptor: Descriptor

    @property
    def id(self) -> bytes:
        return self.codec.node_id


def make_peers(count: int, *, engine: TunnelEngine = OPENSSL, random_seed: int | None = None) -> list[Peer]:
    """Peers "0", "1", … that all know each other; with `random_seed`, their random choices are fixed."""
    directory = StaticDirectory()
    peers = []
    for index in range(count):
        keys = make_keys(str(index))
        descriptor = keys.descriptor(
            (Address("127.0.0.1", 4000 + index),), NOW_S, engine, profiles=ALL_PROFILE_BYTES
        )
        directory.publish(descriptor)
        ring = KeyRing(keys, engine, share=DEFAULT_LIMIT)
        if random_seed is None:
            codec = OnionCodec(ring=ring, directory=directory)
        else:
            source = seeded_bytes(random_seed * 1_000 + index)
            codec = OnionCodec(ring=ring, directory=directory, random_bytes=source)
        peers.append(Peer(keys, codec, descriptor))
    return peers


assert EPOCH_S > 600


# --- bytes through layers ----------------------------------------------------------------------------------


def written(
    layer: ExtWrite, content: bytes, splits: Sequence[int] = (1 << 20,), *, flush_every: int = 0
) -> bytes:
    """The wire bytes of one message through `layer`."""
    w = HostileWriter()
    write_message(layer, w, content, splits, flush_every=flush_every)
    return bytes(w.data)


def read_all(layer: ExtRead, wire: bytes) -> tuple[bytes, LayerError | None, int]:
    """Read one message from `wire`. Returns its content up to an error, the error, and the bytes read."""
    r = HostileReader(wire)
    result = read_message(layer, r, None)
    return result.content, result.error, r.position


def chunks_of(wire: bytes, profile: Profile) -> list[bytes]:
    """The chunks in `wire`, which must be whole ones."""
    size = profile.geometry.chunk_bytes
    assert len(wire) % size == 0
    return [wire[at : at + size] for at in range(0, len(wire), size)]


def cut_in_pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` in pieces of the given sizes, round and round."""
    pieces, at, index = [], 0, 0
    while at < len(data):
        size = sizes[index % len(sizes)]
        pieces.append(data[at : at + size])
        at, index = at + size, index + 1
    return pieces


# --- a frame over proxies ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relayed:
    """A frame as it arrives at its last node.

    Attributes:
        opened: the header, opened by that node. neighbour: the node that sent it the frame.
        body: the chunks as they arrive there.
        links: the whole frame on each link, in order.
        proxied: the header as each proxy opened it.
    """

    opened: Opened
    neighbour: bytes
    body: bytes
    links: list[bytes]
    proxied: list[Opened]


def relay_frame(
    frame: bytes, profile: Profile, peers: Sequence[Peer], *, origin: bytes, now_s: float = NOW_S
) -> Relayed:
    """Carry `frame` from `origin` over `peers`; the slots of all but the last must order a relay to the next.

    Each opens the header and applies `decrypt` of its forward layer chunk by chunk, as a proxy does.
    """
    header_bytes = profile.geometry.header_bytes
    header, body = frame[:header_bytes], frame[header_bytes:]
    links, proxied, neighbour = [frame], [], origin
    for peer, following in itertools.pairwise(peers):
        opened = peer.codec.open_frame(header, profile, neighbour=neighbour, now_s=now_s)
        assert opened.slot.next_id == following.id
        forward, _ = peer.codec.relay_layers(opened.slot, profile)
        out = bytearray()
        for number, chunk in enumerate(chunks_of(body, profile)):
            work = bytearray(chunk)
            forward.decrypt(memoryview(work), number)
            out += work
        header, body, neighbour = opened.next_header, bytes(out), peer.id
        links.append(header + body)
        proxied.append(opened)
    opened = peers[-1].codec.open_frame(header, profile, neighbour=neighbour, now_s=now_s)
    return Relayed(opened, neighbour, body, links, proxied)
