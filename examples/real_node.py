"""Real nodes in one program: two configured nodes, and a client that queries one through the other.

`mtun up` and `mtun node` run the same nodes as separate processes.
"""

import tempfile
from pathlib import Path

from reactor import Service
from tunnel import Client, connect, open_node
from tunnel.cli import main
from tunnel.services import Query, Reply


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())


with tempfile.TemporaryDirectory() as folder:
    network = Path(folder) / "pair"
    main(["network", str(network), "--nodes", "2"])  # in a shell: mtun network pair --nodes 2
    with (
        open_node(network / "node-0" / "node.toml"),
        open_node(network / "node-1" / "node.toml", services={"upper": upper}) as bob,
        connect(network) as node,
    ):
        query = Client(node).query(bob.id, b"a real node", service="upper", hops=1)
        print(query.result(timeout=30).read().decode())
