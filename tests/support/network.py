"""Helpers for a `LocalNetwork`: a query that must succeed, and waits for a condition."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from reactor import ReactorThread, Service, Sleep
from tunnel import LocalNetwork

__all__ = ["PATIENCE_S", "assert_works", "wait_until", "wait_until_idle"]

# Reached only when something hangs. Long, because a busy machine may need a minute instead of a second.
PATIENCE_S = 120.0


def assert_works(net: LocalNetwork, *, hops: int = 1) -> None:
    """Check that a query through `hops` proxies is echoed."""
    content = b"still here " * 3
    result = net[0].query(net[len(net) - 1].id, content, hops=hops).result(timeout=PATIENCE_S)
    assert result.read() == content


def wait_until(
    runner: LocalNetwork | ReactorThread, condition: Callable[[], object], patience_s: float = PATIENCE_S
) -> None:
    """Wait until a condition holds; it is checked in the reactor's thread. Raises TimeoutError."""

    def watch() -> Service[None]:
        while not condition():
            yield Sleep(0.002)

    future: Future[None] = runner.submit(watch())
    future.result(timeout=patience_s)


def wait_until_idle(net: LocalNetwork, patience_s: float = PATIENCE_S) -> None:
    """Wait until no node holds a stream, a half-open handshake or a pending query."""
    try:
        wait_until(net, lambda: all(node.is_idle for node in net), patience_s)
    except TimeoutError:
        busy = {node.id.hex()[:8]: node.open_streams for node in net if not node.is_idle}
        raise AssertionError(f"still busy after {patience_s} s: {busy}") from None
