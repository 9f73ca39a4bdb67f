"""Keys of an established tunnel, its sealed chunks, and the limits that one end sets for the other.

A direction starts under a key from the seed in the DEST slot. An attacker who obtains Bob's onion key later
could derive that key. Therefore both HELLOs carry an ephemeral key: once both are mixed in and dropped,
recorded chunks can no longer be opened. Each key step resets the counter, so no key seals more than 2^24
chunks.

Rules for changing it:

* An ephemeral key is used once and dropped, and each step drops the old key. (Python cannot reliably erase
  memory.)
* A chunk that does not open is one error, whatever the reason.
* All state that the other end can make grow is bounded here, with the reason. Limits that must be equal at
  both ends are constants; the others are sent in HELLO.

Source: docs/protocol.md, "Key schedule" and "Established tunnels".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from readwrite_comp import AuthenticationError
from tunnel.arguments import bounded, check_fields, checked_count, setting
from tunnel.crypto.primitives import PRIVATE_BYTES, TunnelEngine, X25519Private, expand
from tunnel.errors import MalformedMessage
from tunnel.established.layouts import Hello
from tunnel.geometry import Geometry
from tunnel.onion.key_schedule import Direction, end_to_end_key, tunnel_keys
from tunnel.onion.message import CHUNK_HEAD, CHUNK_TAG_BYTES, LAST_FLAG, ChunkType

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

LEAST_SUB_STREAMS = 4  # Alice may assume this number before Bob's HELLO
LEAST_WINDOW_CHUNKS = 4  # with fewer, credit could not keep up with a single stream
MAX_KEY_CHUNKS = 2**24
# A stream moves at most a window in each round trip, so a window of few short chunks is slow over a long way.
_WINDOW_BYTES = 256 * 1024
_WINDOW_CHUNKS = 16


class End(Enum):
    """Which end of the tunnel this is."""

    ALICE = "alice"
    BOB = "bob"

    @property
    def sends(self) -> Direction:
        """The direction in which this end sends."""
        return Direction.FORWARD if self is End.ALICE else Direction.BACKWARD

    @property
    def receives(self) -> Direction:
        """The direction from which this end receives."""
        return Direction.BACKWARD if self is End.ALICE else Direction.FORWARD


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """The limits that one end sets for the other, and the age of its keys.

    Attributes:
        early: Alice only: send before Bob's HELLO arrives. Saves a round trip, but these chunks have no
            forward secrecy, and only the header's replay table protects them from replay.
    Raises:
        BadArgument: a value out of range. TypeError: a wrong type.
    """

    sub_streams: int = setting(
        64,
        "Sub-streams that the other end of an established tunnel may have open at the same time, 4 to "
        "32,767. A tunnel holds at most 256 KiB for each, or 1 MiB with chunks of 64 KiB, and only if the "
        "user reads nothing.",
        least=LEAST_SUB_STREAMS,
        most=32_767,
    )
    silent_s: float = setting(
        10.0,
        "An established tunnel on which traffic waits is ended when nothing has arrived for this long, not "
        "even the answer to a probe. Raise it if links of the route are slower than 1 Mbit/s.",
        "s",
    )

    # Not in the configuration: for tests, and `early` for programs that know its price.
    window_chunks: int | None = None  # of each stream, 4 to 1,024 full chunks; None: see `window_bytes`
    rekey_chunks: int = bounded(MAX_KEY_CHUNKS, least=2, most=MAX_KEY_CHUNKS)  # sent under one key
    rekey_s: float = 600.0  # age at which a key is replaced before the next chunk
    early: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.window_chunks is not None:
            checked_count(self.window_chunks, "window_chunks", least=LEAST_WINDOW_CHUNKS, most=1024)

    def window_bytes(self, geometry: Geometry) -> int:
        """What the other end may send on each stream before it is granted more, in whole chunks.

        By default as many as fit into 256 KiB, and at least 16.
        """
        data_bytes = geometry.chunk_data_bytes
        chunks = self.window_chunks or max(_WINDOW_BYTES // data_bytes, _WINDOW_CHUNKS)
        return chunks * data_bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """An opened chunk. `data` is a view of the buffer that was opened."""

    kind: ChunkType
    is_last: bool
    sub_stream: int
    data: memoryview


class _Direction:
    """Key and counter of one direction."""

    def __init__(self, key: bytes, geometry: Geometry, engine: TunnelEngine) -> None:
        self._engine = engine
        self._capacity = geometry.chunk_data_bytes
        self.chunks = 0  # since the direction began
        self.use(key)

    def use(self, key: bytes) -> None:
        """Continue under another key, with the counter at 0."""
        self._key = key
        self._aead = self._engine.layers.aead(key)
        self.key_chunks = 0

    def step(self) -> None:
        """Continue under the successor of the key."""
        self.use(expand(self._key, b"rekey", 32))

    def _nonce(self) -> bytes:
        nonce = self.key_chunks.to_bytes(12, "big")
        self.key_chunks += 1
        self.chunks += 1
        return nonce


class ChunkSealer(_Direction):
    """Seals the chunks that an end sends."""

    def seal(
        self, out: memoryview, kind: ChunkType, length: int, *, sub_stream: int = 0, is_last: bool = False
    ) -> None:
        """Seal a chunk whose data is already in place: `length` bytes behind the chunk head."""
        CHUNK_HEAD.pack_into(out, 0, kind, LAST_FLAG if is_last else 0, sub_stream, length)
        end = CHUNK_HEAD.size + length
        plain = out[:-CHUNK_TAG_BYTES]
        plain[end:] = bytes(len(plain) - end)
        self._aead.seal_into(self._nonce(), plain, b"", out)


class ChunkOpener(_Direction):
    """Opens the chunks that an end receives."""

    def open(self, chunk: memoryview) -> Chunk:
        """Open in place, with every check that does not depend on the state of the tunnel.

        Args:
            chunk: writable, C bytes.
        Raises:
            MalformedMessage: it does not open; an unknown type or flag, a wrong length, padding that is not
                zero; or 2^24 chunks under one key without REKEY.
        On error: the tunnel cannot continue; nothing more will open.
        """
        number = self.chunks
        plain = chunk[:-CHUNK_TAG_BYTES]
        try:
            self._aead.open_into(self._nonce(), chunk, b"", plain)
        except AuthenticationError as error:
            raise MalformedMessage(f"chunk {number} of the tunnel does not open") from error
        kind, flags, sub_stream, length = CHUNK_HEAD.unpack_from(plain)
        if kind not in ChunkType._value2member_map_ or flags & ~LAST_FLAG or length > self._capacity:
            raise MalformedMessage(
                f"chunk {number} of the tunnel has type {kind}, flags 0x{flags:02x}, length {length}"
            )
        end = CHUNK_HEAD.size + length
        # As bytes: views are compared byte by byte, 30 µs for a nearly empty chunk of 16 KiB.
        if plain[end:].tobytes() != bytes(len(plain) - end):
            raise MalformedMessage(f"chunk {number} of the tunnel has padding that is not zero")
        if self.key_chunks == MAX_KEY_CHUNKS and kind != ChunkType.REKEY:
            raise MalformedMessage(f"{MAX_KEY_CHUNKS} chunks of the tunnel under one key, and no REKEY")
        return Chunk(ChunkType(kind), bool(flags), sub_stream, plain[CHUNK_HEAD.size : end])


class TunnelKeys:
    """All keys of one end: those in use, and the next ones, from the HELLOs.

    Args:
        seed: of the DEST slot, 16 bytes.
        window, sub_streams: for this end's HELLO.
    Attributes:
        hello: the data of this end's HELLO.
        binding: known to the two ends of this tunnel only; None before the HELLOs.
    """

    def __init__(
        self,
        seed: bytes,
        geometry: Geometry,
        end: End,
        *,
        window: int,
        sub_streams: int,
        engine: TunnelEngine,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.sealer = ChunkSealer(end_to_end_key(seed, end.sends), geometry, engine)
        self.opener = ChunkOpener(end_to_end_key(seed, end.receives), geometry, engine)
        self._end = end
        self.seed = seed  # erased after the exchange, as is `ephemeral`
        self.ephemeral: X25519Private | None = engine.x25519_private(random_bytes(PRIVATE_BYTES))
        self.hello = Hello(self.ephemeral.public, window, sub_streams).pack()
        self.binding: bytes | None = None
        self._next_send: bytes | None = None
        self._next_receive: bytes | None = None

    def exchange(self, hello: Hello, data: bytes) -> None:
        """Derive the keys that follow the HELLOs, and drop the secrets they came from.

        Args:
            hello, data: of the other end, parsed and as received.
        Raises:
            MalformedMessage: its key is refused.
        """
        assert self.ephemeral is not None, "there is one HELLO in each direction"
        hellos = (self.hello, data) if self._end is End.ALICE else (data, self.hello)
        *pair, self.binding = tunnel_keys(self.seed, self.ephemeral, hello.ephemeral, *hellos)
        keys = dict(zip(Direction, pair, strict=True))
        self._next_send, self._next_receive = keys[self._end.sends], keys[self._end.receives]
        self.ephemeral = None
        self.seed = b""

    def switch_sending(self) -> None:
        """From now on, seal under the key from the HELLOs."""
        assert self._next_send is not None
        self.sealer.use(self._next_send)
        self._next_send = None

    def switch_receiving(self) -> None:
        """From now on, open under the key from the HELLOs."""
        assert self._next_receive is not None
        self.opener.use(self._next_receive)
        self._next_receive = None

    def forget(self) -> None:
        """Drop all keys that are not in use, because the tunnel has ended."""
        self.ephemeral = self._next_send = self._next_receive = None
        self.seed = b""
