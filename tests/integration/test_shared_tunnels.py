"""One tunnel, sub-stream or reply with several concurrent users, and the error of each when it breaks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from reactor import Service, Signal, TimedOut
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, QueryFailed, Route
from tunnel.client import Client
from tunnel.client.aio import AsyncClient
from tunnel.errors import ErrorCode, FrameTruncated, LocalTunnelError, PeerError
from tunnel.established import EstablishedTunnel, Target, TargetKind
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.node.waits import Turn
from tunnel.services import Echo, Query, Reply, Services

BIG = 200_000
GATE = Signal()


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())


def upper_at_end(query: Query, reply: Reply) -> Service[None]:
    """Answers when it has the whole query, so that the asking side has sent it."""
    content = bytearray()
    while chunk := (yield from query.read()):
        content += chunk.upper()
    yield from reply.write(bytes(content))


def gated(query: Query, reply: Reply) -> Service[None]:
    """Answers when the test releases it."""
    while chunk := (yield from query.read()):
        yield from reply.write(chunk)
    yield GATE


SERVICES = Services({"upper": upper, "upper-at-end": upper_at_end, "gated": gated, "echo": Echo()})


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4, service=SERVICES, limits=Limits(linger_s=1.0)) as net:
        yield net


def message(name: str, content: bytes = b"") -> bytes:
    return bytes([len(name)]) + name.encode() + content


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """The result or error of each function; they run in threads that start simultaneously."""
    barrier = threading.Barrier(len(functions))
    outcomes: list[Any] = [None] * len(functions)

    def run(number: int, function: Callable[[], Any]) -> None:
        barrier.wait(PATIENCE_S)
        try:
            outcomes[number] = function()
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return outcomes


def test_messages_of_several_threads_stay_whole(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        count = 4

        def send(letter: bytes) -> Callable[[], None]:
            return lambda: tunnel.send(message("upper", letter * BIG), timeout_s=PATIENCE_S)

        def receive() -> bytes | None:
            return tunnel.receive(timeout_s=PATIENCE_S)

        letters = [b"a", b"b", b"c", b"d"]
        outcomes = at_once(*map(send, letters), *[receive] * count)
    assert outcomes[:count] == [None] * count
    assert collections.Counter(outcomes[count:]) == collections.Counter(
        letter.upper() * BIG for letter in letters
    )
    wait_until_idle(net)


def test_each_ask_gets_its_own_answer_from_threads_and_tasks(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        asks = [
            lambda n=n: tunnel.ask(message("upper", b"%d-x" % n * 10_000), timeout_s=PATIENCE_S)
            for n in range(6)
        ]
        assert at_once(*asks) == [b"%d-X" % n * 10_000 for n in range(6)]

    async def main() -> list[bytes | None]:
        async with AsyncClient(net[0]) as client, await client.tunnel(net[3].id, hops=1) as tunnel:
            asks = [tunnel.ask(message("upper", b"%d-x" % n * 10_000)) for n in range(6)]
            return list(await asyncio.gather(*asks))

    assert asyncio.run(main()) == [b"%d-X" % n * 10_000 for n in range(6)]
    wait_until_idle(net)


@pytest.mark.full
@pytest.mark.parametrize("then", ["ask", "receive"])
def test_the_answer_to_an_ask_that_timed_out_is_for_no_other_ask(net: LocalNetwork, then: str) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        with pytest.raises(TimedOut):
            tunnel.ask(message("gated", b"late"), timeout_s=1)  # long enough for the question to leave
        net[0].reactor.post(GATE.set)
        if then == "receive":
            assert tunnel.receive(timeout_s=PATIENCE_S) == b"late"
        answers = at_once(
            *[lambda n=n: tunnel.ask(message("upper", b"x%d" % n), timeout_s=PATIENCE_S) for n in range(3)]
        )
        assert answers == [b"X0", b"X1", b"X2"]
    wait_until_idle(net)


def test_a_message_in_pieces_is_not_mixed_with_another(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        tunnel.write(message("upper", b"in "))
        for call in (tunnel.send, tunnel.ask):
            with pytest.raises(LocalTunnelError, match="end_message"):
                call(message("upper", b"whole"), timeout_s=PATIENCE_S)
        tunnel.write(b"pieces")
        tunnel.end_message()
        assert tunnel.receive(timeout_s=PATIENCE_S) == b"IN PIECES"
        assert tunnel.ask(message("upper", b"whole"), timeout_s=PATIENCE_S) == b"WHOLE"
    wait_until_idle(net)


@pytest.mark.parametrize("way", ["message", "sub-stream"])
def test_the_bytes_of_one_write_stay_together(way: str, net: LocalNetwork) -> None:
    """However many threads write, and however often each of the writes has to wait."""
    tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
    if way == "message":
        tunnel.write(message("upper-at-end"))
        writer: Any = tunnel
    else:
        writer = tunnel.open("upper-at-end")
    pieces = [bytes([letter]) * BIG for letter in b"ABCDEFGH"]
    outcomes = at_once(*(partial(writer.write, piece, timeout_s=PATIENCE_S) for piece in pieces))
    assert outcomes == [None] * len(pieces)
    if way == "message":
        tunnel.end_message(timeout_s=PATIENCE_S)
        content = tunnel.receive(limit_bytes=1 << 24, timeout_s=PATIENCE_S)
    else:
        writer.close()
        content = b"".join(iter(lambda: writer.read(timeout_s=PATIENCE_S), b""))
    assert content is not None
    assert sorted(content[start : start + BIG] for start in range(0, len(content), BIG)) == pieces
    tunnel.give_up()


def test_a_long_answer_that_ends_its_question_is_explained(net: LocalNetwork) -> None:
    """The answer begins before the question has ended. Refusing it cuts the question, and so the tunnel."""
    with pytest.raises(QueryFailed) as cut, Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        tunnel.ask(message("echo", bytes(64 * BIG)), 10, timeout_s=PATIENCE_S)
    assert "TRUNCATED at this node" in str(cut.value)
    assert "more than 10 bytes: read it in pieces" in str(cut.value)
    wait_until_idle(net)


@pytest.mark.parametrize("call", ["receive", "ask"])
def test_a_message_that_was_too_long_is_read_in_pieces_from_its_beginning(
    net: LocalNetwork, call: str
) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        sent = message("upper-at-end", b"a" * BIG)
        if call == "receive":
            tunnel.send(sent, timeout_s=PATIENCE_S)
        arguments = (sent, 10) if call == "ask" else (10,)
        with pytest.raises(FrameTruncated, match="read it in pieces"):
            getattr(tunnel, call)(*arguments, timeout_s=PATIENCE_S)
        got = b""
        while piece := tunnel.read(1_000, timeout_s=PATIENCE_S):
            assert len(piece) <= 1_000
            got += piece
        assert got == b"A" * BIG
        assert tunnel.ask(message("upper", b"next"), timeout_s=PATIENCE_S) == b"NEXT"
    wait_until_idle(net)


def test_a_message_that_was_too_long_is_received_whole_under_a_higher_limit_only(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        tunnel.send(message("upper", b"a" * 5_000), timeout_s=PATIENCE_S)
        for limit_bytes in (10, 4_999):
            with pytest.raises(FrameTruncated):
                tunnel.receive(limit_bytes, timeout_s=PATIENCE_S)
        assert tunnel.receive(5_000, timeout_s=PATIENCE_S) == b"A" * 5_000
    wait_until_idle(net)


def test_a_sub_stream_and_a_reply_have_several_users(net: LocalNetwork) -> None:
    client = Client(net[0])
    with client.tunnel(net[3].id, hops=1) as tunnel:
        stream = tunnel.open("echo")
        pieces = [letter * BIG for letter in (b"a", b"b", b"c")]
        got: list[bytes] = []

        def read() -> None:
            end_s = time.monotonic() + PATIENCE_S
            while sum(map(len, got)) < 3 * BIG and time.monotonic() < end_s:
                with contextlib.suppress(TimedOut):  # the other reader may have got the last of it
                    got.append(stream.read(timeout_s=0.2))

        writers = [lambda piece=piece: stream.write(piece, timeout_s=PATIENCE_S) for piece in pieces]
        assert at_once(*writers, read, read) == [None] * 5
        assert collections.Counter(b"".join(got)) == collections.Counter(b"".join(pieces))
        stream.close()
        assert stream.read(timeout_s=PATIENCE_S) == b""
    with client.ask(net[3].id, bytes(3 * BIG), service="echo", hops=1) as reply:
        read_all = [lambda: sum(map(len, iter(reply.read, b"")))] * 3
        assert sum(at_once(*read_all)) == 3 * BIG
        assert [each.query_bytes for each in at_once(reply.result, reply.result)] == [3 * BIG + 5] * 2
    wait_until_idle(net)


def test_sub_streams_beyond_the_limit_wait_at_either_end() -> None:
    with LocalNetwork(peers=2, service=SERVICES, limits=Limits(linger_s=1.0)) as net:
        with Client(net[0]).tunnel(net[1].id, hops=0) as tunnel:
            held = [tunnel.open("echo") for _ in range(64)]
            opening = [lambda: tunnel.open("echo", timeout_s=PATIENCE_S)] * 3
            release = [stream.give_up for stream in held[:3]]
            opened = at_once(*opening, *release)
            assert [type(stream).__name__ for stream in opened[:3]] == ["ThreadStream"] * 3
        wait_until_idle(net)


def test_a_turn_passes_in_order_and_counts_the_gaps_before_it() -> None:
    turn = Turn()
    first, second, third, fourth = (turn.enter() for _ in range(4))
    turn.leave(second, leaves_gap=True)
    assert turn.gaps == 0  # the first caller is before it
    turn.leave(fourth)
    turn.leave(fourth)
    turn.leave(first)
    assert third.is_set
    assert turn.gaps == 1
    turn.leave(third, leaves_gap=True)
    assert turn.gaps == 2
    list(turn.wait(turn.enter()))  # the turn is free: nothing is waited for


# -- errors of all users when it breaks ------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2, 3], ids=["own", "first", "second", "last"])
def test_every_call_on_a_broken_tunnel_names_the_place(victim: int) -> None:
    """Each waiting call gets the full error, immediately."""
    with LocalNetwork(peers=4, service=SERVICES, limits=Limits(linger_s=1.0)) as net:
        route = Route((net[1].id, net[2].id), net[3].id)
        tunnel = Client(net[0]).tunnel(net[3].id, route=route)
        tunnel.ask(message("echo"))
        reading, writing = tunnel.open("gated"), tunnel.open("gated")
        calls: list[Callable[[], Any]] = [
            lambda: tunnel.receive(timeout_s=PATIENCE_S),
            lambda: tunnel.send(message("gated", bytes(10 * BIG)), timeout_s=PATIENCE_S),
            lambda: reading.read(timeout_s=PATIENCE_S),
            lambda: list(iter(reading.read, b"")),
            lambda: writing.write(bytes(100 * BIG), timeout_s=PATIENCE_S),
            lambda: net.stop(victim),
        ]
        outcomes = at_once(*calls)[:-1]
        later = at_once(
            lambda: tunnel.open("echo", timeout_s=PATIENCE_S),
            lambda: tunnel.ask(message("echo"), timeout_s=PATIENCE_S),
            lambda: tunnel.close(timeout_s=PATIENCE_S),
        )
        for error in [*outcomes, *later]:
            assert isinstance(error, QueryFailed), error
            assert any(
                place in str(error) for place in ("hop", "this node", "this end", "a place that is not known")
            ), error


def test_a_status_after_the_end_of_a_tunnel_still_names_the_hop() -> None:
    """A call that finds the tunnel ended before its node knows the reason waits for the reason."""
    with LocalNetwork(peers=3, service=SERVICES, limits=Limits(linger_s=1.0)) as net:
        began: list[bool] = []
        seen: list[BaseException] = []

        def use(tunnel: NodeTunnel) -> Service[None]:
            began.append(True)
            try:
                yield from tunnel.receive()
            except PeerError as error:
                seen.append(error)
                raise

        route = Route((net[1].id,), net[2].id)
        future = net[0].tunnel(net[2].id, use, route=route)
        wait_until(net, lambda: began and net[2].open_streams)
        net.stop(2)
        error = future.exception(PATIENCE_S)
        assert isinstance(error, QueryFailed)
        assert error.report is not None
        assert seen


def test_an_error_of_a_tunnels_user_is_not_blamed_on_a_hop(net: LocalNetwork) -> None:
    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.open(Target(TargetKind.SERVICE, b"nothing"))

    with pytest.raises(PeerError) as caught:
        net[0].tunnel(net[3].id, use, hops=1).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED
    wait_until_idle(net)


def test_a_tunnel_that_the_other_end_gave_up_opens_no_sub_stream(net: LocalNetwork) -> None:
    """The other end would never answer an OPEN that it receives after its last chunk."""
    tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
    tunnel.send(b"")  # no name of a service
    with pytest.raises(QueryFailed):
        tunnel.receive(timeout_s=PATIENCE_S)
    with pytest.raises(QueryFailed):
        tunnel.open("echo", timeout_s=PATIENCE_S)
    tunnel.give_up()
    wait_until_idle(net)


def test_a_tunnel_that_its_own_node_gives_up_raises(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores: list[EstablishedTunnel[Signal]] = []
    enter = net[0].context.tunnels.enter

    def watched(core: EstablishedTunnel[Signal]) -> None:
        cores.append(core)
        enter(core)

    monkeypatch.setattr(net[0].context.tunnels, "enter", watched)
    tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
    tunnel.ask(message("echo"))

    def give_up() -> None:
        cores[0].give_up(ErrorCode.BUSY)

    net[0].reactor.post(give_up)
    with pytest.raises(QueryFailed, match="BUSY at this node"):
        tunnel.receive(timeout_s=PATIENCE_S)
    tunnel.give_up()
    wait_until_idle(net)
