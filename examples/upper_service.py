"""Your own service: Bob returns each query in upper case, while it is still arriving."""

from reactor import Service
from tunnel import LocalNetwork
from tunnel.services import Query, Reply


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())


with LocalNetwork(peers=5, service=upper) as net:
    result = net[0].query(net[4].id, b"a quiet voice", hops=3).result(timeout=30)
    print(result.read().decode())
