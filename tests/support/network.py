"""Helpers over a `LocalNetwork`: a query that must succeed, and waiting until nothing is left of one."""

from __future__ import annotations

from concurrent.futures import Future

from reactor import Service, Sleep
from tunnel import LocalNetwork

__all__ = ["PATIENCE_S", "assert_works", "wait_until_idle"]

# Only reached when something hangs, so it is long: the machine may be busy.
PATIENCE_S = 30.0


def assert_works(net: LocalNetwork, *, hops: int = 1) -> None:
    """A query through `hops` proxies comes back as it went."""
    content = b"still here " * 3
    result = net[0].query(net[len(net) - 1].id, content, hops=hops).result(timeout=PATIENCE_S)
    assert result.read() == content


def wait_until_idle(net: LocalNetwork) -> None:
    """Wait until no node holds a stream, a half-open handshake or a pending query."""

    def watch() -> Service[None]:
        while any(not node.is_idle for node in net):
            yield Sleep(0.002)

    future: Future[None] = net.submit(watch())
    try:
        future.result(timeout=PATIENCE_S)
    except TimeoutError:
        busy = {node.id.hex()[:8]: node.open_streams for node in net if not node.is_idle}
        raise AssertionError(f"still busy after {PATIENCE_S} s: {busy}") from None
