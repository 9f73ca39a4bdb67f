"""The servers that `bench.echo` compares, each in its own process: `python -m bench.echo_servers KIND`.

Each prints its port and echoes. It is written as the documentation of its library recommends. A thread, not
the loop, talks to the benchmark over standard input and output: it answers the line "usage" with a JSON line
of processor seconds and memory. The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reactor import (
    Reactor,
    ReadYield,
    Scope,
    Service,
    SocketStream,
    TcpListener,
    WriteYield,
    timeout_after,
)

__all__ = ["KINDS", "READ_BYTES", "SERVICES", "allow_many_descriptors", "main"]

READ_BYTES = 64 * 1024
_BACKLOG = 4096


# Ours.


def _reactor(echo: Callable[[SocketStream], Service[None]]) -> None:
    def serve(listener: TcpListener) -> Service[None]:
        clients = Scope("clients", fail_together=False)
        while True:
            yield from clients.spawn(echo((yield from listener.accept())))

    with Reactor() as reactor, TcpListener("127.0.0.1", 0, backlog=_BACKLOG) as listener:
        _announce(listener.address[1])
        reactor.run(serve(listener))


def _echo(stream: SocketStream) -> Service[None]:
    reader, writer = ReadYield(stream), WriteYield(stream)
    with stream:
        while data := (yield from reader.read(READ_BYTES)):
            yield from writer.write_all(data)
            # A service that waits need not hold what it has sent: 6 % of a 16 KiB request. The same line
            # helps none of the peers; asyncio streams it costs half as much again.
            del data


def _echo_within_time(stream: SocketStream) -> Service[None]:
    reader, writer = ReadYield(stream), WriteYield(stream)
    with stream:
        while data := (yield from timeout_after(60, reader.read(READ_BYTES))):
            yield from timeout_after(60, writer.write_all(data))
            del data


SERVICES = {"reactor": _echo, "reactor, time limits": _echo_within_time}
"""Ours by its name in the tables."""


# asyncio, with its own loop and with uvloop's.


async def _asyncio_streams() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=_BACKLOG)
    _announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _asyncio_protocol() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_EchoProtocol, "127.0.0.1", 0, backlog=_BACKLOG)
    _announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _uvloop(main: Callable[[], Any]) -> None:
    import uvloop

    uvloop.run(main())


# trio and curio.


def _trio() -> None:
    import trio

    async def echo(stream: Any) -> None:
        async with stream:
            while data := await stream.receive_some(READ_BYTES):
                await stream.send_all(data)

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=_BACKLOG)
        _announce(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(echo, listeners)

    trio.run(main)


def _curio() -> None:
    import curio

    async def echo(client: Any, _address: Any) -> None:
        async with client:
            while data := await client.recv(READ_BYTES):
                await client.sendall(data)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        _announce(listener.getsockname()[1])
        server = curio.io.Socket(listener)
        while True:
            client, address = await server.accept()
            client._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await curio.spawn(echo, client, address, daemon=True)

    curio.run(main)


# No library: what the system calls take, made from Python. Nothing in Python can be faster.


def _epoll() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    listening = listener.fileno()
    poller = select.epoll()
    poller.register(listening, select.EPOLLIN)
    _announce(listener.getsockname()[1])
    clients: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poller.poll(-1, 512):
            if fd == listening:
                client, _ = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poller.register(client, select.EPOLLIN | select.EPOLLET)
            elif data := clients[fd].recv(READ_BYTES):
                clients[fd].send(data)
            else:
                clients.pop(fd).close()


KINDS: dict[str, Callable[[], None]] = {
    "reactor": lambda: _reactor(SERVICES["reactor"]),
    "reactor, time limits": lambda: _reactor(SERVICES["reactor, time limits"]),
    "asyncio Protocol": lambda: asyncio.run(_asyncio_protocol()),
    "asyncio streams": lambda: asyncio.run(_asyncio_streams()),
    "uvloop Protocol": lambda: _uvloop(_asyncio_protocol),
    "uvloop streams": lambda: _uvloop(_asyncio_streams),
    "trio": _trio,
    "curio": _curio,
    "epoll alone": _epoll,
}
"""Every server by its name in the tables."""


def _announce(port: int) -> None:
    print(port, flush=True)


def _answer() -> None:
    for line in sys.stdin:
        if line.strip() == "usage":
            print(json.dumps(_usage()), flush=True)
    os._exit(0)


def _usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {"cpu_s": used.ru_utime + used.ru_stime, "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE")}


def allow_many_descriptors() -> None:
    """Raise this process's limit of descriptors as far as allowed, for thousands of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    allow_many_descriptors()
    threading.Thread(target=_answer, daemon=True).start()
    KINDS[sys.argv[1]]()


if __name__ == "__main__":
    main()
