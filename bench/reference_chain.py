"""The practical limit of a tunnel in Python: a chain of processes that do its cipher work and nothing else.

Each process does the cipher work of the node at its place, with the same primitives. Alice seals the content,
applies one wide-block layer per proxy and seals the link record; a proxy opens the record, applies its layer
and seals the next record; Bob opens record and content. All work is in place in one buffer, chunk numbers and
lengths are known in advance, and sockets block. There is no reactor, handshake, header, time limit or error
handling, and no framing except the record of fixed size.

A batch of records, 64 KiB or one record if that is more, is received with one `recv_into` and sent with one
`sendall`. At the end one byte is returned, like the FIN of a tunnel: everything has arrived.

In mode `route` the chain continues after Bob with processes for the reply path. So Alice and each proxy are
two processes, whose times are added.

    with ReferenceChain(3, engine="openssl") as chain:
        run = chain.run(256_000_000)
        print(run.seconds, run.cpu_s)
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from bench.content import DIGESTS, RepeatedContent, content_digest, new_digest
from bench.control import ControlledProcess, ControlPipe, Message, ProcessError, stop_processes
from bench.usage import own_usage
from readwrite_comp.primitives import Aead
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.geometry import Profile
from tunnel.link.cells import CELL_HEAD_BYTES
from tunnel.link.records import HEAD_BYTES, TAG_BYTES, record_bytes_for
from tunnel.onion.key_schedule import Direction, permutation

__all__ = ["ChainRun", "ReferenceChain"]

RUN_TIMEOUT_S = 600.0
_BATCH_BYTES = 64 * 1024
_ACK = b"\x06"


class Role(StrEnum):
    """The task of a process of the chain."""

    SOURCE = "source"  # Alice, sending
    PROXY = "proxy"
    BOB = "bob"
    BOB_ECHO = "bob-echo"  # forwards the opened content
    HOME = "home"  # Alice, receiving


# --- in the child -----------------------------------------------------------------------------------------


def _key(label: str, number: int, size: int = 32) -> bytes:
    """Keys that both ends of a hop know; not secret."""
    return hashlib.shake_256(f"reference chain {label} {number}".encode()).digest(size)


class _Link:
    """The record layer of one connection: its number, and the number of records so far."""

    def __init__(self, number: int, record_bytes: int, engine: TunnelEngine) -> None:
        self._aead: Aead = engine.layers.aead(_key("link", number))
        self._head = record_bytes.to_bytes(HEAD_BYTES, "big")
        self._count = 0

    def open(self, record: memoryview) -> None:
        sealed = record[HEAD_BYTES:]
        self._aead.open_into(self._nonce(), sealed, self._head, sealed[:-TAG_BYTES])

    def seal(self, record: memoryview) -> None:
        sealed = record[HEAD_BYTES:]
        self._aead.seal_into(self._nonce(), sealed[:-TAG_BYTES], self._head, sealed)

    def _nonce(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(12, "big")


class _Station:
    """The work of one process: `steps`, done in order with each record."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._engine = tunnel_engine(options.engine)
        self._profile = Profile.from_name(options.profile)
        geometry = self._profile.geometry
        self._capacity = geometry.chunk_data_bytes
        self._content_start = geometry.chunk_bytes - geometry.chunk_data_bytes - TAG_BYTES
        self._record_bytes = record_bytes_for(CELL_HEAD_BYTES + geometry.chunk_bytes)
        start = HEAD_BYTES + CELL_HEAD_BYTES
        self._chunk = slice(start, start + geometry.chunk_bytes)
        self._batch_records = max(1, _BATCH_BYTES // self._record_bytes)
        self._options = options
        self._digest = new_digest(options.digest)
        self._content = RepeatedContent(0)
        self._content_left = 0

    def run(
        self, content_bytes: int, upstream: socket.socket | None, downstream: socket.socket | None
    ) -> Message:
        """One transfer. Returns seconds and processor seconds of it, and the digest of what was received."""
        self._digest = new_digest(self._options.digest)
        self._content = RepeatedContent(content_bytes)
        self._content_left = content_bytes
        steps = self._steps()
        size = self._record_bytes
        buffer = memoryview(bytearray(self._batch_records * size))
        chunks = self._profile.geometry.chunk_count(content_bytes)
        started_s, cpu_before = time.perf_counter(), own_usage().cpu_s
        for first in range(0, chunks, self._batch_records):
            count = min(self._batch_records, chunks - first)
            batch = buffer[: count * size]
            if upstream is not None:
                _receive(upstream, batch)
            for index in range(count):
                record = batch[index * size : (index + 1) * size]
                chunk = record[self._chunk]
                for step in steps:
                    step(record, chunk, first + index)
            if downstream is not None:
                downstream.sendall(batch)
        if downstream is not None:
            _receive(downstream, memoryview(bytearray(_ACK)))
        if upstream is not None:
            upstream.sendall(_ACK)
        return {
            "seconds": time.perf_counter() - started_s,
            "cpu_s": own_usage().cpu_s - cpu_before,
            "digest": self._digest.hexdigest(),
        }

    def _steps(self) -> list[Callable[[memoryview, memoryview, int], None]]:
        role, index, proxies = Role(self._options.role), self._options.index, self._options.proxies
        steps: list[Callable[[memoryview, memoryview, int], None]] = []
        if role is not Role.SOURCE:
            incoming = _Link(index, self._record_bytes, self._engine)
            steps.append(lambda record, chunk, number: incoming.open(record))
        if role is Role.SOURCE:
            steps += [self._fill, self._seal_content("query")]
            for hop in range(proxies, 0, -1):
                steps.append(self._layer(hop, is_encrypting=True))
        elif role is Role.PROXY:
            steps.append(self._layer(index, is_encrypting=False))
        elif role is Role.HOME:
            # The proxies of the reply path follow Bob: the last one's layer comes off first.
            for hop in range(2 * proxies + 1, proxies + 1, -1):
                steps.append(self._layer(hop, is_encrypting=True))
            steps += [self._open_content("reply"), self._take]
        else:
            steps += [self._open_content("query"), self._take]
        if role is Role.BOB_ECHO:
            steps.append(self._seal_content("reply"))
        if role not in (Role.BOB, Role.HOME):
            outgoing = _Link(index + 1, self._record_bytes, self._engine)
            steps.append(lambda record, chunk, number: outgoing.seal(record))
        return steps

    def _layer(self, hop: int, *, is_encrypting: bool) -> Callable[[memoryview, memoryview, int], None]:
        layer = permutation(self._profile, _key("hop", hop, 16), Direction.FORWARD, self._engine)
        permute = layer.encrypt if is_encrypting else layer.decrypt
        return lambda record, chunk, number: permute(chunk, number)

    def _seal_content(self, label: str) -> Callable[[memoryview, memoryview, int], None]:
        aead = self._engine.layers.aead(_key(label, 0))
        return lambda record, chunk, number: aead.seal_into(
            number.to_bytes(12, "big"), chunk[:-TAG_BYTES], b"", chunk
        )

    def _open_content(self, label: str) -> Callable[[memoryview, memoryview, int], None]:
        aead = self._engine.layers.aead(_key(label, 0))
        return lambda record, chunk, number: aead.open_into(
            number.to_bytes(12, "big"), chunk, b"", chunk[:-TAG_BYTES]
        )

    def _fill(self, record: memoryview, chunk: memoryview, number: int) -> None:
        self._content.readinto(chunk[self._content_start : -TAG_BYTES])

    def _take(self, record: memoryview, chunk: memoryview, number: int) -> None:
        count, start = min(self._content_left, self._capacity), self._content_start
        self._digest.update(chunk[start : start + count])
        self._content_left -= count


def _receive(source: socket.socket, buffer: memoryview) -> None:
    while buffer:
        count = source.recv_into(buffer, 0, socket.MSG_WAITALL)
        if not count:
            raise EOFError(f"the connection ended with {len(buffer)} bytes of a batch to come")
        buffer = buffer[count:]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reference_chain", description="One process of the chain."
    )
    parser.add_argument("--role", choices=list(Role), required=True)
    parser.add_argument("--index", type=int, required=True, help="place in the chain, from 0")
    parser.add_argument("--proxies", type=int, required=True, help="of one way")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--digest", choices=DIGESTS, default="crc32")
    return parser


def _connect(listener: socket.socket, role: Role, next_port: int | None) -> list[socket.socket | None]:
    """Both neighbours: [upstream, downstream]. Dialling needs no accepting side, so the order is free."""
    downstream = None if next_port is None else socket.create_connection(("127.0.0.1", next_port))
    upstream = None if role is Role.SOURCE else listener.accept()[0]
    for connection in (upstream, downstream):
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [upstream, downstream]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = ControlPipe()
    station = _Station(options)
    neighbours: list[socket.socket | None] = [None, None]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.result(0, {"port": listener.getsockname()[1]})
        try:
            for message in pipe.requests():
                if message["do"] == "connect":
                    neighbours = _connect(listener, Role(options.role), message["next_port"])
                    pipe.result(message["id"], {})
                else:
                    pipe.result(message["id"], station.run(message["content_bytes"], *neighbours))
        finally:
            for neighbour in neighbours:
                if neighbour is not None:
                    neighbour.close()
    return 0


# --- in the parent ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChainRun:
    """One transfer through the chain.

    Attributes:
        seconds: from Alice's first chunk until she learns that all has arrived.
        cpu_s: processor seconds at Alice, each proxy in order, and Bob.
    """

    content_bytes: int
    seconds: float
    cpu_s: tuple[float, ...]


class ReferenceChain:
    """A context manager that starts the processes of a chain and ends them.

    Args:
        proxies: between Alice and Bob; 0 is a direct connection.
        mode: "none", or "route" for content that comes back as well.
    Raises (on entry):
        ProcessError: a process did not start.
    """

    def __init__(
        self,
        proxies: int,
        *,
        engine: str = "auto",
        profile: str = "default",
        mode: str = "none",
        digest: str = "crc32",
    ) -> None:
        self._proxies = proxies
        self._digest = digest
        self._options = [
            *("--proxies", str(proxies), "--engine", engine, "--profile", profile, "--digest", digest)
        ]
        way = [Role.PROXY] * proxies
        if mode == "none":
            self._roles = [Role.SOURCE, *way, Role.BOB]
        else:
            self._roles = [Role.SOURCE, *way, Role.BOB_ECHO, *way, Role.HOME]
        self._processes: list[ControlledProcess] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> ReferenceChain:
        directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mtun-chain-")))
        try:
            self._start(directory)
        except BaseException:
            stop_processes(self._processes)
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            stop_processes(self._processes)
        finally:
            self._cleanup.close()

    def _start(self, directory: Path) -> None:
        for index, role in enumerate(self._roles):
            options = ["--role", role.value, "--index", str(index), *self._options]
            process = ControlledProcess(
                "bench.reference_chain", options, name=f"{role} {index}", log_path=directory / f"{index}.log"
            )
            self._processes.append(process)
        ports = [process.hello.result(RUN_TIMEOUT_S)["port"] for process in self._processes]
        answers = [
            process.request("connect", {"next_port": next_port})
            for process, next_port in zip(self._processes, [*ports[1:], None], strict=True)
        ]
        for answer in answers:
            answer.result(RUN_TIMEOUT_S)

    def run(self, content_bytes: int) -> ChainRun:
        """Transfer content once, and check that it arrives as it was sent.

        Raises:
            ProcessError: a process failed, or other content arrived.
        """
        answers = [process.request("run", {"content_bytes": content_bytes}) for process in self._processes]
        results = [answer.result(RUN_TIMEOUT_S) for answer in answers]
        expected = content_digest(content_bytes, self._digest)
        for process, role, result in zip(self._processes, self._roles, results, strict=True):
            if role in (Role.BOB, Role.BOB_ECHO, Role.HOME) and result["digest"] != expected:
                raise ProcessError(
                    f"{process.name} received content with digest {result['digest']}, expected {expected}"
                )
        cpu_s = [result["cpu_s"] for result in results]
        bob = self._proxies + 1
        # On the reply path the first process after Bob is the last proxy, and the last one is Alice.
        for index in range(bob + 1, len(cpu_s)):
            cpu_s[2 * bob - index] += cpu_s[index]
        return ChainRun(content_bytes, results[0]["seconds"], tuple(cpu_s[: bob + 1]))


if __name__ == "__main__":
    sys.exit(main())
