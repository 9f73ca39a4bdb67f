"""Logins of a port: guessing passwords is slow, and affects few other users."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.front.logins import FREE_FAILURES, MOST_COUNTS, PAUSE_S, Logins

ALICE, BOB = (b"alice", b"secret"), (b"bob", b"s:x")
WRONG = b"alice", b"guess"
HERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"
WRONG_TEXT, WAIT_TEXT = (
    "wrong user or password",
    "too many wrong passwords from this address: try again in {} s",
)


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(clock: Clock) -> Logins:
    return Logins({"alice": "secret", "bob": "s:x"}, clock)


def fail(logins: Logins, login: tuple[bytes, bytes] = WRONG, host: str = HERE) -> None:
    for _ in range(FREE_FAILURES):
        assert logins.refusal(login, host) == WRONG_TEXT


def test_the_right_password_is_refused_too_after_some_wrong_ones(logins: Logins, clock: Clock) -> None:
    fail(logins)
    for login in (WRONG, ALICE):
        assert logins.refusal(login, HERE) == WAIT_TEXT.format(10)
    clock.now_s += PAUSE_S - 0.6
    assert logins.refusal(ALICE, HERE) == WAIT_TEXT.format(1)
    clock.now_s += 0.6
    assert logins.refusal(ALICE, HERE) == ""


def test_the_guesses_of_a_day(logins: Logins, clock: Clock) -> None:
    """Ten thousand tries a second that come to nothing do not count, so the rate stays the same."""
    looked_at = 0
    for _ in range(2_000):
        looked_at += logins.refusal(WRONG, HERE) == WRONG_TEXT
        clock.now_s += 0.5
    assert looked_at == FREE_FAILURES + 1_000 / PAUSE_S - 1


def test_failures_are_forgotten_one_by_one(logins: Logins, clock: Clock) -> None:
    fail(logins)
    clock.now_s += 2 * PAUSE_S
    for text in (WRONG_TEXT, WRONG_TEXT, WAIT_TEXT.format(10)):
        assert logins.refusal(WRONG, HERE) == text
    clock.now_s += 1_000 * PAUSE_S
    fail(logins)
    assert logins.refusal(WRONG, HERE) == WAIT_TEXT.format(10)


def test_a_right_password_forgives_nothing(logins: Logins) -> None:
    """A guesser who has a user of its own could begin again after each."""
    for _ in range(FREE_FAILURES - 1):
        assert logins.refusal(WRONG, HERE) == WRONG_TEXT
    assert logins.refusal(ALICE, HERE) == ""
    assert logins.refusal(WRONG, HERE) == WRONG_TEXT
    assert logins.refusal(ALICE, HERE) == WAIT_TEXT.format(10)


def test_others_are_not_disturbed(logins: Logins) -> None:
    fail(logins)
    assert logins.refusal(BOB, HERE) == "", "another user of the same address"
    assert logins.refusal(ALICE, ELSEWHERE) == "", "the same user at another address"
    assert logins.refusal(ALICE, "") == "", "a Unix socket"


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:ffff::1", True),
        ("2001:db8::1", "2001:db8:1::1", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_one_owner_of_addresses(logins: Logins, first: str, second: str, is_one: bool) -> None:
    fail(logins, host=first)
    assert logins.refusal(ALICE, second) == (WAIT_TEXT.format(10) if is_one else "")


def test_a_home_network_of_ipv6_has_the_guesses_of_one_address(logins: Logins) -> None:
    """A /48 has more networks than there are counts: each would push the others' failures out."""
    hosts = [f"2001:db8:0:{number:x}::1" for number in range(2 * MOST_COUNTS)]
    looked_at = sum(logins.refusal(WRONG, host) == WRONG_TEXT for host in hosts * 2)
    assert (looked_at, logins.counts) == (FREE_FAILURES, 1)


def test_unknown_users_share_a_count(logins: Logins) -> None:
    """Otherwise each name would have guesses of its own, and the table would fill from one address."""
    names = map(str.encode, map(str, itertools.count()))
    for _ in range(FREE_FAILURES):
        assert logins.refusal((next(names), b""), HERE) == WRONG_TEXT
    for _ in range(100):
        assert logins.refusal((next(names), b""), HERE) == WAIT_TEXT.format(10)
    assert logins.counts == 1
    assert logins.refusal(ALICE, HERE) == ""


def test_the_table_is_bounded(logins: Logins) -> None:
    fail(logins)
    for number in range(2 * MOST_COUNTS):
        assert logins.refusal(WRONG, f"10.0.{number >> 8}.{number & 255}") == WRONG_TEXT
        assert logins.counts <= MOST_COUNTS
    assert logins.counts == MOST_COUNTS
    assert logins.refusal(ALICE, HERE) == "", "forgotten: the oldest gives way"


@given(st.lists(st.tuples(st.sampled_from([ALICE, WRONG, (b"x", b"")]), st.floats(0, 40)), max_size=60))
def test_never_more_than_the_rate(tries: list[tuple[tuple[bytes, bytes], float]]) -> None:
    clock = Clock()
    logins = Logins({"alice": "secret"}, clock)
    began_s, wrong = clock.now_s, 0
    for login, pause_s in tries:
        wrong += logins.refusal(login, HERE) == WRONG_TEXT and login == WRONG
        clock.now_s += pause_s
        assert wrong <= FREE_FAILURES + (clock.now_s - began_s) / PAUSE_S
