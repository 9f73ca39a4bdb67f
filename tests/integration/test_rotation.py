"""Onion keys of running nodes: they change, are published, and old ones no longer open headers."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from reactor import ReactorThread
from tests.support.network import PATIENCE_S, wait_until
from tunnel import Limits, Node, QueryResult, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ErrorCode, QueryFailed
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import EPOCH_S, NodeKeys

LIMITS = Limits(key_tick_s=0.01, link_tick_s=0.05)


def _node(thread: ReactorThread, clock: list[float], directory: StaticDirectory, **options: Any) -> Node:
    """A node whose wall clock shows `clock[0]`."""
    options = {"limits": LIMITS, "wall_clock": lambda: clock[0], **options}
    return Node(NodeKeys.generate(clock[0]), directory, reactor=thread.reactor, **options)


def test_keys_change_with_the_days_and_old_descriptors_serve_a_while() -> None:
    clock = [time.time()]
    directories = [StaticDirectory(), StaticDirectory()]
    with ReactorThread() as thread:
        nodes = [_node(thread, clock, directory) for directory in directories]
        alice, bob = nodes
        for directory in directories:
            for node in nodes:
                directory.publish(node.descriptor)
        for node in nodes:
            thread.submit(node.serve())
        try:
            route = Route((), bob.id)
            first = bob.descriptor
            assert alice.query(bob.id, b"one", route=route).result(PATIENCE_S).read() == b"one"

            clock[0] += EPOCH_S
            wait_until(thread, lambda: bob.descriptor is not first)
            assert bob.descriptor.sequence > first.sequence
            assert bob.descriptor.onion_keys[0] == first.onion_keys[1]  # it was published a day ahead
            # Alice has Bob's descriptor of yesterday, with today's key as the next one.
            assert directories[0].lookup(bob.id) == first
            assert alice.query(bob.id, b"two", route=route).result(PATIENCE_S).read() == b"two"

            clock[0] += EPOCH_S
            second = bob.descriptor
            wait_until(thread, lambda: bob.descriptor is not second)
            with pytest.raises(BadRoute, match="no key for the route"):
                alice.query(bob.id, b"three", route=route).result(PATIENCE_S)

            directories[0].publish(bob.descriptor)
            assert alice.query(bob.id, b"four", route=route).result(PATIENCE_S).read() == b"four"
        finally:
            for node in nodes:
                node.close()


def test_a_full_replay_table_gets_a_new_key() -> None:
    clock = [time.time()]
    directory = StaticDirectory()
    limits = replace(LIMITS, replay_tags=8)
    with ReactorThread() as thread:
        nodes = [_node(thread, clock, directory, limits=limits) for _ in range(2)]
        alice, bob = nodes
        for node in nodes:
            directory.publish(node.descriptor)
            thread.submit(node.serve())
        clock[0] += 2 * 3600  # a key is not changed twice within an hour
        first = bob.descriptor

        def ask() -> Future[QueryResult]:
            return alice.query(bob.id, b"x", route=Route((), bob.id), mode=ReplyMode.CACHED)

        try:
            # Cached: so no reply needs a place in Alice's table. A neighbour has a quarter of Bob's.
            for _ in range(2):
                assert ask().result(PATIENCE_S).read() == b"x"
            with pytest.raises(QueryFailed) as caught:
                ask().result(PATIENCE_S)
            assert caught.value.code is ErrorCode.BUSY
            wait_until(thread, lambda: bob.descriptor is not first)
            assert bob.descriptor.onion_keys[0] not in first.onion_keys
            assert ask().result(PATIENCE_S).read() == b"x"
        finally:
            for node in nodes:
                node.close()


def test_a_clock_out_of_range_for_a_while_ends_no_rotation(caplog: pytest.LogCaptureFixture) -> None:
    clock = [time.time()]
    with ReactorThread() as thread:
        node = _node(thread, clock, StaticDirectory())
        thread.submit(node.serve())
        try:
            first, began_s = node.descriptor, clock[0]
            for wrong_s in (1e10, 1e12, -5.0):
                clock[0] = wrong_s
                caplog.clear()
                wait_until(thread, lambda: "keeps its onion keys" in caplog.text)
                clock[0] = began_s
                caplog.clear()
                wait_until(thread, lambda: "clock has moved" in caplog.text)
            clock[0] = began_s + EPOCH_S
            wait_until(thread, lambda: node.descriptor is not first)
        finally:
            node.close()


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(3)], ids=repr)
def test_a_callback_that_fails_ends_no_rotation(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    clock, published = [time.time()], list[int]()

    class Failing(StaticDirectory):
        def publish(self, descriptor: Descriptor) -> None:
            raise error

    def on_publish(descriptor: Descriptor) -> None:
        published.append(descriptor.sequence)
        raise error

    with ReactorThread() as thread:
        node = _node(thread, clock, Failing(), on_publish=on_publish)
        thread.submit(node.serve())
        try:
            clock[0] += EPOCH_S
            wait_until(thread, lambda: len(published) >= 1)
            clock[0] += EPOCH_S
            wait_until(thread, lambda: len(published) >= 2)
        finally:
            node.close()
    assert caplog.text.count("a new descriptor was not published") >= 4
