"""What the first chunk at Bob says of a frame: a message, or an established tunnel.

Both begin under the same key, and only the chunk's type tells them apart. So it is opened twice: here, in a
copy, to look, and by whoever then reads the frame from its start.
"""

from __future__ import annotations

from reactor import ReadYield, Request, Service, UnexpectedEnd
from tunnel.errors import FrameTruncated
from tunnel.established.keys import ChunkOpener
from tunnel.node.context import NodeContext, Stream
from tunnel.onion.header import Slot
from tunnel.onion.message import ChunkType
from tunnel.onion.secrets import end_to_end_key

__all__ = ["Replayed", "begins_tunnel", "read_first_chunk"]


class Replayed:
    """A stream whose first bytes were read before: it gives them again, then goes on."""

    def __init__(self, stream: Stream, first: memoryview) -> None:
        self._stream = stream
        self._first = first

    @property
    def readable(self) -> Request:
        """The request to yield when refused."""
        return self._stream.readable

    def readinto(self, buffer: memoryview) -> int:
        """As the stream's own."""
        first = self._first
        if not first:
            return self._stream.readinto(buffer)
        count = min(len(first), len(buffer))
        buffer[:count] = first[:count]
        self._first = first[count:]
        return count


def read_first_chunk(stream: Stream) -> Service[memoryview]:
    """Wait for the first chunk.

    Raises:
        FrameTruncated: FIN before its end. Whatever the stream raises.
    """
    chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
    try:
        yield from ReadYield(stream).read_exactly(chunk)
    except UnexpectedEnd as error:
        raise FrameTruncated(f"FIN after {error.received_bytes} bytes of the first content chunk") from error
    return chunk


def begins_tunnel(node: NodeContext, slot: Slot, stream: Stream, chunk: memoryview) -> bool:
    """Whether this first chunk is a HELLO.

    Raises:
        MalformedMessage: it does not open.
    """
    opener = ChunkOpener(end_to_end_key(slot.seed, b"forward"), stream.profile.geometry, node.engine)
    return opener.open(memoryview(bytearray(chunk))).kind is ChunkType.HELLO
