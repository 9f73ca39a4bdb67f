"""`MultiWExt` / `MultiRExt`: any number of layers as one, by a loop and never by recursion, so that depth
costs no Python stack.

Layer 0 is next to the stream (its header is first on the wire, like an envelope), the last is next to the
content. Between two neighbours lies a *stage*, a buffer that plays the stream for the layers on both sides.

Writing pushes outwards: a layer writes into its stage, which never refuses, and the stage is emptied into the
next layer before anything else is written into it. So a stage holds at most what one call of the layer above
it can produce, and only layer 0 ever meets a stream that refuses.

Reading pulls, and must not read ahead of what the structures demand: bytes after the message are not ours. So
a stage is filled only with as many bytes as the layer above it has just asked for, and what the layer below
has *at hand* by then: the rest of a chunk or block that it had to open for them. Asked while empty it notes
the wish and refuses; the loop sees the refusal, goes down to the layer below to fulfil the wish, and then
repeats the call, which the contract of every layer allows. A refusal at layer 0 is the stream's own and goes
to the caller.

Neighbours that work in place on equal blocks are joined into one layer with a loop over one buffer (see
`inplace`): no copy between them. Stacks within stacks are unpacked. Either way the bytes on the wire are the
same.

`CompExtW(outer, inner)` / `CompExtR` are the case of two. `ChainExtRead` reads two messages one after the
other. `write_all_into`, `read_exact_from` and `read_to_end` move whole pieces of content through a layer.
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

# The most that is asked of a layer at once on behalf of the one above it: bounds a stage, whatever a wish
# says.
_STAGE_BYTES = 64 * 1024
_EMPTY = memoryview(b"")
T = TypeVar("T")
L = TypeVar("L", ExtWrite, ExtRead)


def _check_free(layers: Sequence[ExtWrite] | Sequence[ExtRead], kind: type[ExtRead] | type[ExtWrite]) -> None:
    if not layers:
        raise BadParameter("a stack of no layers, expected at least one (Identity changes nothing)")
    if len({id(layer) for layer in layers}) != len(layers):
        raise InUse("a layer stands in the stack twice; each place needs an object of its own")
    for index, layer in enumerate(layers):
        check_layer(layer, kind, f"layer {index}")
        if layer.phase is not Phase.NEW:
            raise InUse(f"layer {index} is in phase {layer.phase.name}, expected NEW")


def _stack_ending(layers: Sequence[ExtWrite] | Sequence[ExtRead]) -> Ending:
    """How reading ends: as the layer next to the content says, or, where that is transparent, the next one
    outwards.
    """
    for layer in reversed(layers):
        if layer.ends is not Ending.NEVER:
            return layer.ends
    return Ending.NEVER


def _flattened(layers: Sequence[L]) -> tuple[L, ...]:
    """Stacks unpacked, and neighbours joined that work on one buffer."""
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
    """What both directions have."""

    def __init__(self, layers: Iterable[L], kind: type[ExtRead] | type[ExtWrite]) -> None:
        super().__init__()
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        layers = tuple(layers)
        _check_free(layers, kind)
        self.ends = _stack_ending(layers)
        self._layers: tuple[L, ...] = _flattened(layers)
        # How many layers are between their header and their end.
        self._open_count = 0

    def _stack_parts(self) -> tuple[L, ...]:
        return self._layers

    def _start(self) -> None:
        self._open_count = 0

    def reset(self) -> None:
        super().reset()
        for layer in self._layers:
            layer.reset()


class _WriteStage:
    """What a layer has written and the layer below it has not taken yet."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[memoryview] = []

    def write(self, data: memoryview) -> int:
        # A copy, since the layer above may use its buffer again as soon as this returns.
        self._parts.append(memoryview(bytes(data)))
        return len(data)

    def empty_into(self, layer: ExtWrite, w: ByteWriter) -> None:
        """Hand everything to `layer`; the rest stays here when that raises."""
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
    """What a layer has read and the layer above it has not taken yet, and how much that one wishes for."""

    __slots__ = ("_buffer", "_has_ended", "_rest", "_wish")

    def __init__(self) -> None:
        self._buffer = _EMPTY
        self._rest = _EMPTY
        self._wish = 0
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
        self._wish = min(len(buffer), _STAGE_BYTES)
        raise would_block("the stage between two layers is empty")

    def peek(self, size: int, /) -> bytes:
        return bytes(self._rest[:size])

    def fill_from(self, layer: ExtRead, r: ByteReader) -> None:
        """Read what was wished for, or a part of it, from `layer`; and more only of what that has here."""
        count = layer.read_into(r, self._with_room_for(self._wish)[: self._wish])
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
        layers: the first is next to the stream. They belong to the stack from now on.
    Raises:
        BadParameter: no layers.
        InUse: a layer is in the middle of a message, or given twice.
        TypeError: one of them is no layer that writes.
    """

    def __init__(self, layers: Iterable[ExtWrite]) -> None:
        super().__init__(layers, ExtWrite)
        # Stage i lies between layer i, which takes from it, and layer i + 1, which writes into it.
        self._stages = tuple(_WriteStage() for _ in self._layers[1:])
        only = self._layers[0]
        if not self._stages and type(only).write_into is ExtWrite.write_into:
            # All layers were joined into one, the usual case of a cipher stack. Its debts are the stack's, so
            # the checks of a public call are made once: half of what a small write costs. Not if they are
            # its own, as those of a shared layer: its hook is not where it does its work.
            self._owed = only._owed
            self._take = only._take  # type: ignore[method-assign]

    def _below(self, index: int, w: ByteWriter) -> ByteWriter:
        return self._stages[index - 1] if index else w

    def _drain(self, w: ByteWriter) -> None:
        """Empty all stages; on a refusal the rest is in stage 0."""
        layers, stages = self._layers, self._stages
        for index in range(len(stages) - 1, -1, -1):
            stages[index].empty_into(layers[index], stages[index - 1] if index else w)

    def _push_owed(self, w: ByteWriter) -> None:
        # Only layer 0 meets a stream that refuses: the others owe nothing between two calls.
        self._drain(w)
        self._layers[0].settle_into(w)

    def _push_header(self, w: ByteWriter) -> None:
        while self._open_count < len(self._layers):
            # Stages are emptied first: the header of this layer is content of all those further out.
            self._drain(w)
            self._layers[self._open_count].write_header(self._below(self._open_count, w))
            self._open_count += 1
        self._drain(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        self._drain(w)
        last = len(self._layers) - 1
        count = self._layers[last].write_into(self._below(last, w), view)
        try:
            self._drain(w)
        except BlockingIOError:
            # The content was taken; what could not go out waits in stage 0 and goes first in the next call.
            return count
        return count

    def _push_flush(self, w: ByteWriter) -> None:
        # On a second call after a refusal the layers further in hold nothing back any more, so repeating is
        # harmless.
        self._drain(w)
        for index in range(len(self._layers) - 1, -1, -1):
            self._layers[index].flush_into(self._below(index, w))
            self._drain(w)

    def _push_end(self, w: ByteWriter) -> None:
        while self._open_count:
            self._drain(w)
            self._layers[self._open_count - 1].write_end(self._below(self._open_count - 1, w))
            self._open_count -= 1

    def _clear(self) -> None:
        super()._clear()
        for stage in self._stages:
            stage.clear()


class MultiRExt(_Stack[ExtRead], ExtRead):
    """Reads what `MultiWExt` with the matching layers wrote. Ends: as the innermost layer that is not NEVER.

    Args:
        layers: the first is next to the stream. They belong to the stack from now on.
    Raises:
        BadParameter: no layers.
        InUse: a layer is in the middle of a message, or given twice.
        TypeError: one of them is no layer that reads.
    """

    def __init__(self, layers: Iterable[ExtRead]) -> None:
        super().__init__(layers, ExtRead)
        # Stage i lies between layer i, which fills it, and layer i + 1, which reads from it.
        self._stages = tuple(_ReadStage() for _ in self._layers[1:])
        only = self._layers[0]
        if not self._stages and type(only).read_into is ExtRead.read_into:
            # As in MultiWExt: the checks of a public call are made once.
            self._read = only._read  # type: ignore[method-assign]

    @property
    def at_hand(self) -> int:
        return self._layers[-1].at_hand

    def _run(self, top: int, call: Callable[[ByteReader], T], r: ByteReader) -> T:
        """Make `call` of layer `top` on the stream below it, feeding it from the layers further out as it
        asks.
        """
        layers, stages = self._layers, self._stages
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
                # Only its empty stage refuses a layer further in: see to the layer below, then come back.
                index -= 1
            else:
                index += 1

    def _read_header(self, r: ByteReader) -> None:
        while self._open_count < len(self._layers):
            self._run(self._open_count, self._layers[self._open_count].read_header, r)
            self._open_count += 1

    def _read(self, r: ByteReader, view: memoryview) -> int:
        innermost = self._layers[-1]
        return self._run(len(self._layers) - 1, lambda below: innermost.read_into(below, view), r)

    def _skip(self, r: ByteReader) -> None:
        while self._open_count:
            self._run(self._open_count - 1, self._layers[self._open_count - 1].read_end, r)
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


# Two messages on one stream, read as one: the content of the first, its end, the content of the second.
# Either reader may be *initialised already*, with its header read elsewhere; then the chain begins with its
# content.

# Endings by which reading returns 0 while the stream below goes on.
_ENDS_BY_ITSELF = (Ending.EXACT, Ending.MARKED)


class ChainExtRead(ExtRead):
    """Reads the content of one message through `first`, then that of the next through `second`. Ends: as
    `second`.

    The chain is NEW again after its end; both readers then read their headers, also one that was initialised
    at first. `reset()` resets both.

    Args:
        first: must end by itself (EXACT, or MARKED: its padding is then read as content).
        second: any layer or stack.
    Raises:
        BadParameter: `first` does not end by itself, so there would be no second.
        InUse: one object given twice, or a reader that is neither NEW nor initialised (between header and
            end).
        TypeError: one of them is no layer that reads.
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
            raise InUse("one reader given twice; each part needs an object of its own")
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
            # After a refusal in the end of the first message it is in phase END, and only that goes on.
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
# are as restartable as a layer: `BlockingIOError.characters_written` (as in `io`) is the number of content
# bytes that this call has handled, and the next call takes the rest. `read_to_end` keeps its bytes in the
# caller's `bytearray`, so the same call is made again.

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
        BlockingIOError: its `characters_written` bytes were taken; call again with the others.
        PhaseError: not between header and end.
        TypeError: `data` is no contiguous buffer.
    """
    view = byte_view(data)
    done = 0
    while done < len(view):
        try:
            done += ext.write_into(w, view[done:])
        except BlockingIOError as error:
            raise _refused_after(done, error) from None


def read_exact_from(ext: ExtRead, r: ByteReader, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` with content, and read none beyond.

    Args:
        ext: between header and end.
        r: the stream below.
        buffer: any contiguous one; filled from the front.
    Raises:
        BlockingIOError: its `characters_written` bytes are there; call again with `buffer` from there on.
        BadParameter: it is read-only. TypeError: it is no contiguous buffer.
        Truncated: the content ended before. Not sticky: the layer stands at the end of its content.
        RemoteLayerError: the bytes are not of the layer's format; sticky.
        PhaseError: not between header and end.
    """
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
    """Append all content up to its end to `content`; `read_end` is still to be called.

    Args:
        ext: between header and end. If it is PADDED or MARKED, padding is part of what is read.
        r: the stream below.
        content: what has been read so far, by this call or earlier ones.
        limit_bytes: how long `content` may become.
    Raises:
        BlockingIOError: call again with the same `content`.
        LimitExceeded: there is more. `content` is one byte longer than the limit; nothing is lost, so a call
            with a higher limit goes on.
        RemoteLayerError: the bytes are not of the layer's format; sticky. `content` holds what came before.
        PhaseError: not between header and end.
        BadParameter: `limit_bytes` is negative.
        TypeError: `content` is no bytearray, or `limit_bytes` no whole number.
    """
    if not isinstance(content, bytearray):
        raise TypeError(f"content: expected a bytearray, which grows, got {type(content).__name__}")
    check_number(limit_bytes, "limit_bytes", 0, sys.maxsize)
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(0, limit_bytes - len(content)) + 1)))
    while True:
        # One byte more than there is room for: only so can content of exactly the limit be told from more.
        room = limit_bytes - len(content) + 1
        if room <= 0:
            raise LimitExceeded(f"more than {limit_bytes} bytes of content")
        count = ext.read_into(r, buffer[:room])
        if count == 0:
            return
        content += buffer[:count]
