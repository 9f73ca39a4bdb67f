"""The service that sends every query back as it came."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tunnel.services.base import InnerService, Query, Reply

__all__ = ["Echo"]


class Echo(InnerService):
    """Answers with the query's own content, chunk by chunk, in bounded memory."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while chunk := (yield from query.read()):
            yield from reply.write(chunk)
