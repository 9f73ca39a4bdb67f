"""The replay table against a model that keeps everything forever."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from readwrite_comp.primitives import hmac_sha256
from tests.support.errors import raises_code
from tunnel.errors import ErrorCode, PeerError, ReplayFileError, TableFull
from tunnel.geometry import SLOT_BYTES
from tunnel.onion.header import check_expiry
from tunnel.onion.replay import ReplayTable

KEY = b"k" * 32
HOUR = 3_600
T0 = 1_800_000_000
LIMIT = 6


def header(number: int) -> bytes:
    return number.to_bytes(SLOT_BYTES, "big") + b"rest"


def test_the_second_time_is_a_replay() -> None:
    table = ReplayTable(KEY)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    table.insert(header(2), T0 + HOUR, now_s=T0)
    with raises_code(ErrorCode.REPLAYED) as caught:
        table.insert(header(1), T0 + HOUR, now_s=T0 + 1)
    assert caught.value.code is ErrorCode.REPLAYED
    assert len(table) == 2


def test_only_the_first_slot_counts() -> None:
    # HPKE binds the rest of the header to it: a header with another rest does not open.
    table = ReplayTable(KEY)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    with raises_code(ErrorCode.REPLAYED):
        table.insert(header(1)[:SLOT_BYTES] + b"other", T0 + HOUR, now_s=T0)


def test_a_full_table_refuses_and_forgets_nothing() -> None:
    table = ReplayTable(KEY, limit=2, share=2)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    table.insert(header(2), T0 + 2 * HOUR, now_s=T0)
    for number in range(3, 10):
        with pytest.raises(TableFull) as caught:
            table.insert(header(number), T0 + 3 * HOUR, now_s=T0)
        assert caught.value.code is ErrorCode.BUSY
    for number, expiry in ((1, T0 + HOUR), (2, T0 + 2 * HOUR)):
        with raises_code(ErrorCode.REPLAYED):
            table.insert(header(number), expiry, now_s=T0)
    # Room is freed with the hour, ten minutes late, and not earlier.
    with pytest.raises(TableFull):
        table.insert(header(3), T0 + 3 * HOUR, now_s=T0 + HOUR + 600)
    table.insert(header(3), T0 + 3 * HOUR, now_s=T0 + HOUR + 601)
    assert len(table) == 2


def test_a_refused_header_leaves_no_trace() -> None:
    table = ReplayTable(KEY, limit=1)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    with pytest.raises(TableFull):
        table.insert(header(2), T0 + 2 * HOUR, now_s=T0)
    # If the refused one had been stored, this would be a replay.
    table.insert(header(2), T0 + 2 * HOUR, now_s=T0 + HOUR + 601)


def test_a_limit_of_nothing_refuses_everything() -> None:
    with pytest.raises(TableFull):
        ReplayTable(KEY, limit=0).insert(header(1), T0 + HOUR, now_s=T0)


def test_a_clock_that_is_set_back_does_not_readmit_replays() -> None:
    """The table dropped the tag while the clock was ahead; now the expiry is valid again."""
    table = ReplayTable(KEY)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    table.insert(header(2), T0 + 6 * HOUR, now_s=T0 + 5 * HOUR)
    assert len(table) == 1, "the first hour is over, by the clock that ran ahead"
    check_expiry(T0 + HOUR, T0 + 1)  # by the clock that was set back it is not
    with raises_code(ErrorCode.EXPIRED) as caught:
        table.insert(header(1), T0 + HOUR, now_s=T0 + 1)
    assert caught.value.code is ErrorCode.EXPIRED
    assert len(table) == 1


def test_the_edge_of_forgetting_is_the_edge_of_refusing() -> None:
    table = ReplayTable(KEY)
    table.insert(header(1), T0, now_s=T0)
    with raises_code(ErrorCode.REPLAYED):
        table.insert(header(1), T0, now_s=T0 + 600)
    with raises_code(ErrorCode.EXPIRED):
        table.insert(header(1), T0, now_s=T0 + 601)


def test_odd_expiries_share_the_table_of_their_hour() -> None:
    """Thousands of different expiries must not become thousands of tables, which each insert walks over."""
    table = ReplayTable(KEY)
    for second in range(2 * HOUR):
        table.insert(header(second), T0 + 1 + second, now_s=T0)
    assert len(table) == 2 * HOUR
    assert len(table.hours) == 2
    # An odd expiry is kept at least as long as it is valid.
    with raises_code(ErrorCode.REPLAYED):
        table.insert(header(0), T0 + 1, now_s=T0 + 600)


def test_keys_give_different_tags() -> None:
    # Without the key it is unknown which headers would collide.
    tables = [ReplayTable(bytes([number]) * 32) for number in (1, 2)]
    for table in tables:
        table.insert(header(1), T0 + HOUR, now_s=T0)
    left, right = (set[bytes]().union(*table.hours.values()) for table in tables)
    assert not left & right
    assert {len(tag) for tag in left | right} == {8}


class ReplayMachine(RuleBasedStateMachine):
    """Any order of inserts while the clock jumps both ways.

    The model keeps each accepted (header, expiry) forever. None is accepted twice; a new one is
    refused only for lack of room or because of the clock; the table never exceeds its limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = ReplayTable(KEY, limit=LIMIT, share=LIMIT)
        self.now_s = float(T0)
        self.latest_s = float(T0)
        self.accepted: dict[tuple[int, int], int] = {}

    @rule(number=st.integers(0, 9), hours=st.integers(0, 4), odd=st.sampled_from([0, 0, 1, 1_799]))
    def insert(self, number: int, hours: int, odd: int) -> None:
        # A header has one expiry, sealed in its first slot, so the number identifies both.
        expiry = T0 + hours * HOUR + odd
        self._insert(number * 100_000 + expiry - T0, expiry)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self._insert(*data.draw(st.sampled_from(sorted(self.accepted))))

    def _insert(self, number: int, expiry: int) -> None:
        try:
            check_expiry(expiry, self.now_s)
        except PeerError as error:
            if error.code is not ErrorCode.EXPIRED:
                raise
            return  # the caller never asks the table
        self.latest_s = max(self.latest_s, self.now_s)
        live = sum(1 for _, other in self.accepted if other >= self.latest_s - 600)
        try:
            self.table.insert(header(number), expiry, now_s=self.now_s)
        except TableFull:
            # At most an hour's worth of odd expiries is kept longer than needed.
            kept = sum(1 for _, other in self.accepted if other + HOUR > self.latest_s - 600)
            assert kept >= LIMIT
            assert (number, expiry) not in self.accepted or expiry < self.latest_s - 600
        except PeerError as error:
            if error.code is ErrorCode.REPLAYED:
                assert (number, expiry) in self.accepted
            else:
                if error.code is not ErrorCode.EXPIRED:
                    raise
                assert expiry < self.latest_s - 600
        else:
            assert (number, expiry) not in self.accepted, "accepted twice"
            assert live < LIMIT
            self.accepted[number, expiry] = 1

    @rule(step_s=st.sampled_from([1, 599, 601, HOUR, 2 * HOUR, -1, -601, -HOUR, -3 * HOUR]))
    def clock(self, step_s: int) -> None:
        self.now_s += step_s

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.table) <= LIMIT
        assert len(self.table) == sum(len(tags) for tags in self.table.hours.values())


TestReplayMachine = ReplayMachine.TestCase
TestReplayMachine.settings = settings(stateful_step_count=40)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_with_a_steady_clock_exactly_the_repeats_are_refused(inserts: list[tuple[int, int]]) -> None:
    table = ReplayTable(KEY)
    seen: set[tuple[int, int]] = set()
    for number, hours in inserts:
        try:
            table.insert(header(number * 10 + hours), T0 + hours * HOUR, now_s=T0)
        except PeerError as error:
            if error.code is not ErrorCode.REPLAYED:
                raise
            assert (number, hours) in seen
        else:
            assert (number, hours) not in seen
        seen.add((number, hours))


# --- shares, and what is kept over a restart


def test_a_neighbours_share_is_free_again_when_its_hour_ends() -> None:
    table = ReplayTable(KEY, limit=100, share=2)
    for number in (1, 2):
        table.insert(header(number), T0 + HOUR, now_s=T0, neighbour=b"a")
    with pytest.raises(TableFull, match="this neighbour"):
        table.insert(header(3), T0 + 2 * HOUR, now_s=T0, neighbour=b"a")
    assert table.wants_rotation
    table.insert(header(3), T0 + 2 * HOUR, now_s=T0, neighbour=b"b")
    later = T0 + HOUR + 601
    table.insert(header(4), T0 + 2 * HOUR, now_s=later, neighbour=b"a")
    assert (table.held_by(b"a"), table.held_by(b"b"), len(table)) == (1, 1, 2)


def test_a_tag_is_known_again_under_any_expiry() -> None:
    table = ReplayTable(KEY)
    table.insert(header(1), T0 + HOUR, now_s=T0)
    with raises_code(ErrorCode.REPLAYED):
        table.insert(header(1), T0 + 3 * HOUR, now_s=T0)


inserts = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 4), st.sampled_from([b"a", b"b", b"c"])), max_size=40
)


@given(inserts, st.integers(0, 5 * HOUR), inserts)
def test_a_restored_table_behaves_like_the_original(
    before: list[tuple[int, int, bytes]], pause_s: int, after: list[tuple[int, int, bytes]]
) -> None:
    def put(table: ReplayTable, calls: list[tuple[int, int, bytes]], now_s: float) -> list[str]:
        outcomes = []
        for number, hours, neighbour in calls:
            try:
                expiry = T0 + hours * HOUR
                table.insert(header(number), expiry, now_s=now_s, neighbour=neighbour)
                outcomes.append("taken")
            except PeerError as error:
                outcomes.append(error.code.name)
        return outcomes

    kept = ReplayTable(KEY, limit=20, share=8)
    put(kept, before, T0)
    restored = ReplayTable.restored(kept.dump(7), KEY, 7, limit=20, share=8)
    assert len(restored) == len(kept)
    assert put(restored, after, T0 + pause_s) == put(kept, after, T0 + pause_s)
    for key, epoch in ((b"x" * 32, 7), (KEY, 8)):
        with pytest.raises(ReplayFileError):
            ReplayTable.restored(kept.dump(7), key, epoch)


HOUR_OF_TWO = struct.pack(">II", T0, 2)
PAIRS = [bytes([each]) * 16 for each in range(2)]


@pytest.mark.parametrize(
    ("hours", "rest"),
    [
        (1, b""),
        (1, HOUR_OF_TWO[:7]),
        (1, HOUR_OF_TWO + PAIRS[0]),
        (1, HOUR_OF_TWO + PAIRS[0] + PAIRS[1][:-1]),
        (1, HOUR_OF_TWO + 2 * PAIRS[0]),
        (2, 2 * (HOUR_OF_TWO + b"".join(PAIRS))),
        (1, struct.pack(">II", T0, 2**32 - 1) + PAIRS[0]),
        (1, HOUR_OF_TWO + b"".join(PAIRS) + b"\0"),
        (2**32 - 1, HOUR_OF_TWO + b"".join(PAIRS)),
    ],
)
def test_a_table_whose_parts_do_not_add_up_is_refused_though_its_mac_fits(hours: int, rest: bytes) -> None:
    def table(hours: int, rest: bytes) -> bytes:
        data = b"mtunrpl\x01" + struct.pack(">IdI", 7, T0, hours) + rest
        return data + hmac_sha256(KEY, b"replay file", data)

    assert len(ReplayTable.restored(table(1, HOUR_OF_TWO + b"".join(PAIRS)), KEY, 7)) == 2
    with pytest.raises(ReplayFileError):
        ReplayTable.restored(table(hours, rest), KEY, 7)
