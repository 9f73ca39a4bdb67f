"""Hostile and broken peers against real nodes on real sockets.

Each case checks the log of the node, the code that the peer receives, that all resources are released, and
that other traffic continues.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.support.logs import records_of
from tests.support.network import PATIENCE_S, assert_works, wait_until, wait_until_idle
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, LocalNetwork, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.crypto.primitives import tunnel_engine
from tunnel.geometry import DEFAULT
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.link.cells import CellType, pack_go_away
from tunnel.link.handshake import M1_BYTES
from tunnel.node.query.request import SERVED_MODES
from tunnel.onion.header import Command, Slot, build_header

ENGINE = tunnel_engine()
PROFILE = Profile(DEFAULT)
# Short enough for a test, long enough for honest traffic on a busy machine.
LIMITS = Limits(handshake_s=1.0, header_s=1.0, dial_s=5.0, idle_s=2.0, answer_s=2.0, linger_s=1.0)


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4, limits=LIMITS) as network:
        yield network


@pytest.fixture
def refusals(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """The text of all warnings and errors that nodes logged."""
    caplog.set_level(logging.INFO, logger="tunnel.node")

    def read() -> str:
        return "\n".join(record.getMessage() for record in caplog.records)

    return read


def _header(
    target: Node, *, command: Command = Command.DEST, expiry: int | None = None, next_id: bytes = bytes(32)
) -> bytes:
    now = int(time.time())
    slot = Slot(command, now + 3600 if expiry is None else expiry, os.urandom(16), next_id=next_id)
    hop = target.descriptor.hop(now)
    return build_header(PROFILE, [(hop, slot)], engine=ENGINE, random_bytes=os.urandom)


def _raw(target: Node) -> RawPeer:
    return RawPeer(target.descriptor, ENGINE)


# --- before the handshake ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n".ljust(M1_BYTES), "not this protocol"),
        (b"MT\x00\x02" + bytes(60), "protocol version 2, this is 1"),
        (b"MT\x00\x01" + bytes([1]) * 60, "puzzle"),
        (b"MT\x00\x01" + bytes(60), "HandshakeError"),
        (b"MT\x00\x01" + bytes(12) + os.urandom(48), "HandshakeError"),
        (os.urandom(1_000_000), "HandshakeError"),
    ],
    ids=["another protocol", "another version", "puzzle unasked", "zero key", "random key", "flood"],
)
def test_bytes_that_are_not_a_handshake(
    net: LocalNetwork, refusals: Callable[[], str], data: bytes, text: str
) -> None:
    with _raw(net[1]) as peer:
        try:
            peer.send_bytes(data)
        except ConnectionError:
            assert len(data) > M1_BYTES  # the node closed before the flood had ended
        assert peer.receive_to_end() == b""
    wait_until_idle(net)
    assert text in refusals()
    assert_works(net)


@pytest.mark.full
@pytest.mark.parametrize("count", [0, 1, M1_BYTES - 1])
def test_a_peer_that_sends_too_little(net: LocalNetwork, refusals: Callable[[], str], count: int) -> None:
    with _raw(net[1]) as peer:
        peer.send_bytes(bytes(b"MT\x00\x01".ljust(M1_BYTES, b"\0")[:count]))
        assert peer.receive_to_end() == b""  # the node's time limit ends it
    wait_until_idle(net)
    assert "no handshake within 1 s" in refusals()
    assert_works(net)


def test_peer_that_hangs_up_in_the_handshake(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]) as peer:
        peer.send_bytes(b"MT\x00\x01")
    wait_until(net, lambda: "connection ended inside the handshake" in refusals())
    wait_until_idle(net)
    assert_works(net)


def test_peer_of_another_network(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with RawPeer(net[1].descriptor, ENGINE, network_id=bytes(16)) as peer, pytest.raises(AssertionError):
        peer.handshake()
    wait_until_idle(net)
    assert "HandshakeError" in refusals()
    assert_works(net)


# --- after the handshake ----------------------------------------------------------------------------------


@pytest.mark.full
def test_stream_that_is_opened_and_left_without_a_header(
    net: LocalNetwork, refusals: Callable[[], str]
) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, b"")
        assert peer.reset_code() is ErrorCode.TIMEOUT
    wait_until_idle(net)
    assert "no whole header after OPEN within 1 s" in refusals()


def test_record_of_random_bytes(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.send_bytes(b"\x00\x01\x00\x00" + os.urandom(1020))
        assert peer.reset_code(stream=0) is ErrorCode.PROTOCOL
    wait_until_idle(net)
    assert "link record 0 does not open" in refusals()
    assert_works(net)


@pytest.mark.parametrize("head", ["00000000", "00400000", "ffff0000", "00010001"])
def test_record_of_an_impossible_size(net: LocalNetwork, refusals: Callable[[], str], head: str) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.send_bytes(bytes.fromhex(head))
        assert peer.reset_code(stream=0) is ErrorCode.PROTOCOL
    wait_until_idle(net)
    assert f"record head is {head}" in refusals()


def test_second_go_away(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, b"")  # a stream, so that the first one does not end the link
        peer.send_cells(pack_go_away(), pack_go_away())
        assert peer.reset_code(stream=0) is ErrorCode.PROTOCOL
    wait_until_idle(net)
    assert "second GOAWAY" in refusals()
    assert_works(net)


def test_content_before_open(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.send_content(b"hello")
        assert peer.reset_code(stream=0) is ErrorCode.PROTOCOL
    wait_until_idle(net)
    assert "DATA for stream 1, which was never opened" in refusals()


def test_content_beyond_the_credit(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    # The node may end the link before the last of it is sent; its RESET is then lost.
    broken = contextlib.suppress(BrokenPipeError, ConnectionResetError)
    with _raw(net[1]).handshake() as peer, broken:
        peer.open(PROFILE, _header(net[1]) + bytes(3 * DEFAULT.window_bytes))
        assert peer.reset_code(stream=0) is ErrorCode.PROTOCOL
    wait_until_idle(net)
    assert "credit for" in refusals() or "beyond what was granted" in refusals()
    assert_works(net)


def test_partial_record_ends_its_link(refusals: Callable[[], str]) -> None:
    with LocalNetwork(peers=3, limits=replace(LIMITS, record_s=0.3, link_tick_s=0.05)) as net:
        with _raw(net[1]).handshake() as peer:
            peer.send_bytes(b"\x00\x01\x00\x00" + bytes(500))
            assert peer.reset_code(stream=0) is None
        wait_until(net, lambda: "not complete within 0.3 s" in refusals())


def test_peer_that_answers_no_ping_is_taken_for_dead(refusals: Callable[[], str]) -> None:
    limits = replace(LIMITS, quiet_s=0.1, pong_s=0.2, link_tick_s=0.05)
    with LocalNetwork(peers=3, limits=limits) as net:
        with _raw(net[1]).handshake() as peer:
            kinds = [kind for kind, _, _ in peer.cells()]
        assert kinds.count(CellType.PING) == 1
        wait_until(net, lambda: "answered no PING within 0.2 s" in refusals())


def test_truncated_header(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1])[:-1])
        peer.send_fin()
        assert peer.reset_code() is ErrorCode.TRUNCATED
    wait_until_idle(net)
    assert "FIN inside the onion header" in refusals()


def test_header_for_another_node(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[2]))
        assert peer.reset_code() is ErrorCode.BAD_HEADER
    wait_until_idle(net)
    assert "is for another node" in refusals()
    assert_works(net)


@pytest.mark.parametrize(
    ("offset_s", "text"), [(-601, "header expired"), (4 * 3600 + 700, "one of the two clocks")]
)
def test_expired_header(net: LocalNetwork, refusals: Callable[[], str], offset_s: int, text: str) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1], expiry=int(time.time()) + offset_s))
        assert peer.reset_code() is ErrorCode.EXPIRED
    wait_until_idle(net)
    assert text in refusals()


def test_replayed_header(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    header = _header(net[1])
    with _raw(net[1]).handshake() as first:
        first.open(PROFILE, header)
        with _raw(net[1]).handshake() as second:
            second.open(PROFILE, header)
            assert second.reset_code() is ErrorCode.REPLAYED
        first.send_fin()
        # The header was accepted, but no content followed: nodes with keys of the frame report by STATUS.
        assert first.wait_for(CellType.STATUS)
    wait_until_idle(net)
    assert "accepted before" in refusals()
    assert_works(net)


def test_an_unknown_next_hop(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1], command=Command.RELAY, next_id=os.urandom(32)))
        assert peer.reset_code() is ErrorCode.UNKNOWN_NEXT
    wait_until_idle(net)
    assert "neither linked nor in the directory" in refusals()


def test_next_hop_that_is_the_node_itself_or_the_sender(net: LocalNetwork) -> None:
    for next_is_self in (True, False):
        with _raw(net[1]).handshake() as peer:
            next_id = net[1].id if next_is_self else peer.id
            peer.open(PROFILE, _header(net[1], command=Command.RELAY, next_id=next_id))
            assert peer.reset_code() is ErrorCode.UNKNOWN_NEXT
    wait_until_idle(net)


def test_home_slot_that_was_made_elsewhere(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1], command=Command.HOME, next_id=os.urandom(32)))
        assert peer.reset_code() is ErrorCode.BAD_HEADER
    wait_until_idle(net)
    assert "the ticket in the HOME slot was not made here" in refusals()


def test_content_of_random_chunks(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1]) + os.urandom(DEFAULT.chunk_bytes))
        assert peer.reset_code() is ErrorCode.BAD_CONTENT
    wait_until_idle(net)
    assert "MalformedMessage" in refusals()
    assert_works(net)


def test_frame_that_stops_in_the_middle(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    """Half a chunk, then silence: the bytes are forwarded immediately, and the error is reported back."""
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1], command=Command.RELAY, next_id=net[2].id) + bytes(100))
        # After its slot was opened, the rest is noise to net[2]: it refuses the header and reports backwards.
        assert peer.reset_code() is ErrorCode.BAD_HEADER
    wait_until_idle(net)
    assert_works(net)


def test_peer_that_vanishes_in_mid_frame(net: LocalNetwork, refusals: Callable[[], str]) -> None:
    with _raw(net[1]).handshake() as peer:
        peer.open(PROFILE, _header(net[1]) + bytes(100))
    words = "the connection ended without GOAWAY, with 1 stream open"
    wait_until(net, lambda: words in refusals())
    wait_until_idle(net)
    assert_works(net)


def test_one_bad_peer_does_not_disturb_a_transfer_under_way(net: LocalNetwork) -> None:
    content = os.urandom(3_000_000)
    transfer = net[0].query(net[3].id, content, hops=2)
    for _ in range(10):
        with _raw(net[1]).handshake() as peer:
            peer.send_bytes(os.urandom(5000))
            peer.receive_to_end()
    with transfer.result(timeout=PATIENCE_S) as result:
        assert result.read() == content
    wait_until_idle(net)


# --- what Alice sees --------------------------------------------------------------------------------------


def _dead_node(net: LocalNetwork) -> bytes:
    """Publish a node that does not listen on its port. Returns its id."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    descriptor = NodeKeys.generate(time.time()).descriptor(
        (Address("127.0.0.1", port),), time.time(), net.engine
    )
    net.directory.publish(descriptor)
    return descriptor.node_id


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("mode", SERVED_MODES)
def test_query_over_a_hop_that_refuses(
    net: LocalNetwork, position: int, mode: ReplyMode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dead = _dead_node(net)
    nodes = [net[1].id, net[2].id, net[3].id]
    nodes[position] = dead
    route = Route(tuple(nodes[:2]), nodes[2])
    reply_route = Route((), net[0].id) if mode is ReplyMode.OTHER_ROUTE else None
    started_s = time.monotonic()
    with pytest.raises(QueryFailed, match="NEXT_REFUSED") as caught:
        net[0].query(route.destination, b"hello", route=route, reply_route=reply_route, mode=mode).result(
            timeout=PATIENCE_S
        )
    assert time.monotonic() - started_s < 10
    assert caught.value.code is ErrorCode.NEXT_REFUSED
    assert ("the first hop" in str(caught.value)) == (position == 0)
    wait_until_idle(net)
    # The log must not show who talks to whom: a line names only the node that writes it, and no port.
    ids = [node.id.hex()[:8] for node in net] + [dead.hex()[:8]]
    assert records_of(caplog) or position == 0
    for record in records_of(caplog):
        message = record.getMessage()
        assert sum(node_id in message for node_id in ids) <= 1
        assert "127.0.0.1" not in message
    net.directory.forget(dead)
    assert_works(net)


@pytest.mark.full
def test_query_over_a_hop_that_never_answers(net: LocalNetwork) -> None:
    """A listener that accepts and never answers: the previous hop ends the handshake and reports it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        descriptor = NodeKeys.generate(time.time()).descriptor(
            (Address("127.0.0.1", server.getsockname()[1]),), time.time(), net.engine
        )
        net.directory.publish(descriptor)
        route = Route((net[1].id, descriptor.node_id), net[3].id)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[3].id, b"hello", route=route).result(timeout=PATIENCE_S)
    # Either the proxy's dial limit or Alice's idle limit is reached first; both errors are correct.
    assert caught.value.code in (ErrorCode.NEXT_REFUSED, ErrorCode.TIMEOUT)
    wait_until_idle(net)


def test_a_cancelled_query_releases_everything(net: LocalNetwork) -> None:
    class Endless:
        def __init__(self) -> None:
            self.reads = 0

        def read(self, size: int) -> bytes:
            self.reads += 1
            return bytes(size)

    source = Endless()
    future = net[0].query(net[3].id, source, hops=2, mode=ReplyMode.NONE)
    wait_until(net, lambda: source.reads > 20)
    assert future.cancel()
    wait_until_idle(net)
    assert_works(net)
