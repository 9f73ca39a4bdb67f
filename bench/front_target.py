"""What the connections of `bench.front` lead to, in a process of its own: `python -m bench.front_target`.

The first message has two ports of loopback: `web` answers `GET /N` and `GET /N/…` with N bytes, and `echo`
returns what it receives. It ends with its standard input, like all processes of `bench.control`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading

from bench.control import ControlPipe

__all__ = ["main"]

_BACKLOG = 1_024
_PIECE = bytes(256 * 1024)


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        left = int(re.split(b"[ /]+", request)[1])
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            writer.write(_PIECE[:left])
            left -= min(left, len(_PIECE))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the measurement is over, and its download with it
    finally:
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _serve(pipe: ControlPipe) -> None:
    ports = {}
    for name, handler in (("web", _web), ("echo", _echo)):
        server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=_BACKLOG)
        ports[name] = server.sockets[0].getsockname()[1]
    pipe.result(0, ports)
    await asyncio.Event().wait()


def main() -> int:
    pipe = ControlPipe()
    threading.Thread(target=lambda: asyncio.run(_serve(pipe)), daemon=True).start()
    for _ in pipe.requests():
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
