"""The client API: the same scenarios with each kind of client, and the features of single kinds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from reactor import YIELD, BadRequest, Busy, Closed, Reactor, Service, Sleep, TimedOut, timeout_after
from reactor.run.aio import EmbeddedReactor
from tests.integration.client_kinds import play, run
from tests.integration.client_services import BIG, SERVICES, client_pause, message, stuck
from tests.support.network import PATIENCE_S, assert_works, wait_until_idle
from tunnel import Limits, LocalNetwork, Node, QueryFailed, ReplyMode
from tunnel.client import Client, ServiceClient, list_files
from tunnel.client.aio import AsyncClient
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, FrameTruncated, LocalTunnelError
from tunnel.identity.keys import NodeKeys
from tunnel.node.tunnels.tunnel import NodeTunnel

Steps = Generator[Any, Any, Any]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=5, service=SERVICES) as net:
        yield net


# -- queries ---------------------------------------------------------------------------------------------


def test_query(kind: str, net: LocalNetwork) -> None:
    seen = []

    def scenario(client: Any) -> Steps:
        result = yield lambda: client.query(
            net[4].id, b"quiet", service="upper", hops=2, progress=lambda *counts: seen.append(counts)
        )
        return result.read(), result.mode

    assert run(kind, net, scenario) == (b"QUIET", ReplyMode.ROUTE)
    if kind != "asyncio":  # whose loop delivers the progress, perhaps after the result
        assert seen[-1] == (len(b"quiet") + 6, len(b"quiet"))


@pytest.mark.parametrize("content", ["bytes", "file", "iterator", "service", "empty"])
def test_a_reply_is_read_while_it_arrives(kind: str, net: LocalNetwork, content: str, tmp_path: Any) -> None:
    path = tmp_path / "content"
    path.write_bytes(BIG)
    pieces = [BIG[i : i + 70_001] for i in range(0, len(BIG), 70_001)]
    left = list(pieces)

    def service() -> Service[bytes]:
        yield Sleep(0)
        return left.pop(0) if left else b""

    def scenario(client: Any) -> Steps:
        given: Any = {
            "bytes": BIG,
            "file": path.open("rb"),
            "iterator": iter(pieces),
            "service": service,
            "empty": iter([b"", b""]),
        }
        reply = yield lambda: client.ask(net[4].id, given[content], service="echo", hops=2)
        got = []
        while data := (yield lambda: reply.read()):
            got.append(data)
        result = yield lambda: reply.result()
        given["file"].close()
        return b"".join(got), result.query_bytes

    expected = b"" if content == "empty" else BIG
    assert run(kind, net, scenario) == (expected, len(expected) + 5)


def test_a_part_of_the_reply_is_here_before_the_query_has_ended(kind: str, net: LocalNetwork) -> None:
    """Each piece fills a chunk, and is sent after the answer to the previous one was read."""
    answered = threading.Semaphore(0)

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 40_000
            assert answered.acquire(timeout=PATIENCE_S)

    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(net[4].id, pieces(), service="upper", hops=1)
        rounds = count = 0
        while data := (yield lambda: reply.read()):
            assert set(data) == {ord("X")}
            count += len(data)
            while count > rounds * 40_000:
                rounds += 1
                answered.release()
        return count

    assert run(kind, net, scenario) == 120_000


def test_an_iterator_that_fails_is_the_users_error(kind: str, net: LocalNetwork) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError("disk on fire")

    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(net[4].id, pieces(), service="echo", hops=1)
        data = b"begin"
        with pytest.raises(OSError, match="disk on fire"):  # noqa: PT012 - after any number of pieces
            while data:
                data = yield lambda: reply.read()
        with pytest.raises(OSError, match="disk on fire"):
            yield lambda: reply.result()

    run(kind, net, scenario)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), GeneratorExit()])
def test_an_iterator_that_leaves_its_thread_does_not_pass_for_the_end(
    kind: str, net: LocalNetwork, error: BaseException
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise error

    def scenario(client: Any) -> Steps:
        with pytest.raises(LocalTunnelError, match=f"iterator ended with {type(error).__name__}"):
            yield lambda: client.query(net[4].id, pieces(), service="echo", hops=1)

    run(kind, net, scenario)


def test_a_failed_query_raises_where_its_reply_is_read(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(net[4].id, b"x", service="failing", hops=1)
        with pytest.raises(QueryFailed, match="SERVICE_FAILED") as caught:
            yield lambda: reply.read()
        with pytest.raises(QueryFailed, match="TARGET_NOT_ALLOWED"):
            yield lambda: client.query(net[4].id, b"x", service="unknown", hops=1)
        with pytest.raises(QueryFailed, match="BAD_REQUEST"):
            yield lambda: client.query(net[4].id, b"\0x", hops=1)
        return caught.value.code

    assert run(kind, net, scenario) is ErrorCode.SERVICE_FAILED


@pytest.mark.full
@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_reply_that_is_cancelled(kind: str, net: LocalNetwork, how: str) -> None:
    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(net[4].id, b"", service="stuck", hops=2)
        assert (yield lambda: reply.read()) == b"begun"
        if how == "cancel":
            reply.cancel()
            with pytest.raises(QueryFailed) as caught:
                yield lambda: reply.read()
            assert caught.value.code is ErrorCode.CANCELLED
        elif hasattr(reply, "__aexit__"):
            yield lambda: reply.__aexit__(None, None, None)
        else:
            reply.__exit__(None, None, None)

    run(kind, net, scenario)


@pytest.mark.full
def test_a_query_that_takes_too_long(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        with pytest.raises(QueryFailed, match=r"within 0\.2 s") as caught:
            yield lambda: client.query(net[4].id, b"", service="stuck", hops=1, timeout_s=0.2)
        return caught.value.code

    assert run(kind, net, scenario) is ErrorCode.TIMEOUT


@pytest.mark.full
def test_a_reader_that_waits_holds_up_the_sender(kind: str) -> None:
    """Data in transit is bounded: while the reply is not read, the source is not read to its end."""
    given = 0

    def pieces() -> Iterator[bytes]:
        nonlocal given
        for _ in range(400):
            given += 1
            yield bytes(65_536)

    with LocalNetwork(peers=3) as net:

        def scenario(client: Any) -> Steps:
            reply = yield lambda: client.ask(net[2].id, pieces(), hops=1)
            yield lambda: reply.read(1)
            before = -1
            while before != given:  # until nothing moves
                before = given
                yield lambda: client_pause(kind)
            held = given
            count = 1
            while data := (yield lambda: reply.read()):
                count += len(data)
            return held, count

        held, count = play(kind, net, scenario)
    assert held < 200  # 13 MB: the windows of two links in both directions, and the buffers of both ends
    assert count == 400 * 65_536


def test_things_that_are_not_content(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        for content in ("text", 5, None):
            with pytest.raises(TypeError, match="content is bytes"):
                yield lambda content=content: client.query(net[4].id, content, service="echo", hops=1)
        with pytest.raises(TypeError, match=r"a piece of the content: .* got str"):
            yield lambda: client.query(net[4].id, iter(["text"]), service="echo", hops=1)

    run(kind, net, scenario)


# -- what only one kind can do ---------------------------------------------------------------------------


def test_threads_time_out_and_lose_nothing(net: LocalNetwork) -> None:
    client = Client(net[0])
    with client.tunnel(net[4].id, hops=1) as tunnel:
        tunnel.write(message("upper", b"half a message"))
        tunnel.flush()
        with pytest.raises(TimedOut):
            tunnel.receive(timeout_s=0.3)  # the received half is kept
        tunnel.end_message()
        assert tunnel.receive(timeout_s=PATIENCE_S) == b"HALF A MESSAGE"
        with pytest.raises(TimeoutError):
            tunnel.next_message(timeout_s=0.05)
    with client.ask(net[4].id, b"", service="stuck", hops=1) as reply:
        assert reply.read() == b"begun"
        with pytest.raises(TimedOut):
            reply.read(timeout_s=0.05)
    wait_until_idle(net)


def test_threads_iterate(net: LocalNetwork) -> None:
    client = Client(net[0])
    with client.ask(net[4].id, BIG, service="echo", hops=1) as reply:
        assert b"".join(reply) == BIG

    with client.tunnel(net[4].id, hops=1) as tunnel:

        def send() -> None:
            for number in range(50):
                tunnel.send(message("echo", b"%d" % number))

        sender = threading.Thread(target=send)
        sender.start()
        got = []
        for text in tunnel:
            got.append(text)
            if len(got) == 50:
                break
        sender.join()
    assert got == [b"%d" % i for i in range(50)]
    with pytest.raises(ZeroDivisionError), client.tunnel(net[4].id, hops=1):
        raise ZeroDivisionError  # gives the tunnel up
    wait_until_idle(net)


def test_a_cancelled_future_cancels_the_query(net: LocalNetwork) -> None:
    future = Client(net[0]).query(net[4].id, b"", service="stuck", hops=1)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    wait_until_idle(net)


def test_a_send_that_is_cut_in_the_middle_gives_the_tunnel_up(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[4].id, hops=1) as tunnel:
        with pytest.raises(TimedOut):
            tunnel.send(message("stuck", BIG), timeout_s=0.3)
        with pytest.raises(QueryFailed):
            tunnel.send(b"more")
    wait_until_idle(net)


def test_asyncio_iterates_and_streams(net: LocalNetwork) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for i in range(0, len(BIG), 100_000):
            await asyncio.sleep(0)
            yield BIG[i : i + 100_000]
            yield b""

    async def main() -> None:
        async with AsyncClient(net[0]) as client:
            async with await client.ask(net[4].id, pieces(), service="echo", hops=1) as reply:
                assert b"".join([data async for data in reply]) == BIG
            result = await client.query(net[4].id, pieces(), service="echo", hops=1)
            assert result.read() == BIG
            result.close()
            async with await client.tunnel(net[4].id, hops=1) as tunnel:

                async def send() -> None:
                    for number in range(50):
                        await tunnel.send(message("echo", b"%d" % number))

                sending = asyncio.create_task(send())
                got = []
                async for text in tunnel:
                    got.append(text)
                    if len(got) == 50:
                        break
                await sending
                assert got == [b"%d" % i for i in range(50)]

    asyncio.run(main())
    wait_until_idle(net)


def test_asyncio_times_out_and_cancels(net: LocalNetwork) -> None:
    async def main() -> None:
        async with AsyncClient(net[0]) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.query(net[4].id, b"", service="stuck", hops=1)
            async with await client.ask(net[4].id, b"", service="stuck", hops=1) as reply:
                assert await reply.read() == b"begun"
                task = asyncio.create_task(reply.read())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(main())
    wait_until_idle(net)


@pytest.mark.full
@pytest.mark.parametrize("left_with", ["query", "read", "tunnel"])
def test_leaving_an_asyncio_client_does_not_look_like_a_stopped_node(
    net: LocalNetwork, left_with: str
) -> None:
    async def main() -> None:
        async with AsyncClient(net[0]) as client:
            reply = await client.ask(net[4].id, b"", service="stuck", hops=1)
            assert await reply.read() == b"begun"
            tunnel = await client.tunnel(net[4].id, hops=1)
            calls: dict[str, Callable[[], Any]] = {
                "query": lambda: client.query(net[4].id, b"", service="stuck", hops=1),
                "read": reply.read,
                "tunnel": tunnel.receive,
            }
            task = asyncio.create_task(calls[left_with]())
            await asyncio.sleep(0)
        with pytest.raises(Closed, match="client was closed"):
            await task
        reply.cancel()
        tunnel.give_up()

    asyncio.run(main())
    wait_until_idle(net)


def test_an_unopened_asyncio_client_is_refused(net: LocalNetwork) -> None:
    client = AsyncClient(net[0])

    async def ask() -> None:
        await client.query(net[4].id, b"", service="upper", hops=1)

    async def leave() -> None:
        async with client:
            pass
        await ask()

    with pytest.raises(BadRequest, match="the client is not open: use it in an `async with` block"):
        asyncio.run(ask())
    with pytest.raises(Closed, match="the client was closed"):
        asyncio.run(leave())


@pytest.mark.parametrize("place", [5, None, "mynet", Path("node.toml")])
@pytest.mark.parametrize("make", [Client, ServiceClient, AsyncClient])
def test_a_client_of_a_wrong_type_is_refused(make: Any, place: Any) -> None:
    with pytest.raises(TypeError, match="expected a Node, or the result of `connect`") as caught:
        make(place)
    assert f"write connect({str(place)!r})" in str(caught.value) or not isinstance(place, str | Path)
    with pytest.raises(TypeError, match="expected a Node"):
        list_files(place, bytes(32))


def test_an_unknown_option_of_a_tunnel_is_refused(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        with pytest.raises(TypeError, match="unknown option 'hop': did you mean 'hops'"):
            yield lambda: client.tunnel(net[4].id, hop=2)

    run(kind, net, scenario)


def test_threads_limit_the_time_to_open_a_tunnel(net: LocalNetwork) -> None:
    with pytest.raises(TimedOut):
        Client(net[0]).tunnel(net[4].id, hops=2, timeout_s=0.0)
    with Client(net[0]).tunnel(net[4].id, hops=2, timeout_s=PATIENCE_S) as tunnel:
        assert tunnel.ask(message("echo", b"in time")) == b"in time"


@pytest.mark.parametrize("content", [b"", b"\x78", b"\x04ech", b"\x02a b"])
def test_a_query_without_a_service_name_explains_how_to_give_it(net: LocalNetwork, content: bytes) -> None:
    with pytest.raises(QueryFailed, match=r"does not begin with the name of a service.*service=") as caught:
        Client(net[0]).query(net[4].id, content, hops=1).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("service", ["nothing", "failing"])
def test_a_destination_that_refuses_is_not_backed_off(net: LocalNetwork, service: str) -> None:
    """It has answered: the log must not contain "does not answer", and routes need not avoid it."""
    with pytest.raises(QueryFailed):
        Client(net[0]).query(net[4].id, b"x", service=service, hops=1).result(PATIENCE_S)
    assert net[4].id not in net[0].peers.avoided()


def test_services_bound_a_wait(net: LocalNetwork) -> None:
    def main() -> Service[None]:
        call = net[0].call(net[4].id, message("stuck", b""), hops=1)
        with (yield from net[0].ask(call)) as reply:
            assert (yield from reply.read()) == b"begun"
            with pytest.raises(TimedOut):
                yield from timeout_after(0.1, reply.read())

    net.submit(main()).result(PATIENCE_S)
    wait_until_idle(net)


def test_a_stopping_node_fails_waiting_calls() -> None:
    with LocalNetwork(peers=3, service=SERVICES) as net:
        client = Client(net[0])
        reply = client.ask(net[2].id, b"", service="stuck", hops=1)
        tunnel = client.tunnel(net[2].id, hops=1)
        assert reply.read() == b"begun"
        net.stop(0)
        with pytest.raises(QueryFailed):
            reply.read(timeout_s=PATIENCE_S)
        with pytest.raises(QueryFailed):
            tunnel.receive(timeout_s=PATIENCE_S)


def test_the_node_still_works(net: LocalNetwork) -> None:
    with LocalNetwork(peers=3) as plain:
        assert_works(plain)
    assert Client(net[0]).query(net[4].id, b"x", service="upper", hops=2).result(PATIENCE_S).read() == b"X"


def test_a_service_uses_a_tunnel_for_as_long_as_it_runs(net: LocalNetwork) -> None:
    answers = []

    def use(tunnel: NodeTunnel) -> Service[None]:
        answers.append((yield from tunnel.ask(message("upper", b"hello"))))
        with pytest.raises(FrameTruncated, match="read it in pieces"):
            yield from tunnel.ask(message("echo", b"too long"), limit_bytes=3)

    report = net[0].tunnel(net[4].id, use, hops=2).result(PATIENCE_S)
    assert report is not None
    assert report.succeeded
    assert answers == [b"HELLO"]
    wait_until_idle(net)


@pytest.mark.full
def test_the_wait_for_an_other_end_that_does_not_close_is_limited() -> None:
    with LocalNetwork(peers=3, service=stuck, limits=Limits(answer_s=1.0)) as net:
        tunnel = Client(net[0]).tunnel(net[2].id, hops=1)
        tunnel.send(b"x")
        with pytest.raises(QueryFailed, match="did not close the tunnel") as caught:
            tunnel.close(timeout_s=PATIENCE_S)
        assert caught.value.code is ErrorCode.TIMEOUT
        wait_until_idle(net)


def test_threads_of_content_end_with_their_query(net: LocalNetwork) -> None:
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(10_000)
        finally:
            closed.set()

    with Client(net[0]).ask(net[4].id, pieces(), service="echo", hops=1) as reply:
        reply.read()
    assert closed.wait(PATIENCE_S)
    wait_until_idle(net)


def test_a_node_within_the_loop_of_asyncio() -> None:
    """Nodes, services and coroutines in one thread."""

    async def main() -> bytes:
        directory = StaticDirectory()
        async with EmbeddedReactor(Reactor()) as bridge:
            nodes = [
                Node(NodeKeys.generate(time.time()), directory, reactor=bridge.reactor, service=SERVICES)
                for _ in range(3)
            ]
            for node in nodes:
                directory.publish(node.descriptor)
            serving = [bridge.spawn(node.serve()) for node in nodes]
            async with AsyncClient(nodes[0], bridge=bridge) as client:
                result = await client.query(nodes[2].id, b"one thread", service="upper", hops=1)
                async with await client.tunnel(nodes[2].id, hops=1) as tunnel:
                    answer = await tunnel.ask(message("echo", b" for all"))
            for handle in serving:
                bridge.reactor.post(handle.cancel)
            for handle in serving:
                while not handle.is_finished:
                    await asyncio.sleep(0.001)
            bridge.reactor.close()
            return result.read() + (answer or b"")

    assert asyncio.run(main()) == b"ONE THREAD for all"


def test_a_client_for_threads_refuses_the_reactors_own_thread(net: LocalNetwork) -> None:
    """The thread would wait for itself, and all nodes of the reactor with it."""

    def service() -> Service[None]:
        client = Client(net[0])
        for call in (
            lambda: client.query(net[4].id, b"x", hops=0).result(),
            lambda: client.tunnel(net[4].id, hops=0),
            lambda: client.ask(net[4].id, b"x", hops=0),
        ):
            with pytest.raises(Busy, match="yield from"):
                call()
        yield YIELD

    net.submit(service()).result(PATIENCE_S)
    wait_until_idle(net)


def test_an_asyncio_client_that_was_not_entered_raises_with_a_hint(net: LocalNetwork) -> None:
    with pytest.raises(BadRequest, match="async with"):
        asyncio.run(AsyncClient(net[0]).query(net[4].id, b"x", hops=0))
