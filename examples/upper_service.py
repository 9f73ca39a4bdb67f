"""A service of your own: Bob answers each query in upper case, while it is still arriving."""

from collections.abc import Generator
from typing import Any

from tunnel import InnerService, LocalNetwork
from tunnel.services import Query, Reply


class Upper(InnerService):
    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while chunk := (yield from query.read()):
            yield from reply.write(chunk.upper())


with LocalNetwork(peers=5, service=Upper()) as net:
    result = net[0].query(net[4].id, b"a quiet voice", hops=3).result(timeout=30)
    print(result.read().decode())
