"""`SharedW` / `SharedR`: one layer with several holders, one of which may use it at a time.

A handle is a layer; `share()` returns another one for another holder. A handle *takes* the layer with its
first call and returns it at the end of the message, on `reset()`, or on `release()`, which passes on a
message halfway: one service reads the header, another continues. Until then every call through another handle
raises `InUse` and changes nothing. So does a call during a call: by a stream that reads or writes through the
same layer, or by another thread.

Without this, two users of one layer would mix up their messages and notice late or never.
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
    """The holder of the layer, and whether a call is running: `with lease.of(handle): …`. Only one call runs
    at a time, so it can be its own context manager.
    """

    __slots__ = ("_ext", "_holder", "_turn")

    def __init__(self, ext: ExtRead | ExtWrite) -> None:
        self._ext = ext
        # Weak: a holder lost in the middle of a message must not keep the others from a reset().
        self._holder: ref[_Handle] | None = None
        # Empty during a call. Taking its one element is atomic, so this also holds across threads.
        self._turn = [None]

    def of(self, handle: _Handle) -> _Lease:
        """Take the layer for one call.

        Raises:
            InUse: another handle has it, or a call is running.
        """
        try:
            self._turn.pop()
        except IndexError:
            raise InUse(
                "another call of the shared layer is running: an outer one, or in another thread"
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
        """`of` has taken the layer."""

    def __exit__(self, *_: object) -> None:
        if self._ext.phase is Phase.NEW:
            self._holder = None
        self._turn.append(None)

    def release(self, handle: _Handle) -> None:
        if self._holder and self._holder() is handle:
            self._holder = None


class _Handle(_Phased):
    """The common part of the handles of both directions."""

    _ext: ExtRead | ExtWrite

    def __init__(self, ext: ExtRead | ExtWrite) -> None:
        super().__init__()
        self._lease = _Lease(ext)
        self.ends = ext.ends

    @property
    def phase(self) -> Phase:
        """Where the layer is in its message, for all holders."""
        return self._ext.phase

    def share(self) -> Self:
        """Return another handle of the same layer."""
        return copy(self)

    def release(self) -> None:
        """Let another holder continue in the middle of a message; no effect if another has the layer."""
        self._lease.release(self)

    def reset(self) -> None:
        with self._lease.of(self):
            self._ext.reset()


class SharedW(_Handle, ExtWrite):
    """A handle of a writing layer. Ends: as the layer.

    Args:
        ext: the layer; from now on use it through handles only.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
        TypeError: `ext` is not a writing layer.
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
    """A handle of a reading layer. Ends: as the layer.

    Args:
        ext: the layer; from now on use it through handles only.
    Raises:
        InUse: from every call (but `phase`, `share` and `release`) while another handle has the layer.
        TypeError: `ext` is not a reading layer.
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
