"""What may be the content of a query, and how it is read: as a service that gives the next bytes.

A regular file is read where the query runs; whatever may keep its reader waiting is read by a thread of its
own, which is a few pieces ahead at most. Bytes leave in whole chunks, so content is no way to hold a
conversation: an established tunnel is.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

from reactor import ChannelClosed, Service, SharedChannel
from tunnel.errors import LocalTunnelError

__all__ = ["Content", "ContentReader", "Prefixed", "Source", "check_content", "open_content", "rewinder"]

_READ_BYTES: Final = 64 * 1024
# Pieces that the thread of an iterator is ahead: one in hand, one on its way.
_AHEAD: Final = 2


class Source(Protocol):
    """Where content comes from: any binary file that blocks; None, "nothing now", is refused."""

    def read(self, size: int, /) -> bytes | None: ...


Content: TypeAlias = (
    "bytes | bytearray | memoryview | Source | Iterable[bytes] | Callable[[], Service[bytes]] | Prefixed"
)
"""Bytes; a binary file; an iterator of bytes (run in a thread of its own: it may block); a function that is a
service, called again and again for the next bytes, b"" at the end: the `read` of a `Query`, say; or one of
these behind some bytes."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Content behind some bytes: the name of a service."""

    prefix: bytes
    content: Content


def check_content(content: Content) -> None:
    """Raises TypeError: nothing that can be content."""
    if isinstance(content, Prefixed):
        content = content.content
    is_text = isinstance(content, str)
    if is_text or not (hasattr(content, "read") or callable(content) or isinstance(content, Iterable)):
        raise TypeError(
            "content is bytes, a binary file, an iterator of bytes or a service that gives bytes, "
            f"got {type(content).__name__}"
        )


def rewinder(content: Content) -> Callable[[], object] | None:
    """What is to be called before content is sent once more; None: it cannot be.

    Bytes can, and files that can be rewound: to where they are now.
    """
    if isinstance(content, Prefixed):
        return rewinder(content.content)
    if isinstance(content, bytes | bytearray | memoryview):
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
            LocalTunnelError: a file that does not block has nothing now. TypeError: a piece that is no bytes.
                Whatever the file, the iterator or the service raises.
        """
        ...

    def close(self) -> None:
        """No more is wanted. What was given from outside is left open."""
        ...


def open_content(content: Content) -> ContentReader:
    """Begin to read content."""
    if isinstance(content, Prefixed):
        return _PrefixedReader(content.prefix, open_content(content.content))
    if isinstance(content, bytes | bytearray | memoryview):
        return _FileReader(io.BytesIO(content))
    if hasattr(content, "read"):
        return _FileReader(cast(Source, content))
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
        self._source = source

    def read(self) -> Service[bytes]:
        data = self._source.read(_READ_BYTES)
        if data is None:
            # Taken for the end it would cut the query short unseen.
            raise LocalTunnelError("the content's file is non-blocking: its end cannot be told from a pause")
        return data
        yield  # a service that never waits

    def close(self) -> None:
        pass


class _ServiceReader:
    """A function that is a service; one with a `close` is told when no more is wanted."""

    def __init__(self, function: Callable[[], Service[bytes]]) -> None:
        self.read = function
        self.close: Callable[[], None] = getattr(function, "close", lambda: None)


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


def _pull(iterator: Iterator[bytes], pieces: SharedChannel[bytes | BaseException]) -> None:
    try:
        for piece in iterator:
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise TypeError(f"content comes in pieces of bytes, got {type(piece).__name__}")
            for data in _sliced(piece):
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


def _sliced(piece: bytes) -> Iterator[bytes]:
    """In pieces of bounded size; empty ones are left out, for they would be the end."""
    view = memoryview(piece).cast("B")
    for start in range(0, len(view), _READ_BYTES):
        yield bytes(view[start : start + _READ_BYTES])


def _tell(pieces: SharedChannel[bytes | BaseException], error: BaseException) -> None:
    with contextlib.suppress(ChannelClosed):  # then nobody is left to be told
        pieces.send_blocking(error)
