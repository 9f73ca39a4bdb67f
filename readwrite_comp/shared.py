"""`SharedW` / `SharedR`: one layer in the hands of several holders, of whom one at a time may use it.

Each handle is a layer like any other, with a twin from `share()` for the other holder. A handle *takes* the
layer with its first call and gives it back when the message is over (`write_end` / `read_end` has returned),
on `reset()`, or on `release()`, which hands a message over half-way: one service reads the header, another
goes on. Between the two every call through another handle is `InUse` and changes nothing; so is a call made
from within a call, by a stream that reads or writes through the same layer.

Without this, two users of one object would take parts of each other's messages and find out late or never.
"""

from __future__ import annotations

from .base import Ending, ExtRead, ExtWrite
from .errors import InUse
from .helpers import ByteReader, ByteWriter
from .phases import Phase

__all__ = ["SharedR", "SharedW"]


class _Lease:
    """Who has the layer, and whether a call of it is under way. Used as `with lease.of(handle): …`, one at a
    time by its own rule, so that it can be its own context manager.
    """

    __slots__ = ("_ext", "_holder", "_is_inside")

    def __init__(self, ext: ExtRead | ExtWrite) -> None:
        self._ext = ext
        self._holder: object | None = None
        self._is_inside = False

    def of(self, handle: object) -> _Lease:
        """Take the layer for one call.

        Raises:
            InUse: another handle has it, or a call is under way.
        """
        if self._is_inside:
            raise InUse("a call of a shared layer from within a call of it")
        if self._holder is not None and self._holder is not handle:
            raise InUse(
                f"another holder has the layer, in phase {self._ext.phase.name}; it is free after the end of "
                "the message, or after release()"
            )
        self._holder = handle
        return self

    def __enter__(self) -> None:
        self._is_inside = True

    def __exit__(self, *_: object) -> None:
        self._is_inside = False
        if self._ext.phase is Phase.NEW:
            self._holder = None

    def release(self, handle: object) -> None:
        if self._holder is handle:
            self._holder = None


class SharedW(ExtWrite):
    """A handle of a writing layer that has several holders. Ends: as the layer.

    Args:
        ext: the layer; use it through handles only from now on.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
    """

    def __init__(self, ext: ExtWrite) -> None:
        super().__init__()
        self._ext = ext
        self._lease = _Lease(ext)
        self.ends: Ending = ext.ends

    @property
    def phase(self) -> Phase:
        """Where the layer is in its message, whoever has it."""
        return self._ext.phase

    def share(self) -> SharedW:
        """Return another handle of the same layer."""
        other = SharedW(self._ext)
        other._lease = self._lease
        return other

    def release(self) -> None:
        """Let another holder go on, in the middle of a message. Nothing happens if this one has not got the
        layer.
        """
        self._lease.release(self)

    def write_header(self, w: ByteWriter) -> None:
        with self._lease.of(self):
            self._ext.write_header(w)

    def write_into(self, w: ByteWriter, data: bytes | bytearray | memoryview) -> int:
        with self._lease.of(self):
            return self._ext.write_into(w, data)

    def flush_into(self, w: ByteWriter) -> None:
        with self._lease.of(self):
            self._ext.flush_into(w)

    def settle_into(self, w: ByteWriter) -> None:
        with self._lease.of(self):
            self._ext.settle_into(w)

    def write_end(self, w: ByteWriter) -> None:
        with self._lease.of(self):
            self._ext.write_end(w)

    def reset(self) -> None:
        with self._lease.of(self):
            self._ext.reset()


class SharedR(ExtRead):
    """A handle of a reading layer that has several holders. Ends: as the layer.

    Args:
        ext: the layer; use it through handles only from now on.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
    """

    def __init__(self, ext: ExtRead) -> None:
        super().__init__()
        self._ext = ext
        self._lease = _Lease(ext)
        self.ends: Ending = ext.ends

    @property
    def phase(self) -> Phase:
        """Where the layer is in its message, whoever has it."""
        return self._ext.phase

    @property
    def at_hand(self) -> int:
        return self._ext.at_hand

    def share(self) -> SharedR:
        """Return another handle of the same layer."""
        other = SharedR(self._ext)
        other._lease = self._lease
        return other

    def release(self) -> None:
        """Let another holder go on, in the middle of a message. Nothing happens if this one has not got the
        layer.
        """
        self._lease.release(self)

    def read_header(self, r: ByteReader) -> None:
        with self._lease.of(self):
            self._ext.read_header(r)

    def read_into(self, r: ByteReader, buffer: bytearray | memoryview) -> int:
        with self._lease.of(self):
            return self._ext.read_into(r, buffer)

    def read_end(self, r: ByteReader) -> None:
        with self._lease.of(self):
            self._ext.read_end(r)

    def reset(self) -> None:
        with self._lease.of(self):
            self._ext.reset()
