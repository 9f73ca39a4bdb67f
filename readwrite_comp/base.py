"""`ExtWrite` and `ExtRead`: the base of all byte layers and the contract that they keep.

A layer writes a message as a header, content and an end, and reads it back. It does not own the stream below:
each call gets one, so that a stream can be lent to another service between two calls.

The contract, checked by `readwrite_comp.testing.check_ext_pair`:

* Restartable. Every call may raise `BlockingIOError`; nothing is then lost or repeated, and the same call,
  repeated, continues. `write_into` takes bytes *or* raises, never both.
* A layer reads no further than the structure demands: bytes after a message stay in the stream.
* A layer holds at most one window or block of content or owed output.
* 0 is the end of the content and only that. A stream that ends inside a structure is `Truncated`.
* After a `RemoteLayerError` every call raises it again, until `reset()`.
* Other errors of the stream pass through, and the same call may be repeated. Only if it is unknown whether
  content was taken does the writer refuse to continue (FAILED, until `reset()`), to avoid writing it twice.

The public methods handle phases and errors, the hooks (`_start`, `_take`, …) do a layer's work. A hook that
a `BlockingIOError` has interrupted is called again.
"""

from __future__ import annotations

from enum import Enum, auto

from readwrite_comp.errors import PhaseError, RemoteLayerError, renewed
from readwrite_comp.helpers import ByteReader, ByteWriter, Owed, byte_view, read_only, read_some, write_some

__all__ = [
    "TRANSITIONS",
    "Ending",
    "Event",
    "ExtRead",
    "ExtWrite",
    "IdentityR",
    "IdentityW",
    "Phase",
    "check_layer",
    "next_phase",
]


# The phases of a message.
#
#     NEW ──HEADER──▶ HEADER ──HEADER_DONE──▶ CONTENT ──END──▶ END ──END_DONE──▶ NEW
#
# HEADER and END are phases because the stream may refuse halfway: the first call enters them, the last leaves
# them. FAIL leads from any phase of a message to FAILED, and only RESET leads out: a reader fails on bytes
# that it read, a writer when its stream breaks while it takes content. An event that the table does not list
# is a `PhaseError` and changes nothing.


class Phase(Enum):
    """The state of a layer within its message."""

    NEW = auto()
    HEADER = auto()
    CONTENT = auto()
    END = auto()
    FAILED = auto()


class Event(Enum):
    """An event of a layer: a call of its user, the completion of one, or a failure."""

    HEADER = auto()
    HEADER_DONE = auto()
    CONTENT = auto()
    END = auto()
    END_DONE = auto()
    FAIL = auto()
    RESET = auto()


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.NEW: {
        Event.HEADER: Phase.HEADER,
        Event.RESET: Phase.NEW,
    },
    Phase.HEADER: {
        Event.HEADER: Phase.HEADER,
        Event.HEADER_DONE: Phase.CONTENT,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.CONTENT: {
        Event.CONTENT: Phase.CONTENT,
        Event.END: Phase.END,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.END: {
        Event.END: Phase.END,
        Event.END_DONE: Phase.NEW,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.FAILED: {
        Event.RESET: Phase.NEW,
    },
}
_MEANING = {
    Event.HEADER: "the header of a message",
    Event.CONTENT: "content",
    Event.END: "the end of a message",
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase that follows.

    Raises:
        PhaseError: the event is not allowed in this phase.
    """
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        allowed = ", ".join(possible.name for possible in TRANSITIONS[phase])
        raise PhaseError(
            f"{_MEANING.get(event, event.name)} is not possible in phase {phase.name}; possible: {allowed}"
        ) from None


_CONTENT = Phase.CONTENT


class Ending(Enum):
    """How a reader finds the end of the content."""

    EXACT = auto()
    """Reading returns 0 after the exact content."""

    MARKED = auto()
    """Reading returns 0 after the content and padding that looks like content."""

    PADDED = auto()
    """Padding that looks like content may follow: the reader must know the length."""

    NEVER = auto()
    """The content ends with the stream below, unless the reader knows the length."""


class _Phased:
    """The phase of a layer, for both directions."""

    ends = Ending.NEVER

    def __init__(self) -> None:
        self._phase = Phase.NEW

    @property
    def phase(self) -> Phase:
        """Where the layer is in its message."""
        return self._phase

    def reset(self) -> None:
        """Drop the current message or error, with owed and partly read bytes; the layer is NEW again."""
        self._phase = next_phase(self._phase, Event.RESET)
        self._clear()

    def _clear(self) -> None:
        """Hook: forget the message."""


class ExtWrite(_Phased):
    """The writing half of a layer; without overrides a transparent one.

    A layer overrides the hooks that it needs: `_start` (owe the header), `_take` (accept content), `_flush`
    (owe held content), `_finish` (owe the end of the message). Bytes added to `self._owed` are written before
    all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owed = Owed()

    def write_header(self, w: ByteWriter) -> None:
        """Write the header of the message.

        Raises:
            BlockingIOError: the stream took only a part; call again.
            PhaseError: a message has begun already.
        """
        phase = next_phase(self._phase, Event.HEADER)
        if self._phase is Phase.NEW:
            self._start()
            self._phase = phase
        self._push_header(w)
        self._phase = next_phase(self._phase, Event.HEADER_DONE)

    def write_into(self, w: ByteWriter, data: bytes | bytearray | memoryview) -> int:
        """Take some content.

        Args:
            w: the stream below.
            data: content, the bytes of any contiguous buffer; used during the call only.
        Returns:
            How many bytes were taken, at least 1; 0 for empty data.
        Raises:
            BlockingIOError: no byte of `data` was taken. Offer it again, or other data, or write the end.
            PhaseError: not between header and end.
            TypeError: `data` is not a contiguous buffer.
        On error: FAILED after any other error that the stream raises while content is taken.
        """
        if self._phase is not _CONTENT:
            next_phase(self._phase, Event.CONTENT)
        # Inlined for the usual case: one more call would slow down each small write.
        view = data if type(data) is memoryview else byte_view(data)
        if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
            view = byte_view(view)
        if not view:
            return 0
        if self._owed:
            self._owed.settle(w)
        try:
            return self._take(w, view)
        except BlockingIOError:
            raise
        except BaseException:
            # It is unknown whether `view` was taken. A caller that offers it again, as `io.BufferedWriter`
            # does, could write it twice.
            self._phase = next_phase(self._phase, Event.FAIL)
            raise

    def flush_into(self, w: ByteWriter) -> None:
        """Write the held content, if the format allows a short unit.

        Raises:
            BlockingIOError: call again.
            PhaseError: not between header and end.
        """
        if self._phase is not _CONTENT:
            next_phase(self._phase, Event.CONTENT)
        self._push_flush(w)

    def settle_into(self, w: ByteWriter) -> None:
        """Write the owed output and close nothing, so that the stream can be lent or exchanged. Allowed in
        any phase.

        Raises:
            BlockingIOError: call again.
        """
        self._push_owed(w)

    def write_end(self, w: ByteWriter) -> None:
        """Write the end of the message; then the layer is NEW again.

        Raises:
            BlockingIOError: call again.
            PhaseError: no message has begun, or its header is incomplete.
        """
        phase = next_phase(self._phase, Event.END)
        if self._phase is _CONTENT:
            self._owed.settle(w)
            self._finish()
            self._phase = phase
        self._push_end(w)
        self._phase = next_phase(self._phase, Event.END_DONE)
        self._clear()

    # Hooks.

    def _start(self) -> None:
        """Begin a message: set its state, owe its header. Called once for each message."""

    def _push_owed(self, w: ByteWriter) -> None:
        self._owed.settle(w)

    def _push_header(self, w: ByteWriter) -> None:
        self._owed.settle(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        """Take content from `view` (not empty); nothing is owed when this is called."""
        return write_some(w, view)

    def _flush(self) -> None:
        """Owe the held content; nothing is owed when this is called."""

    def _push_flush(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        self._flush()
        self._owed.settle(w)

    def _finish(self) -> None:
        """Owe the end of the message. Called once for each message; nothing is owed when this is called."""

    def _push_end(self, w: ByteWriter) -> None:
        self._owed.settle(w)

    def _clear(self) -> None:
        self._owed.clear()

    # For stacks.

    def _stack_parts(self) -> tuple[ExtWrite, ...]:
        """The layers that this one consists of."""
        return (self,)

    def _stack_joined(self, inner: ExtWrite) -> ExtWrite | None:
        """Return a cheaper layer that replaces this one and its inner neighbour, or None."""
        return None


class ExtRead(_Phased):
    """The reading half of a layer; without overrides a transparent one.

    A layer overrides the hooks that it needs: `_start`, `_read_header`, `_read`, `_skip`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._failure: RemoteLayerError | None = None

    def read_header(self, r: ByteReader) -> None:
        """Read the header of the message.

        Raises:
            BlockingIOError: call again.
            RemoteLayerError: the bytes are not a header; sticky.
            PhaseError: a message has begun already.
        """
        phase = self._next(Event.HEADER)
        if self._phase is Phase.NEW:
            self._start()
            self._phase = phase
        try:
            self._read_header(r)
        except RemoteLayerError as error:
            self._fail(error)
            raise
        self._phase = next_phase(self._phase, Event.HEADER_DONE)

    def read_into(self, r: ByteReader, buffer: bytearray | memoryview) -> int:
        """Read some content.

        Args:
            r: the stream below.
            buffer: any contiguous buffer; filled from the front.
        Returns:
            How many bytes; 0 at the end of the content (and for an empty buffer).
        Raises:
            BlockingIOError: nothing can be read now; call again.
            RemoteLayerError: the bytes are not of this format; sticky. `buffer` may be overwritten, but holds
                no content.
            PhaseError: not between header and end.
            BadParameter: `buffer` is read-only. TypeError: not a contiguous buffer.
        """
        if self._phase is not _CONTENT:
            self._next(Event.CONTENT)
        # As in `write_into`.
        view = buffer if type(buffer) is memoryview else byte_view(buffer, "buffer")
        if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
            view = byte_view(view, "buffer")
        if view.readonly:
            raise read_only()
        if not view:
            return 0
        try:
            return self._read(r, view)
        except RemoteLayerError as error:
            self._fail(error)
            raise

    @property
    def at_hand(self) -> int:
        """How many bytes of content can be read without a call of the stream. A stack passes them on in one
        piece.
        """
        return 0

    def read_end(self, r: ByteReader) -> None:
        """Read to the end of the message: past padding, and past unread content if the format shows where it
        ends. Then the layer is NEW again.

        Raises:
            BlockingIOError: call again.
            RemoteLayerError: the bytes are not of this format; sticky.
            PhaseError: no message has begun, or its header is incomplete.
        """
        phase = self._next(Event.END)
        self._phase = phase
        try:
            self._skip(r)
        except RemoteLayerError as error:
            self._fail(error)
            raise
        self._phase = next_phase(self._phase, Event.END_DONE)
        self._clear()

    def reset(self) -> None:
        super().reset()
        self._failure = None

    # Hooks.

    def _start(self) -> None:
        """Begin a message: set its state. Called once for each message."""

    def _read_header(self, r: ByteReader) -> None:
        """Read the header."""

    def _read(self, r: ByteReader, view: memoryview) -> int:
        """Read content into `view` (not empty); 0 at its end, at every further call too."""
        return read_some(r, view)

    def _skip(self, r: ByteReader) -> None:
        """Read up to the end of the message."""

    # For stacks, as in ExtWrite.

    def _stack_parts(self) -> tuple[ExtRead, ...]:
        return (self,)

    def _stack_joined(self, inner: ExtRead) -> ExtRead | None:
        return None

    # Phases and errors.

    def _next(self, event: Event) -> Phase:
        if self._failure is not None:
            raise renewed(self._failure)
        return next_phase(self._phase, event)

    def _fail(self, error: RemoteLayerError) -> None:
        # Without tracebacks, which would keep the frames of the call and the caller's buffer.
        self._failure = renewed(error).with_traceback(None)
        self._failure.__context__ = None
        self._phase = next_phase(self._phase, Event.FAIL)


def check_layer(layer: object, kind: type[ExtRead] | type[ExtWrite], what: str) -> None:
    """Refuse a layer of the wrong direction at construction; it would fail at its first use otherwise.

    Raises:
        TypeError: `layer` is not a `kind`.
    """
    if isinstance(layer, kind):
        return
    expected = "a layer that writes (ExtWrite)" if kind is ExtWrite else "a layer that reads (ExtRead)"
    if isinstance(layer, type):
        given = f"the class {layer.__name__}: create an object"
    else:
        does = {ExtRead: ", which reads", ExtWrite: ", which writes"}
        given = type(layer).__name__ + "".join(does[base] for base in does if isinstance(layer, base))
    raise TypeError(f"{what}: expected {expected}, got {given}")


class IdentityW(ExtWrite):
    """Passes content on unchanged, a placeholder in stacks of fixed depth. Ends: NEVER."""


class IdentityR(ExtRead):
    """Passes content on unchanged. Ends: NEVER."""
