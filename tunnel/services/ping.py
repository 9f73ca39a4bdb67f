"""The service that says that it is there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tunnel.services.base import InnerService, Query, Reply

__all__ = ["Ping"]

PONG = b"pong"


class Ping(InnerService):
    """Answers each query with b"pong", when it has been read to its end."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        yield from reply.write(PONG)
