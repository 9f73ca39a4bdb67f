"""A call that is cancelled while its result arrives: the next call gets the result."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from reactor import Service
from tests.support.cancelling import cancelled_with_result
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork, QueryFailed
from tunnel.client import Client
from tunnel.client.aio import AsyncClient, AsyncTunnel
from tunnel.node.waits import UntakenBytes
from tunnel.services import Echo, Query, Reply, Services

LONG = os.urandom(100_000)


def twice(query: Query, reply: Reply) -> Service[None]:
    """Answers with a mark, which shows where the reply starts, and the query."""
    yield from reply.write(b"begin:")
    yield from reply.flush()
    while piece := (yield from query.read()):
        yield from reply.write(piece)


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=3, service=Services({"echo": Echo(), "twice": twice})) as net:
        yield net


def in_tunnel(net: LocalNetwork, use: Callable[[AsyncTunnel], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with AsyncClient(net[0]) as client, await client.tunnel(net[2].id, hops=1) as tunnel:
            return await use(tunnel)

    result = asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    wait_until_idle(net)
    return result


def message(content: bytes) -> bytes:
    return b"\x04echo" + content


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_message_goes_to_the_next_receive(net: LocalNetwork, size: int) -> None:
    first = os.urandom(size)

    async def use(tunnel: AsyncTunnel) -> Any:
        for content in (first, b"second", b"third"):
            await tunnel.send(message(content))
        for _ in range(3):
            await cancelled_with_result(tunnel.receive())
        return [await tunnel.receive() for _ in range(3)]

    assert in_tunnel(net, use) == [first, b"second", b"third"]


def test_several_messages_keep_their_order(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        contents = [b"%d" % number for number in range(5)]
        for content in contents:
            await tunnel.send(message(content))
        await cancelled_with_result(*(tunnel.receive() for _ in range(4)))
        return [await tunnel.receive() for _ in contents]

    assert in_tunnel(net, use) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_message_goes_to_a_waiting_receive(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        await tunnel.send(message(b"x"))
        first = cancelled_with_result(tunnel.receive())
        return (await asyncio.gather(first, tunnel.receive()))[1]

    assert in_tunnel(net, use) == b"x"


def test_a_message_can_be_read_in_pieces_instead(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        await tunnel.send(message(b"abcdef"))
        await tunnel.send(message(b"next"))
        await cancelled_with_result(tunnel.receive())
        await cancelled_with_result(tunnel.next_message())
        assert await tunnel.next_message()
        pieces = [await tunnel.read(4) for _ in range(4)]
        return pieces, await tunnel.receive()

    assert in_tunnel(net, use) == ([b"abcd", b"ef", b"", b""], b"next")


def test_pieces_and_the_beginning_of_a_message(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        await tunnel.send(message(LONG))
        await tunnel.send(message(b"next"))
        await cancelled_with_result(tunnel.next_message())
        assert await tunnel.next_message()
        got = []
        while True:
            await cancelled_with_result(tunnel.read(30_000))
            if not (piece := await tunnel.read(20_000)):
                break
            got.append(piece)
        assert await tunnel.next_message()
        return b"".join(got), await tunnel.read()

    assert in_tunnel(net, use) == (LONG, b"next")


def test_a_message_that_was_begun_can_be_received(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        await tunnel.send(message(LONG))
        await cancelled_with_result(tunnel.next_message())
        return await tunnel.receive()

    assert in_tunnel(net, use) == LONG


def test_an_answer_goes_to_a_receive_and_not_to_another_ask(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        await cancelled_with_result(tunnel.ask(message(b"one")))
        one = await tunnel.receive()
        await cancelled_with_result(tunnel.ask(message(b"two")))
        three = await tunnel.ask(message(b"three"))
        await tunnel.send(message(b"four"))
        return one, three, await tunnel.receive()

    assert in_tunnel(net, use) == (b"one", b"three", b"four")


def test_bytes_of_a_sub_stream_go_to_the_next_read(net: LocalNetwork) -> None:
    async def use(tunnel: AsyncTunnel) -> Any:
        async with await tunnel.open("twice") as stream:
            await stream.write(LONG)
            stream.close()
            got = b""
            while True:
                await cancelled_with_result(stream.read(30_000), stream.read(1_000))
                if not (piece := await stream.read(20_000)):
                    return got
                got += piece

    assert in_tunnel(net, use) == b"begin:" + LONG


def test_bytes_of_a_reply_go_to_the_next_read(net: LocalNetwork) -> None:
    async def main() -> bytes:
        async with (
            AsyncClient(net[0]) as client,
            await client.ask(net[2].id, LONG, service="twice", hops=1) as reply,
        ):
            got = b""
            while True:
                await cancelled_with_result(reply.read(30_000))
                if not (piece := await reply.read(20_000)):
                    return got
                got += piece

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE_S)) == b"begin:" + LONG
    wait_until_idle(net)


@pytest.mark.parametrize("what", ["query", "ask", "tunnel", "open"])
def test_everything_that_must_be_closed_is_closed(net: LocalNetwork, what: str) -> None:
    async def main() -> None:
        async with AsyncClient(net[0]) as client, await client.tunnel(net[2].id, hops=0) as tunnel:
            calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
                "query": lambda: client.query(net[2].id, bytes(2_000_000), service="echo", hops=0),
                "ask": lambda: client.ask(net[2].id, b"x", service="twice", hops=0),
                "tunnel": lambda: client.tunnel(net[2].id, hops=0),
                "open": lambda: tunnel.open("twice"),
            }
            await cancelled_with_result(calls[what]())

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))  # a ResourceWarning would fail the test
    wait_until_idle(net)


def test_a_thread_that_is_interrupted_as_its_result_arrives(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C: the wait for the future raises, although the future is complete."""
    result: Callable[..., Any] = Future.result

    def interrupted(future: Future[Any], timeout: float | None = None) -> Any:
        outcome = result(future, timeout)
        if threading.current_thread() is not threading.main_thread():
            return outcome
        raise KeyboardInterrupt

    def interrupt(call: Callable[[], object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("reactor.core.threads.ServiceFuture.result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                call()

    with Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        tunnel.send(message(b"one"))
        interrupt(tunnel.receive)
        assert tunnel.receive(timeout_s=PATIENCE_S) == b"one"
        interrupt(lambda: tunnel.ask(message(b"two")))
        assert tunnel.ask(message(b"three"), timeout_s=PATIENCE_S) == b"three"
        with tunnel.open("twice") as stream:
            interrupt(stream.read)
            assert stream.read(timeout_s=PATIENCE_S) == b"begin:"
        tunnel.send(message(b"four"))
        interrupt(tunnel.next_message)
        interrupt(tunnel.next_message)
        assert tunnel.next_message(timeout_s=PATIENCE_S)
        interrupt(tunnel.read)
        assert tunnel.read(timeout_s=PATIENCE_S) == b"four"
    wait_until_idle(net)


def test_a_message_that_arrived_before_the_tunnel_broke_is_not_lost(net: LocalNetwork) -> None:
    async def main() -> bytes | None:
        async with AsyncClient(net[0]) as client:
            tunnel = await client.tunnel(net[2].id, hops=1)
            await tunnel.send(message(b"x"))
            await cancelled_with_result(tunnel.receive())
            tunnel.give_up()
            got = await tunnel.receive()
            with pytest.raises(QueryFailed):
                await tunnel.receive()
            return got

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE_S)) == b"x"
    wait_until_idle(net)


def test_pieces_that_are_put_back_keep_their_order() -> None:
    untaken = UntakenBytes()

    def read(piece: bytes) -> tuple[int, bytes]:
        def service() -> Service[bytes]:
            return untaken.count(piece)
            yield

        with pytest.raises(StopIteration) as ended:
            next(untaken.numbered(service()))
        numbered: tuple[int, bytes] = ended.value.value
        return numbered

    pieces = [read(piece) for piece in (b"one", b"two", b"three")]
    for piece in reversed(pieces):
        untaken.put_back(*piece)
    assert [untaken.take(size) for size in (2, 3, 3, 9, 9)] == [b"on", b"e", b"two", b"three", b""]
