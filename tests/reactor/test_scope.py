"""Scopes own their children: failures, cancellation, and the promise that each failure is reported once."""

from __future__ import annotations

import pytest

from reactor import (
    PASS,
    Broken,
    Cancelled,
    Closed,
    Handle,
    Reactor,
    Scope,
    Service,
    Sleep,
    Spawn,
)
from tests.reactor.helpers import assert_clean, errors_logged, forever, passes, run


def fail_after(seconds: float, text: str = "child") -> Service[None]:
    yield Sleep(seconds)
    raise Broken(text)


def test_joins_all_children(fake: Reactor) -> None:
    ended: list[int] = []

    def child(number: int) -> Service[None]:
        yield Sleep(number)
        ended.append(number)

    def service() -> Service[None]:
        scope = Scope("work")
        yield from scope.join()
        for number in (2, 1, 0):
            yield from scope.spawn(child(number))
        assert len(scope) == 3
        yield from scope.join()
        assert ended == [0, 1, 2]
        assert len(scope) == 0
        # A scope that has been joined can be used again.
        yield from scope.spawn(child(3))
        yield from scope.join()
        assert ended[-1] == 3

    run(fake, service())


def test_failure_cancels_siblings_and_is_raised_by_join_once(fake: Reactor) -> None:
    cleaned: list[str] = []

    def sibling() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            cleaned.append("sibling")

    def service() -> Service[None]:
        scope = Scope("work")
        yield from scope.spawn(sibling())
        yield from scope.spawn(fail_after(1))
        with pytest.raises(Broken, match="child"):
            yield from scope.join()
        assert cleaned == ["sibling"]
        assert [str(error) for error in scope.failures] == ["child"]
        yield from scope.join()
        with pytest.raises(Closed, match="work"):
            yield from scope.spawn(forever())

    run(fake, service())
    assert_clean(fake)


def test_failure_without_joiner_is_logged_once(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    scope = Scope("work")

    def service() -> Service[None]:
        yield from scope.spawn(fail_after(1), name="unlucky")
        yield Sleep(2)
        yield from scope.close()

    run(fake, service())
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]
    assert len(scope.failures) == 1


def test_failures_apart_leave_siblings(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    def child() -> Service[None]:
        yield Sleep(5)
        ended.append("child")

    def service() -> Service[None]:
        scope = Scope("work", fail_together=False)
        yield from scope.spawn(fail_after(1, "one"))
        yield from scope.spawn(fail_after(2, "two"))
        yield from scope.spawn(child())
        yield from scope.join()
        assert ended == ["child"]
        assert [str(error) for error in scope.failures] == ["one", "two"]

    run(fake, service())
    assert len(errors_logged(caplog)) == 2


def test_two_failures_at_once(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    """The first is raised; a sibling that fails in its cleanup is logged. Both are kept."""

    def bad_cleanup() -> Service[None]:
        try:
            yield from forever()
        finally:
            raise Broken("cleanup")

    def service() -> Service[None]:
        scope = Scope("work")
        yield from scope.spawn(bad_cleanup())
        yield from scope.spawn(fail_after(1, "first"))
        with pytest.raises(Broken, match="first"):
            yield from scope.join()
        assert [str(error) for error in scope.failures] == ["first", "cleanup"]

    run(fake, service())
    assert len(errors_logged(caplog)) == 1


def test_cancelled_parent_takes_its_children_along(fake: Reactor) -> None:
    children: list[Handle[None]] = []

    def service() -> Service[None]:
        scope = Scope("work")
        try:
            for _ in range(3):
                children.append((yield from scope.spawn(forever())))
            yield from scope.join()
        finally:
            yield from scope.close()

    parent = fake.spawn(service())
    fake.run(passes(3))
    parent.cancel()
    fake.run(passes(5))
    assert isinstance(parent.error, Cancelled)
    assert all(isinstance(child.error, Cancelled) for child in children)
    assert_clean(fake)


def test_with_block_cancels_on_the_way_out(fake: Reactor) -> None:
    def service() -> Service[Handle[None]]:
        with Scope("work") as scope:
            child = yield from scope.spawn(forever())
        yield from passes(2)
        return child

    assert isinstance(run(fake, service()).error, Cancelled)


def test_child_that_ends_cancelled_is_no_failure(fake: Reactor) -> None:
    def service() -> Service[None]:
        scope = Scope("work")
        child = yield from scope.spawn(forever())
        other = yield from scope.spawn(passes(5))
        yield PASS
        child.cancel()
        yield from scope.join()
        assert scope.failures == []
        assert other.error is None

    run(fake, service())


def test_many_scopes_nested(fake: Reactor) -> None:
    """A failure deep down ends all, and comes out at the top."""

    def level(depth: int) -> Service[None]:
        scope = Scope(f"level {depth}")
        try:
            if depth == 0:
                yield from scope.spawn(fail_after(1, "deep"))
            else:
                yield from scope.spawn(level(depth - 1))
            yield from scope.spawn(forever())
            yield from scope.join()
        finally:
            yield from scope.close()

    def service() -> Service[None]:
        top = yield Spawn(level(5))
        with pytest.raises(Broken, match="deep"):
            yield from top.join()

    run(fake, service())
    assert_clean(fake)
