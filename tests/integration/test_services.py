"""Services of users: functions, several by name, blocking functions in threads, attachments."""

from __future__ import annotations

import gc
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reactor import Service
from tests.support.leaks import no_leaks
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork, QueryFailed, ReplyMode
from tunnel.client import Client, ServiceClient
from tunnel.errors import ErrorCode, LocalTunnelError, SubStreamReset
from tunnel.node.tunnels.tunnel import checked_target
from tunnel.services import (
    AttachmentLimits,
    BlockingQuery,
    BlockingReply,
    BlockingService,
    Echo,
    Query,
    Reply,
    Services,
    blocking,
    pack_attachments,
    save_attachments,
    service_prefix,
)
from tunnel.services.partial_file import PartialFile

BIG = os.urandom(900_000)


def ask(net: LocalNetwork, content: Any, **options: Any) -> bytes:
    return net[0].query(net[len(net) - 1].id, content, hops=1, **options).result(PATIENCE_S).read()


# -- functions and names -----------------------------------------------------------------------------------


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())


def test_a_function_is_a_service() -> None:
    with LocalNetwork(peers=3, service=upper) as net:
        assert ask(net, b"quiet") == b"QUIET"


def test_things_that_are_not_services(caplog: pytest.LogCaptureFixture) -> None:
    for wrong in (5, "service", Echo):
        with pytest.raises(TypeError, match="a service is"), LocalNetwork(peers=1, service=wrong):  # type: ignore[arg-type]
            pass

    def plain(query: Query, reply: Reply) -> Any:
        return None

    with LocalNetwork(peers=3, service=plain) as net, pytest.raises(QueryFailed, match="SERVICE_FAILED"):
        ask(net, b"x")
    assert "becomes a service with `blocking`" in caplog.text


class Mistakes:
    """Services as newcomers write them."""

    @staticmethod
    def returns_bytes(query: Query, reply: Reply) -> Any:
        yield from query.read()
        return b"the answer"

    @staticmethod
    def returns_a_list(query: Query, reply: Reply) -> Any:
        yield from query.read()
        return [b"the answer"]

    @staticmethod
    def is_plain(query: Query, reply: Reply) -> Any:
        return b"the answer"

    @staticmethod
    def yields_the_call(query: Query, reply: Reply) -> Any:
        yield from query.read()
        yield reply.write(b"the answer")


@pytest.mark.parametrize("way", ["query", "message", "sub-stream"])
@pytest.mark.parametrize("name", ["returns_bytes", "returns_a_list", "is_plain", "yields_the_call"])
def test_a_service_that_returns_its_answer_fails_with_a_hint(
    name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = getattr(Mistakes, name)
    offered: Any = Services({"x": service}) if way == "sub-stream" else service
    with (
        LocalNetwork(peers=3, service=offered) as net,
        pytest.raises((QueryFailed, SubStreamReset), match="SERVICE_FAILED"),
    ):
        _ask_by(way, net)
    code = service.__code__
    place = rf"{re.escape(__file__)}:({code.co_firstlineno}|{code.co_firstlineno + 3})\b"
    assert re.search(place, caplog.text)
    assert "yield from" in caplog.text


def _ask_by(way: str, net: LocalNetwork) -> None:
    if way == "query":
        ask(net, b"x")
        return
    with Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        if way == "message":
            tunnel.ask(b"x", timeout_s=PATIENCE_S)
            return
        stream = tunnel.open("x", timeout_s=PATIENCE_S)
        stream.write(b"x", timeout_s=PATIENCE_S)
        while stream.read(timeout_s=PATIENCE_S):
            pass


async def asynchronous(query: Query, reply: Reply) -> None: ...


def one_argument(query: Query) -> Service[None]:
    yield from query.read()


class _Asynchronous(Echo):
    async def handle(self, query: Query, reply: Reply) -> None: ...  # type: ignore[override]


class _OneArgument(Echo):
    def handle(self, query: Query) -> Service[None]:  # type: ignore[override]
        yield from query.read()


@pytest.mark.parametrize(
    ("service", "text"),
    [
        (asynchronous, "async def"),
        (partial(asynchronous), "async def"),
        (_Asynchronous(), "async def"),
        (one_argument, r"takes \(query.*two arguments"),
        (_OneArgument(), "two arguments"),
        (lambda: None, "two arguments"),
    ],
)
def test_an_unsuitable_service_function_is_refused_immediately(service: Any, text: str) -> None:
    for offered in (lambda: service, lambda: Services({"x": service})):
        with pytest.raises(TypeError, match=text) as refused, LocalNetwork(peers=1, service=offered()):
            pass
        assert f"{__file__}:" in str(refused.value)


def test_a_callable_of_two_arguments_is_a_service() -> None:
    class Callable:
        def __call__(self, *streams: Any) -> Service[None]:
            return upper(*streams)

    def of_three(query: Query, reply: Reply, extra: bytes = b"") -> Service[None]:
        yield from upper(query, reply)
        yield from reply.write(extra)

    for service in (Callable(), partial(of_three, extra=b"!"), lambda query, reply: upper(query, reply)):
        with LocalNetwork(peers=3, service=service) as net:
            assert ask(net, b"quiet").rstrip(b"!") == b"QUIET"


def test_unfit_blocking_functions_are_refused_and_one_that_returns_bytes_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for wrong, text in ((upper, "without `blocking`"), (asynchronous, "async def"), (len, "two arguments")):
        with pytest.raises(TypeError, match=text):
            blocking(wrong)  # type: ignore[arg-type]

    def returns_bytes(query: BlockingQuery, reply: BlockingReply) -> bytes:
        return query.read()

    with (
        LocalNetwork(peers=3, service=blocking(returns_bytes)) as net,
        pytest.raises(QueryFailed, match="SERVICE_FAILED"),
    ):
        ask(net, b"x")
    assert (
        f"{__file__}:{returns_bytes.__code__.co_firstlineno} returned an object of type bytes" in caplog.text
    )

    def forwards(query: BlockingQuery, reply: BlockingReply) -> object:
        return upper(query, reply)  # type: ignore[arg-type]

    with (
        LocalNetwork(peers=3, service=blocking(forwards)) as net,
        pytest.raises(QueryFailed, match="SERVICE_FAILED"),
    ):
        ask(net, b"x")
    assert "it never ran" in caplog.text


@pytest.mark.parametrize("name", ["query.read", "reply.write", "reply.flush", "tunnel.send", "stream.write"])
def test_a_forgotten_yield_from_in_a_service_warns_with_its_line_and_is_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Echo):
        def handle(self, query: Query, reply: Reply) -> Service[None]:
            yield from query.read()
            if name == "query.read":
                query.read()
            elif name == "reply.write":
                reply.write(b"x")
            else:
                reply.flush()

    class Alice:
        @staticmethod
        def use(client: ServiceClient, destination: bytes) -> Service[None]:
            with (yield from client.tunnel(destination, hops=1)) as tunnel:
                if name == "tunnel.send":
                    tunnel.send(b"x")
                else:
                    stream = yield from tunnel.open("x")
                    stream.write(b"x")
                    stream.give_up()

    def use() -> None:
        if name in ("tunnel.send", "stream.write"):
            with LocalNetwork(peers=3, service=Services({"x": Echo()})) as net:
                net.submit(Alice.use(ServiceClient(net[0]), net[2].id)).result(PATIENCE_S)
        else:
            with LocalNetwork(peers=3, service=Forgetful()) as net:
                assert ask(net, b"x") == b""

    with pytest.warns(RuntimeWarning, match=r"never run: write `yield from`") as caught:
        use()
    assert [warning.filename for warning in caught] == [__file__]
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert f"{name}(" in lines[caught[0].lineno - 1]
    assert f"{__file__}:{caught[0].lineno}: the call of " in caplog.text


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_services_by_name(step: int) -> None:
    content = service_prefix("upper") + b"in pieces of any length"
    pieces = (content[i : i + step] for i in range(0, len(content), step))
    with LocalNetwork(peers=3, service=Services({"upper": upper, "echo": Echo()})) as net:
        assert ask(net, pieces) == b"IN PIECES OF ANY LENGTH"
        assert ask(net, service_prefix("echo")) == b""
        for wrong, code in [
            (service_prefix("nobody") + b"x", ErrorCode.TARGET_NOT_ALLOWED),
            (b"", ErrorCode.BAD_REQUEST),
            (b"\0", ErrorCode.BAD_REQUEST),
            (b"\x05upp", ErrorCode.BAD_REQUEST),
            (b"\x02..", ErrorCode.BAD_REQUEST),
            (b"\xff" + b"x" * 300, ErrorCode.BAD_REQUEST),
        ]:
            with pytest.raises(QueryFailed) as caught:
                ask(net, wrong)
            assert caught.value.code is code
        wait_until_idle(net)
    with pytest.raises(LocalTunnelError) as refused:
        checked_target("example.com:80")
    assert "parse_target" in refused.value.hint
    for name in ("", "../x", "a b"):
        with pytest.raises(LocalTunnelError, match="invalid name"):
            Services({name: upper})


# -- blocking services ---------------------------------------------------------------------------------------


@blocking
def copy(query: BlockingQuery, reply: BlockingReply) -> None:
    shutil.copyfileobj(query, reply)


@blocking
def lines(query: BlockingQuery, reply: BlockingReply) -> None:
    reply.write(b"%d lines" % sum(1 for _ in query))


def test_files_to_read_and_write_in_a_thread() -> None:
    with LocalNetwork(peers=3, service=Services({"copy": copy, "lines": lines})) as net:
        client = Client(net[0])
        bob = net[2].id
        assert client.query(bob, BIG, service="copy", hops=1).result(PATIENCE_S).read() == BIG
        counted = client.query(bob, b"a\nb\n" * 100_000, service="lines", hops=1).result(PATIENCE_S)
        assert counted.read() == b"200000 lines"
        none = client.query(bob, BIG, service="copy", hops=1, mode=ReplyMode.NONE).result(PATIENCE_S)
        assert not none.has_reply
        with client.tunnel(bob, hops=1) as tunnel:
            prefix = service_prefix("copy")
            for content in (b"one", b"", BIG[:200_000]):
                assert tunnel.ask(prefix + content, timeout_s=PATIENCE_S) == content
            stream = tunnel.open("lines")
            stream.write(b"a\nb\n")
            stream.close()
            assert stream.read() == b"2 lines"
        wait_until_idle(net)


def test_a_flush_of_a_blocking_service_arrives_at_once() -> None:
    go_on = threading.Event()

    def slow(query: BlockingQuery, reply: BlockingReply) -> None:
        assert reply.is_possible
        reply.write(b"first")
        reply.flush()
        assert go_on.wait(PATIENCE_S)
        reply.write(b"second")

    with (
        LocalNetwork(peers=3, service=blocking(slow)) as net,
        Client(net[0]).ask(net[2].id, b"", hops=1) as reply,
    ):
        assert reply.read(timeout_s=PATIENCE_S) == b"first"
        go_on.set()
        assert reply.read(timeout_s=PATIENCE_S) == b"second"
        assert reply.read(timeout_s=PATIENCE_S) == b""


def test_a_blocking_service_that_fails_or_reads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def failing(query: BlockingQuery, reply: BlockingReply) -> None:
        reply.write(b"x" * 100_000)
        raise ZeroDivisionError("a bug in a user's service")

    def hasty(query: BlockingQuery, reply: BlockingReply) -> None:
        reply.write(b"early")

    service = Services({"failing": blocking(failing), "hasty": blocking(hasty)})
    with LocalNetwork(peers=3, service=service) as net:
        client = Client(net[0])
        assert client.query(net[2].id, BIG, service="hasty", hops=1).result(PATIENCE_S).read() == b"early"
        with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
            client.query(net[2].id, BIG, service="failing", hops=1).result(PATIENCE_S)
        wait_until_idle(net)
    assert "a bug in a user's service" in caplog.text


def test_a_thread_that_the_system_does_not_start_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    refusals = [None] * 3

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name == "tunnel service" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    service = BlockingService(lambda query, reply: reply.write(b"served"), threads=2)
    with LocalNetwork(peers=3, service=service) as net:
        client = Client(net[0])
        for _ in range(3):
            with pytest.raises(QueryFailed, match="BUSY"):
                client.query(net[2].id, b"", hops=1).result(PATIENCE_S)
        assert client.query(net[2].id, b"", hops=1).result(PATIENCE_S).read() == b"served"


@pytest.mark.parametrize("blocked_in", ["read", "write"])
def test_the_thread_of_a_cancelled_query_gets_an_error(blocked_in: str) -> None:
    heard: list[BaseException] = []
    ended = threading.Event()

    def serve(query: BlockingQuery, reply: BlockingReply) -> None:
        reply.write(b"begun")
        reply.flush()
        try:
            if blocked_in == "read":
                query.read()
            while True:
                reply.write(bytes(100_000))
        except OSError as error:
            heard.append(error)
            raise
        finally:
            ended.set()

    def never() -> Iterator[bytes]:
        yield b"x" * 40_000
        ended.wait(PATIENCE_S)

    with LocalNetwork(peers=3, service=blocking(serve)) as net:
        with Client(net[0]).ask(net[2].id, never() if blocked_in == "read" else b"", hops=1) as reply:
            assert reply.read(5) == b"begun"
        assert ended.wait(PATIENCE_S)
        wait_until_idle(net)
    assert [type(error) for error in heard] == [BrokenPipeError]


def test_threads_and_waiting_queries_are_bounded() -> None:
    release, running = threading.Event(), threading.Semaphore(0)
    lock, counts = threading.Lock(), [0, 0]

    def slow(query: BlockingQuery, reply: BlockingReply) -> None:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        running.release()
        assert release.wait(PATIENCE_S)
        with lock:
            counts[0] -= 1
        reply.write(b"done")

    with LocalNetwork(peers=3, service=BlockingService(slow, threads=2, waiting=3)) as net:
        queries = [net[0].query(net[2].id, b"", hops=0) for _ in range(2)]
        for _ in queries:
            assert running.acquire(timeout=PATIENCE_S)
        queries += [net[0].query(net[2].id, b"", hops=0) for _ in range(4)]
        # One of the four finds all waiting places occupied.
        codes: list[ErrorCode | None] = []
        while not codes:
            codes = [q.exception().code for q in queries if q.done()]  # type: ignore[union-attr]
        release.set()
        results = [q.result(PATIENCE_S).read() for q in queries if not (q.done() and q.exception())]
        assert codes == [ErrorCode.BUSY]
        assert results == [b"done"] * 5
        assert counts == [0, 2]


@pytest.mark.full
def test_silent_sub_streams_of_a_tunnel_do_not_hold_all_threads() -> None:
    running = threading.Semaphore(0)

    def echo(query: BlockingQuery, reply: BlockingReply) -> None:
        running.release()
        shutil.copyfileobj(query, reply)

    service = BlockingService(echo, threads=3, silent_s=1.0)
    with LocalNetwork(peers=4, service=Services({"echo": service})) as net:
        bob = net[3].id
        with Client(net[0]).tunnel(bob, hops=1) as tunnel:
            streams = [tunnel.open("echo") for _ in range(3)]
            for _ in streams:
                assert running.acquire(timeout=PATIENCE_S)
            answer = Client(net[1]).query(bob, b"from elsewhere", service="echo", hops=1).result(PATIENCE_S)
            assert answer.read() == b"from elsewhere"
            # One has been ended, and its user gets the reason; the others and the tunnel are unchanged.
            outcomes: list[bytes | ErrorCode] = []
            for stream in streams:
                try:
                    stream.write(b"still here")
                    stream.close()
                    outcomes.append(stream.read())
                except SubStreamReset as reset:
                    outcomes.append(reset.code)
            assert outcomes == [ErrorCode.TIMEOUT, b"still here", b"still here"]
        wait_until_idle(net)


def test_blocking_services_release_everything() -> None:
    def once() -> None:
        with LocalNetwork(peers=2, service=copy) as net:
            assert net[0].query(net[1].id, BIG, hops=0).result(PATIENCE_S).read() == BIG
            with Client(net[0]).ask(net[1].id, BIG, hops=0) as reply:
                reply.read(10)

    once()
    gc.collect()
    with no_leaks():
        once()
        for thread in threading.enumerate():
            if thread.name.startswith("tunnel"):
                thread.join(PATIENCE_S)


# -- attachments
# -----------------------------------------------------------------------------------------------


class Saver:
    """Saves attachments into a folder, and answers with a list of them."""

    def __init__(self, folder: Path, limits: AttachmentLimits | None = None) -> None:
        self._folder = folder
        self._limits = limits

    def __call__(self, query: Query, reply: Reply) -> Service[None]:
        for saved in (yield from save_attachments(query.read, self._folder, self._limits)):
            yield from reply.write(f"{saved.name} {saved.size}\n".encode())


def test_attachments_become_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    folder = tmp_path / "folder"
    folder.mkdir()
    with LocalNetwork(peers=3, service=Saver(folder)) as net:
        answer = ask(net, pack_attachments([("big.bin", source), ("note.txt", b"hello"), ("empty", b"")]))
    assert answer == b"big.bin 900000\nnote.txt 5\nempty 0\n"
    assert sorted(os.listdir(folder)) == ["big.bin", "empty", "note.txt"]
    assert (folder / "big.bin").read_bytes() == BIG


@pytest.mark.parametrize("how", ["digest", "cut", "too long", "name", "disk"])
def test_attachments_that_go_wrong_leave_nothing(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = b"".join(pack_attachments([("first", b"whole"), ("second", BIG)]))
    wrong = {
        "digest": message[:-40] + bytes([message[-40] ^ 1]) + message[-39:],
        "cut": message[:-1],
        "name": message.replace(b"second", b"../../"),
    }.get(how, message)
    if how == "disk":

        def full(self: PartialFile, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PartialFile, "write", full)
    limits = AttachmentLimits(total_bytes=len(BIG)) if how == "too long" else None
    with LocalNetwork(peers=3, service=Saver(tmp_path, limits)) as net:
        with pytest.raises(QueryFailed) as caught:
            ask(net, wrong)
        assert caught.value.code is (ErrorCode.SERVICE_FAILED if how == "disk" else ErrorCode.BAD_REQUEST)
        wait_until_idle(net)
    assert os.listdir(tmp_path) == []


def test_attachments_do_not_replace(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"old")
    with (
        LocalNetwork(peers=3, service=Saver(tmp_path)) as net,
        pytest.raises(QueryFailed, match="SERVICE_FAILED"),
    ):
        ask(net, pack_attachments([("taken", b"new")]))
    assert (tmp_path / "taken").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["taken"]


def test_attachments_of_a_query_that_breaks_off(tmp_path: Path) -> None:
    gate = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"".join(pack_attachments([("a", BIG)]))[:-1]
        gate.wait(PATIENCE_S)

    with LocalNetwork(peers=3, service=Saver(tmp_path)) as net:
        begun = threading.Event()

        def progress(sent: int, received: int) -> None:
            if sent > 500_000:
                begun.set()

        future = net[0].query(net[2].id, pieces(), hops=1, progress=progress)
        assert begun.wait(PATIENCE_S)
        future.cancel()
        gate.set()
        wait_until_idle(net)
    assert os.listdir(tmp_path) == []
