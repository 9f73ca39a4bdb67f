"""The loads of `bench.front`: programs that use a SOCKS port, and the time that they take.

All work on any SOCKS5 port without a password, so the same load measures Tor. Bulk is moved by curl; small
requests by blocking sockets of this process. A failure of any connection ends the measurement.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

__all__ = ["Load", "LoadFailed"]

_TIMEOUT_S = 120.0
_ENDLESS_BYTES = 10**12
_GREETING = b"\x05\x01\x00"
_CHOSEN = b"\x05\x00"
_CONNECT_IPV4 = b"\x05\x01\x00\x01"
_REPLY_BYTES = 10  # with an IPv4 address


class LoadFailed(Exception):
    """A connection failed, or returned something else."""


@dataclass(frozen=True, slots=True)
class Load:
    """Measures one SOCKS port of this machine.

    Attributes:
        socks: its port. web, echo: ports of `bench.front_target`.
    """

    socks: int
    web: int
    echo: int

    def download(self, content_bytes: int) -> float:
        """One download by curl. Returns MB/s from its first to its last moment, start of curl excluded."""
        with tempfile.TemporaryFile() as out:
            self._curl(["-w", "%{size_download} %{time_total}", self._url(content_bytes)], out.fileno())
            out.seek(0)
            size, seconds = out.read().split()
        if int(size) != content_bytes:
            raise LoadFailed(f"curl received {int(size)} of {content_bytes} bytes")
        return content_bytes / float(seconds) / 1e6

    def parallel(self, count: int, content_bytes: int) -> float:
        """This many downloads at once by one curl, of this many bytes each. Returns MB/s of all together."""
        options = ["-Z", "--parallel-immediate", "--parallel-max", str(count), "--no-progress-meter"]
        options.append(f"{self._url(content_bytes)}/[1-{count}]")
        started_s = time.perf_counter()
        self._curl(options, subprocess.DEVNULL)
        return count * content_bytes / (time.perf_counter() - started_s) / 1e6

    def _curl(self, options: Sequence[str], out: int) -> None:
        with tempfile.TemporaryFile() as errors:
            ended = subprocess.run(
                self._command(options), stdout=out, stderr=errors, timeout=_TIMEOUT_S, check=False
            )
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
        if ended.returncode:
            raise LoadFailed(f"curl ended with status {ended.returncode}: {text}")

    def _command(self, options: Sequence[str]) -> list[str]:
        return [
            "curl",
            "-sS",
            "--fail",
            "-o",
            "/dev/null",
            "-x",
            f"socks5h://127.0.0.1:{self.socks}",
            *options,
        ]

    def _url(self, content_bytes: int) -> str:
        return f"http://127.0.0.1:{self.web}/{content_bytes}"

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """A download that lasts as long as the block."""
        command = self._command([self._url(_ENDLESS_BYTES)])
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as curl:
            try:
                yield
                if curl.poll() is not None:
                    raise LoadFailed(f"the download beside it ended early, status {curl.returncode}")
            finally:
                curl.kill()

    def echoes(self, count: int, content_bytes: int = 64) -> list[float]:
        """Echo `count` times over one open connection. Returns the seconds of each."""
        content, times = bytes(content_bytes), []
        with self._connected() as sock:
            _echo(sock, content)
            for _ in range(count):
                started_s = time.perf_counter()
                _echo(sock, content)
                times.append(time.perf_counter() - started_s)
        return times

    def first_bytes(self, count: int) -> list[float]:
        """Open `count` connections, one after the other. Returns the seconds up to the first byte of each."""
        times = []
        for _ in range(count):
            started_s = time.perf_counter()
            with self._connected() as sock:
                _echo(sock, b"x")
                times.append(time.perf_counter() - started_s)
        return times

    def connections_per_s(self, seconds: float, workers: int) -> float:
        """Open connections, echo a byte and close them, for this time. Returns how many ended each second."""
        counts = [0] * workers
        failures: list[Exception] = []
        started_s = time.perf_counter()

        def work(index: int) -> None:
            try:
                while time.perf_counter() - started_s < seconds and not failures:
                    self.first_bytes(1)
                    counts[index] += 1
            except (OSError, LoadFailed) as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return sum(counts) / (time.perf_counter() - started_s)

    @contextmanager
    def open_connections(self, count: int) -> Iterator[None]:
        """Hold `count` connections open, each of which has echoed a byte."""
        with ExitStack() as stack:
            for _ in range(count):
                _echo(stack.enter_context(self._connected()), b"x")
            yield

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.socks), timeout=_TIMEOUT_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(_GREETING)
            if _receive(sock, len(_CHOSEN)) != _CHOSEN:
                raise LoadFailed("the SOCKS port wants a password")
            sock.sendall(_CONNECT_IPV4 + socket.inet_aton("127.0.0.1") + self.echo.to_bytes(2, "big"))
            if code := _receive(sock, _REPLY_BYTES)[1]:
                raise LoadFailed(f"the SOCKS port answered with code {code}")
            yield sock


def _echo(sock: socket.socket, content: bytes) -> None:
    sock.sendall(content)
    if _receive(sock, len(content)) != content:
        raise LoadFailed("something else was echoed")


def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise LoadFailed(f"the connection ended after {len(data)} of {count} bytes")
        data += more
    return data
