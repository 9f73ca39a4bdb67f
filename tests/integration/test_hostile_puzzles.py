"""Listeners answer each first message with a puzzle: strangers cannot waste a node's processor time."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bench.node_group import NodeGroup
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.geometry import DEFAULT
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import M1_BYTES, MAX_BITS, Puzzle
from tunnel.link.newcomers import Newcomers
from tunnel.node.links.puzzles import PuzzleSolver
from tunnel.onion.header import Command, Slot, build_header

pytestmark = pytest.mark.full

ENGINE = tunnel_engine()
PROFILE = Profile(DEFAULT)
LIMITS = Limits(dial_s=PATIENCE_S, linger_s=1.0)
HARD = 60  # more than anybody solves


class Listener:
    """Asks everybody for a puzzle of `bits`, and counts the answers that come."""

    def __init__(self, bits: int) -> None:
        self._retry = b"mtun1 retry".ljust(16, b"\0") + os.urandom(16) + bytes([bits]) + bytes(47)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.asked = self.answers = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def descriptor(self, addresses: int = 4) -> Descriptor:
        address = Address("127.0.0.1", self._server.getsockname()[1])
        return NodeKeys.generate(time.time()).descriptor((address,) * addresses, time.time(), ENGINE)

    def _serve(self) -> None:
        with suppress(OSError):  # closed by the test
            while True:
                peer, _ = self._server.accept()
                peer.settimeout(PATIENCE_S)
                with peer, suppress(OSError):
                    if len(peer.recv(M1_BYTES, socket.MSG_WAITALL)) == M1_BYTES:
                        self.asked += 1
                        peer.sendall(self._retry)
                        self.answers += len(peer.recv(M1_BYTES, socket.MSG_WAITALL)) == M1_BYTES

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def group() -> Iterator[NodeGroup]:
    with NodeGroup() as nodes:
        yield nodes


@pytest.fixture
def listener() -> Iterator[Listener]:
    hostile = Listener(MAX_BITS)
    yield hostile
    hostile.close()


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads in which puzzles were searched, one entry for each call."""
    threads: list[str] = []
    search = Puzzle.search

    def counted(self: Puzzle, tries: int) -> bool:
        threads.append(threading.current_thread().name)
        return search(self, tries)

    monkeypatch.setattr(Puzzle, "search", counted)
    return threads


def start(group: NodeGroup, directory: StaticDirectory) -> Node:
    node = group.add(directory, limits=LIMITS)
    directory.publish(node.descriptor)
    group.start(node)
    return node


def header_to(victim: Node, next_id: bytes) -> bytes:
    now = int(time.time())
    slot = Slot(Command.RELAY, now + 3600, os.urandom(16), next_id=next_id)
    return build_header(PROFILE, [(victim.descriptor.hop(now), slot)], engine=ENGINE, random_bytes=os.urandom)


def test_a_header_of_a_stranger_makes_no_node_solve_a_puzzle(
    group: NodeGroup, listener: Listener, searched: list[str]
) -> None:
    """Four hostile listeners, each at four addresses."""
    directory = StaticDirectory()
    victim = start(group, directory)
    hostile = [listener.descriptor() for _ in range(4)]
    for each in hostile:
        directory.publish(each)
    with RawPeer(victim.descriptor, ENGINE).handshake() as stranger:
        for number, each in enumerate(hostile):
            stream = 2 * number + 1
            stranger.open(PROFILE, header_to(victim, each.node_id), stream=stream)
            assert stranger.reset_code(stream=stream) is ErrorCode.NEXT_REFUSED
        # And none is dialled again for the next header.
        stranger.open(PROFILE, header_to(victim, hostile[0].node_id), stream=9)
        assert stranger.reset_code(stream=9) is ErrorCode.NEXT_REFUSED
    assert listener.asked == 4
    assert not searched


def test_nor_does_the_path_of_a_reply(group: NodeGroup, listener: Listener, searched: list[str]) -> None:
    directory = StaticDirectory()
    alice, bob = start(group, directory), start(group, directory)
    hostile = listener.descriptor()
    directory.publish(hostile)
    query = alice.query(
        bob.id,
        b"hello",
        route=Route((), bob.id),
        reply_route=Route((hostile.node_id,), alice.id),
        mode=ReplyMode.OTHER_ROUTE,
    )
    with pytest.raises(QueryFailed):
        query.result(PATIENCE_S)
    assert listener.asked == 1
    assert not searched


def test_for_its_own_query_a_node_solves_one_in_a_thread(
    group: NodeGroup, listener: Listener, searched: list[str]
) -> None:
    directory = StaticDirectory()
    alice, hostile = start(group, directory), listener.descriptor()
    directory.publish(hostile)
    with pytest.raises(QueryFailed, match="NEXT_REFUSED"):
        alice.query(hostile.node_id, b"", route=Route((), hostile.node_id)).result(PATIENCE_S)
    group.wait_until(lambda: listener.answers == 1)
    assert listener.asked == 4, "every address was tried"
    assert searched
    assert all(name.startswith("reactor calls") for name in searched), "none in the reactor's own thread"


@pytest.mark.parametrize("bits", [MAX_BITS + 1, 18, 22])
def test_a_harder_puzzle_is_refused_for_an_own_query_too(
    group: NodeGroup, searched: list[str], bits: int
) -> None:
    directory, hostile = StaticDirectory(), Listener(bits)
    alice, peer = start(group, directory), hostile.descriptor()
    directory.publish(peer)
    with pytest.raises(QueryFailed, match="NEXT_REFUSED"):
        alice.query(peer.node_id, b"", route=Route((), peer.node_id)).result(PATIENCE_S)
    hostile.close()
    assert hostile.asked == 4
    assert not searched


def test_strangers_do_not_keep_a_node_from_a_busy_neighbour(group: NodeGroup) -> None:
    """The neighbour asks everybody for a puzzle. A stranger's header fails; this node's query works."""
    directory = StaticDirectory()
    alice, busy = start(group, directory), start(group, directory)
    busy.context.newcomers = Newcomers(8, rng=random.Random(1), calm_per_s=0)
    busy.context.newcomers.puzzle_bits = lambda network, *, now_s: 8  # type: ignore[method-assign]
    with RawPeer(alice.descriptor, ENGINE).handshake() as stranger:
        stranger.open(PROFILE, header_to(alice, busy.id))
        assert stranger.reset_code() is ErrorCode.NEXT_REFUSED
        assert not busy.open_links
        query = alice.query(busy.id, b"hello", route=Route((), busy.id))
        assert query.result(PATIENCE_S).read() == b"hello"
        # Over the link that is there now, strangers' frames pass too.
        stranger.open(PROFILE, header_to(alice, busy.id), stream=3)
        assert stranger.reset_code(stream=3) is ErrorCode.BAD_HEADER


def test_puzzles_are_solved_one_at_a_time_and_a_cancelled_search_ends(group: NodeGroup) -> None:
    solver, hard = PuzzleSolver(), [Puzzle(os.urandom(16), bytes(32), HARD) for _ in range(2)]
    easy = Puzzle(bytes(16), bytes(32), 4)
    working, waiting = (group.submit(solver.solve(puzzle)) for puzzle in hard)
    last = group.submit(solver.solve(easy))
    with pytest.raises(TimeoutError):
        last.result(0.05)
    waiting.cancel()
    working.cancel()
    answer = last.result(PATIENCE_S)
    assert easy.accepts(answer)
