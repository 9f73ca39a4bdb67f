"""Messages in sealed chunks, the end-to-end layer between Alice and Bob; and whole frames as one layer.

A chunk is type 1 ‖ flags 1 ‖ sub-stream 2 ‖ length 2 ‖ data ‖ zero padding ‖ tag 16, C bytes in all, sealed
with AES-256-GCM under a counter nonce. A message is a head and then content, in MSG chunks and exactly one
END chunk. CHALLENGE chunks between them ask the reader for receipts. PAD chunks follow until the number of
chunks is a PADMÉ bucket, and the final chunk is marked LAST.
The writer holds a full chunk back until more content comes, because the last chunk must be marked.

`MessageW` and `MessageR` limit and encrypt in one step. `FrameW` and `FrameR` add the onion header and one
wide-block layer per proxy. All keep the contract of `readwrite_comp`. The counter continues from message to
message and is never reset: a nonce serves once.

Source: docs/protocol.md, "Content chunk"; the hold-back follows age's STREAM (Filippo Valsorda).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum

from readwrite_comp import (
    CompExtR,
    CompExtW,
    Ending,
    ExtRead,
    ExtWrite,
    Malformed,
    MultiRExt,
    MultiWExt,
    WideBlockR,
    WideBlockW,
)
from readwrite_comp.helpers import ByteReader, ByteWriter, Take
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import MalformedMessage
from tunnel.geometry import Profile, padme
from tunnel.onion.message_head import MessageHead, head_bytes

__all__ = [
    "CHALLENGE_BYTES",
    "CHUNK_HEAD",
    "CHUNK_TAG_BYTES",
    "LAST_FLAG",
    "ChunkType",
    "FrameR",
    "FrameW",
    "MessageR",
    "MessageW",
    "seal_receipt",
]

CHUNK_HEAD = struct.Struct(">BBHH")  # type, flags, sub-stream, length
CHUNK_TAG_BYTES = 16
CHALLENGE_BYTES = 16
_MOST_CHALLENGES = 8  # unanswered: a writer waits for its receipts long before
LAST_FLAG = 0x01
_EMPTY_HEAD = MessageHead()


class ChunkType(IntEnum):
    """Type of a chunk.

    One-shot messages use the first three and CHALLENGE, established tunnels all but STATUS.
    """

    MSG = 1
    END = 2
    PAD = 3
    STATUS = 4
    HELLO = 5
    OPEN = 6
    OPENED = 7
    CLOSE = 8
    CREDIT = 9
    REKEY = 10
    CHALLENGE = 11


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")  # 4 zero bytes ‖ u64


def seal_receipt(profile: Profile, key: bytes, challenge: bytes, engine: TunnelEngine) -> memoryview:
    """The only chunk of a frame that answers a challenge in mode `cached`: CHALLENGE, marked LAST."""
    chunk = memoryview(bytearray(profile.geometry.chunk_bytes))
    CHUNK_HEAD.pack_into(chunk, 0, ChunkType.CHALLENGE, LAST_FLAG, 0, len(challenge))
    chunk[CHUNK_HEAD.size : CHUNK_HEAD.size + len(challenge)] = challenge
    engine.layers.aead(key).seal_into(_nonce(0), chunk[:-CHUNK_TAG_BYTES], b"", chunk)
    return chunk


class MessageW(ExtWrite):
    """Writes one-shot messages.

    Args:
        profile: gives C.
        key: 32 bytes, for this direction only.
        head: precedes the content of each message.
    Raises:
        LocalTunnelError: the head is invalid.
    """

    ends = Ending.EXACT

    def __init__(
        self, profile: Profile, key: bytes, *, engine: TunnelEngine, head: MessageHead = _EMPTY_HEAD
    ) -> None:
        super().__init__()
        self.raw_head = head.pack()
        self._aead = engine.layers.aead(key)
        self._capacity = profile.geometry.chunk_data_bytes
        self._chunk = memoryview(bytearray(profile.geometry.chunk_bytes))
        self._counter = 0
        self._begin()

    def _begin(self) -> None:
        self._head_left = memoryview(self.raw_head)
        self._filled = 0
        self._chunks = 0
        self._pads = 0
        self._challenge = b""

    def challenge(self, nonce: bytes) -> None:
        """Ask the reader for a receipt: the next flush writes the nonce (16 bytes) after all content."""
        assert len(nonce) == CHALLENGE_BYTES
        self._challenge = nonce

    def _start(self) -> None:
        self._begin()

    def _push_header(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        while self._head_left:
            if self._filled == self._capacity:
                self._seal(ChunkType.MSG)
                self._owed.settle(w)
            self._head_left = self._head_left[self._fill(self._head_left) :]

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._filled == self._capacity:
            self._seal(ChunkType.MSG)
            self._owed.settle(w)
        return self._fill(view)

    def _flush(self) -> None:
        if self._filled:
            self._seal(ChunkType.MSG)

    def _push_flush(self, w: ByteWriter) -> None:
        super()._push_flush(w)
        if self._challenge:
            self._fill(memoryview(self._challenge))
            self._challenge = b""
            self._seal(ChunkType.CHALLENGE)
            self._owed.settle(w)

    def _finish(self) -> None:
        total = self._chunks + 1
        self._pads = padme(total) - total
        self._seal(ChunkType.END, last=not self._pads)

    def _push_end(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        while self._pads:
            self._pads -= 1
            self._seal(ChunkType.PAD, last=not self._pads)
            self._owed.settle(w)

    def _fill(self, view: memoryview) -> int:
        count = min(len(view), self._capacity - self._filled)
        start = CHUNK_HEAD.size + self._filled
        self._chunk[start : start + count] = view[:count]
        self._filled += count
        return count

    def _seal(self, chunk_type: ChunkType, *, last: bool = False) -> None:
        """Seal the chunk and owe it. Its buffer takes the next byte only after it has been written."""
        chunk, filled = self._chunk, self._filled
        CHUNK_HEAD.pack_into(chunk, 0, chunk_type, LAST_FLAG if last else 0, 0, filled)
        padding = self._capacity - filled
        if padding:
            chunk[CHUNK_HEAD.size + filled : -CHUNK_TAG_BYTES] = bytes(padding)
        self._aead.seal_into(_nonce(self._counter), chunk[:-CHUNK_TAG_BYTES], b"", chunk)
        self._counter += 1
        self._chunks += 1
        self._filled = 0
        self._owed.owe(chunk)


class MessageR(ExtRead):
    """Reads one-shot messages.

    Attributes:
        head: of the message whose header was read last.
        challenges: read and not yet answered. The caller answers and removes them; too many are refused.
        on_challenge: called for each; None: this message may have none.
    Raises (all of them sticky): AuthenticationError, Malformed, Truncated of `readwrite_comp`.
    """

    ends = Ending.EXACT

    def __init__(self, profile: Profile, key: bytes, *, engine: TunnelEngine) -> None:
        super().__init__()
        self._aead = engine.layers.aead(key)
        self._capacity = profile.geometry.chunk_data_bytes
        self._chunk = memoryview(bytearray(profile.geometry.chunk_bytes))
        self.challenges: list[bytes] = []
        self.on_challenge: Callable[[], None] | None = None
        self._taken = Take()
        self._counter = 0
        self.head = _EMPTY_HEAD
        self._start()

    def _start(self) -> None:
        self._taken.begin(self._chunk)
        self.raw_head = bytearray()  # until it is parsed
        self._content = memoryview(b"")
        self._chunks = 0
        self._expected_chunks = 0  # known with the END chunk
        self._is_last = False
        self._may_be_challenged = False  # by the next chunk: content has come since the last challenge

    def _read_header(self, r: ByteReader) -> None:
        try:
            while (missing := head_bytes(self.raw_head) - len(self.raw_head)) > 0:
                if not self._content:
                    if self._expected_chunks:
                        raise Malformed("message ends inside its head")
                    self._next_chunk(r)
                self.raw_head += self._content[:missing]
                self._content = self._content[missing:]
            self.head = MessageHead.parse(bytes(self.raw_head))
        except MalformedMessage as error:
            raise Malformed(str(error)) from error

    def _read(self, r: ByteReader, view: memoryview) -> int:
        while not self._content:
            if self._expected_chunks:
                return 0
            self._next_chunk(r)
        count = min(len(view), len(self._content))
        view[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def _skip(self, r: ByteReader) -> None:
        while not self._is_last:
            self._next_chunk(r)

    def _next_chunk(self, r: ByteReader) -> None:
        chunk = self._chunk
        self._taken.fill(r, "a content chunk")
        self._taken.begin(chunk)
        plain = chunk[:-CHUNK_TAG_BYTES]
        self._aead.open_into(_nonce(self._counter), chunk, b"", plain)
        self._counter += 1
        self._chunks += 1
        chunk_type, flags, sub_stream, length = CHUNK_HEAD.unpack_from(plain)
        end = CHUNK_HEAD.size + length
        if flags & ~LAST_FLAG or sub_stream or length > self._capacity:
            raise Malformed(f"chunk has flags 0x{flags:02x}, sub-stream {sub_stream}, length {length}")
        # As bytes: views are compared byte by byte, which would cost more for a PAD chunk than for content.
        if plain[end:].tobytes() != bytes(len(plain) - end):
            raise Malformed("padding of a chunk is not zero")
        self._content = plain[CHUNK_HEAD.size : end]
        self._advance(chunk_type, is_last=bool(flags))

    def _advance(self, chunk_type: int, *, is_last: bool) -> None:
        """Check the order: (MSG+ CHALLENGE?)* END PAD*, with as many PAD chunks as the bucket requires."""
        if chunk_type == ChunkType.CHALLENGE:
            self._take_challenge()
        elif chunk_type == ChunkType.END and not self._expected_chunks:
            self._expected_chunks = padme(self._chunks)
        elif chunk_type == ChunkType.PAD and self._expected_chunks:
            if self._content:
                raise Malformed("PAD chunk with content")
        elif chunk_type != ChunkType.MSG or self._expected_chunks:
            raise Malformed(
                f"chunk type {chunk_type} {'after' if self._expected_chunks else 'before'} the END chunk"
            )
        elif not self._content:
            # Useless to a writer, and a reader would read the next one within the same call.
            raise Malformed("MSG chunk without content")
        else:
            self._may_be_challenged = True
        if is_last != (self._chunks == self._expected_chunks):
            raise Malformed(
                f"chunk {self._chunks} {'is' if is_last else 'is not'} marked last, "
                f"{self._expected_chunks or 'an unknown number'} were expected"
            )
        self._is_last = is_last

    def _take_challenge(self) -> None:
        """Keep the challenge in this chunk. Content must separate two challenges; otherwise a flood of them
        would cost nothing."""
        if self.on_challenge is None or not self._may_be_challenged or self._expected_chunks:
            raise Malformed("CHALLENGE chunk in a wrong place")
        if len(self._content) != CHALLENGE_BYTES or len(self.challenges) == _MOST_CHALLENGES:
            raise Malformed(
                f"CHALLENGE chunk with {len(self._content)} bytes, expected {CHALLENGE_BYTES}; "
                f"{len(self.challenges)} wait already, at most {_MOST_CHALLENGES} may"
            )
        self.challenges.append(bytes(self._content))
        self._content = memoryview(b"")
        self._may_be_challenged = False
        self.on_challenge()


class FrameW(ExtWrite):
    """Writes one frame: the onion header and the message head, then content, then end and padding.

    Args:
        header: 128·N bytes, written unchanged.
        layers: one for each proxy, the first proxy's first; none for Bob's replies.
        message: the end-to-end layer: `MessageW`, or another that writes whole chunks.
    """

    ends = Ending.EXACT

    def __init__(self, header: bytes, layers: Sequence[WideBlockW], message: ExtWrite) -> None:
        super().__init__()
        self._header = header
        self._message = message
        self._inner: ExtWrite = CompExtW(MultiWExt(list(layers)), message) if layers else message

    def challenge(self, nonce: bytes) -> None:
        """As `MessageW.challenge`; only for a frame whose message is one."""
        assert isinstance(self._message, MessageW)
        self._message.challenge(nonce)

    def reset(self) -> None:
        super().reset()
        self._inner.reset()

    def _start(self) -> None:
        self._owed.owe(self._header)

    def _push_header(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        self._inner.write_header(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        return self._inner.write_into(w, view)

    def _push_flush(self, w: ByteWriter) -> None:
        self._inner.flush_into(w)

    def _push_end(self, w: ByteWriter) -> None:
        self._inner.write_end(w)


class FrameR(ExtRead):
    """Reads the chunks of a reply: removes the proxies' layers, then reads the message.

    Args:
        layers: in the order of their removal.
    Raises (all of them sticky): those of `MessageR`.
    """

    ends = Ending.EXACT

    def __init__(self, layers: Sequence[WideBlockR], message: MessageR) -> None:
        super().__init__()
        self._message = message
        self._inner: ExtRead = CompExtR(MultiRExt(list(layers)), message) if layers else message

    @property
    def head(self) -> MessageHead:
        """The head of the message whose header was read last."""
        return self._message.head

    def take_challenges(self, on_challenge: Callable[[], None]) -> list[bytes]:
        """Allow challenges: `MessageR.challenges`, which `on_challenge` announces."""
        self._message.on_challenge = on_challenge
        return self._message.challenges

    def reset(self) -> None:
        super().reset()
        self._inner.reset()

    def _read_header(self, r: ByteReader) -> None:
        self._inner.read_header(r)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        return self._inner.read_into(r, view)

    def _skip(self, r: ByteReader) -> None:
        self._inner.read_end(r)
