"""Several services on one node, each with a name.

A message says for whom it is in its first bytes: the length of the name (one byte, 1 to 120), and the name. A
sub-stream of an established tunnel says it by its target (kind SERVICE). Source: docs/services.md,
"Services".
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from tunnel.errors import MalformedMessage, TargetNotAllowed
from tunnel.services.base import InnerService, Query, Reply, ServiceFunction, as_service, run_service
from tunnel.services.byte_reader import ByteReader
from tunnel.services.names import checked_name, is_name

__all__ = ["Services", "service_prefix"]


def service_prefix(name: str) -> bytes:
    """What precedes a message for the service of that name. Raises LocalTunnelError: an invalid name."""
    raw = checked_name(name)
    return bytes([len(raw)]) + raw


class Services(InnerService):
    """Hands each message, and each sub-stream, to the service that it names.

    Args:
        named: the services. Over an established tunnel each message names its own.
    Raises:
        LocalTunnelError: an invalid name. TypeError: a service that is none.
    """

    def __init__(self, named: Mapping[str, InnerService | ServiceFunction]) -> None:
        self._named = {checked_name(name): as_service(service) for name, service in named.items()}

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one message.

        Raises:
            MalformedMessage: it does not begin with a name. TargetNotAllowed: no service has that name.
        """
        reader = ByteReader(query.read)
        length = (yield from reader.exactly(1))[0]
        name = yield from reader.exactly(length)
        if not is_name(name):
            raise MalformedMessage("the message does not begin with the name of a service")
        yield from run_service(self._find(name).handle, _Rest(reader), reply)

    def find(self, name: bytes) -> InnerService:
        """The service for sub-streams to this name."""
        return self._find(name)

    def _find(self, name: bytes) -> InnerService:
        service = self._named.get(name)
        if service is None:
            # The name is of the peer's making: not for the log.
            raise TargetNotAllowed("no service of that name is here")
        return service


class _Rest:
    """A query without the name that it began with."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader

    def read(self) -> Generator[Any, Any, bytes]:
        return (yield from self._reader.read())
