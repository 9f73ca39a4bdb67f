"""TCP and Unix sockets for services: a non-blocking stream, and listeners. Connecting: io/connecting.py."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from reactor.core.forgotten import needs_yield_from
from reactor.core.poller import FileDescriptor
from reactor.core.requests import YIELD, CurrentTime, Service
from reactor.core.timers import Sleep
from reactor.errors import Broken, Closed, check_count, check_type, renewed
from reactor.io.streams import MOST_READ_BYTES, byte_view, writable_view

__all__ = ["SocketStream", "TcpListener", "UnixListener", "place_fault", "short_path"]

logger = logging.getLogger("reactor")

# Connections accepted in a row; then the other services run.
_ACCEPTS_PER_PASS: Final = 16
# Time to the next attempt without free descriptors. Connections wait in the backlog meanwhile.
_ACCEPT_BACKOFF_S: Final = 0.1
_MOST_BACKLOG: Final = 0x7FFFFFFF  # the system allows less, and takes its own limit then
# Time between two such log lines: at its limit a server runs out again with each connection that ends.
_SHORT_REPORT_S: Final = 60.0
# The longest socket address of Linux, without the final zero. Systems with a lower limit raise an error.
_MOST_PATH_BYTES: Final = 107
_MOST_PORT: Final = 65_535
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds
_OPEN_FOLDERS: Final = "/proc/self/fd"
_CREDENTIALS: Final = struct.Struct("3i")  # of SO_PEERCRED: process, user, group
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Errors of one connection that was lost before it was accepted (see accept(2)), not of the listener.
_CONNECTION_GONE: Final = frozenset(
    getattr(errno, name)
    for name in [
        "ECONNABORTED",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "EPERM",
    ]
    if hasattr(errno, name)
)


class SocketStream:
    """A connected stream socket, non-blocking. It owns the socket.

    There are four ways to end. When the other side has shut down, reading gives 0, now and later, after all
    bytes that it sent. When the connection was lost, reading raises `Broken`, now and later, even if a write
    noticed it first. After `close` all calls raise `Closed`. After `shutdown_write` reading continues. Urgent
    bytes (MSG_OOB) are ordinary bytes of the stream, in their place (RFC 6093, section 6).

    Args:
        sock: TCP, a Unix socket, or one of a socketpair.
        peername: address of the other side; None: ask the system when it is needed.

    Attributes:
        readable, writable: the requests to yield when a call was refused.
    """

    __slots__ = (
        "_descriptor",
        "_peername",
        "_sock",
        "readable",
        "writable",
    )

    def __init__(self, sock: socket.socket, peername: Any = None) -> None:
        check_type(sock, socket.socket, "SocketStream", "a socket")
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Otherwise the kernel would remove urgent bytes from the stream, of local sockets too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._sock: socket.socket | _LostSocket = sock
        self._peername = peername
        self._descriptor = descriptor = FileDescriptor(sock)
        self.readable = descriptor.readable
        self.writable = descriptor.writable

    def fileno(self) -> int:
        """The socket's descriptor, -1 after `close`."""
        return self._sock.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor.is_closed

    @property
    def is_lost(self) -> bool:
        """Whether the connection broke, found out without a read or write. Received bytes can still be read.

        For a service that does not read at the moment, and so is not told. An orderly end is no loss. Always
        False on a system without `select.poll`.
        """
        if isinstance(self._sock, _LostSocket):
            return True
        if self.is_closed or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._sock, 0)  # errors are reported in any case
        return any(events & select.POLLERR for _, events in poll.poll(0))

    @property
    def hint(self) -> FileDescriptor:
        """The object with `drained`, for `ReadYield`; see `FileDescriptor` in poller.py."""
        return self._descriptor

    @property
    def drained(self) -> bool:
        """Whether a read would be refused now and the poller will report the next bytes. A hint."""
        return self._descriptor.drained

    @drained.setter
    def drained(self, drained: bool) -> None:
        self._descriptor.drained = drained

    @property
    def peername(self) -> Any:
        """The other side's address.

        Raises:
            Closed, Broken: the connection is gone, and the address was not read before.
        """
        if self._peername is None:
            try:
                self._peername = self._sock.getpeername()
            except OSError as error:
                raise self._translate(error) from error
        return self._peername

    @property
    def peer_uid(self) -> int | None:
        """User id of the process at the other end of a Unix socket; None where the system does not have it.

        Raises:
            Closed, Broken: the connection is gone.
        """
        option = getattr(socket, "SO_PEERCRED", None)
        if option is None:
            return None
        try:
            _, uid, _ = _CREDENTIALS.unpack(
                self._sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
            )
        except OSError as error:
            raise self._translate(error) from error
        return int(uid)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read the available bytes. Returns their number; 0 is the end.

        Raises:
            BlockingIOError: nothing yet.
            Broken: the connection was lost; `__cause__` has the system's error. So do later reads.
            Closed: `close` was called.
            TypeError: no buffer that can be written to.
        """
        # The usual buffers are tested here: a call for each costs a link 2 % of a small record.
        if type(buffer) is not bytearray and not (
            type(buffer) is memoryview
            and buffer.format == "B"
            and buffer.ndim == 1
            and buffer.c_contiguous
            and not buffer.readonly
        ):
            buffer = writable_view(buffer)
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            raise
        except OSError as error:
            self._remember_loss(error)
            raise self._translate(error) from error
        descriptor = self._descriptor
        descriptor.drained = 0 < count < len(buffer) and not descriptor.short_reads_lie
        return count

    def read(self, limit_bytes: int) -> bytes:
        """Read up to a limit as new bytes; b"" is the end. Raises as `readinto`, and as `ReadYield.read`."""
        if type(limit_bytes) is not int or not 0 < limit_bytes <= MOST_READ_BYTES:
            check_count(limit_bytes, "limit_bytes", least=1, most=MOST_READ_BYTES)
        try:
            data = self._sock.recv(limit_bytes)
        except BlockingIOError:
            raise
        except OSError as error:
            self._remember_loss(error)
            raise self._translate(error) from error
        descriptor = self._descriptor
        descriptor.drained = 0 < len(data) < limit_bytes and not descriptor.short_reads_lie
        return data

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write some of the bytes. Returns how many.

        Raises:
            BlockingIOError: none can be taken now.
            Broken: the connection was lost; `__cause__` has the system's error.
            Closed: `close` was called.
            TypeError: no contiguous buffer.
        """
        # As in `readinto`.
        if type(data) is not bytes and not (
            type(data) is bytearray or (type(data) is memoryview and data.format == "B" and data.c_contiguous)
        ):
            data = byte_view(data)
        try:
            return self._sock.send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            # EPIPE only means that writing is over: the other side had ended its half before.
            if error.errno != errno.EPIPE:
                self._remember_loss(error)
            raise self._translate(error) from error

    def shutdown_write(self) -> None:
        """End our half of the connection; reading continues.

        Raises:
            Broken, Closed: as for `write`.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translate(error) from error

    def close(self) -> None:
        """Close the connection; a service that waits on it gets `Closed`. Idempotent."""
        self._descriptor.close_notify()
        self._sock.close()

    def abort(self) -> None:
        """Close the connection, and let the other side know that it did not end in order.

        TCP sends a reset, and the system discards bytes that are not sent yet. Another kind of socket is only
        closed. Idempotent.
        """
        if not self.is_closed and self._sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # gone already
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def __enter__(self) -> Self:
        if self._descriptor.is_closed:
            raise Closed("the stream was closed: make another one")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def detach(self) -> None:
        """Leave the reactor, so that another one can use the stream. Raises Busy: a service waits on it."""
        self._descriptor.detach()

    def _remember_loss(self, loss: OSError) -> None:
        """Let each later read raise the loss instead of returning 0."""
        if self._descriptor.is_closed or isinstance(self._sock, _LostSocket):
            return
        self._sock = _LostSocket(self._sock, loss)

    def _translate(self, error: OSError) -> Broken | Closed:
        if self._descriptor.is_closed:
            return Closed("the stream is closed")
        return Broken(f"connection lost: {error.strerror or error}")

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"fd {self.fileno()}"
        return f"<SocketStream {state}>"


class _LostSocket:
    """Stands in for a socket whose connection was lost: reading raises the loss after the last bytes.

    The kernel reports a loss to the first call only; the next read would give 0. A stream whose connection
    is alive pays nothing for this.
    """

    def __init__(self, sock: socket.socket, loss: OSError) -> None:
        self._lost = sock
        self._loss = renewed(loss).with_traceback(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lost, name)

    def recv(self, limit_bytes: int) -> bytes:
        data = self._lost.recv(limit_bytes)
        if not data and limit_bytes:
            raise renewed(self._loss)
        return data

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        count = self._lost.recv_into(buffer)
        if not count and len(buffer):
            raise renewed(self._loss)
        return count


def place_fault(host: str, port: int, least_port: int) -> str | None:
    """The fault of a host and port, or None. The system would misread some invalid ones as others.

    Raises:
        TypeError: `host` is not text, or `port` not a whole number.
    """
    check_type(host, str, "host", "a name or an address as text")
    check_type(port, int, "port", "a whole number")
    if not host or "\0" in host:
        return f"the host is {host!a}, expected a name or an address"
    try:
        host.encode("idna")
    except UnicodeError:
        # An empty or too long label ("a..b"), or characters that names cannot have.
        return f"the host {host!a} is not a valid name"
    if not least_port <= port <= _MOST_PORT:
        return f"port {port} is out of range, expected {least_port} to {_MOST_PORT}"
    return None


def _is_stale(path: str | os.PathLike[str]) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_path(path) as short:
            probe.setblocking(False)
            probe.connect(short)
    except OSError as error:
        return error.errno == errno.ECONNREFUSED
    return False


@contextlib.contextmanager
def short_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path that fits a socket address: for a long one, a path through its open folder.

    System errors inside the context get the path, which they lack otherwise. ENAMETOOLONG: the last part
    alone does not fit.
    """
    check_type(path, str | os.PathLike, "path", "the path of a socket as text or Path")
    name = os.fspath(path)
    descriptor = -1
    try:
        if len(os.fsencode(name)) <= _MOST_PATH_BYTES or not os.path.isdir(_OPEN_FOLDERS):
            yield name
        else:
            folder, last = os.path.split(name)
            descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            yield f"{_OPEN_FOLDERS}/{descriptor}/{last}"
    except OSError as error:
        if error.errno is None:  # Python's own, which has only a text
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name) from error
        error.filename = name
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


class _Listener:
    """A listening socket of any family. It owns the socket.

    Args:
        sock: bound already.
        backlog: connections that may wait to be accepted.
        address: for messages and for the user.
    """

    __slots__ = ("_accept", "_descriptor", "_next_report_s", "_sock", "_streak", "address")

    def __init__(self, sock: socket.socket, backlog: int, address: Any) -> None:
        check_count(backlog, "backlog", least=0, most=_MOST_BACKLOG)
        sock.listen(backlog)
        sock.setblocking(False)
        self._sock = sock
        self.address = address
        self._descriptor = FileDescriptor(sock)
        # An attribute, so that a test can replace it.
        self._accept: Callable[[], tuple[socket.socket, Any]] = sock.accept
        self._next_report_s = -math.inf
        self._streak = 0

    @needs_yield_from
    def accept(self) -> Service[SocketStream]:
        """Wait for a connection: `stream = yield from listener.accept()`.

        Without free descriptors it logs a line, once a minute at most, and retries after 0.1 s.

        Raises:
            Closed: the listener is closed.
            Broken: the listener's socket failed.
        """
        self._streak += 1
        if self._streak > _ACCEPTS_PER_PASS:
            self._streak = 0
            yield YIELD
        while True:
            try:
                sock, peername = self._accept()
            except BlockingIOError:
                self._streak = 0
                yield self._descriptor.readable
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._report_short(error, (yield CurrentTime()))
                    yield Sleep(_ACCEPT_BACKOFF_S)
                elif error.errno not in _CONNECTION_GONE:
                    raise self._translate(error) from error
            else:
                stream = SocketStream(sock, peername)
                # The first read waits, since few peers have sent already. A refused read costs a system
                # call, and its traceback leaves a frame of 200 bytes in a waiting generator.
                stream.drained = True
                return stream

    def _report_short(self, error: OSError, now_s: float) -> None:
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + _SHORT_REPORT_S
            logger.error("cannot accept at %s: %s; retrying", self.address, error.strerror)

    def _translate(self, error: OSError) -> Broken | Closed:
        if self._descriptor.is_closed:
            return Closed(f"the listener at {self.address} is closed")
        return Broken(f"cannot accept at {self.address}: {error.strerror or error}")

    def __enter__(self) -> Self:
        if self._descriptor.is_closed:
            raise Closed(f"the listener at {self.address} was closed: make another one")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a service that waits in `accept` gets `Closed`. Idempotent."""
        self._descriptor.close_notify()
        self._sock.close()


class TcpListener(_Listener):
    """A listening TCP socket.

    Args:
        host: an address of this machine, or a name of one.
        port: 0 to 65535; 0: the system chooses, see `address`.
        backlog: connections that may wait to be accepted.
    Raises:
        OSError: the address is not available.
        ValueError: the port or backlog is out of range, or the host is not a valid name.
        TypeError: `host` is not text; `port` or `backlog` is not a whole number.
    """

    __slots__ = ()

    address: tuple[Any, ...]

    def __init__(self, host: str, port: int, backlog: int = 128) -> None:
        fault = place_fault(host, port, 0)
        if fault is not None:
            raise ValueError(f"cannot listen: {fault}")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            super().__init__(sock, backlog, sock.getsockname())
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                error.filename = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # named in the text
            raise


class UnixListener(_Listener):
    """A listening Unix socket, to which only its owner can connect (mode 0600).

    `close` leaves the path: remove it only when no other process can have bound it.

    Args:
        path: of any length on systems with `/proc`; elsewhere at most 107 bytes, or the system's limit.
        backlog: connections that may wait to be accepted.
        replace_stale: replace a socket on which no process listens any more. Hold a lock if two processes
            may do so at the same time.
    Raises:
        OSError: the path exists (EADDRINUSE), is too long, or its folder is not writable.
    """

    __slots__ = ()

    address: str

    def __init__(
        self, path: str | os.PathLike[str], backlog: int = 16, *, replace_stale: bool = False
    ) -> None:
        if replace_stale and _is_stale(path):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(path) as short:
                sock.bind(short)
                # In time: nothing can connect before `listen`.
                os.chmod(short, 0o600)
            super().__init__(sock, backlog, os.fspath(path))
        except BaseException:
            sock.close()
            raise
