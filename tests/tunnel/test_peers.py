"""The peer table: back-off, scores, listeners, and that strangers evict no failures of other peers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tunnel.codes import Report
from tunnel.errors import (
    Disconnected,
    ErrorCode,
    LinkError,
    NextRefused,
    PeerError,
    QueryFailed,
    StreamReset,
)
from tunnel.routing.peers import MOST_SCORE, SUSPECT_SCORE, PeerTable

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


def test_a_failure_of_a_route_spreads_a_weight_of_1_over_its_suspects() -> None:
    table, _, log = make()
    table.suspect((*IDS[:3], b"me" * 16))
    assert [table.score(node_id) for node_id in IDS[:4]] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert table.score(b"me" * 16) == 0
    assert set(table.suspected()) == set(IDS[:3])
    assert (table.backed_off(), table.failures(IDS[0]), log.events) == ([], 0, []), "it is no failure"
    table.suspect(IDS[5:7])
    assert table.suspected()[-2:] == IDS[5:7], "the worst last"
    table.suspect(())
    assert len(table) == 5


def test_a_node_that_explains_two_failures_takes_the_blame() -> None:
    table, clock, _ = make()
    table.suspect(IDS[:3])
    table.suspect([IDS[3], IDS[1], IDS[4]])
    assert table.score(IDS[1]) > 0.8
    clock[0] += 900
    assert table.suspected() == [IDS[1]], "the innocent are back"
    clock[0] += 700
    assert table.score(IDS[1]) > SUSPECT_SCORE
    clock[0] += 200
    assert table.suspected() == []


def test_a_route_that_works_halves_the_scores_and_ends_the_back_off() -> None:
    table, _, _ = make()
    for _ in range(2):
        table.suspect(IDS[:1])
    table.failed(IDS[0])
    table.worked([IDS[0], IDS[1], b"me" * 16])
    assert (table.score(IDS[0]), table.score(IDS[1])) == (1.0, 0.0)
    assert (table.backed_off(), table.failures(IDS[0])) == ([], 0)
    assert len(table) == 2, "this node is no peer of its own"


def test_a_contact_ends_the_back_off_of_a_suspect_and_clears_it_not() -> None:
    """A link that answers may carry nothing."""
    table, _, _ = make()
    table.suspect(IDS[:1])
    table.failed(IDS[0])
    table.seen(IDS[0])
    assert table.backed_off() == []
    assert table.suspected() == [IDS[0]]


def test_scores_halve_in_ten_minutes_and_have_a_limit() -> None:
    table, clock, _ = make()
    for _ in range(100):
        table.suspect(IDS[:1])
    assert table.score(IDS[0]) == MOST_SCORE
    clock[0] += 600
    assert table.score(IDS[0]) == MOST_SCORE / 2
    clock[0] += 1_820
    assert table.suspected() == [IDS[0]]
    clock[0] += 20
    assert table.suspected() == [], "even the worst is tried again"


def test_an_accuser_scores_more_than_each_of_its_victims() -> None:
    """It can only accuse others together with itself (`Report.blamed`)."""
    table, clock, _ = make()
    accuser, victims = IDS[0], IDS[1:7]
    for number in range(18):
        table.suspect([accuser, victims[number % len(victims)]])
        clock[0] += 1
        others = [table.score(victim) for victim in victims]
        assert table.score(accuser) >= max(others)
    assert table.score(accuser) > 3 * sum(others) / len(others)


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


def test_reports_name_the_nodes_seen_and_the_suspects() -> None:
    table, _, log = make()
    route = (*IDS[:3], b"me" * 16)
    table.reported(Report(route, True, 3, None, is_about_reply=True))
    assert log.events == [(node_id, True) for node_id in IDS[:3]]
    table.reported(Report(route, False, 1, ErrorCode.NEXT_REFUSED, about_next=True))
    assert set(table.suspected()) == set(IDS[1:3])
    table.query_failed(QueryFailed("it failed", blamed=(IDS[0],)))
    assert set(table.suspected()) == set(IDS[:3])
    assert table.backed_off() == [], "this node has seen nothing itself"


@pytest.mark.parametrize("cause", [NextRefused("down"), Disconnected("broken"), LinkError("garbage")])
def test_a_failure_of_an_own_link_is_no_suspicion(cause: PeerError) -> None:
    """The link table has recorded it, once for all queries on the link."""
    table, _, _ = make()
    error = QueryFailed("it failed", cause.code, blamed=(IDS[0],))
    error.__cause__ = cause
    table.query_failed(error)
    assert len(table) == 0
    error.__cause__ = StreamReset(cause.code)  # that first hop has chosen to
    table.query_failed(error)
    assert table.suspected() == [IDS[0]]


@pytest.mark.parametrize(
    "code", [ErrorCode.SERVICE_FAILED, ErrorCode.TARGET_NOT_ALLOWED, ErrorCode.BAD_REQUEST]
)
def test_a_destination_that_refuses_is_alive(code: ErrorCode) -> None:
    table, _, log = make()
    route = tuple(IDS[:3])
    report = Report(route, False, 2, code)
    table.query_failed(QueryFailed("no such service", code, report, report.blamed_ids))
    table.reported(report)
    assert table.suspected() == table.backed_off() == []
    assert log.events == [(node_id, True) for node_id in IDS[:3]]
    for other in (Report(route, False, 1, code), Report(route, False, 2, code, suspects=(1, 2))):
        table.query_failed(QueryFailed("it failed", code, other, other.blamed_ids))
    assert table.score(IDS[1]) > 1, "a proxy has no service"
    assert table.score(IDS[2]) > 0, "a changed report has no author"


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

    @rule(suspects=st.lists(ids, max_size=5, unique=True))
    def suspect(self, suspects: list[bytes]) -> None:
        before = sum(map(self.table.score, IDS))
        self.table.suspect(suspects)
        assert sum(map(self.table.score, IDS)) <= before + 1 + 1e-9

    @rule(route=st.lists(ids, max_size=5, unique=True))
    def work(self, route: list[bytes]) -> None:
        before = {node_id: self.table.score(node_id) for node_id in IDS}
        self.table.worked(route)
        for node_id in IDS:
            assert self.table.score(node_id) <= before[node_id] / (2 if node_id in route else 1) + 1e-9

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock[0] += seconds

    @rule(strangers=st.lists(ids, max_size=40))
    def strangers_come(self, strangers: list[bytes]) -> None:
        """None of them evicts a failure or a score while there is an entry without one."""
        marked = self._marked()
        for node_id in strangers:
            if node_id not in marked:
                self.table.seen(node_id)
        if len(marked) < LIMIT:
            assert marked == self._marked()

    def _marked(self) -> set[bytes]:
        return {each for each in IDS if self.table.failures(each) or self.table.score(each) >= 0.01}

    @invariant()
    def is_bounded_and_tells_changes_only(self) -> None:
        assert len(self.table) <= LIMIT
        assert len(self.table.backed_off()) == len(set(self.table.backed_off()))
        assert all(0 <= self.table.score(node_id) <= MOST_SCORE for node_id in IDS)
        scores = [self.table.score(node_id) for node_id in self.table.suspected()]
        assert scores == sorted(scores)


TestBounded = _Bounded.TestCase
TestBounded.settings = settings(max_examples=50, stateful_step_count=30)
