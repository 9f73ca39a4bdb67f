"""Sending and receiving whole frames over streams: used by Alice's queries and by Bob's replies alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from reactor import PASS, CurrentTime, ReadYield, Service, Signal, WriteYield
from readwrite_comp import ExtRead, LayerError, Truncated
from tunnel.errors import ErrorCode, FrameTruncated, MalformedMessage
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.statuses import wait_status
from tunnel.tunnel import OutgoingFrame

__all__ = ["FrameReader", "FrameWriter"]

T = TypeVar("T")


class FrameWriter:
    """Writes one frame: `start`, `write` any number of times, `finish`. The stream is the caller's to end.

    Attributes:
        stream: None until `start` has opened it.
        content_bytes: content taken so far.
    """

    def __init__(self, node: NodeContext, frame: OutgoingFrame) -> None:
        self._node = node
        self._frame = frame
        self._started_s = 0.0
        self.stream: Stream | None = None
        self.content_bytes = 0

    def start(self) -> Service[Stream]:
        """Open a stream to the first node and send the header.

        Raises:
            UnknownNext: the first node is not in the directory. NextRefused: it cannot be reached.
        """
        self._started_s = yield CurrentTime()
        stream = yield from self._node.links.open_stream(self._frame.first_id, self._frame.profile)
        self.stream = stream
        yield from WriteYield(stream).call(self._frame.layer.write_header)
        return stream

    def write(self, data: bytes | memoryview) -> Service[None]:
        """Write content; returns when all is taken. Chunks may wait in the link's buffer: `send`."""
        assert self.stream is not None
        writer = WriteYield(self.stream)
        view = memoryview(data)
        while view:
            taken: int = yield from writer.call(self._frame.layer.write_into, view)
            self.content_bytes += taken
            view = view[taken:]
            # A chunk through 126 layers takes milliseconds: others get their turn after each.
            yield PASS

    def send(self) -> Service[None]:
        """Send the chunks that are sealed; a chunk that is not full stays."""
        assert self.stream is not None
        yield from WriteYield(self.stream).flush()

    def flush(self) -> Service[None]:
        """Seal the chunk under way, full or not, and send."""
        assert self.stream is not None
        yield from WriteYield(self.stream).call(self._frame.layer.flush_into)
        yield from self.send()

    def finish(self) -> Service[None]:
        """End the message, pad it, send FIN and everything owed."""
        assert self.stream is not None
        stream = self.stream
        writer = WriteYield(stream)
        yield from writer.call(self._frame.layer.write_end)
        stream.finish()
        yield from writer.flush()
        yield from report_frame(self._node, stream, self._started_s, content_in=0)

    def wait_taken(self) -> Service[None]:
        """Wait for the end of the backward half, with which the last node says that it holds the whole frame.

        Raises:
            StreamReset: a hop failed; the code is its reason. MalformedMessage: content came back.
        """
        assert self.stream is not None
        yield from wait_status(self.stream)

    def reset(self, code: ErrorCode) -> None:
        """End the frame early with a reason; nothing happens when it has ended."""
        if self.stream is not None:
            self.stream.reset(code)


class FrameReader:
    """Reads the content of one frame whose header is already read.

    Attributes:
        ended: set when the frame has been read to its FIN.

    Raises, from each method: MalformedMessage for chunks that do not open or that no sender writes,
    FrameTruncated when the frame ends early, and whatever the link raises.
    """

    def __init__(self, stream: Stream, layer: ExtRead) -> None:
        self._reader = ReadYield(stream)
        self._layer = layer
        self._has_ended = False
        self.ended = Signal()

    def start(self) -> Service[None]:
        """Read what precedes the content: the reply blocks."""
        yield from self._call(self._layer.read_header)

    def readinto(self, buffer: memoryview) -> Service[int]:
        """Content into `buffer`; 0 at the end, when everything up to the frame's FIN was checked."""
        if self._has_ended:
            return 0
        yield PASS  # as in FrameWriter.write: opening one chunk can take milliseconds
        count = yield from self._call(self._layer.read_into, buffer)
        if count == 0 and len(buffer):
            yield from self._call(self._layer.read_end)
            if (yield from self._reader.readinto(memoryview(bytearray(1)))):
                raise MalformedMessage("a chunk follows the one marked last")
            self._has_ended = True
            self.ended.set()
        return count

    def drain(self) -> Service[None]:
        """Read and check the rest of the message, and throw it away."""
        scratch = memoryview(bytearray(16 * 1024))
        while (yield from self.readinto(scratch)):
            pass

    def _call(self, method: Callable[..., T], *args: Any) -> Service[T]:
        """Call the layer, with its errors turned into those of a frame."""
        try:
            return (yield from self._reader.call(method, *args))
        except Truncated as error:
            raise FrameTruncated(str(error)) from error
        except LayerError as error:
            raise MalformedMessage(str(error)) from error
