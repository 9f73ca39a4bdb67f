"""Onion key epochs: which keys open, are published, are erased, and survive a restart."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, make_keys, seeded_bytes
from tunnel.codes import clock_text
from tunnel.errors import ErrorCode, KeyFileError, ReplayFileError, TableFull
from tunnel.identity.key_ring import EARLY_ROTATION_S, KEEP_PREVIOUS_S, KeyRing
from tunnel.identity.keys import EPOCH_S, NodeKeys
from tunnel.onion.header import Command, Hop, Slot, build_header, open_header

START = int(NOW_S) - 600  # the first epoch's beginning
HOUR = 3_600


def ring(now_s: float = NOW_S, **limits: int) -> KeyRing:
    made = KeyRing(make_keys("a"), OPENSSL, **limits)
    made.advance(now_s)
    return made


def sealed(keys: NodeKeys, now_s: float, number: int = 0) -> bytes:
    """A header from a sender with the node's current descriptor."""
    hop = keys.descriptor((), now_s, OPENSSL).hop(now_s)
    return sealed_to(hop, now_s, number)


def sealed_to(hop: Hop, now_s: float, number: int = 0) -> bytes:
    expiry = (int(now_s) // HOUR + 2) * HOUR
    slot = Slot(Command.DEST, expiry, seeded_bytes(number)(16))
    return build_header(SMALL, [(hop, slot)], engine=OPENSSL, random_bytes=seeded_bytes(number))


def opens(a_ring: KeyRing, header: bytes, now_s: float) -> int:
    """The epoch of the key that opens it."""
    keys = [epoch.key for epoch in a_ring.opening(now_s)]
    return open_header(header, SMALL, keys, engine=OPENSSL).epoch


def test_current_and_next_are_published_and_follow_each_other() -> None:
    keys = ring().keys
    descriptor = keys.descriptor((), NOW_S, OPENSSL)
    current, following = descriptor.onion_keys
    assert (current.not_before, current.not_after) == (START, START + EPOCH_S)
    assert (following.not_before, following.not_after) == (START + EPOCH_S, START + 2 * EPOCH_S)
    assert descriptor.hop(START + EPOCH_S - 1).onion_public == current.public
    assert descriptor.hop(START + EPOCH_S).onion_public == following.public


def test_nothing_changes_before_its_time() -> None:
    a_ring = ring()
    before = a_ring.keys
    assert not a_ring.advance(START + EPOCH_S - 1)
    assert a_ring.keys == before
    assert a_ring.advance(START + EPOCH_S)


def test_a_frame_of_the_previous_epoch_opens_and_one_of_the_epoch_before_does_not() -> None:
    a_ring = ring()
    old = sealed(a_ring.keys, NOW_S)
    assert opens(a_ring, old, NOW_S) == START
    second = START + EPOCH_S
    assert a_ring.advance(second)
    assert [epoch.key.epoch for epoch in a_ring.opening(second)] == [second, START]
    assert opens(a_ring, old, second) == START
    # It is erased as soon as all headers sealed in its time have expired.
    end = second + KEEP_PREVIOUS_S
    assert not a_ring.advance(end - 1)
    assert opens(a_ring, old, end - 1) == START
    with raises_code(ErrorCode.BAD_HEADER):
        opens(a_ring, old, end)
    assert a_ring.advance(end)
    assert a_ring.keys.previous is None
    new = sealed(a_ring.keys, end)
    assert a_ring.advance(second + EPOCH_S)
    assert opens(a_ring, new, second + EPOCH_S) == second
    with raises_code(ErrorCode.BAD_HEADER):
        opens(a_ring, old, second + EPOCH_S)


def test_the_next_key_opens_from_ten_minutes_before_its_time() -> None:
    a_ring = ring()
    early = sealed(a_ring.keys, START + EPOCH_S)  # a sender with a fast clock
    for now_s, is_open in ((START + EPOCH_S - 601, False), (START + EPOCH_S - 600, True)):
        if is_open:
            assert opens(a_ring, early, now_s) == START + EPOCH_S
        else:
            with raises_code(ErrorCode.BAD_HEADER):
                opens(a_ring, early, now_s)


def test_an_erased_key_is_in_neither_the_ring_nor_its_file(tmp_path: Path) -> None:
    a_ring = ring()
    first = a_ring.keys.onion
    a_ring.advance(START + EPOCH_S)
    a_ring.advance(START + EPOCH_S + KEEP_PREVIOUS_S)
    a_ring.keys.save(tmp_path / "k")
    text = (tmp_path / "k").read_text()
    assert first.private.hex() not in text
    assert first.table.hex() not in text
    assert first not in a_ring.state.epochs


def test_each_epoch_has_its_own_table() -> None:
    a_ring = ring()
    tables = {id(epoch.table) for epoch in a_ring.opening(START + EPOCH_S - 1)}
    assert len(tables) == 2
    a_ring.advance(START + EPOCH_S)
    kept = {id(epoch.table) for epoch in a_ring.opening(START + EPOCH_S)}
    assert kept == tables, "the same two keys, one line further down, with what they remember"


def test_a_node_that_slept_for_days_makes_new_keys() -> None:
    a_ring = ring()
    before = a_ring.keys
    now_s = NOW_S + 10 * EPOCH_S
    assert a_ring.advance(now_s)
    assert a_ring.keys.onion.epoch == int(now_s) - 600
    assert a_ring.keys.previous is None
    assert a_ring.keys.next is not None
    assert before.onion not in a_ring.state.epochs


def test_a_clock_that_is_set_back_brings_nothing_back() -> None:
    a_ring = ring()
    old = sealed(a_ring.keys, NOW_S)
    a_ring.advance(START + EPOCH_S + KEEP_PREVIOUS_S)
    after = a_ring.keys
    assert a_ring.advance(NOW_S), "a key of tomorrow would serve nobody"
    assert a_ring.keys.onion not in (after.onion, after.next)
    assert a_ring.keys.previous is None
    with raises_code(ErrorCode.BAD_HEADER):
        opens(a_ring, old, NOW_S)


@pytest.mark.parametrize("back_s", [1, 600])
def test_a_clock_that_is_set_back_by_minutes_changes_nothing(back_s: int) -> None:
    a_ring = ring()
    change_s = START + EPOCH_S
    assert a_ring.advance(change_s)
    before = a_ring.keys
    assert not a_ring.advance(change_s - back_s)
    assert a_ring.keys == before
    # A sender with the same clock uses the key that early.
    header = sealed_to(before.descriptor((), change_s, OPENSSL).hop(change_s - back_s), change_s - back_s)
    assert opens(a_ring, header, change_s - back_s) == change_s


GLITCHES = st.integers(-400 * 24 * HOUR, 400 * 24 * HOUR)


@settings(max_examples=60, deadline=None)
@given(GLITCHES, st.booleans(), st.booleans(), st.integers(0, 30 * HOUR))
def test_a_clock_that_was_wrong_for_a_moment_leaves_a_node_that_can_be_reached(
    glitch_s: int, has_heard: bool, restarts: bool, passed_s: int
) -> None:
    """After any event at the wrong time: a key change, an accepted header, even an orderly stop."""
    a_ring = ring()
    wrong_s = max(NOW_S + glitch_s, 1_000.0)
    a_ring.advance(wrong_s)
    if has_heard:
        hop = a_ring.keys.descriptor((), wrong_s, OPENSSL).hop(wrong_s)
        insert(a_ring, sealed_to(hop, wrong_s, 1), wrong_s)
    now_s = NOW_S + passed_s
    if restarts:
        with TemporaryDirectory() as folder:
            keys_path, table_path = Path(folder, "k"), Path(folder, "t")
            a_ring.stop(keys_path, table_path)
            a_ring = KeyRing.resume(keys_path, table_path, OPENSSL, now_s=now_s)
    else:
        a_ring.advance(now_s)
    header = sealed(a_ring.keys, now_s, 2)
    insert(a_ring, header, now_s)
    with raises_code(ErrorCode.REPLAYED):
        insert(a_ring, header, now_s)
    assert not a_ring.advance(now_s)


def test_keys_of_the_future_are_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    a_ring = ring()
    a_ring.advance(NOW_S + 48 * HOUR)
    assert not caplog.records
    a_ring.advance(NOW_S)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    for time_s in (NOW_S, NOW_S + 48 * HOUR - 600):
        assert clock_text(time_s) in record.message


def test_a_descriptor_replaces_the_last_one_after_a_restart_with_another_clock(tmp_path: Path) -> None:
    """Others have the descriptor signed while the clock was ahead, and ignore lower sequence numbers."""
    a_ring = ring()
    ahead_s = NOW_S + 48 * HOUR
    a_ring.advance(ahead_s)
    last = a_ring.next_sequence(ahead_s)
    assert last == int(ahead_s)
    a_ring.stop(tmp_path / "k", tmp_path / "t")
    for _ in range(2):
        again = KeyRing.resume(tmp_path / "k", tmp_path / "t", OPENSSL, now_s=NOW_S)
        assert again.next_sequence(NOW_S) == last + 1
        last += 1
        again.stop(tmp_path / "k", tmp_path / "t")
    assert again.next_sequence(NOW_S, known=last + 10) == last + 11


def test_a_full_table_asks_for_an_early_change() -> None:
    a_ring = ring(limit=8, share=2)
    (epoch,) = a_ring.opening(NOW_S)
    hostile, honest = b"h" * 32, b"o" * 32

    def insert(number: int, neighbour: bytes) -> None:
        header = sealed(a_ring.keys, NOW_S, number)
        expiry = (int(NOW_S) // HOUR + 2) * HOUR
        a_ring.opening(NOW_S)[0].table.insert(header, expiry, now_s=NOW_S, neighbour=neighbour)

    insert(0, hostile)
    insert(1, hostile)
    assert not a_ring.wants_rotation
    with pytest.raises(TableFull, match="share"):
        insert(2, hostile)
    assert a_ring.wants_rotation
    insert(3, honest)  # the others still have room
    assert not a_ring.rotate_early(NOW_S), "not within the first hour"
    later = NOW_S + EARLY_ROTATION_S
    held = sealed(a_ring.keys, NOW_S, 9)
    assert a_ring.rotate_early(later)
    assert not a_ring.wants_rotation
    assert len(a_ring.opening(later)[0].table) == 0
    assert a_ring.opening(later)[1].table is epoch.table, "what was accepted stays refused"
    assert opens(a_ring, held, later) == START, "senders who do not know yet are served"
    published = a_ring.keys.descriptor((), later, OPENSSL)
    assert published.hop(later).epoch == int(later) - 600
    assert not a_ring.rotate_early(later + 1)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30 * HOUR), min_size=1, max_size=12))
def test_whenever_it_is_advanced_senders_with_a_descriptor_are_served(steps: list[int]) -> None:
    """A sender with the latest descriptor and a clock within ten minutes of ours is always accepted."""
    a_ring, now_s = ring(), NOW_S
    for step in steps:
        now_s += step
        a_ring.advance(now_s)
        for slack in (-600, 0, 600):
            try:
                hop = a_ring.keys.descriptor((), now_s, OPENSSL).hop(now_s + slack)
            except Exception:  # noqa: BLE001 - before the first key of a node that began anew
                assert a_ring.keys.onion.epoch > now_s + slack
                continue
            opens(a_ring, sealed_to(hop, now_s), now_s)
        epochs = [epoch.key.epoch for epoch in a_ring.opening(now_s)]
        assert len(set(epochs)) == len(epochs) <= 3
        assert not a_ring.advance(now_s)


# --- over a restart


def stopped(tmp_path: Path) -> tuple[bytes, bytes, Path, Path]:
    """A node that accepted a header and stopped in order. Returns that header, a new one, its files."""
    keys_path, table_path = tmp_path / "node.keys", tmp_path / "node.replay"
    a_ring = ring()
    seen, unseen = sealed(a_ring.keys, NOW_S, 1), sealed(a_ring.keys, NOW_S, 2)
    insert(a_ring, seen)
    a_ring.stop(keys_path, table_path)
    return seen, unseen, keys_path, table_path


def insert(a_ring: KeyRing, header: bytes, now_s: float = NOW_S) -> None:
    opened = open_header(header, SMALL, [e.key for e in a_ring.opening(now_s)], engine=OPENSSL)
    (table,) = (e.table for e in a_ring.opening(now_s) if e.key.epoch == opened.epoch)
    table.insert(header, opened.slot.expiry, now_s=now_s, neighbour=b"n" * 32)


def test_a_clean_stop_keeps_the_keys_and_the_replay_table(tmp_path: Path) -> None:
    seen, unseen, keys_path, table_path = stopped(tmp_path)
    again = KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S + 60)
    with raises_code(ErrorCode.REPLAYED):
        insert(again, seen, NOW_S + 60)
    insert(again, unseen, NOW_S + 60)
    assert again.opening(NOW_S + 60)[0].table.held_by(b"n" * 32) == 2
    assert not table_path.exists(), "whoever crashes from now on has no table"


def test_an_unclean_stop_always_makes_new_keys(tmp_path: Path) -> None:
    seen, unseen, keys_path, table_path = stopped(tmp_path)
    KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S + 60)  # started, and then crashed
    again = KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S + 120)
    for header in (seen, unseen):
        with raises_code(ErrorCode.BAD_HEADER):
            insert(again, header, NOW_S + 120)
    assert NodeKeys.load(keys_path) == again.keys


def test_a_damaged_table_is_refused_with_advice(tmp_path: Path) -> None:
    _, _, keys_path, table_path = stopped(tmp_path)
    whole = table_path.read_bytes()
    damaged = [whole[:-1], whole + b"x", whole[: len(whole) // 2], b"", b"x" * 100]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in damaged:
        table_path.write_bytes(data)
        with pytest.raises(ReplayFileError, match="Delete the file"):
            KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S)
        assert table_path.exists(), "what was refused is left to look at"
    table_path.unlink()
    assert KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S).keys.onion.epoch == START


def test_tables_of_an_older_stop_do_not_fit_newer_keys(tmp_path: Path) -> None:
    _, _, keys_path, table_path = stopped(tmp_path)
    old = table_path.read_bytes()
    table_path.unlink()
    KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S + 60)
    table_path.write_bytes(old)
    with pytest.raises(ReplayFileError, match="MAC"):
        KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S + 120)


def test_a_smaller_limit_than_the_table_is_refused(tmp_path: Path) -> None:
    """Dropping some tags would accept their headers again."""
    _, _, keys_path, table_path = stopped(tmp_path)
    with pytest.raises(ReplayFileError, match="limit"):
        KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S, limit=0)


def test_the_clock_that_the_table_saw_is_kept(tmp_path: Path) -> None:
    """The clock is set back between stop and start: dropped tags stay refused, by the end of their key."""
    keys_path, table_path = tmp_path / "k", tmp_path / "t"
    a_ring = ring()
    early = sealed(a_ring.keys, NOW_S, 1)
    insert(a_ring, early)
    insert(a_ring, sealed(a_ring.keys, NOW_S + 5 * HOUR, 2), NOW_S + 5 * HOUR)
    a_ring.stop(keys_path, table_path)
    again = KeyRing.resume(keys_path, table_path, OPENSSL, now_s=NOW_S)
    with raises_code(ErrorCode.BAD_HEADER):
        insert(again, early)
    insert(again, sealed(again.keys, NOW_S, 3))


def test_a_table_that_saw_a_slightly_later_time_refuses_forgotten_headers() -> None:
    a_ring = ring()
    early = sealed(a_ring.keys, NOW_S, 1)
    insert(a_ring, early)
    insert(a_ring, sealed(a_ring.keys, NOW_S + 3 * HOUR, 2), NOW_S + 3 * HOUR)
    with raises_code(ErrorCode.EXPIRED, match="stepped back"):
        insert(a_ring, early)


def test_no_keys_no_ring(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        KeyRing.resume(tmp_path / "none", tmp_path / "t", OPENSSL, now_s=NOW_S)
