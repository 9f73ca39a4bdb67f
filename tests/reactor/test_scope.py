"""Scopes own their children: failures, cancellation, and that each failure is reported once."""

from __future__ import annotations

import gc
import threading

import pytest

from reactor import (
    YIELD,
    Broken,
    Cancelled,
    Closed,
    Handle,
    Reactor,
    Scope,
    Service,
    SharedChannel,
    Sleep,
    Spawn,
    ThreadPark,
    TimedOut,
    in_scope,
    timeout_after,
)
from tests.reactor.helpers import assert_clean, errors_logged, forever, give, passes, run


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


def test_a_with_block_cancels_at_its_exit(fake: Reactor) -> None:
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
        yield YIELD
        child.cancel()
        yield from scope.join()
        assert scope.failures == []
        assert other.error is None

    run(fake, service())


def test_child_that_is_about_to_spawn_when_its_scope_is_cancelled(
    fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    """It wakes in the pass in which the scope is cancelled, and meets that before its own cancellation."""
    scope = Scope("work", fail_together=False)
    parents: list[Handle[None]] = []

    def parent() -> Service[None]:
        yield Sleep(1)
        yield from scope.spawn(forever())

    def service() -> Service[None]:
        # Its timer was set first, so it runs before the parents.
        yield Sleep(1)
        scope.cancel()
        yield from scope.join()

    def begin() -> Service[Handle[None]]:
        closing: Handle[None] = yield Spawn(service())
        yield YIELD
        for _ in range(2):
            parents.append((yield from scope.spawn(parent())))
        return closing

    closing = run(fake, begin())
    fake.run(closing.join())
    assert [type(each.error) for each in parents] == [Cancelled, Cancelled]
    assert scope.failures == []
    assert errors_logged(caplog) == []
    assert_clean(fake)


def test_spawn_in_a_cancelled_scope_is_refused(fake: Reactor) -> None:
    """A caller that is no child, or that has met its cancellation, gets Closed."""
    refused: list[str] = []

    def late(scope: Scope) -> Service[None]:
        try:
            yield from scope.spawn(forever())
        except Closed as error:
            refused.append(str(error))

    def child(scope: Scope) -> Service[None]:
        try:
            yield from forever()
        finally:
            yield from late(scope)

    def service() -> Service[None]:
        scope = Scope("work")
        yield from scope.spawn(child(scope))
        yield YIELD
        scope.cancel()
        yield from late(scope)
        yield from scope.join()

    run(fake, service())
    assert refused == ["scope 'work' was cancelled and accepts no more services"] * 2


def test_many_scopes_nested(fake: Reactor) -> None:
    """A failure in the innermost scope ends all scopes, and the outermost raises it."""

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


# Each failure once.


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
def test_a_failure_without_a_join_is_logged_once(
    fake: Reactor, caplog: pytest.LogCaptureFixture, leave: str
) -> None:
    def service() -> Service[None]:
        scope: Scope | None = Scope("work")
        assert scope is not None
        yield from scope.spawn(fail_after(1), name="unlucky")
        if leave == "with":
            with scope:
                yield Sleep(2)
                assert errors_logged(caplog) == []
        else:
            yield Sleep(2)
            assert errors_logged(caplog) == []
            if leave == "close":
                yield from scope.close()
                yield from scope.close()
        with pytest.raises(Closed) as caught:
            yield from scope.spawn(passes(1))
        assert isinstance(caught.value.__cause__, Broken)
        if leave != "drop":
            # It has been raised.
            yield from scope.join()

    run(fake, service())
    gc.collect()
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]


def test_a_failure_while_closing_is_logged(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    def service() -> Service[None]:
        scope = Scope("work")
        yield from scope.spawn(fail_in_cleanup("cleanup"), name="unlucky")
        yield YIELD
        yield from scope.close()

    run(fake, service())
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]


def fail_in_cleanup(text: str) -> Service[None]:
    try:
        yield from forever()
    finally:
        yield YIELD
        raise Broken(text)


def test_a_failure_that_a_cancelled_joiner_missed_is_logged(
    fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    """The child fails, its sibling ends slowly, and meanwhile the joiner is cancelled."""

    def slow() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(10)

    def service() -> Service[None]:
        scope = Scope("work")
        try:
            yield from scope.spawn(slow())
            yield from scope.spawn(fail_after(1), name="unlucky")
            yield from scope.join()
        finally:
            yield from scope.close()

    handle = fake.spawn(service())

    def main() -> Service[None]:
        yield Sleep(5)
        handle.cancel()
        yield Sleep(10)

    run(fake, main())
    assert isinstance(handle.error, Cancelled)
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]


# in_scope.


def test_in_scope_waits_for_all(fake: Reactor) -> None:
    ended: list[int] = []

    def child(number: int) -> Service[None]:
        yield Sleep(number)
        ended.append(number)

    def body(scope: Scope) -> Service[str]:
        for number in (3, 1, 2):
            yield from scope.spawn(child(number))
        return "done"

    assert run(fake, in_scope(body)) == "done"
    assert ended == [1, 2, 3]


@pytest.mark.parametrize("body_waits", [True, False])
def test_in_scope_raises_a_child_failure_with_its_cause(fake: Reactor, body_waits: bool) -> None:
    """While the body waits, and after the body has ended and other children still run."""
    cleaned: list[str] = []

    def unlucky() -> Service[None]:
        yield Sleep(1)
        raise Broken("child") from ValueError("deep")

    def sibling() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            cleaned.append("sibling")

    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(unlucky())
        yield from scope.spawn(sibling())
        if body_waits:
            yield from forever()

    with pytest.raises(Broken, match="child") as caught:
        run(fake, in_scope(body))
    assert isinstance(caught.value.__cause__, ValueError)
    # The traceback does not show how the body was interrupted.
    assert caught.value.__context__ is None
    assert cleaned == ["sibling"]
    assert_clean(fake)


def test_in_scope_when_the_body_fails(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(fail_in_cleanup("child"), name="unlucky")
        yield YIELD
        raise Broken("body")

    with pytest.raises(Broken, match="body"):
        run(fake, in_scope(body))
    assert len(errors_logged(caplog)) == 1


def test_in_scope_when_both_fail(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    """The body fails while it is cancelled because of the child: one error is raised, the other logged."""

    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(fail_after(1), name="unlucky")
        yield from fail_in_cleanup("body")

    with pytest.raises(Broken, match="body"):
        run(fake, in_scope(body))
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]


def test_in_scope_when_the_body_does_not_care(fake: Reactor) -> None:
    """The failure is still raised, at the end."""

    def body(scope: Scope) -> Service[int]:
        yield from scope.spawn(fail_after(1))
        try:
            yield from forever()
        except Cancelled:
            yield Sleep(3)
        return 5

    with pytest.raises(Broken, match="child"):
        run(fake, in_scope(body))
    assert fake.now() == 4


def test_in_scope_has_a_limit_on_its_time(fake: Reactor) -> None:
    cleaned: list[str] = []

    def child() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            cleaned.append("child")

    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(child())
        yield from forever()

    with pytest.raises(TimedOut, match="5 s"):
        run(fake, timeout_after(5, in_scope(body)))
    assert cleaned == ["child"]
    assert fake.now() == 6
    assert_clean(fake)


def test_nested_in_scope_names_the_right_one(fake: Reactor) -> None:
    """A failure in the outer scope passes through the inner one, which does not mistake it for its own."""
    seen: list[str] = []

    def inner(scope: Scope) -> Service[None]:
        yield from scope.spawn(forever())
        try:
            yield from forever()
        finally:
            seen.append("inner body cleaned")

    def outer(scope: Scope) -> Service[None]:
        yield from scope.spawn(fail_after(1, "outer child"))
        try:
            yield from in_scope(inner, name="inner")
        finally:
            seen.append("inner left")

    with pytest.raises(Broken, match="outer child"):
        run(fake, in_scope(outer, name="outer"))
    assert seen == ["inner body cleaned", "inner left"]
    assert_clean(fake)


@pytest.mark.parametrize("count", range(6))
def test_a_failure_is_too_late_for_a_body_that_ends(fake: Reactor, count: int) -> None:
    """Child and body end at about the same time: the task keeps no state of the scope."""

    def child() -> Service[None]:
        yield from passes(2)
        raise Broken("child")

    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(child())
        yield from passes(count)

    def service() -> Service[str]:
        for _ in range(3):
            with pytest.raises(Broken, match="child"):
                yield from in_scope(body)
        yield from passes(3)
        return "undisturbed"

    assert run(fake, service()) == "undisturbed"


def test_a_scope_owns_services_in_threads(fake: Reactor) -> None:
    """A failure in this thread cancels the service in the other, and is raised after its cleanup."""
    cleaned = threading.Event()
    started: SharedChannel[int] = SharedChannel(1)

    def far_away() -> Service[None]:
        try:
            yield from started.send(1)
            yield from forever()
        finally:
            yield from passes(3)
            cleaned.set()

    def body(scope: Scope) -> Service[int]:
        park = ThreadPark()
        quick = yield from scope.spawn(park.spawn(give(5)).as_service())
        assert (yield from quick.join()) == 5
        yield from scope.spawn(park.spawn(far_away()).as_service())
        yield from started.receive()
        raise Broken("here")

    with pytest.raises(Broken, match="here"):
        run(fake, in_scope(body))
    assert cleaned.is_set()
