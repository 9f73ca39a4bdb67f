"""A stranger makes a node dial addresses of his choice, to learn from the answer whether a port is open.

He presents descriptors that name these addresses, and sends a header for each. The node belongs to a network
declared local and has default settings, so it dials this machine only. A closed port, a port that accepts and
is silent, and a port that talks must look the same to him.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from bench.node_group import NodeGroup
from tests.integration.test_hostile_puzzles import header_to
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, Node, Profile
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import ExchangeDirectory
from tunnel.geometry import DEFAULT
from tunnel.identity.descriptor import Address
from tunnel.routing.addresses import LOCAL

pytestmark = pytest.mark.full

ENGINE = tunnel_engine()
DIAL_S = 0.4


@pytest.fixture
def victim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    # The node would dial what it has heard of anyway, once, and then look at it no more for a while.
    monkeypatch.setattr(ExchangeDirectory, "next_to_dial", lambda *_: None)
    with NodeGroup() as group:
        node = group.add(ExchangeDirectory(engine=ENGINE, rules=LOCAL), limits=Limits(dial_s=DIAL_S))
        group.start(node)
        yield node


@contextmanager
def listening(accept: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port of this machine. `accept`: what is done with a connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), ExitStack() as kept:
            while True:
                peer, _ = server.accept()
                kept.enter_context(peer)
                accept(peer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(PATIENCE_S)


def ask(victim: Node, address: Address) -> tuple[float, ErrorCode | None]:
    """The answer to a header for a node at `address`: how long it took, and its code."""
    with RawPeer(victim.descriptor, ENGINE, addresses=(address,)).handshake() as invented:
        node_id = invented.keys.node_id(ENGINE)
    with RawPeer(victim.descriptor, ENGINE).handshake() as stranger:
        began_s = time.monotonic()
        stranger.open(Profile(DEFAULT), header_to(victim, node_id))
        code = stranger.reset_code()
        return time.monotonic() - began_s, code


def test_open_and_closed_ports_look_the_same(victim: Node) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        closed = server.getsockname()[1]
    with (
        listening(lambda _: None) as silent,
        listening(lambda peer: peer.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")) as talking,
        listening(lambda peer: peer.close()) as closing_at_once,
    ):
        for port in (closed, silent, talking, closing_at_once):
            took_s, code = ask(victim, Address("127.0.0.1", port))
            assert code is ErrorCode.NEXT_REFUSED
            assert took_s >= DIAL_S, "at once for all but the silent one"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "192.168.1.1", "10.0.0.1", "224.0.0.1", "8.8.8.8", "fe80::1"]
)
def test_other_machines_are_not_dialled(victim: Node, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []
    monkeypatch.setattr(victim.context, "connect", lambda host, port: dialled.append(host))
    took_s, code = ask(victim, Address(host, 80))
    assert code in (ErrorCode.NEXT_REFUSED, ErrorCode.UNKNOWN_NEXT)
    assert took_s < PATIENCE_S
    assert dialled == []


def test_the_dial_for_a_query_of_its_own_fails_at_once(victim: Node) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        closed = server.getsockname()[1]
    with RawPeer(
        victim.descriptor, ENGINE, addresses=(Address("127.0.0.1", closed),)
    ).handshake() as invented:
        node_id = invented.keys.node_id(ENGINE)
    began_s = time.monotonic()
    with pytest.raises(Exception, match="refused"):
        victim.query(node_id, b"", hops=0).result(PATIENCE_S)
    assert time.monotonic() - began_s < DIAL_S
