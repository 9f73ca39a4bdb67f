"""`SharedW` / `SharedR`: one layer in the hands of several holders, of whom one at a time may use it.

Each handle is a layer like any other, with a twin from `share()` for the other holder. A handle *takes* the
layer with its first call and gives it back when the message is over (`write_end` / `read_end` has returned),
on `reset()`, or on `release()`, which hands a message over half-way: one service reads the header, another
goes on. Between the two every call through another handle is `InUse` and changes nothing; so is a call made
during a call: by a stream that reads or writes through the same layer, or by another thread.

Without this, two users of one object would take parts of each other's messages and find out late or never.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING
from weakref import ref

from readwrite_comp.base import ExtRead, ExtWrite, Phase, _Phased, check_layer
from readwrite_comp.errors import InUse
from readwrite_comp.helpers import ByteReader, ByteWriter

if TYPE_CHECKING:
    from typing import Self


__all__ = ["SharedR", "SharedW"]


class _Lease:
    """Who has the layer, and whether a call of it is under way. Used as `with lease.of(handle): …`, one at a
    time by its own rule, so that it can be its own context manager.
    """

    __slots__ = ("_ext", "_holder", "_turn")

    def __init__(self, ext: ExtRead | ExtWrite) -> None:
        self._ext = ext
        # Weak: a holder that is gone in the middle of a message must not lock all others out of a reset().
        self._holder: ref[_Handle] | None = None
        # Empty during a call. Taking its one element is atomic, so threads are told as well.
        self._turn = [None]

    def of(self, handle: _Handle) -> _Lease:
        """Take the layer for one call.

        Raises:
            InUse: another handle has it, or a call is under way.
        """
        try:
            self._turn.pop()
        except IndexError:
            raise InUse(
                "a call of the shared layer is under way: around this one, or in another thread"
            ) from None
        holder = self._holder and self._holder()
        if holder is not None and holder is not handle:
            self._turn.append(None)
            raise InUse(
                f"another holder has the layer, in phase {self._ext.phase.name}; it is free after the end of "
                "the message, or after release()"
            )
        self._holder = ref(handle)
        return self

    def __enter__(self) -> None:
        """The call begins; `of` has seen to it all."""

    def __exit__(self, *_: object) -> None:
        if self._ext.phase is Phase.NEW:
            self._holder = None
        self._turn.append(None)

    def release(self, handle: _Handle) -> None:
        if self._holder and self._holder() is handle:
            self._holder = None


class _Handle(_Phased):
    """What the handles of both directions have."""

    _ext: ExtRead | ExtWrite

    def __init__(self, ext: ExtRead | ExtWrite) -> None:
        super().__init__()
        self._lease = _Lease(ext)
        self.ends = ext.ends

    @property
    def phase(self) -> Phase:
        """Where the layer is in its message, whoever has it."""
        return self._ext.phase

    def share(self) -> Self:
        """Return another handle of the same layer."""
        return copy(self)

    def release(self) -> None:
        """Let another holder go on, in the middle of a message. Nothing happens if this one has not got the
        layer.
        """
        self._lease.release(self)

    def reset(self) -> None:
        with self._lease.of(self):
            self._ext.reset()


class SharedW(_Handle, ExtWrite):
    """A handle of a writing layer that has several holders. Ends: as the layer.

    Args:
        ext: the layer; use it through handles only from now on.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
        TypeError: `ext` is no layer of this direction.
    """

    def __init__(self, ext: ExtWrite) -> None:
        check_layer(ext, ExtWrite, "the shared layer")
        super().__init__(ext)
        self._ext: ExtWrite = ext

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


class SharedR(_Handle, ExtRead):
    """A handle of a reading layer that has several holders. Ends: as the layer.

    Args:
        ext: the layer; use it through handles only from now on.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
        TypeError: `ext` is no layer of this direction.
    """

    def __init__(self, ext: ExtRead) -> None:
        check_layer(ext, ExtRead, "the shared layer")
        super().__init__(ext)
        self._ext: ExtRead = ext

    @property
    def at_hand(self) -> int:
        return self._ext.at_hand

    def read_header(self, r: ByteReader) -> None:
        with self._lease.of(self):
            self._ext.read_header(r)

    def read_into(self, r: ByteReader, buffer: bytearray | memoryview) -> int:
        with self._lease.of(self):
            return self._ext.read_into(r, buffer)

    def read_end(self, r: ByteReader) -> None:
        with self._lease.of(self):
            self._ext.read_end(r)
