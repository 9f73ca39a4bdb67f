"""The original's tests of nodes over TCP, with their names: the last peer is pinged through all others.

In the original: real TCP on loopback, reply mode Route, no error handling; one result, from the API of the
asking peer. There the test of 25 peers hung in some runs, and 128 peers were only said to be possible.
"""

from __future__ import annotations

import pytest

from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork, Ping, ReplyMode
from tunnel.modes import ErrorMode


@pytest.mark.parametrize(
    ("peers", "hops"),
    [(2, 0), (3, 1), (25, 23), (128, 126)],
    ids=["no_hop", "one_hop", "mult_hop", "mult_hop_128"],
)
def test_ping_pong(peers: int, hops: int) -> None:
    with LocalNetwork(peers=peers, service=Ping()) as net:
        alice, bob = net[0], net[peers - 1]
        query = alice.query(bob.id, b"ping", hops=hops, mode=ReplyMode.ROUTE, error_mode=ErrorMode.NONE)
        result = query.result(timeout=PATIENCE_S)
        assert result.read() == b"pong"
        assert len(result.route.proxies) == hops
        wait_until_idle(net)
