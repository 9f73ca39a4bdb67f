"""Content of any length in bounded memory: query and reply are files. Then a failure, and its error code."""

import sys
import tempfile
from pathlib import Path

from tunnel import LocalNetwork, QueryFailed, ReplyMode, Route

folder = Path(tempfile.mkdtemp())
source, answer = folder / "source", folder / "answer"
source.write_bytes(b"line of a long file\n" * 200_000)

with LocalNetwork(peers=6) as net:
    alice, bob = net[0], net[5]
    with source.open("rb") as content, answer.open("wb") as sink:
        result = alice.query(bob.id, content, hops=4, sink=sink).result(timeout=60)
    print(f"{result.query_bytes:,} bytes sent, {result.reply_bytes:,} received")
    assert answer.read_bytes() == source.read_bytes()

    # A proxy is down: in bounded time Alice gets an error with the reason.
    net.stop(2)
    try:
        route = Route((net[1].id, net[2].id), bob.id)
        alice.query(bob.id, b"hello?", route=route, mode=ReplyMode.NONE).result(timeout=60)
    except QueryFailed as error:
        print(f"refused, as it should be: {error.code.name if error.code else 'no code'}")
    else:
        sys.exit("a query passed a node that was stopped")
