"""The services that the scenarios of clients call, and helpers of these scenarios."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from reactor import Service, Signal, Sleep
from tunnel.services import Echo, Query, Reply, Services

BIG = os.urandom(3_000_000)


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())
        yield from reply.flush()


def failing(query: Query, reply: Reply) -> Service[None]:
    yield from query.read()
    raise ZeroDivisionError("a bug in a user's service")


def stuck(query: Query, reply: Reply) -> Service[None]:
    yield from reply.write(b"begun")
    yield from reply.flush()
    yield Signal()  # never set


SERVICES = Services({"upper": upper, "echo": Echo(), "failing": failing, "stuck": stuck})


def message(name: str, content: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + content


def client_pause(kind: str) -> Any:
    """A pause of a tenth of a second, for this kind of client."""
    if kind == "asyncio":
        return asyncio.sleep(0.1)
    if kind == "services":
        return (lambda: (yield Sleep(0.1)))()
    return threading.Event().wait(0.1)
