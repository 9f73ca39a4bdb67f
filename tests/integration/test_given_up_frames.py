"""An abandoned frame ends at every node, whatever each of them waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from reactor import Service, Signal
from tests.support.network import wait_until
from tunnel import Limits, LocalNetwork, ReplyMode
from tunnel.client import Client
from tunnel.services import Query, Reply

# Longer than the test, so that the idle limit does not end the frame.
LIMITS = Limits(idle_s=300.0)


def never_reads(query: Query, reply: Reply) -> Service[None]:
    yield Signal()


def answers_without_end(query: Query, reply: Reply) -> Service[None]:
    while True:
        yield from reply.write(bytes(65_536))


class Endless:
    """Endless content that counts the pieces read from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(65_536)
            self.taken += 1


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_a_query_to_a_service_that_does_not_read(hops: int) -> None:
    with LocalNetwork(peers=5, service=never_reads, limits=LIMITS) as net:
        content = Endless()
        reply = Client(net[0]).ask(net[4].id, iter(content), hops=hops)
        seen: deque[int] = deque(maxlen=100)

        def is_full() -> bool:
            """All windows of the route are full when no further piece is read."""
            seen.append(content.taken)
            return content.taken > 0 and len(seen) == 100 and seen[0] == seen[-1]

        wait_until(net, is_full)
        reply.cancel()
        wait_until(net, lambda: all(node.is_idle for node in net), 20)


@pytest.mark.parametrize("mode", [ReplyMode.CACHED, ReplyMode.ROUTE])
@pytest.mark.parametrize("hops", [0, 1, 3])
def test_a_reply_that_is_not_read(hops: int, mode: ReplyMode) -> None:
    with LocalNetwork(peers=5, service=answers_without_end, limits=LIMITS) as net:
        with Client(net[0]).ask(net[4].id, b"", hops=hops, mode=mode) as reply:
            assert reply.read(timeout_s=20)
        wait_until(net, lambda: all(node.is_idle for node in net), 20)
