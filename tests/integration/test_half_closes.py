"""Either end of a stream may end its half first, and its resources end with it: with each kind of client."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from reactor import Service, Signal
from tests.integration.client_kinds import play, run
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, ReplyMode
from tunnel.client import Client
from tunnel.errors import LocalTunnelError, QueryFailed, SubStreamReset
from tunnel.established import SubStream
from tunnel.services import Echo, InnerService, Query, Reply, Services, Tunnel, blocking

pytestmark = pytest.mark.full

Steps = Generator[Any, Any, Any]
LIMITS = Limits(linger_s=1.0, answer_s=5.0)
GOT: list[bytes] = []
BIG = bytes(400_000)  # more than all windows of a sub-stream hold


def early(query: Query, reply: Reply) -> Service[None]:
    """Answers without reading the query, and returns."""
    yield from reply.write(b"no thanks")


def ended(query: Query, reply: Reply) -> Service[None]:
    """Ends its reply, and then continues to read."""
    yield from reply.write(b"go on")
    yield from reply.end()
    yield from reply.end()
    got = b""
    while data := (yield from query.read()):
        got += data
    GOT.append(got)


@blocking
def ended_in_a_thread(query: Any, reply: Any) -> None:
    reply.write(b"go on")
    reply.end()
    GOT.append(query.read())


def large(query: Query, reply: Reply) -> Service[None]:
    yield from reply.write(BIG)


def stuck(query: Query, reply: Reply) -> Service[None]:
    yield Signal()  # never set


def write_after_end(query: Query, reply: Reply) -> Service[None]:
    yield from reply.end()
    try:
        yield from reply.write(b"more")
    except LocalTunnelError as error:
        GOT.append(str(error).encode())


class Named(Services):
    """Services that also serve messages without a name: the first byte chooses."""


SERVICES = Named(
    {
        "early": early,
        "ended": ended,
        "thread": ended_in_a_thread,
        "large": large,
        "stuck": stuck,
        "echo": Echo(),
        "after": write_after_end,
    }
)


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4, service=SERVICES, limits=LIMITS) as net:
        yield net


@pytest.fixture(autouse=True)
def nothing_got() -> None:
    GOT.clear()


def message(name: str, content: bytes = b"") -> bytes:
    return bytes([len(name)]) + name.encode() + content


def core_of(stream: Any) -> SubStream[Signal]:
    """The tunnel's state machine of a client's sub-stream."""
    held = getattr(stream, "inner", stream)
    core: SubStream[Signal] = held.core
    return core


def read_all(stream: Any) -> Steps:
    got = b""
    while data := (yield lambda: stream.read()):
        got += data
    return got


# -- sub-streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.0\r\n\r\n"])
def test_a_service_that_has_answered_ends_its_half_while_the_other_is_open(
    kind: str, net: LocalNetwork, sent: bytes
) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("early")
        yield lambda: stream.write(sent)
        got = yield from read_all(stream)
        stream.close()
        assert (yield lambda: stream.read()) == b""
        report = yield lambda: tunnel.close()
        return got, report.succeeded

    assert run(kind, net, scenario) == (b"no thanks", True)


def test_a_client_that_sends_to_a_service_that_has_answered_is_not_blocked(
    kind: str, net: LocalNetwork
) -> None:
    """Its data is discarded, and the answer stays readable."""

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("early")
        for _ in range(3):
            yield lambda: stream.write(BIG)
        stream.close()
        got = yield from read_all(stream)
        yield lambda: tunnel.close()
        return got

    assert run(kind, net, scenario) == b"no thanks"


@pytest.mark.full
def test_an_unread_half_is_refused_after_a_while_and_the_answer_stays(kind: str, net: LocalNetwork) -> None:
    """The idle client's slot is freed. It can read the whole answer, and gets an error when it writes."""

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("early")
        core = core_of(stream)
        while not core.has_ended:
            yield lambda: tunnel.ask(message("echo"))
        with pytest.raises(SubStreamReset):
            yield lambda: stream.write(b"are you there")
        got = yield from read_all(stream)
        yield lambda: tunnel.close()
        return got

    assert run(kind, net, scenario) == b"no thanks"


@pytest.mark.parametrize("name", ["ended", "thread"])
def test_a_service_ends_its_reply_and_reads_on(kind: str, net: LocalNetwork, name: str) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open(name)
        got = yield from read_all(stream)
        yield lambda: stream.write(b"the rest")
        stream.close()
        yield lambda: tunnel.close()
        return got

    assert run(kind, net, scenario) == b"go on"
    assert GOT == [b"the rest"]


def test_the_client_that_ends_its_half_first_gets_all_of_the_answer(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("large")
        stream.close()
        got = yield from read_all(stream)
        yield lambda: tunnel.close()
        return got == BIG

    assert run(kind, net, scenario)


def test_an_answer_that_is_read_late_is_whole(kind: str, net: LocalNetwork) -> None:
    """The service has returned, and its node has stopped waiting, before the first byte is read."""

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("large")
        for _ in range(20):
            yield lambda: tunnel.ask(message("echo"))
        got = yield from read_all(stream)
        yield lambda: tunnel.close()
        return got == BIG

    assert run(kind, net, scenario)


# -- messages and one-shot queries -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["early", "ended", "thread"])
def test_the_answer_to_a_message_ends_before_the_message(kind: str, net: LocalNetwork, name: str) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        yield lambda: tunnel.write(message(name, b"begun"))
        yield lambda: tunnel.flush()
        assert (yield lambda: tunnel.next_message())
        got = yield from read_all(tunnel)
        yield lambda: tunnel.write(BIG)
        yield lambda: tunnel.end_message()
        assert (yield lambda: tunnel.ask(message("echo", b"next"))) == b"next"
        yield lambda: tunnel.close()
        return got

    assert run(kind, net, scenario) == (b"no thanks" if name == "early" else b"go on")
    assert ([] if name == "early" else [b"begun" + BIG]) == GOT


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.CACHED])
@pytest.mark.parametrize("name", ["early", "ended", "thread"])
def test_the_reply_to_a_query_ends_before_the_query(
    kind: str, net: LocalNetwork, name: str, mode: ReplyMode
) -> None:
    may_go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"begun"
        yield bytes(100_000)
        assert may_go_on.wait(PATIENCE_S)
        yield b"ended"

    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(net[3].id, pieces(), service=name, hops=1, mode=mode)
        got = yield from read_all(reply)
        assert not may_go_on.is_set()
        may_go_on.set()
        result = yield lambda: reply.result()
        assert (yield lambda: reply.read()) == b""
        return got, result.query_bytes

    expected = b"no thanks" if name == "early" else b"go on"
    assert run(kind, net, scenario) == (expected, 100_011 + len(name))
    assert ([] if name == "early" else [b"begun" + bytes(100_000) + b"ended"]) == GOT


def test_writing_after_the_end_of_a_reply_is_an_error(net: LocalNetwork) -> None:
    client = Client(net[0])
    assert client.query(net[3].id, service="after", hops=0).result(PATIENCE_S).read() == b""
    with client.tunnel(net[3].id, hops=0) as tunnel:
        assert tunnel.ask(message("after"), timeout_s=PATIENCE_S) == b""
        stream = tunnel.open("after")
        assert stream.read(timeout_s=PATIENCE_S) == b""
        wait_until(net, lambda: len(GOT) == 3)
    assert [text.split()[0:2] for text in GOT] == [[b"write", b"after"]] * 3


def test_a_service_that_has_left_its_tunnel_does_not_block_the_sender(kind: str) -> None:
    class Leaving(InnerService):
        def handle(self, query: Query, reply: Reply) -> Service[None]:
            yield from ()

        def tunnel(self, tunnel: Tunnel) -> Service[None]:
            yield from tunnel.send(b"bye")

    with LocalNetwork(peers=2, service=Leaving(), limits=LIMITS) as net:

        def scenario(client: Any) -> Steps:
            tunnel = yield lambda: client.tunnel(net[1].id, hops=0)
            assert (yield lambda: tunnel.receive()) == b"bye"
            assert (yield lambda: tunnel.receive()) is None
            yield lambda: tunnel.send(BIG)
            return (yield lambda: tunnel.close())

        assert run(kind, net, scenario).succeeded


# -- ends of tunnels -------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", ["echo", "early", "large", "stuck"])
def test_closing_a_tunnel_ends_its_sub_streams(kind: str, net: LocalNetwork, name: str) -> None:
    """Long before its answer limit, and whatever the service at the other end does."""

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open(name)
        yield lambda: stream.write(b"x")
        report = yield lambda: tunnel.close()
        with pytest.raises((LocalTunnelError, SubStreamReset, QueryFailed)):
            yield lambda: stream.write(b"more")
        return report.succeeded

    assert run(kind, net, scenario)


def test_data_written_to_a_sub_stream_arrives_although_the_tunnel_is_closed(
    kind: str, net: LocalNetwork
) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("ended")
        yield lambda: stream.write(b"the last words")
        yield lambda: tunnel.close()

    run(kind, net, scenario)
    assert GOT == [b"the last words"]


def test_a_client_that_has_stopped_sending_still_receives(kind: str) -> None:
    class Counting(InnerService):
        """Answers when all messages have arrived."""

        def handle(self, query: Query, reply: Reply) -> Service[None]:
            yield from ()

        def tunnel(self, tunnel: Tunnel) -> Service[None]:
            count = 0
            while (yield from tunnel.receive()) is not None:
                count += 1
            for number in range(count):
                yield from tunnel.send(b"%d" % number)

    with LocalNetwork(peers=2, service=Counting(), limits=LIMITS) as net:

        def scenario(client: Any) -> Steps:
            tunnel = yield lambda: client.tunnel(net[1].id, hops=0)
            for _ in range(3):
                yield lambda: tunnel.send(b"x")
            yield lambda: tunnel.stop_sending()
            with pytest.raises(LocalTunnelError):
                yield lambda: tunnel.send(b"more")
            got = []
            while (answer := (yield lambda: tunnel.receive())) is not None:
                got.append(answer)
            assert (yield lambda: tunnel.receive()) is None
            report = yield lambda: tunnel.close()
            return got, report.succeeded

        assert run(kind, net, scenario) == ([b"0", b"1", b"2"], True)


def test_closing_a_tunnel_waits_for_a_message_that_another_thread_sends(net: LocalNetwork) -> None:
    tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
    errors: list[Exception] = []

    def send() -> None:
        try:
            tunnel.send(message("ended", 10 * BIG))
        except QueryFailed as error:
            errors.append(error)

    core = tunnel.inner.core
    sender = threading.Thread(target=send)
    sender.start()
    wait_until(net, lambda: core.table.messages.outgoing.is_inside_message)
    report = tunnel.close(timeout_s=PATIENCE_S)
    sender.join(PATIENCE_S)
    assert not errors
    assert report is not None
    assert report.succeeded
    assert GOT == [10 * BIG]
    wait_until_idle(net)


def test_closing_inside_a_message_in_pieces_is_refused_immediately(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        yield lambda: tunnel.write(message("echo", b"begun"))
        with pytest.raises(LocalTunnelError, match="inside a message"):
            yield lambda: tunnel.close()
        tunnel.give_up()

    run(kind, net, scenario)


@pytest.mark.parametrize("is_in_order", [True, False])
def test_a_sub_stream_is_a_context(kind: str, net: LocalNetwork, is_in_order: bool) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("ended")
        yield lambda: stream.write(b"within")
        error = None if is_in_order else ZeroDivisionError()
        leave = getattr(stream, "__aexit__", None) or stream.__exit__
        yield lambda: leave(type(error), error, None)
        yield lambda: tunnel.ask(message("echo"))
        yield lambda: tunnel.close()

    run(kind, net, scenario)
    assert ([b"within"] if is_in_order else []) == GOT


# -- what is dropped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["tunnel", "sub-stream", "reply"])
def test_a_dropped_reply_is_released_with_a_warning(kind: str, net: LocalNetwork, what: str) -> None:
    def scenario(client: Any) -> Steps:
        if what == "reply":
            reply = yield lambda: client.ask(net[3].id, service="stuck", hops=1)
            del reply
        else:
            tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
            yield lambda: tunnel.ask(message("echo"))
            if what == "sub-stream":
                stream = yield lambda: tunnel.open("stuck")
                del stream
                yield lambda: tunnel.ask(message("echo"))  # nothing else holds the stream any more
                gc.collect()
                yield lambda: tunnel.close()
            del tunnel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        play(kind, net, scenario)
        gc.collect()
        wait_until_idle(net)
    texts = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert [text for text in texts if what in text and "dropped" in text], texts


def test_objects_dropped_by_a_thread_are_released_without_the_garbage_collector(net: LocalNetwork) -> None:
    client = Client(net[0])
    client.query(net[3].id, service="early", hops=1).result(PATIENCE_S)
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            client.tunnel(net[3].id, hops=1)
            client.ask(net[3].id, service="stuck", hops=1)
            wait_until_idle(net)
    finally:
        gc.enable()


def test_a_closed_reply_is_dropped_without_a_warning(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
        stream = yield lambda: tunnel.open("ended")
        yield lambda stream=stream: stream.write(b"fire and forget")
        stream.close()
        del stream
        yield lambda: tunnel.ask(message("echo"))
        gc.collect()
        yield lambda: tunnel.close()
        reply = yield lambda: client.ask(net[3].id, service="early", hops=1)
        yield from read_all(reply)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(kind, net, scenario)
        gc.collect()
    assert not [each for each in caught if "dropped" in str(each.message)]
    assert GOT == [b"fire and forget"]


def test_sub_streams_of_an_aborted_tunnel_are_dropped_without_a_warning(kind: str, net: LocalNetwork) -> None:
    """An error that leaves the block of a tunnel is the cause, so its sub-streams cause no warnings."""

    def scenario(client: Any) -> Steps:
        for _ in range(5):
            tunnel = yield lambda: client.tunnel(net[3].id, hops=1)
            stream = yield lambda tunnel=tunnel: tunnel.open("stuck")
            yield lambda stream=stream: stream.write(b"x")
            tunnel.give_up()
            del tunnel, stream
            gc.collect()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(kind, net, scenario)
        gc.collect()
    assert not [each for each in caught if "dropped" in str(each.message)]
