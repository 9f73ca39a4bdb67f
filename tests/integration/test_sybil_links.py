"""Strangers with many identities take all links of a real node: others still get a link, and the node's own
links stay."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bench.node_group import NodeGroup
from tests.support.held import Held
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, Node, Profile, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.geometry import DEFAULT
from tunnel.link.places import KNOWN_S
from tunnel.onion.header import Command, Slot, build_header

pytestmark = pytest.mark.full

LINKS = 8
LIMITS = Limits(links=LINKS, header_s=PATIENCE_S, linger_s=1.0)


@pytest.fixture
def group() -> Iterator[NodeGroup]:
    with NodeGroup() as nodes:
        yield nodes


def start(group: NodeGroup, directory: StaticDirectory, **options: Any) -> Node:
    node = group.add(directory, **options)
    directory.publish(node.descriptor)
    group.start(node)
    return node


def drop_header(target: Node) -> bytes:
    now = int(time.time())
    slot = Slot(Command.DROP, now + 3600, os.urandom(16))
    hop = target.descriptor.hop(now)
    return build_header(
        Profile(DEFAULT), [(hop, slot)], engine=target.context.engine, random_bytes=os.urandom
    )


def sybils(group: NodeGroup, bob: Node, count: int, stack: ExitStack, *, is_valid: bool) -> list[RawPeer]:
    """Identities with a link and a stream each: a valid frame without an end, or one without a header."""
    crowd = []
    for _ in range(count):
        each = stack.enter_context(RawPeer(bob.descriptor, group.engine)).handshake()
        each.open(Profile(DEFAULT), drop_header(bob) if is_valid else b"")
        crowd.append(each)
    return crowd


@pytest.mark.parametrize("is_valid", [True, False], ids=["endless frames", "no headers"])
def test_identities_with_an_open_stream_each_do_not_close_a_node(group: NodeGroup, is_valid: bool) -> None:
    directory = StaticDirectory()
    alice, bob = start(group, directory), start(group, directory, limits=LIMITS)
    with ExitStack() as stack:
        sybils(group, bob, 5 * LINKS, stack, is_valid=is_valid)
        group.wait_until(lambda: bob.counters.links_accepted == 5 * LINKS)
        group.wait_until(lambda: bob.open_links == LINKS)
        query = alice.query(bob.id, b"here", route=Route((), bob.id))
        assert query.result(PATIENCE_S).read() == b"here"
        assert bob.open_links == LINKS


def test_a_displaced_neighbour_gets_the_code_busy(group: NodeGroup) -> None:
    bob = start(group, StaticDirectory(), limits=Limits(links=1, header_s=PATIENCE_S))
    with ExitStack() as stack:
        first, _ = sybils(group, bob, 2, stack, is_valid=True)
        assert first.reset_code(stream=0) is ErrorCode.BUSY


def test_own_dialled_links_and_known_neighbours_are_kept(group: NodeGroup) -> None:
    directory, held = StaticDirectory(), Held()
    bob = start(group, directory, limits=LIMITS)
    carol, dave = start(group, directory, service=held), start(group, directory)
    own = bob.query(carol.id, b"wait", hops=0, mode=ReplyMode.CACHED)
    group.wait_until(lambda: held.asked == 1)
    assert dave.query(bob.id, b"here", hops=0).result(PATIENCE_S).read() == b"here"
    (from_dave,) = (link for link in bob.links if not link.is_dialler)
    from_dave.known_since_s -= KNOWN_S
    with ExitStack() as stack:
        sybils(group, bob, 5 * LINKS, stack, is_valid=True)
        group.wait_until(lambda: bob.counters.links_accepted == 5 * LINKS + 1)
        assert not from_dave.is_retired
        group.call(held.let)
        assert own.result(PATIENCE_S).read() == b"wait"


def test_a_strangers_frame_ends_no_busy_link(group: NodeGroup) -> None:
    """A RELAY header makes the node dial; for that no link is ended that carries streams."""
    directory = StaticDirectory()
    bob, carol = start(group, directory, limits=Limits(links=1, header_s=PATIENCE_S)), start(group, directory)
    now = int(time.time())
    slot = Slot(Command.RELAY, now + 3600, os.urandom(16), next_id=carol.id)
    header = build_header(
        Profile(DEFAULT), [(bob.descriptor.hop(now), slot)], engine=group.engine, random_bytes=os.urandom
    )
    with RawPeer(bob.descriptor, group.engine).handshake() as stranger:
        stranger.open(Profile(DEFAULT), header)
        assert stranger.reset_code() is ErrorCode.BUSY
        assert bob.open_links == 1
