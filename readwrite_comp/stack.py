"""Layers composed: `MultiWExt` / `MultiRExt` (a stack as one layer), `CompExtW` / `CompExtR` (a stack of
two), `ChainExtRead` (two messages as one), and functions that move whole pieces of content through a layer.

    MultiWExt([SealedW(key), PaddedWindowsW(4096)])   # the first is next to the stream

A stack is a loop, not a recursion, so depth costs no Python stack. Between two neighbours lies a *stage*, a
buffer that is the stream for the layers on both sides.

Writing pushes outwards: a layer writes into its stage, which never refuses, and the stage is emptied into the
next layer before anything else is written into it. So a stage holds at most the output of one call of the
layer above it, and only layer 0 meets a stream that refuses.

Reading pulls. A stage is filled with as many bytes as the layer above has just requested, plus the bytes that
the layer below has *at hand*: the rest of a chunk or block that it had to open for them. An empty stage notes
the number of bytes wanted and refuses; the loop then lets the layer below fill it and repeats the call, which
the contract allows. A refusal at layer 0 is the stream's and goes to the caller.

Neighbours that work in place on equal blocks are joined into one layer (see `inplace`): no copy between them.
Stacks within stacks are unpacked. The bytes on the wire stay the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from readwrite_comp.base import Ending, ExtRead, ExtWrite, Phase, _Phased, check_layer
from readwrite_comp.errors import BadParameter, InUse, LimitExceeded, Truncated
from readwrite_comp.helpers import ByteReader, ByteWriter, byte_view, check_number, would_block, writable_view

__all__ = [
    "ChainExtRead",
    "CompExtR",
    "CompExtW",
    "MultiRExt",
    "MultiWExt",
    "read_exact_from",
    "read_to_end",
    "write_all_into",
]

# The most that is asked of a layer for the one above it: bounds a stage.
_STAGE_BYTES = 64 * 1024
_EMPTY = memoryview(b"")
T = TypeVar("T")
L = TypeVar("L", ExtWrite, ExtRead)


def _check_free(layers: Sequence[ExtWrite] | Sequence[ExtRead], kind: type[ExtRead] | type[ExtWrite]) -> None:
    if not layers:
        raise BadParameter("layers: the list is empty, expected at least one (Identity changes nothing)")
    if len({id(layer) for layer in layers}) != len(layers):
        raise InUse("layers: one layer given twice; each place needs its own object")
    for index, layer in enumerate(layers):
        check_layer(layer, kind, f"layer {index}")
        if layer.phase is not Phase.NEW:
            raise InUse(f"layer {index} is in phase {layer.phase.name}, expected NEW")


def _stack_ending(layers: Sequence[ExtWrite] | Sequence[ExtRead]) -> Ending:
    """How reading ends: as for the innermost layer that is not transparent."""
    for layer in reversed(layers):
        if layer.ends is not Ending.NEVER:
            return layer.ends
    return Ending.NEVER


def _flattened(layers: Sequence[L]) -> tuple[L, ...]:
    """Unpack stacks and join neighbours that can work on one buffer."""
    flat: list[L] = []
    for layer in layers:
        for part in layer._stack_parts():
            joined = flat[-1]._stack_joined(part) if flat else None
            if joined is None:
                flat.append(part)
            else:
                flat[-1] = joined
    return tuple(flat)


class _Stack(_Phased, Generic[L]):
    """The common part of both directions.

    Attributes:
        layers: after stacks were unpacked and neighbours joined.
    """

    def __init__(self, layers: Iterable[L], kind: type[ExtRead] | type[ExtWrite]) -> None:
        super().__init__()
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        layers = tuple(layers)
        _check_free(layers, kind)
        self.ends = _stack_ending(layers)
        self.layers: tuple[L, ...] = _flattened(layers)
        # How many layers are between header and end.
        self._open_count = 0

    def _stack_parts(self) -> tuple[L, ...]:
        return self.layers

    def _start(self) -> None:
        self._open_count = 0

    def reset(self) -> None:
        super().reset()
        for layer in self.layers:
            layer.reset()


class _WriteStage:
    """Bytes that a layer has written and the layer below has not taken yet."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[memoryview] = []

    def write(self, data: memoryview) -> int:
        # A copy: the layer above may reuse its buffer.
        self._parts.append(memoryview(bytes(data)))
        return len(data)

    def empty_into(self, layer: ExtWrite, w: ByteWriter) -> None:
        """Pass everything to `layer`; the rest stays here if that raises."""
        parts = self._parts
        while parts:
            view = parts[0]
            while view:
                view = view[layer.write_into(w, view) :]
                parts[0] = view
            del parts[0]

    def clear(self) -> None:
        self._parts.clear()


class _ReadStage:
    """Bytes that a layer has read and the layer above has not taken yet, and the number that it wants."""

    __slots__ = ("_buffer", "_has_ended", "_rest", "_wanted")

    def __init__(self) -> None:
        self._buffer = _EMPTY
        self._rest = _EMPTY
        self._wanted = 0
        self._has_ended = False

    def readinto(self, buffer: memoryview) -> int:
        rest = self._rest
        if rest:
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self._rest = rest[count:]
            return count
        if self._has_ended:
            return 0
        self._wanted = min(len(buffer), _STAGE_BYTES)
        raise would_block("the stage between two layers is empty")

    def peek(self, size: int, /) -> bytes:
        return bytes(self._rest[:size])

    def fill_from(self, layer: ExtRead, r: ByteReader) -> None:
        """Read the wanted bytes, or some of them, from `layer`, and the bytes that it has at hand."""
        count = layer.read_into(r, self._with_room_for(self._wanted)[: self._wanted])
        self._rest = self._buffer[:count]
        self._has_ended = count == 0
        more = min(layer.at_hand, _STAGE_BYTES - count)
        if more:
            buffer = self._with_room_for(count + more)
            count += layer.read_into(r, buffer[count : count + more])
            self._rest = buffer[:count]

    def _with_room_for(self, size: int) -> memoryview:
        if len(self._buffer) < size:
            larger = memoryview(bytearray(size))
            larger[: len(self._buffer)] = self._buffer
            self._buffer = larger
        return self._buffer

    def clear(self) -> None:
        self._rest = _EMPTY
        self._has_ended = False


class MultiWExt(_Stack[ExtWrite], ExtWrite):
    """Writes through several layers. Ends: as the innermost layer that is not NEVER.

    Args:
        layers: the first is next to the stream. Do not use them directly any more.
    Raises:
        BadParameter: no layers.
        InUse: a layer is in the middle of a message, or given twice.
        TypeError: one of them is not a writing layer.
    """

    def __init__(self, layers: Iterable[ExtWrite]) -> None:
        super().__init__(layers, ExtWrite)
        # Stage i lies between layer i, which takes from it, and layer i + 1, which writes into it.
        self._stages = tuple(_WriteStage() for _ in self.layers[1:])
        only = self.layers[0]
        if not self._stages and type(only).write_into is ExtWrite.write_into:
            # All layers were joined into one, the usual case of a cipher stack. The stack shares its owed
            # bytes and its hook, so the checks of a public call are made once: half the cost of a small
            # write. Not for a layer with its own `write_into`, such as a shared one, whose hook does nothing.
            self._owed = only._owed
            self._take = only._take  # type: ignore[method-assign]

    def _below(self, index: int, w: ByteWriter) -> ByteWriter:
        return self._stages[index - 1] if index else w

    def _drain(self, w: ByteWriter) -> None:
        """Empty all stages; after a refusal the rest is in stage 0."""
        layers, stages = self.layers, self._stages
        for index in range(len(stages) - 1, -1, -1):
            stages[index].empty_into(layers[index], stages[index - 1] if index else w)

    def _push_owed(self, w: ByteWriter) -> None:
        # Only layer 0 meets a stream that refuses; the others owe nothing between two calls.
        self._drain(w)
        self.layers[0].settle_into(w)

    def _push_header(self, w: ByteWriter) -> None:
        while self._open_count < len(self.layers):
            # Empty the stages first: the header of this layer is content of all outer ones.
            self._drain(w)
            self.layers[self._open_count].write_header(self._below(self._open_count, w))
            self._open_count += 1
        self._drain(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        self._drain(w)
        last = len(self.layers) - 1
        count = self.layers[last].write_into(self._below(last, w), view)
        try:
            self._drain(w)
        except BlockingIOError:
            # The content was taken; the rest waits in stage 0 and goes first in the next call.
            return count
        return count

    def _push_flush(self, w: ByteWriter) -> None:
        # Repeating is harmless: after a refusal the inner layers hold nothing back any more.
        self._drain(w)
        for index in range(len(self.layers) - 1, -1, -1):
            self.layers[index].flush_into(self._below(index, w))
            self._drain(w)

    def _push_end(self, w: ByteWriter) -> None:
        while self._open_count:
            self._drain(w)
            self.layers[self._open_count - 1].write_end(self._below(self._open_count - 1, w))
            self._open_count -= 1

    def _clear(self) -> None:
        super()._clear()
        for stage in self._stages:
            stage.clear()


class MultiRExt(_Stack[ExtRead], ExtRead):
    """Reads what `MultiWExt` with the matching layers wrote. Ends: as the innermost layer that is not NEVER.

    Args:
        layers: the first is next to the stream. Do not use them directly any more.
    Raises:
        BadParameter: no layers.
        InUse: a layer is in the middle of a message, or given twice.
        TypeError: one of them is not a reading layer.
    """

    def __init__(self, layers: Iterable[ExtRead]) -> None:
        super().__init__(layers, ExtRead)
        # Stage i lies between layer i, which fills it, and layer i + 1, which reads from it.
        self._stages = tuple(_ReadStage() for _ in self.layers[1:])
        only = self.layers[0]
        if not self._stages and type(only).read_into is ExtRead.read_into:
            # As in MultiWExt: the checks of a public call are made once.
            self._read = only._read  # type: ignore[method-assign]

    @property
    def at_hand(self) -> int:
        return self.layers[-1].at_hand

    def _run(self, top: int, call: Callable[[ByteReader], T], r: ByteReader) -> T:
        """Make `call` of layer `top` on the stage below it, filling the stages as they are asked."""
        layers, stages = self.layers, self._stages
        index = top
        while True:
            below = stages[index - 1] if index else r
            try:
                if index == top:
                    return call(below)
                stages[index].fill_from(layers[index], below)
            except BlockingIOError:
                if not index:
                    raise
                # An empty stage has refused: let the layer below fill it, then come back.
                index -= 1
            else:
                index += 1

    def _read_header(self, r: ByteReader) -> None:
        while self._open_count < len(self.layers):
            self._run(self._open_count, self.layers[self._open_count].read_header, r)
            self._open_count += 1

    def _read(self, r: ByteReader, view: memoryview) -> int:
        innermost = self.layers[-1]
        return self._run(len(self.layers) - 1, lambda below: innermost.read_into(below, view), r)

    def _skip(self, r: ByteReader) -> None:
        while self._open_count:
            self._run(self._open_count - 1, self.layers[self._open_count - 1].read_end, r)
            self._open_count -= 1

    def _clear(self) -> None:
        for stage in self._stages:
            stage.clear()


class CompExtW(MultiWExt):
    """Two layers as one: `outer` next to the stream, `inner` next to the content."""

    def __init__(self, outer: ExtWrite, inner: ExtWrite) -> None:
        super().__init__([outer, inner])


class CompExtR(MultiRExt):
    """Two layers as one: `outer` next to the stream, `inner` next to the content."""

    def __init__(self, outer: ExtRead, inner: ExtRead) -> None:
        super().__init__([outer, inner])


# Endings with which reading returns 0 although the stream below continues.
_ENDS_BY_ITSELF = (Ending.EXACT, Ending.MARKED)


class ChainExtRead(ExtRead):
    """Reads two messages on one stream as one: through `first`, then through `second`. Ends: as `second`.

    A reader may be *initialised*, its header read elsewhere: then the chain begins with its content. After
    the end the chain is NEW, and both readers read their headers in the next message. `reset()` resets both.

    Args:
        first: must end by itself (EXACT, or MARKED: its padding is then read as content).
        second: any layer or stack.
    Raises:
        BadParameter: `first` does not end by itself, so `second` would read nothing.
        InUse: one object given twice, or a reader that is neither NEW nor initialised.
        TypeError: one of them is not a reading layer.
    """

    def __init__(self, first: ExtRead, second: ExtRead) -> None:
        super().__init__()
        check_layer(first, ExtRead, "the first reader")
        check_layer(second, ExtRead, "the second reader")
        if first.ends not in _ENDS_BY_ITSELF:
            raise BadParameter(
                f"the first reader ends {first.ends.name}, expected one that ends by itself: EXACT or MARKED"
            )
        if first is second:
            raise InUse("one reader given twice; each part needs its own object")
        for reader in (first, second):
            if reader.phase not in (Phase.NEW, Phase.CONTENT):
                raise InUse(f"the reader is in phase {reader.phase.name}, expected NEW or CONTENT")
        self.ends = second.ends
        self._first = first
        self._second = second
        self._is_first_over = False

    @property
    def at_hand(self) -> int:
        return (self._second if self._is_first_over else self._first).at_hand

    def _start(self) -> None:
        self._is_first_over = False

    def _read_header(self, r: ByteReader) -> None:
        if self._first.phase is not Phase.CONTENT:
            self._first.read_header(r)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._is_first_over:
            # After a refusal in the end of the first message its phase is END.
            if self._first.phase is Phase.CONTENT:
                count = self._first.read_into(r, view)
                if count:
                    return count
            self._pass_border(r)
        self._open_second(r)
        return self._second.read_into(r, view)

    def _skip(self, r: ByteReader) -> None:
        if not self._is_first_over:
            self._pass_border(r)
        if self._second.phase is not Phase.END:
            self._open_second(r)
        self._second.read_end(r)

    def _pass_border(self, r: ByteReader) -> None:
        self._first.read_end(r)
        self._is_first_over = True

    def _open_second(self, r: ByteReader) -> None:
        if self._second.phase is not Phase.CONTENT:
            self._second.read_header(r)

    def reset(self) -> None:
        super().reset()
        self._first.reset()
        self._second.reset()


# Whole pieces of content. A layer's own calls may handle less than asked; these loop until all is done. They
# are restartable: `BlockingIOError.characters_written` (as in `io`) is how many content bytes this call has
# handled; call again with the rest. `read_to_end` keeps its bytes in the caller's `bytearray`: repeat the
# same call.

# The buffer of `read_to_end`.
_PIECE_BYTES = 64 * 1024


def _refused_after(done: int, error: BlockingIOError) -> BlockingIOError:
    return BlockingIOError(error.errno, error.strerror or "not now", done)


def write_all_into(ext: ExtWrite, w: ByteWriter, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` as content.

    Args:
        ext: between header and end.
        w: the stream below.
        data: content, the bytes of any contiguous buffer.
    Raises:
        BlockingIOError: its `characters_written` bytes were taken; call again with the rest.
        PhaseError: not between header and end.
        TypeError: `ext` is not a writing layer, or `data` not a contiguous buffer.
    """
    check_layer(ext, ExtWrite, "ext")
    view = byte_view(data)
    done = 0
    while done < len(view):
        try:
            done += ext.write_into(w, view[done:])
        except BlockingIOError as error:
            raise _refused_after(done, error) from None


def read_exact_from(ext: ExtRead, r: ByteReader, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` with content and read no further.

    Args:
        ext: between header and end.
        r: the stream below.
        buffer: any contiguous one; filled from the front.
    Raises:
        BlockingIOError: its `characters_written` bytes are there; call again with `buffer` from there on.
        BadParameter: `buffer` is read-only.
        TypeError: `ext` is not a reading layer, or `buffer` not a contiguous buffer.
        Truncated: the content ended before. Not sticky: the layer is at the end of its content.
        RemoteLayerError: the bytes are not of the layer's format; sticky.
        PhaseError: not between header and end.
    """
    check_layer(ext, ExtRead, "ext")
    view = writable_view(buffer)
    done = 0
    while done < len(view):
        try:
            count = ext.read_into(r, view[done:])
        except BlockingIOError as error:
            raise _refused_after(done, error) from None
        if count == 0:
            raise Truncated(f"the content ended after {done} of {len(view)} bytes")
        done += count


def read_to_end(ext: ExtRead, r: ByteReader, content: bytearray, *, limit_bytes: int) -> None:
    """Append the content up to its end to `content`; call `read_end` afterwards.

    Args:
        ext: between header and end. If it is PADDED or MARKED, padding is read too.
        r: the stream below.
        content: the bytes that this call and earlier ones have read.
        limit_bytes: how long `content` may become.
    Raises:
        BlockingIOError: call again with the same `content`.
        LimitExceeded: there is more. `content` is one byte longer than the limit; a call with a higher limit
            continues.
        RemoteLayerError: the bytes are not of the layer's format; sticky. `content` holds what came before.
        PhaseError: not between header and end.
        BadParameter: `limit_bytes` is negative.
        TypeError: `ext` is not a reading layer, `content` not a bytearray, `limit_bytes` not a whole number.
    """
    check_layer(ext, ExtRead, "ext")
    if not isinstance(content, bytearray):
        raise TypeError(f"content: expected a bytearray, which grows, got {type(content).__name__}")
    check_number(limit_bytes, "limit_bytes", 0, sys.maxsize)
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(0, limit_bytes - len(content)) + 1)))
    while True:
        # One byte more than the limit allows: only that distinguishes content of exactly the limit from more.
        room = limit_bytes - len(content) + 1
        if room <= 0:
            raise LimitExceeded(f"more than {limit_bytes} bytes of content")
        count = ext.read_into(r, buffer[:room])
        if count == 0:
            return
        content += buffer[:count]
