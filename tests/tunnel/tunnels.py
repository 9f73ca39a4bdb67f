"""Two ends of an established tunnel joined by pipes of chunks, and an end written by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from readwrite_comp.primitives import sha256
from tests.tunnel.helpers import OPENSSL, seeded_bytes
from tunnel.crypto.primitives import TunnelEngine, expand
from tunnel.errors import PeerError
from tunnel.established import End, EstablishedTunnel, SubStream, Target, TargetKind, TunnelLimits
from tunnel.established.layouts import Hello
from tunnel.geometry import INTERACTIVE, Geometry
from tunnel.onion.message import ChunkType

__all__ = [
    "ECHO",
    "SEED",
    "Flag",
    "Pair",
    "RawEnd",
    "Tunnel",
    "make_end",
    "message_at",
    "read_some",
    "write_all",
]

SEED = b"established seed"
ECHO = Target(TargetKind.SERVICE, b"echo")


class Flag:
    """A notifier that counts."""

    def __init__(self) -> None:
        self.count = 0

    def set(self) -> None:
        self.count += 1


Tunnel = EstablishedTunnel[Flag]


def make_end(
    end: End,
    *,
    limits: TunnelLimits | None = None,
    geometry: Geometry = INTERACTIVE,
    engine: TunnelEngine = OPENSSL,
    random_seed: int = 0,
) -> Tunnel:
    return EstablishedTunnel(
        SEED,
        geometry,
        end,
        engine=engine,
        make_notifier=Flag,
        limits=limits,
        random_bytes=seeded_bytes(random_seed + (end is End.BOB)),
    )


class Pair:
    """Alice and Bob, and the chunks in transit. `now_s` is the clock of both."""

    def __init__(
        self,
        *,
        limits: TunnelLimits | None = None,
        bob_limits: TunnelLimits | None = None,
        geometry: Geometry = INTERACTIVE,
        engine: TunnelEngine = OPENSSL,
        random_seed: int = 0,
    ) -> None:
        self.geometry = geometry
        self.now_s = 0.0
        self.alice = make_end(
            End.ALICE, limits=limits, geometry=geometry, engine=engine, random_seed=random_seed
        )
        self.bob = make_end(
            End.BOB, limits=bob_limits or limits, geometry=geometry, engine=engine, random_seed=random_seed
        )
        self.to_bob: deque[bytes] = deque()
        self.to_alice: deque[bytes] = deque()
        self.recorded: list[tuple[str, bytes]] = []

    def send(self, end: Tunnel) -> bool:
        """Move one chunk from an end into its pipe, if it has one."""
        out = bytearray(self.geometry.chunk_bytes)
        if not end.next_chunk(memoryview(out), self.now_s):
            return False
        is_alice = end is self.alice
        (self.to_bob if is_alice else self.to_alice).append(bytes(out))
        self.recorded.append(("alice" if is_alice else "bob", bytes(out)))
        return True

    def deliver(self, end: Tunnel) -> bool:
        """Give an end the next chunk from its pipe, if there is one."""
        pipe = self.to_alice if end is self.alice else self.to_bob
        if not pipe:
            return False
        end.received(memoryview(bytearray(pipe.popleft())))
        return True

    def step(self, rng: random.Random) -> bool:
        """One send or delivery, drawn at random. Returns False if there is none."""
        moves: list[Callable[[Tunnel], bool]] = [self.send, self.deliver]
        choices = [(move, end) for move in moves for end in (self.alice, self.bob)]
        rng.shuffle(choices)
        return any(move(end) for move, end in choices)

    def settle(self) -> int:
        """Move everything until both ends are quiet. Returns the number of sent chunks."""
        sent = 0
        while True:
            moved = False
            for end in (self.alice, self.bob):
                if self.send(end):
                    sent, moved = sent + 1, True
                moved |= self.deliver(end)
            if not moved:
                return sent
            assert sent < 100_000


def write_all(pair: Pair, stream: object, data: bytes) -> None:
    """Write all bytes, moving chunks while there is no room."""
    view = memoryview(data)
    while view:
        try:
            view = view[stream.write(view) :]  # type: ignore[attr-defined]
        except BlockingIOError:
            assert pair.settle(), "nothing moves and there is no room"


def read_some(stream: SubStream[Flag], length: int = 100_000) -> bytes | None:
    """Read the available bytes: None if there are none, b"" at the end."""
    buffer = bytearray(length)
    try:
        return bytes(buffer[: stream.readinto(buffer)])
    except BlockingIOError:
        return None


@dataclass
class RawEnd:
    """An end that sends any chunks, written from the document: keys, heads, padding by hand.

    Attributes:
        other: the real end that it talks to.
    """

    other: Tunnel
    end: End
    geometry: Geometry = INTERACTIVE
    send_key: bytes = b""
    receive_key: bytes = b""
    next_send_key: bytes = b""
    send_count: int = 0
    receive_count: int = 0
    sent: int = 0
    hello: bytes = b""
    received: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        directions = (b"forward", b"backward") if self.end is End.ALICE else (b"backward", b"forward")
        self.send_key, self.receive_key = (expand(SEED, b"e2e " + d, 32) for d in directions)
        self.private = OPENSSL.x25519_private(sha256(b"raw end"))
        self.hello = Hello(self.private.public, 16 * self.geometry.chunk_data_bytes, 64).pack()

    def seal(
        self,
        kind: int,
        data: bytes = b"",
        *,
        sub_stream: int = 0,
        flags: int = 0,
        padding: bytes | None = None,
    ) -> bytearray:
        """Seal a chunk, which uses up its counter."""
        head = bytes([kind, flags]) + sub_stream.to_bytes(2, "big") + len(data).to_bytes(2, "big")
        room = self.geometry.chunk_bytes - 22 - len(data)
        plain = head + data + (padding or bytes(room))
        nonce = self.send_count.to_bytes(12, "big")
        self.send_count += 1
        self.sent += 1
        return bytearray(OPENSSL.layers.aead(self.send_key).seal(nonce, plain))

    def send(self, kind: int, data: bytes = b"", *, sub_stream: int = 0, flags: int = 0) -> None:
        self.other.received(memoryview(self.seal(kind, data, sub_stream=sub_stream, flags=flags)))

    def refused(
        self, kind: int, data: bytes = b"", *, sub_stream: int = 0, flags: int = 0
    ) -> PeerError | None:
        """Send a chunk. Returns the error that it caused, or None."""
        try:
            self.send(kind, data, sub_stream=sub_stream, flags=flags)
        except PeerError as error:
            return error
        return None

    def take(self) -> tuple[int, int, int, bytes] | None:
        """Receive one chunk of the other end: type, flags, sub-stream, data. None: there is none."""
        out = bytearray(self.geometry.chunk_bytes)
        if not self.other.next_chunk(memoryview(out), 0.0):
            return None
        plain = OPENSSL.layers.aead(self.receive_key).open(self.receive_count.to_bytes(12, "big"), out)
        self.receive_count += 1
        length = int.from_bytes(plain[4:6], "big")
        assert not any(plain[6 + length :])
        chunk = (plain[0], plain[1], int.from_bytes(plain[2:4], "big"), plain[6 : 6 + length])
        self.received.append(chunk)
        if chunk[0] == ChunkType.HELLO:
            self._switch(chunk[3])
        elif chunk[0] == ChunkType.REKEY:
            self.receive_key = (
                self.next_receive_key if self.next_receive_key else expand(self.receive_key, b"rekey", 32)
            )
            self.next_receive_key = b""
            self.receive_count = 0
        return chunk

    next_receive_key: bytes = b""

    def _switch(self, other_hello: bytes) -> None:
        hellos = self.hello + other_hello if self.end is End.ALICE else other_hello + self.hello
        secret = SEED + self.private.exchange(other_hello[:32])
        transcript = sha256(hellos)
        forward = expand(secret, b"hello forward" + transcript, 32)
        backward = expand(secret, b"hello backward" + transcript, 32)
        if self.end is End.ALICE:
            self.receive_key, self.receive_count, self.next_send_key = backward, 0, forward
        else:
            self.next_receive_key, self.next_send_key = forward, backward

    def take_all(self) -> list[tuple[int, int, int, bytes]]:
        """Receive all chunks that the other end can send now."""
        found = []
        while (chunk := self.take()) is not None:
            found.append(chunk)
        return found

    def use_next_key(self) -> None:
        self.send_key, self.send_count = self.next_send_key, 0

    def rekey(self) -> None:
        self.send(ChunkType.REKEY)
        if self.next_send_key:
            self.use_next_key()
            self.next_send_key = b""
        else:
            self.send_key, self.send_count = expand(self.send_key, b"rekey", 32), 0

    def establish(self) -> None:
        """Exchange both HELLOs and the first REKEY."""
        if self.end is End.ALICE:
            self.send(ChunkType.HELLO, self.hello)
            assert self.take_all()[0][0] == ChunkType.HELLO
            self.rekey()
        else:
            assert self.take_all()[0][0] == ChunkType.HELLO
            self.send(ChunkType.HELLO, self.hello)
            self.use_next_key()
            self.next_send_key = b""
            assert self.take_all()[0][0] == ChunkType.REKEY
        assert self.other.is_established


def message_at(end: Tunnel) -> bytes:
    """The next message, which has arrived completely."""
    assert end.incoming.next_message()
    parts = []
    while part := read_some(end.incoming):  # type: ignore[arg-type]
        parts.append(part)
    assert part == b""
    return b"".join(parts)
