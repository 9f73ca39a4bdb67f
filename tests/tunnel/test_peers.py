"""The peer table: back-off, listeners, and that strangers evict no failures of other peers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tunnel.codes import Report
from tunnel.errors import ErrorCode, QueryFailed
from tunnel.routing.peers import PeerTable

LIMIT = 8
IDS = [bytes([number]) * 32 for number in range(20)]
ids = st.sampled_from(IDS)


class _Log:
    def __init__(self) -> None:
        self.events: list[tuple[bytes, bool]] = []

    def peer_online(self, node_id: bytes) -> None:
        self.events.append((node_id, True))

    def peer_offline(self, node_id: bytes) -> None:
        self.events.append((node_id, False))


def make() -> tuple[PeerTable, list[float], _Log]:
    clock, log = [100.0], _Log()
    table = PeerTable(lambda: clock[0], own_id=b"me" * 16, limit=LIMIT)
    table.listeners.append(log)
    return table, clock, log


def test_known_clock_differences_advance_with_time() -> None:
    table, clock, log = make()
    assert table.clock_s(IDS[0]) is None
    table.saw_clock(IDS[0], 5_000.0)
    table.failed(IDS[1])
    clock[0] += 7
    table.saw_clock(IDS[2], 9_000.0)
    assert (table.clock_s(IDS[0]), table.clock_s(IDS[1])) == (5_007.0, None)
    assert table.clocks() == [5_007.0, 9_000.0]
    assert log.events == [(IDS[1], False)], "no news of who is there"


def test_a_suspicion_lasts_a_minute_and_is_no_failure() -> None:
    table, clock, log = make()
    for node_id in (IDS[0], IDS[1], b"me" * 16):
        table.suspected(node_id)
    table.failed(IDS[1])
    assert table.backed_off() == [IDS[0], IDS[1]]  # the innocent one returns first, where too few are left
    assert table.failures(IDS[0]) == 0
    assert log.events == [(IDS[1], False)]
    clock[0] += 5.5
    table.failed(IDS[1])  # its pauses double as without the suspicion
    clock[0] += 54.4
    assert table.backed_off() == [IDS[0], IDS[1]]
    table.seen(IDS[1])
    assert table.backed_off() == [IDS[0]]
    clock[0] += 0.2
    assert table.backed_off() == []


def test_pauses_double_and_end_with_the_first_sign_of_life() -> None:
    table, clock, log = make()
    for pause_s in (5, 10, 20, 40):
        table.failed(IDS[0])
        assert table.backed_off() == [IDS[0]]
        clock[0] += pause_s - 0.001
        assert table.backed_off() == [IDS[0]]
        clock[0] += 0.001
        assert table.backed_off() == []
    for _ in range(50):
        table.failed(IDS[0])
    clock[0] += 600
    assert table.backed_off() == []
    table.failed(IDS[0])
    table.seen(IDS[0])
    assert table.backed_off() == []
    assert table.failures(IDS[0]) == 0
    assert table.last_seen_s(IDS[0]) == clock[0]
    assert log.events == [(IDS[0], False), (IDS[0], True)]


def test_links_that_break_together_count_as_one_failure() -> None:
    table, clock, _ = make()
    for _ in range(10):
        table.failed(IDS[0])
    clock[0] += 4
    table.failed(IDS[0])
    clock[0] += 4.999
    assert table.backed_off() == [IDS[0]]
    clock[0] += 0.001
    assert table.backed_off() == []
    table.failed(IDS[0])
    clock[0] += 9.999
    assert table.backed_off() == [IDS[0]], "the second pause"
    clock[0] += 0.001
    assert table.backed_off() == []


def test_reports_name_the_nodes_seen_and_the_nodes_blamed() -> None:
    table, _, log = make()
    route = (*IDS[:3], b"me" * 16)
    table.reported(Report(route, True, 3, None, is_about_reply=True))
    assert log.events == [(node_id, True) for node_id in IDS[:3]]
    table.reported(Report(route, False, 1, ErrorCode.NEXT_REFUSED, about_next=True))
    assert set(table.backed_off()) == set(IDS[1:3])
    table.reported(Report(route, False, 3, ErrorCode.TIMEOUT))
    assert set(table.backed_off()) == set(IDS[1:3]), "blame of this node itself is no news"
    table.query_failed(QueryFailed("it failed", blamed=(IDS[0],)))
    assert table.backed_off()[-1] in IDS[:3]
    assert len(table.backed_off()) == 3


@pytest.mark.parametrize(
    "code", [ErrorCode.SERVICE_FAILED, ErrorCode.TARGET_NOT_ALLOWED, ErrorCode.BAD_CONTENT]
)
def test_a_destination_that_refuses_is_alive(code: ErrorCode) -> None:
    table, _, log = make()
    route = tuple(IDS[:3])
    report = Report(route, False, 2, code)
    table.query_failed(QueryFailed("no such service", code, report, report.blamed_ids))
    table.reported(report)
    assert table.backed_off() == []
    assert log.events == [(node_id, True) for node_id in IDS[:3]]
    for other in (Report(route, False, 1, code), Report(route, False, 2, code, suspects=(1, 2))):
        table.query_failed(QueryFailed("it failed", code, other, other.blamed_ids))
    assert set(table.backed_off()) == set(IDS[1:3]), "a proxy has no service, and a changed report no author"


def test_the_least_failed_peers_are_first() -> None:
    table, clock, _ = make()
    for number, times in enumerate((3, 1, 2, 1)):
        for _ in range(times):
            table.failed(IDS[number])
        clock[0] += 0.1
    assert table.backed_off() == [IDS[1], IDS[3], IDS[2], IDS[0]]


class _Bounded(RuleBasedStateMachine):
    """Against an unbounded model."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.clock, self.log = make()

    @rule(node_id=ids)
    def see(self, node_id: bytes) -> None:
        self.table.seen(node_id)
        assert self.table.last_seen_s(node_id) == self.clock[0]

    @rule(node_id=ids)
    def fail(self, node_id: bytes) -> None:
        before = self.table.failures(node_id)
        self.table.failed(node_id)
        assert self.table.failures(node_id) == before + 1
        assert node_id in self.table.backed_off()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock[0] += seconds

    @rule(strangers=st.lists(ids, max_size=40))
    def strangers_come(self, strangers: list[bytes]) -> None:
        """None of them evicts a failure while there is an entry without one."""
        failed = {node_id for node_id in IDS if self.table.failures(node_id)}
        for node_id in strangers:
            if node_id not in failed:
                self.table.seen(node_id)
        if len(failed) < LIMIT:
            assert failed == {node_id for node_id in IDS if self.table.failures(node_id)}

    @invariant()
    def is_bounded_and_tells_changes_only(self) -> None:
        assert len(self.table) <= LIMIT
        assert len(self.table.backed_off()) == len(set(self.table.backed_off()))


TestBounded = _Bounded.TestCase
TestBounded.settings = settings(max_examples=50, stateful_step_count=30)
