"""A thousand concurrent tunnels over one or two links, one of which is never read. The others succeed, and
the memory of the nodes stays within their stated budget.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from bench.node_group import NodeGroup
from tests.support.held import Held
from tests.support.network import PATIENCE_S
from tunnel import ErrorCode, Limits, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.geometry import DEFAULT, INTERACTIVE, Geometry
from tunnel.link.mux import MuxLimits
from tunnel.link.records import Budget, Evictable

LIMITS = Limits(queries=2048, link_tick_s=0.05, buffer_bytes=64 << 20)
STALLED_BYTES = 2_000_000


@dataclass
class Peaks:
    """The peak of each budget."""

    used: dict[Budget, int]

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        add: Callable[[Budget, Evictable, int], None] = Budget.add

        def watched(budget: Budget, holder: Evictable, count: int) -> None:
            add(budget, holder, count)
            self.used[budget] = max(self.used.get(budget, 0), budget.used_bytes)

        monkeypatch.setattr(Budget, "add", watched)


@pytest.mark.parametrize(
    ("count", "geometry"),
    [
        (120, DEFAULT),
        pytest.param(120, INTERACTIVE, marks=pytest.mark.full),
        pytest.param(1000, DEFAULT, marks=pytest.mark.full),
        pytest.param(1000, INTERACTIVE, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name if isinstance(value, Geometry) else str(value),
)
def test_all_tunnels_but_the_unread_one_finish(
    count: int, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = Peaks({})
    peaks.watch(monkeypatch)
    held, directory, profile = Held(), StaticDirectory(), Profile(geometry)
    with NodeGroup() as group:
        alice, relay, bob = nodes = [group.add(directory, service=held, limits=LIMITS) for _ in range(3)]
        for node in nodes:
            directory.publish(node.descriptor)
            group.start(node)
        route, content = Route((relay.id,), bob.id), os.urandom(20_000)

        stalled = alice.query(
            bob.id, bytes(STALLED_BYTES), route=route, mode=ReplyMode.CACHED, profile=profile, idle_s=600.0
        )
        group.wait_until(lambda: held.asked == 1)
        queries = [
            alice.query(bob.id, content, route=route, mode=ReplyMode.CACHED, profile=profile, idle_s=600.0)
            for _ in range(count - 1)
        ]
        group.wait_until(lambda: held.asked == count)
        # A link whose windows are taken to a half is crowded.
        links = 1 + (count * geometry.window_bytes > MuxLimits().window_bytes // 2)
        assert [node.open_links for node in nodes] == [links, 2 * links, links]
        assert [node.open_streams for node in nodes] == [count, 2 * count, count]
        # Nothing has been read yet, so all sent content is buffered here.
        group.wait_until(lambda: _unread(bob) >= count * geometry.chunk_bytes // 2)

        group.call(held.let_all_but_first)
        for query in queries:
            with query.result(PATIENCE_S) as result:
                assert result.read() == content
        group.wait_until(lambda: [node.open_streams for node in nodes] == [1, 2, 1])
        assert not stalled.done()
        # A window, which may have grown while the stream was alone.
        assert 0 < _unread(bob) <= MuxLimits().max_window_bytes
        assert _unread(relay) <= MuxLimits().max_window_bytes
        assert [node.open_links for node in nodes] == [links, 2 * links, links]

        group.call(held.let)
        with stalled.result(PATIENCE_S) as result:
            assert result.reply_bytes == STALLED_BYTES
        group.wait_until(lambda: all(node.is_idle for node in nodes))
        assert [_unread(node) for node in nodes] == [0, 0, 0]
        assert all(node.context.budget.evicted == 0 for node in nodes)
        assert max(peaks.used.values()) <= LIMITS.buffer_bytes


def _unread(node: Node) -> int:
    return node.context.budget.used_bytes


def test_above_the_budget_the_longest_waiting_streams_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = Peaks({})
    peaks.watch(monkeypatch)
    held, directory = Held(), StaticDirectory()
    limits = replace(LIMITS, buffer_bytes=1 << 20)
    content = os.urandom(100_000)
    with NodeGroup() as group:
        alice, bob = (group.add(directory, service=held, limits=limits) for _ in range(2))
        for node in (alice, bob):
            directory.publish(node.descriptor)
            group.start(node)
        budget = bob.context.budget
        queries = [alice.query(bob.id, content, hops=0, mode=ReplyMode.CACHED) for _ in range(40)]
        group.wait_until(lambda: held.asked == 40)
        group.wait_until(lambda: budget.evicted)
        group.call(held.let)
        failed = 0
        for query in queries:
            try:
                with query.result(PATIENCE_S) as result:
                    assert result.read() == content
            except QueryFailed as error:
                failed += error.code is ErrorCode.BUSY
        group.wait_until(lambda: alice.is_idle and bob.is_idle)
        assert 0 < failed == budget.evicted < 40
        assert budget.used_bytes == 0
        assert peaks.used[budget] <= limits.buffer_bytes
        # The link still works.
        assert alice.open_links == bob.open_links == 1
        assert alice.query(bob.id, content, hops=0).result(PATIENCE_S).read() == content
