"""Keys of an established tunnel: the exchange of HELLOs, and the chunks sealed under what comes of it.

A direction begins under the key of the DEST slot's seed, which Bob's onion key could give to whoever seizes
it later. With the ephemeral keys of both HELLOs mixed in, and those forgotten, recorded chunks open no more.
Each key step starts the counter anew, so that no key sees more than 2^24 chunks.

Rules: an ephemeral key is used once and dropped; a direction's old key is dropped with each step; a chunk
that does not open, for whatever reason, is one error. (Python cannot erase what it drops for sure.)

Source: docs/protocol.md, "Key schedule" and "Established tunnels".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from readwrite_comp import AuthenticationError
from tunnel.arguments import setting
from tunnel.crypto.engine import PRIVATE_BYTES
from tunnel.crypto.primitives import TunnelEngine, X25519Private, expand
from tunnel.errors import LocalTunnelError, MalformedMessage
from tunnel.established.layouts import Hello
from tunnel.geometry import Geometry
from tunnel.onion.key_schedule import Direction, end_to_end_key, tunnel_keys
from tunnel.onion.message import ChunkType

__all__ = [
    "LEAST_SUB_STREAMS",
    "LEAST_WINDOW_CHUNKS",
    "MAX_KEY_CHUNKS",
    "Chunk",
    "ChunkOpener",
    "ChunkSealer",
    "End",
    "TunnelKeys",
    "TunnelLimits",
]

MAX_KEY_CHUNKS = 2**24
_HEAD = struct.Struct(">BBHH")
_TAG_BYTES = 16
_LAST = 0x01


@dataclass(frozen=True, slots=True)
class Chunk:
    """An opened chunk. `data` lies in the buffer that was opened and lives as long as that."""

    kind: ChunkType
    is_last: bool
    sub_stream: int
    data: memoryview


class _Direction:
    """Key and counter of one direction."""

    def __init__(self, key: bytes, geometry: Geometry, engine: TunnelEngine) -> None:
        self._engine = engine
        self._chunk_bytes = geometry.chunk_bytes
        self._capacity = geometry.chunk_data_bytes
        self.chunks = 0  # of the direction, from its beginning
        self.use(key)

    def use(self, key: bytes) -> None:
        """Go on under another key, with the counter at 0."""
        self._key = key
        self._aead = self._engine.aead(key)
        self.key_chunks = 0

    def step(self) -> None:
        """Go on under the key's successor."""
        self.use(expand(self._key, b"rekey", 32))

    def _nonce(self) -> bytes:
        nonce = self.key_chunks.to_bytes(12, "big")
        self.key_chunks += 1
        self.chunks += 1
        return nonce


class ChunkSealer(_Direction):
    """Seals what an end sends. Args: key: the first one; geometry: gives C."""

    def seal(
        self, out: memoryview, kind: ChunkType, length: int, *, sub_stream: int = 0, is_last: bool = False
    ) -> None:
        """Seal the chunk whose data is in place already: `length` bytes from `out[6]` on."""
        _HEAD.pack_into(out, 0, kind, _LAST if is_last else 0, sub_stream, length)
        end = _HEAD.size + length
        plain = out[:-_TAG_BYTES]
        plain[end:] = bytes(len(plain) - end)
        self._aead.seal_into(self._nonce(), plain, b"", out)


class ChunkOpener(_Direction):
    """Opens what an end receives. Args: key: the first one; geometry: gives C."""

    def open(self, chunk: memoryview) -> Chunk:
        """Open in place, and check what needs no knowledge of the tunnel's state.

        Args:
            chunk: writable, C bytes.
        Raises:
            MalformedMessage: does not open; or it has an unknown type or flag, a wrong length, padding that
                is not zero, or a key that served for 2^24 chunks without REKEY.
        On error: the tunnel cannot go on; nothing more will open.
        """
        number = self.chunks
        plain = chunk[:-_TAG_BYTES]
        try:
            self._aead.open_into(self._nonce(), chunk, b"", plain)
        except AuthenticationError as error:
            raise MalformedMessage(f"chunk {number} of the tunnel does not open") from error
        kind, flags, sub_stream, length = _HEAD.unpack_from(plain)
        if kind not in ChunkType._value2member_map_ or flags & ~_LAST or length > self._capacity:
            raise MalformedMessage(
                f"chunk {number} of the tunnel has type {kind}, flags 0x{flags:02x}, length {length}"
            )
        end = _HEAD.size + length
        # As bytes: views are compared byte by byte, 30 µs in a chunk of 16 KiB that is hardly filled.
        if plain[end:].tobytes() != bytes(len(plain) - end):
            raise MalformedMessage(f"chunk {number} of the tunnel has padding that is not zero")
        if self.key_chunks == MAX_KEY_CHUNKS and kind != ChunkType.REKEY:
            raise MalformedMessage(f"{MAX_KEY_CHUNKS} chunks of the tunnel under one key, and no REKEY")
        return Chunk(ChunkType(kind), bool(flags), sub_stream, plain[_HEAD.size : end])


class TunnelKeys:
    """All keys of one end: what it seals and opens with now, and what the HELLOs have made ready.

    Args:
        seed: of the DEST slot, 16 bytes. is_alice: which end.
        window, sub_streams: what this end's HELLO says.
    Attributes:
        hello: the data of this end's HELLO.
    """

    def __init__(
        self,
        seed: bytes,
        geometry: Geometry,
        *,
        is_alice: bool,
        window: int,
        sub_streams: int,
        engine: TunnelEngine,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        forward, backward = (
            end_to_end_key(seed, direction) for direction in (Direction.FORWARD, Direction.BACKWARD)
        )
        self.sealer = ChunkSealer(forward if is_alice else backward, geometry, engine)
        self.opener = ChunkOpener(backward if is_alice else forward, geometry, engine)
        self._is_alice = is_alice
        self._seed = seed
        self._ephemeral: X25519Private | None = engine.x25519_private(random_bytes(PRIVATE_BYTES))
        self.hello = Hello(self._ephemeral.public, window, sub_streams).pack()
        self._next_send: bytes | None = None
        self._next_receive: bytes | None = None

    @property
    def can_switch_sending(self) -> bool:
        """A key of the HELLOs is ready to seal with, and not yet in use."""
        return self._next_send is not None

    def exchange(self, hello: Hello, data: bytes) -> None:
        """Make the keys that follow the HELLOs, and forget what they were made of.

        Args:
            hello, data: the other end's, parsed and as it came.
        Raises:
            MalformedMessage: its key is refused.
        """
        assert self._ephemeral is not None, "there is one HELLO in each direction"
        hellos = (self.hello, data) if self._is_alice else (data, self.hello)
        forward, backward = tunnel_keys(self._seed, self._ephemeral, hello.ephemeral, *hellos)
        self._next_send, self._next_receive = (forward, backward) if self._is_alice else (backward, forward)
        self._ephemeral = None
        self._seed = b""

    def switch_sending(self) -> None:
        """Seal under the key of the HELLOs from now on."""
        assert self._next_send is not None
        self.sealer.use(self._next_send)
        self._next_send = None

    def switch_receiving(self) -> None:
        """Open under the key of the HELLOs from now on."""
        assert self._next_receive is not None
        self.opener.use(self._next_receive)
        self._next_receive = None

    def forget(self) -> None:
        """The tunnel has ended: drop what is not in use."""
        self._ephemeral = self._next_send = self._next_receive = None
        self._seed = b""


# Which end of a tunnel, and what one end allows the other.
#
# Rules: what the other end can make grow is bounded here, with the reason beside it; what must be equal at
# both ends is a constant, the rest travels in HELLO.
#
# Source: docs/protocol.md, "Established tunnels".
LEAST_SUB_STREAMS = 4  # what Alice may count on before she has Bob's HELLO
LEAST_WINDOW_CHUNKS = 4  # with less, credit could not keep up with a single stream


class End(Enum):
    """Which end of the tunnel this is."""

    ALICE = "alice"
    BOB = "bob"


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """What one end allows the other, and when it changes keys.

    Attributes:
        early: Alice only: send before Bob's HELLO arrives. Saves a round trip, but these chunks have no
            forward secrecy, and only the header's replay table protects them from replay.
    Raises:
        LocalTunnelError: out of range.
    """

    sub_streams: int = setting(
        64,
        "Sub-streams that the other end of an established tunnel may have open at the same time, 4 to "
        "32,767. A tunnel holds at most 17 chunks for each, and only if the user reads nothing.",
    )

    # Not in the configuration: for tests, and `early` for programs that know its price.
    window_chunks: int = 16  # of each stream, in full chunks of data, 4 to 1,024
    rekey_chunks: int = MAX_KEY_CHUNKS  # sent under one key, at most 2^24
    rekey_s: float = 600.0  # age at which a key is replaced before the next chunk
    early: bool = False

    def __post_init__(self) -> None:
        if not LEAST_WINDOW_CHUNKS <= self.window_chunks <= 1024:
            raise LocalTunnelError(f"window of {self.window_chunks} chunks, expected 4 to 1024")
        if not LEAST_SUB_STREAMS <= self.sub_streams <= 32_767:
            raise LocalTunnelError(f"{self.sub_streams} sub-streams, expected 4 to 32,767")
        if not 2 <= self.rekey_chunks <= MAX_KEY_CHUNKS or not self.rekey_s > 0:
            raise LocalTunnelError(f"keys for {self.rekey_chunks} chunks and {self.rekey_s} s")
