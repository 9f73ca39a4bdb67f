"""Inner services for measured transfers: they count and digest content without keeping it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, TypedDict

from bench.content import new_digest
from reactor import Signal
from tunnel.established import Target
from tunnel.services import InnerService, Ping, Query, Reply
from tunnel.services.base import StreamService
from tunnel.services.exit import Exit, ExitSettings

__all__ = ["SERVICES", "CountedEcho", "EchoAndExit", "Hold", "Received", "Sink", "make_service"]

# Results that are never fetched: the oldest are dropped.
_KEPT = 4_096


class Received(TypedDict):
    """The content of one query that a service has received."""

    content_bytes: int
    digest: str


class Sink(InnerService):
    """Counts and digests each query, and answers nothing.

    Args:
        digest: one of `bench.content.DIGESTS`.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._received: deque[Received] = deque(maxlen=_KEPT)

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        digest, count = new_digest(self._digest), 0
        while chunk := (yield from query.read()):
            digest.update(chunk)
            count += len(chunk)
            yield from self._answer(chunk, reply)
        self._received.append({"content_bytes": count, "digest": digest.hexdigest()})

    def _answer(self, chunk: bytes, reply: Reply) -> Generator[Any, Any, None]:
        yield from ()

    def take_received(self) -> list[Received]:
        """The complete queries since the last call."""
        received = list(self._received)
        self._received.clear()
        return received


class CountedEcho(Sink):
    """The same, and echoes each query (except in mode `none`, which has no reply)."""

    def _answer(self, chunk: bytes, reply: Reply) -> Generator[Any, Any, None]:
        return reply.write(chunk)


class Hold(Sink):
    """Reads each query and then never answers it; the query lasts until its sender cancels it."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield from super().handle(query, reply)
        yield Signal()


class EchoAndExit(CountedEcho):
    """Echoes messages, and connects sub-streams to this machine."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self._exit = Exit(["allow 127.0.0.0/8"], ExitSettings(connections=4_096))

    def find_exit(self, target: Target) -> StreamService:
        return self._exit


SERVICES = ("echo", "exit", "hold", "ping", "sink")


def make_service(name: str, digest: str) -> InnerService:
    """The service of a command-line name. Raises ValueError: not one of SERVICES."""
    if name == "sink":
        return Sink(digest)
    if name == "echo":
        return CountedEcho(digest)
    if name == "exit":
        return EchoAndExit(digest)
    if name == "hold":
        return Hold(digest)
    if name == "ping":
        return Ping()
    raise ValueError(f"no service is called {name!r}; there are {', '.join(SERVICES)}")
