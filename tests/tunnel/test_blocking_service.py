"""Blocking services on a fake clock: which threads count as idle, and how they end."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reactor import (
    Channel,
    Handle,
    Reactor,
    Service,
    Signal,
    Sleep,
    Spawn,
)
from reactor.core.timers import FakeClock
from tests.support.network import PATIENCE_S
from tests.tunnel.helpers import settle
from tunnel.errors import ErrorCode, PeerError, TableFull
from tunnel.identity.client_key import Claim
from tunnel.services import BlockingQuery, BlockingReply, BlockingService
from tunnel.services.blocking import BlockingFunction


class FakeQuery:
    """A query whose content the test sends."""

    claim = Claim()

    def __init__(self) -> None:
        self.pieces: Channel[bytes] = Channel(8)

    def read(self) -> Service[bytes]:
        return (yield from self.pieces.receive())


class FakeReply:
    """A reply. Args: is_taken: False: the peer never reads. takes_s: time that `flush` takes."""

    is_possible = True
    remaining = 0

    def __init__(self, *, is_taken: bool = True, takes_s: float = 0.0) -> None:
        self.got = b""
        self.has_ended = False
        self._is_taken = is_taken
        self._takes_s = takes_s

    def write(self, data: bytes) -> Service[None]:
        if not self._is_taken:
            yield Signal()
        self.got += data

    def flush(self) -> Service[None]:
        yield Sleep(self._takes_s)

    def end(self) -> Service[None]:
        self.has_ended = True
        yield from ()

    def next(self) -> Service[None]:
        raise NotImplementedError
        yield


def ask(service: BlockingService, query: FakeQuery, reply: FakeReply) -> Service[Handle[None]]:
    handle: Handle[None] = yield Spawn(service.handle(query, reply), "query")
    return handle


def hold_until(condition: Callable[[], bool]) -> None:
    """Block the loop until a thread has reached a state, so that nothing else happens meanwhile."""
    event = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if condition():
            return
        event.wait(0.001)
    raise AssertionError("the thread did not reach the state")


def call_of(service: BlockingService) -> Any:
    (call,) = service.slots.holders
    return call


def hold_until_reading(call: Any) -> None:
    hold_until(lambda: bool(call.to_thread.waiting_receivers))


def by_first_byte(silent: BlockingFunction) -> BlockingFunction:
    """Serve queries that begin with "s" with `silent`, and answer all others immediately."""

    def serve(query: BlockingQuery, reply: BlockingReply) -> None:
        if query.read(1) == b"s":
            silent(query, reply)
        else:
            reply.write(b"served")

    return serve


@pytest.mark.parametrize("blocked_in", ["read", "write"])
def test_an_idle_query_is_ended_for_a_waiting_one(
    reactor: Reactor, clock: FakeClock, blocked_in: str
) -> None:
    raised: list[BaseException] = []

    def silent(query: BlockingQuery, reply: BlockingReply) -> None:
        try:
            if blocked_in == "read":
                query.read()
            while True:
                reply.write(bytes(100_000))
        except OSError as error:
            raised.append(error)

    service = BlockingService(by_first_byte(silent), threads=1, silent_s=30)

    def play() -> Service[None]:
        first, second, reply = FakeQuery(), FakeQuery(), FakeReply()
        first.pieces.send_nowait(b"s")
        second.pieces.send_nowait(b"x")
        ended = yield from ask(service, first, FakeReply(is_taken=False))
        yield from settle()
        served = yield from ask(service, second, reply)
        yield from served.join()
        assert reply.got == b"served"
        assert clock.now() >= 30
        assert isinstance(ended.error, PeerError)
        assert ended.error.code is ErrorCode.TIMEOUT
        assert [type(error) for error in raised] == [BrokenPipeError]

    reactor.run(play())


def test_data_in_transit_is_not_idleness(reactor: Reactor, clock: FakeClock) -> None:
    """A thread that answers late and then reads is not idle until the peer has received the answer."""
    answer = threading.Event()

    def think(query: BlockingQuery, reply: BlockingReply) -> None:
        query.read(1)
        assert answer.wait(PATIENCE_S)
        reply.write(b"answer")
        reply.flush()
        query.read(1)
        reply.write(b"end")

    service = BlockingService(think, threads=1, silent_s=30)

    def play() -> Service[None]:
        query, reply = FakeQuery(), FakeReply(takes_s=40)
        handle = yield from ask(service, query, reply)
        yield from settle()
        call = call_of(service)
        hold_until_reading(call)
        assert call.waits_for_peer
        query.pieces.send_nowait(b"?")
        yield from settle()
        assert not call.waits_for_peer  # the function works
        clock.advance(1_000)
        answer.set()
        hold_until_reading(call)
        assert not call.waits_for_peer  # the answer is in the channel, not yet with the peer
        yield from settle()
        assert call.waits_for_peer  # the peer reads the answer slowly
        assert (call.moved_s, reply.got) == (1_000, b"answer")
        yield Sleep(40)
        yield from settle()
        assert call.waits_for_peer
        assert (call.moved_s, reply.got) == (1_040, b"answer")
        query.pieces.send_nowait(b"!")
        yield from handle.join()
        assert reply.got == b"answerend"

    reactor.run(play())


def test_a_slow_peer_keeps_its_thread_while_it_sends(reactor: Reactor, clock: FakeClock) -> None:
    def silent(query: BlockingQuery, reply: BlockingReply) -> None:
        query.read()

    service = BlockingService(by_first_byte(silent), threads=1, silent_s=30)

    def play() -> Service[None]:
        first, second, reply = FakeQuery(), FakeQuery(), FakeReply()
        first.pieces.send_nowait(b"s")
        second.pieces.send_nowait(b"x")
        ended = yield from ask(service, first, FakeReply())
        served = yield from ask(service, second, reply)
        for _ in range(10):
            yield from settle()
            hold_until_reading(call_of(service))
            yield Sleep(29)
            first.pieces.send_nowait(b".")
        assert not served.is_finished
        yield from served.join()
        assert clock.now() >= 10 * 29 + 30
        assert isinstance(ended.error, PeerError)
        assert ended.error.code is ErrorCode.TIMEOUT

    reactor.run(play())


def test_a_wait_that_is_cancelled_with_a_slot_loses_no_slot(reactor: Reactor) -> None:
    go_on = threading.Event()

    def wait(query: BlockingQuery, reply: BlockingReply) -> None:
        assert go_on.wait(PATIENCE_S)
        reply.write(b"served")

    service = BlockingService(wait, threads=1)

    def play() -> Service[None]:
        first = yield from ask(service, FakeQuery(), FakeReply())
        yield from settle()
        second = yield from ask(service, FakeQuery(), FakeReply())
        yield from settle()
        go_on.set()
        # The second has been given the slot, and has not run since.
        hold_until(lambda: not service.slots.returned.waiting_receivers)
        second.cancel()
        yield from settle()
        hold_until(lambda: service.slots.free == 1)
        yield from settle()
        assert first.is_finished
        assert second.is_finished

    reactor.run(play())


def closes(_query: BlockingQuery, reply: BlockingReply) -> None:
    with reply:
        reply.write(b"all")


def writes_text(_query: BlockingQuery, reply: BlockingReply) -> None:
    io.TextIOWrapper(reply).write("all")  # closes the reply when it is dropped


def detaches_query(query: BlockingQuery, reply: BlockingReply) -> None:
    reply.write(b"all")
    query.detach()


@pytest.mark.parametrize("function", [closes, writes_text, detaches_query])
def test_a_function_may_close_its_files(reactor: Reactor, function: BlockingFunction) -> None:
    service, reply = BlockingService(function, threads=1), FakeReply()

    def play() -> Service[None]:
        handle = yield from ask(service, FakeQuery(), reply)
        yield from settle()
        hold_until(lambda: service.slots.free == 1)
        yield from handle.join()

    reactor.run(play())
    assert reply.got == b"all"


def test_a_detached_reply_fails_the_query_and_frees_the_slot(reactor: Reactor) -> None:
    def detaches(_query: BlockingQuery, reply: BlockingReply) -> None:
        reply.detach()

    service = BlockingService(detaches, threads=1)

    def play() -> Service[None]:
        handle = yield from ask(service, FakeQuery(), FakeReply())
        yield from settle()
        hold_until(lambda: service.slots.free == 1)
        with pytest.raises(ValueError, match="detached"):
            yield from handle.join()

    reactor.run(play())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_exit_raised_by_a_function_fails_its_query(reactor: Reactor, error: BaseException) -> None:
    def leaves(query: Any, reply: Any) -> None:
        reply.write(b"lost")
        raise error

    def play() -> Service[None]:
        handle = yield from ask(BlockingService(leaves), FakeQuery(), FakeReply())
        yield from settle()
        with pytest.raises(RuntimeError, match=rf"leaves\(\) at .* ended with {type(error).__name__}"):
            yield from handle.join()

    reactor.run(play())


def test_a_service_without_a_queue_serves_one_query_per_thread(reactor: Reactor) -> None:
    service = BlockingService(lambda query, _reply: len(query.read()), threads=2, waiting=0)

    def play() -> Service[None]:
        queries, handles = (FakeQuery(), FakeQuery()), []
        for query in queries:
            handles.append((yield from ask(service, query, FakeReply())))
        yield from settle()
        with pytest.raises(TableFull, match="0 queries wait"):
            yield from service.handle(FakeQuery(), FakeReply())
        for query in queries:
            yield from query.pieces.send(b"")
        yield from settle()
        hold_until(lambda: service.slots.free == 2)
        for handle in handles:
            yield from handle.join()

    reactor.run(play())
