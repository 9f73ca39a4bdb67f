"""What may be the content of a query, and how it is read: as a service that gives the next bytes.

A regular file is read where the query runs, and only up to the size that it had at first; whatever may keep
its reader waiting (a path, which must be opened; a pipe, a terminal, an iterator) is read by a thread of its
own, which is a few pieces ahead at most. Bytes leave in whole chunks, so content is no way to hold a
conversation: an established tunnel is.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, cast

from reactor import ChannelClosed, Service, SharedChannel
from readwrite_comp.helpers import byte_view
from tunnel.disk import FileReader, Source, pieces_of
from tunnel.errors import LocalTunnelError

__all__ = [
    "Content",
    "ContentReader",
    "Prefixed",
    "Source",
    "as_content",
    "as_piece",
    "open_content",
    "rewinder",
]

_READ_BYTES: Final = 64 * 1024
# Pieces that the thread of an iterator is ahead: one in hand, one on its way.
_AHEAD: Final = 2


Content: TypeAlias = (
    "bytes | bytearray | memoryview | Path | Source | Iterable[bytes] | Callable[[], Service[bytes]]"
    " | Prefixed"
)
"""Bytes, or any other contiguous buffer; the path of a regular file; a binary file; an iterator of bytes (run
in a thread of its own: it may block); a function that is a service, called again and again for the next
bytes, b"" at the end: the `read` of a `Query`, say; or one of these behind some bytes."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Content behind some bytes: the name of a service."""

    prefix: bytes
    content: Content


def as_content(content: Content) -> Content:
    """The content as it is sent: buffers of all kinds become bytes or a view of bytes, uncopied.

    Raises:
        TypeError: nothing that can be content.
    """
    if isinstance(content, Prefixed):
        return Prefixed(content.prefix, as_content(content.content))
    if isinstance(content, bytes):
        return content
    with contextlib.suppress(TypeError):
        # Before files and iterators: a mapped file is all three, and an array gives numbers.
        content = memoryview(content)  # type: ignore[arg-type]
    if isinstance(content, memoryview):
        return byte_view(content, "content")
    is_text = isinstance(content, str | io.TextIOBase)
    kinds = (Path, Iterable)
    if is_text or not (hasattr(content, "read") or callable(content) or isinstance(content, kinds)):
        hint = ": open it in binary mode" if isinstance(content, io.TextIOBase) else ""
        raise TypeError(
            "content is bytes, a path, a binary file, an iterator of bytes or a service that gives bytes, "
            f"got {type(content).__name__}{hint}"
        )
    return content


def as_piece(piece: Any) -> bytes:
    """What a file, an iterator or a service of the user's has given, as bytes.

    Raises:
        TypeError: no contiguous buffer.
    """
    return piece if type(piece) is bytes else bytes(byte_view(piece, "a piece of the content"))


def rewinder(content: Content) -> Callable[[], object] | None:
    """What is to be called before content is sent once more; None: it cannot be.

    Bytes can, and files that can be rewound: to where they are now.
    """
    content = as_content(content)
    if isinstance(content, Prefixed):
        return rewinder(content.content)
    if isinstance(content, bytes | bytearray | memoryview | Path):
        return lambda: None
    file: Any = content
    if not (hasattr(file, "seekable") and file.seekable()):
        return None
    return partial(file.seek, file.tell())


class ContentReader(Protocol):
    """Content that is being read."""

    def read(self) -> Service[bytes]:
        """The next bytes, b"" at the end.

        Raises:
            LocalTunnelError: a file that does not block has nothing now; a path that is no regular file.
                FileChanged: a regular file changed since it was opened. TypeError: a piece that is no bytes.
                Whatever the file, the iterator or the service raises.
        """
        ...

    def close(self) -> None:
        """No more is wanted. What was given from outside is left open."""
        ...


def open_content(content: Content) -> ContentReader:
    """Begin to read content. Raises TypeError as `as_content`."""
    content = as_content(content)
    if isinstance(content, Prefixed):
        return _PrefixedReader(content.prefix, open_content(content.content))
    if isinstance(content, bytes | bytearray | memoryview):
        return _FileReader(io.BytesIO(content))
    if isinstance(content, Path):
        return _IteratorReader(pieces_of(content, _READ_BYTES))
    if hasattr(content, "read"):
        source = cast(Source, content)
        return _IteratorReader(_pulled(source)) if _may_wait(source) else _FileReader(source)
    if callable(content):
        return _ServiceReader(content)
    return _IteratorReader(iter(content))


class _PrefixedReader:
    def __init__(self, prefix: bytes, content: ContentReader) -> None:
        self._prefix = prefix
        self._content = content
        self.close = content.close

    def read(self) -> Service[bytes]:
        if self._prefix:
            prefix, self._prefix = self._prefix, b""
            return prefix
        return (yield from self._content.read())


class _FileReader:
    def __init__(self, source: Source) -> None:
        self._reader = FileReader(source)

    def read(self) -> Service[bytes]:
        return _checked(self._reader.read(_READ_BYTES))
        yield  # a service that never waits

    def close(self) -> None:
        pass


class _ServiceReader:
    """A function that is a service; one with a `close` is told when no more is wanted."""

    def __init__(self, function: Callable[[], Service[bytes]]) -> None:
        self._function = function
        self.close: Callable[[], None] = getattr(function, "close", lambda: None)

    def read(self) -> Service[bytes]:
        return as_piece((yield from self._function()))


class _IteratorReader:
    """Pulls an iterator in a thread. The thread ends with it, or when nobody wants more."""

    def __init__(self, iterator: Iterator[bytes]) -> None:
        self._iterator = iterator
        self._pieces: SharedChannel[bytes | BaseException] = SharedChannel(_AHEAD, "content")
        self._is_begun = False

    def read(self) -> Service[bytes]:
        if not self._is_begun:
            self._is_begun = True
            pull = partial(_pull, self._iterator, self._pieces)
            threading.Thread(target=pull, name="tunnel content", daemon=True).start()
        try:
            piece = yield from self._pieces.receive()
        except ChannelClosed:
            return b""
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def close(self) -> None:
        self._pieces.close()


def _checked(data: bytes | None) -> bytes:
    if data is None:
        # Taken for the end it would cut the query short unseen.
        raise LocalTunnelError("the content's file is non-blocking: its end cannot be told from a pause")
    return as_piece(data)


def _may_wait(source: Source) -> bool:
    """Whether it is a pipe, a socket, a terminal or a device: to read it may take for ever."""
    try:
        mode = os.fstat(cast(BinaryIO, source).fileno()).st_mode
    except (AttributeError, OSError, ValueError, TypeError):
        return False  # none of the system's files
    return not stat.S_ISREG(mode)


def _pulled(source: Source) -> Iterator[bytes]:
    """The pieces of a file as they come: `read1` does not wait until a piece is full."""
    read = getattr(source, "read1", source.read)
    while data := _checked(read(_READ_BYTES)):
        yield data


def _pull(iterator: Iterator[bytes], pieces: SharedChannel[bytes | BaseException]) -> None:
    try:
        for piece in iterator:
            for data in _sliced(byte_view(piece, "a piece of the content")):
                pieces.send_blocking(data)
    except ChannelClosed:
        pass  # the query has ended
    except Exception as error:  # noqa: BLE001 - raised where the content is read
        _tell(pieces, error)
    finally:
        close: Any = getattr(iterator, "close", None)
        if close is not None:
            close()  # a generator's clean-up runs in its own thread
        pieces.close()


def _sliced(view: memoryview) -> Iterator[bytes]:
    """In pieces of bounded size; empty ones are left out, for they would be the end."""
    for start in range(0, len(view), _READ_BYTES):
        yield bytes(view[start : start + _READ_BYTES])


def _tell(pieces: SharedChannel[bytes | BaseException], error: BaseException) -> None:
    with contextlib.suppress(ChannelClosed):  # then nobody is left to be told
        pieces.send_blocking(error)
