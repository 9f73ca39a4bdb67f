"""The places of a node's own queries: further queries wait in order, within limits, instead of failing."""

from __future__ import annotations

import pytest

from reactor import Handle, Reactor, Service, Signal, Sleep, Spawn
from tests.tunnel.helpers import settle
from tunnel.errors import ErrorCode, TableFull
from tunnel.node.waits import Places

PATIENCE_S = 60.0


class Users:
    """Services that take one of the places, and stay until the test lets them go. Fake clock."""

    def __init__(self, most: int, most_waiting: int = 100) -> None:
        self.places = Places(most, most_waiting, "users")
        self.leave: dict[int, Signal] = {}
        self.running: list[int] = []
        self.errors: dict[int, TableFull] = {}

    def use(self, name: int) -> Service[None]:
        try:
            yield from self.places.take(PATIENCE_S)
        except TableFull as error:
            self.errors[name] = error
            return
        self.running.append(name)
        self.leave[name] = Signal()
        try:
            yield self.leave[name]
        finally:
            self.running.remove(name)
            self.places.give_back()

    def start(self, *names: int) -> Service[list[Handle[None]]]:
        handles = []
        for name in names:
            handles.append((yield Spawn(self.use(name))))
        yield from settle()
        return handles

    def end(self, *names: int) -> Service[None]:
        for name in names:
            self.leave[name].set()
            yield from settle()


def test_further_users_wait_in_order(reactor: Reactor) -> None:
    users = Users(2)

    def play() -> Service[None]:
        yield from users.start(1, 2, 3, 4)
        assert users.running == [1, 2]
        assert len(users.places) == 4
        yield from users.end(2)
        assert users.running == [1, 3]
        yield from users.end(1, 3, 4)
        assert len(users.places) == 0
        yield from users.start(5, 6, 7)
        assert users.running == [5, 6]
        yield from users.end(5, 6, 7)

    reactor.run(play())


def test_queries_beyond_the_waiting_limit_fail_immediately(reactor: Reactor) -> None:
    users = Users(1, most_waiting=2)

    def play() -> Service[None]:
        yield from users.start(1, 2, 3, 4)
        assert list(users.errors) == [4]
        assert users.errors[4].code is ErrorCode.BUSY
        assert str(users.errors[4]) == "2 users wait already, the limit of this node"
        yield from users.end(1, 2, 3)

    reactor.run(play())


def test_the_waiting_limit_counts_from_the_last_end(reactor: Reactor) -> None:
    users = Users(1)

    def play() -> Service[None]:
        yield from users.start(1, 2, 3)
        for name in (1, 2):
            yield Sleep(PATIENCE_S - 1)
            yield from users.end(name)
        assert users.running == [3]
        yield from users.start(4)
        yield Sleep(PATIENCE_S + 1)
        assert "none has ended within 60 s" in str(users.errors[4])
        assert len(users.places) == 1
        yield from users.end(3)

    reactor.run(play())


@pytest.mark.parametrize("has_come", [False, True])
def test_a_cancelled_user_leaves_its_place_to_the_next(reactor: Reactor, has_come: bool) -> None:
    """Also if the place came in the same step."""
    users = Users(1)

    def play() -> Service[None]:
        yield from users.places.take(PATIENCE_S)
        first, _ = yield from users.start(1, 2)
        if has_come:
            users.places.give_back()
        first.cancel()
        yield from settle()
        if not has_come:
            users.places.give_back()
            yield from settle()
        assert users.running == [2]
        yield from users.end(2)
        assert len(users.places) == 0

    reactor.run(play())
