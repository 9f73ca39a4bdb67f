"""Strangers connect to real nodes and do not finish the handshake: other peers lose nothing."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from bench.node_group import NodeGroup
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import Limits, Node, Route
from tunnel.directory import StaticDirectory
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import Initiator, Settings
from tunnel.node import LOCAL_NETWORK_ID
from tunnel.node.log_limit import LINES

pytestmark = pytest.mark.full

PLACES = 8
LIMITS = Limits(half_open=PLACES, handshake_s=PATIENCE_S, linger_s=1.0)


@pytest.fixture
def group() -> Iterator[NodeGroup]:
    with NodeGroup() as nodes:
        yield nodes


def a_first_message(bob: Node) -> bytes:
    """A valid M1 for Bob, which anybody can make or record."""
    engine, keys = bob.context.engine, NodeKeys.generate(time.time())
    return Initiator(
        network_id=LOCAL_NETWORK_ID,
        link_private=keys.link_private(engine),
        remote_link_key=bob.descriptor.link_key,
        descriptor=keys.descriptor((), time.time(), engine),
        settings=Settings.make(time.time(), (2,)),
        engine=engine,
    ).hello()


@pytest.mark.parametrize("kind", ["silent", "one byte", "all but the last byte", "a first message"])
def test_a_crowd_at_the_door_does_not_close_it(
    group: NodeGroup, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.WARNING, logger="tunnel")
    directory = StaticDirectory()
    bob = group.add(directory, limits=LIMITS)
    alice = group.add(directory, limits=Limits())
    directory.publish(bob.descriptor)
    group.start(bob), group.start(alice)
    message: dict[str, Callable[[], bytes]] = {
        "silent": lambda: b"",
        "one byte": lambda: b"M",
        "all but the last byte": lambda: a_first_message(bob)[:-1],
        "a first message": lambda: a_first_message(bob),
    }
    assert bob.listens_at is not None
    with ExitStack() as open_sockets:
        for _ in range(10 * PLACES):
            stranger = socket.create_connection((bob.listens_at.host, bob.listens_at.port), PATIENCE_S)
            open_sockets.enter_context(stranger)
            stranger.sendall(message[kind]())
        group.wait_until(lambda: bob.context.half_open == PLACES)
        group.wait_until(lambda: bob.counters.connections_refused == 9 * PLACES)
        query = alice.query(bob.id, b"here", route=Route((), bob.id))
        assert query.result(PATIENCE_S).read() == b"here"
    refused = [line for line in caplog.messages if "refused a connection" in line]
    assert 0 < len(refused) <= LINES < 9 * PLACES


def test_a_handshake_is_finished_while_strangers_keep_coming(group: NodeGroup) -> None:
    """Three silent connections come before each message of the honest one."""
    bob = group.add(StaticDirectory(), limits=LIMITS)
    group.start(bob)
    assert bob.listens_at is not None
    address = bob.listens_at.host, bob.listens_at.port
    with ExitStack() as open_sockets:

        def come(count: int) -> None:
            before = bob.counters.connections_refused
            for _ in range(count):
                open_sockets.enter_context(socket.create_connection(address, PATIENCE_S))
            group.wait_until(lambda: bob.counters.connections_refused == before + count)

        for _ in range(PLACES):
            open_sockets.enter_context(socket.create_connection(address, PATIENCE_S))
        group.wait_until(lambda: bob.context.half_open == PLACES)
        honest = open_sockets.enter_context(RawPeer(bob.descriptor, group.engine))
        group.wait_until(lambda: bob.counters.connections_refused == 1)
        come(3)
        honest.send_first_message()
        group.wait_until(lambda: any(each.has_spoken for each in bob.context.newcomers))
        come(5 * PLACES)
        honest.send_last_message()
        group.wait_until(lambda: bob.open_links == 1)


def test_newcomers_take_no_place_of_a_link(group: NodeGroup) -> None:
    """Silent connections beside as many links as the node allows: the last link still gets its place."""
    bob = group.add(StaticDirectory(), limits=replace(LIMITS, links=3))
    group.start(bob)
    assert bob.listens_at is not None
    with ExitStack() as open_sockets:
        for _ in range(3 * PLACES):
            open_sockets.enter_context(
                socket.create_connection((bob.listens_at.host, bob.listens_at.port), PATIENCE_S)
            )
        for _ in range(3):
            open_sockets.enter_context(RawPeer(bob.descriptor, group.engine)).handshake()
        group.wait_until(lambda: bob.open_links == 3)
