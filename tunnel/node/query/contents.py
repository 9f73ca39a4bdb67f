"""The kinds of content of a query, and a reader for each: a service that returns the next bytes.

A regular file is read in the reactor's thread, up to the size that it had at the start. Anything that may
block (a path, which must be opened; a pipe, a terminal, an iterator) is read by a separate thread, at most a
few pieces ahead. Bytes leave in whole chunks: for a conversation use an established tunnel.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, cast

from reactor import Cancelled, ChannelClosed, Service, SharedChannel
from reactor.core.requests import CurrentTask
from reactor.errors import is_ctrl_c
from readwrite_comp.helpers import byte_view
from tunnel.disk import FileReader, ReadableFile, pieces_of
from tunnel.errors import LocalTunnelError
from tunnel.identity.client_key import ClientKey
from tunnel.node.query.incoming_replies import user_failure
from tunnel.services.base import name_of, proven_prefix

__all__ = [
    "Content",
    "ContentReader",
    "Prefixed",
    "ReadableFile",
    "as_content",
    "as_piece",
    "open_content",
    "rewinder",
]

_READ_BYTES: Final = 64 * 1024
# Pieces that the thread of an iterator reads ahead.
_AHEAD: Final = 2


Content: TypeAlias = (
    "bytes | bytearray | memoryview | Path | ReadableFile | Iterable[bytes] | Callable[[], Service[bytes]]"
    " | Prefixed"
)
"""Bytes, or any other contiguous buffer; the path of a regular file; a binary file; an iterator of bytes (it
runs in a separate thread, so it may block); a service function that returns the next bytes at each call and
b"" at the end, such as the `read` of a `Query`; or one of these with a prefix."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Content with a prefix, the name of a service.

    Attributes:
        client_key: a proof of it follows the prefix; see `proven`. None: no proof.
    """

    prefix: bytes
    content: Content = field(repr=False)
    client_key: ClientKey | None = field(default=None, repr=False)

    def proven(self, binding: bytes) -> Prefixed:
        """This content as one query carries it. Args: binding: of the query."""
        if self.client_key is None:
            return self
        return Prefixed(proven_prefix(self.prefix, self.client_key, binding), self.content)


def as_content(content: Content) -> Content:
    """Check content. Any buffer becomes bytes or a view of bytes, without a copy.

    Raises:
        TypeError: not a kind of content.
    """
    if isinstance(content, Prefixed):
        return replace(content, content=as_content(content.content))
    if isinstance(content, bytes):
        return content
    try:
        # Before files and iterators: a mapped file is all three, and an array yields numbers.
        content = memoryview(content)  # type: ignore[arg-type]
    except TypeError:
        pass
    except (ValueError, BufferError):  # a buffer that gives no bytes, such as a closed map
        return byte_view(content, "content")
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
    """Convert a piece from the user's file, iterator or service to bytes.

    Raises:
        TypeError: not a contiguous buffer.
    """
    return piece if type(piece) is bytes else bytes(byte_view(piece, "a piece of the content"))


def rewinder(content: Content) -> Callable[[], object] | None:
    """A function that prepares content to be sent again; None: impossible.

    Bytes can be sent again, and so can files that can seek, from their present position.
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
                FileChanged: a regular file changed since it was opened. TypeError: a piece is not bytes, or
                a function is not a service. Errors of the file, the iterator or the service.
        """
        ...

    def close(self) -> None:
        """Stop reading. Files of the caller stay open."""
        ...


def open_content(content: Content) -> ContentReader:
    """Begin to read content. Raises TypeError as `as_content`."""
    content = as_content(content)
    if isinstance(content, Prefixed):
        assert content.client_key is None, "only a query proves a client key, see Prefixed.proven"
        return _PrefixedReader(content.prefix, open_content(content.content))
    if isinstance(content, bytes | bytearray | memoryview):
        return _FileReader(io.BytesIO(content))
    if isinstance(content, Path):
        return _IteratorReader(pieces_of(content, _READ_BYTES))
    if hasattr(content, "read"):
        source = cast(ReadableFile, content)
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
    def __init__(self, source: ReadableFile) -> None:
        self._reader = FileReader(source)

    def read(self) -> Service[bytes]:
        try:
            data = self._reader.read(_READ_BYTES)
        except Exception:
            raise
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            raise user_failure("reading the content", error) from error
        return _checked(data)
        yield  # a service that never waits

    def close(self) -> None:
        pass


class _ServiceReader:
    """A function that is a service; its `close`, if it has one, is called when reading stops."""

    def __init__(self, function: Callable[[], Service[bytes]]) -> None:
        self._function = function
        self.close: Callable[[], None] = getattr(function, "close", lambda: None)

    def read(self) -> Service[bytes]:
        (yield CurrentTask()).name = f"content of {name_of(self._function)}"
        try:
            service = self._function()
            if isinstance(service, Generator):
                return as_piece((yield from service))
        except (Exception, Cancelled, GeneratorExit):
            raise
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            raise user_failure("reading the content", error) from error
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        raise TypeError(
            f"content: {name}() returned {type(service).__name__}, expected a service, which is a generator "
            "function; give bytes as they are, or by an iterator"
        )


class _IteratorReader:
    """Pulls an iterator in a thread. The thread ends with the iterator, or when reading stops."""

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
        # Treating it as the end would silently truncate the query.
        raise LocalTunnelError("the content's file is non-blocking, so a pause looks like its end")
    return as_piece(data)


def _may_wait(source: ReadableFile) -> bool:
    """Whether it is a pipe, a socket, a terminal or a device: a read may block forever."""
    try:
        mode = os.fstat(cast(BinaryIO, source).fileno()).st_mode
    except (AttributeError, OSError, ValueError, TypeError):
        return False  # not a file of the system
    return not stat.S_ISREG(mode)


def _pulled(source: ReadableFile) -> Iterator[bytes]:
    """The pieces of a file as they arrive: `read1` does not wait for a full piece."""
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
    except BaseException as error:  # noqa: BLE001 - unsaid, the content would seem to have ended here
        failure = LocalTunnelError(f"the content's iterator ended with {type(error).__name__}: {error}")
        failure.__cause__ = error
        _tell(pieces, failure)
    finally:
        close: Any = getattr(iterator, "close", None)
        if close is not None:
            close()  # a generator's clean-up runs in this thread
        pieces.close()


def _sliced(view: memoryview) -> Iterator[bytes]:
    """Split into pieces of bounded size; empty ones are left out, since b"" means the end."""
    for start in range(0, len(view), _READ_BYTES):
        yield bytes(view[start : start + _READ_BYTES])


def _tell(pieces: SharedChannel[bytes | BaseException], error: BaseException) -> None:
    with contextlib.suppress(ChannelClosed):  # the query has ended: no receiver is left
        pieces.send_blocking(error)
