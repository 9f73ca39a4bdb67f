"""Any exception of a user's code ends only its own call, never the node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from reactor import YIELD, Reactor, Service
from tests.support.network import PATIENCE_S
from tunnel import LocalNetwork, QueryFailed
from tunnel.client import Client, get, put
from tunnel.errors import BadArgument, LocalTunnelError, SubStreamReset
from tunnel.node.query.incoming_replies import report_progress
from tunnel.services import (
    BlockingService,
    Echo,
    Files,
    FilesSettings,
    InnerService,
    Query,
    Reply,
    Services,
    Tunnel,
    blocking,
)
from tunnel.services.base import run_service

HERE, THERE = 0, 1


class Aborted(BaseException):
    """A user's error class that is not an `Exception`."""


ERRORS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Aborted("by the user")]
# A generator that raises GeneratorExit has been closed: that is no failure.
OF_GENERATORS = [error for error in ERRORS if not isinstance(error, GeneratorExit)]


class Failing(InnerService):
    """Fails in each of its methods, on request."""

    error: BaseException

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        word = yield from query.read()
        if word == b"fail":
            raise self.error
        yield from reply.write(word)
        yield from reply.end()
        while (yield from query.read()):
            pass

    def tunnel(self, tunnel: Tunnel) -> Generator[Any, Any, None]:
        yield from tunnel.next_message()
        raise self.error

    def find(self, name: bytes) -> InnerService:
        if name == b"no-find":
            raise self.error
        return self


FAILING = Failing()


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=2, service=FAILING) as net:
        yield net
        _check_living(net)


def _check_living(net: LocalNetwork) -> None:
    assert _ask(net, b"alive").result(PATIENCE_S).read() == b"alive"


def _ask(net: LocalNetwork, content: Any, **options: Any) -> Future[Any]:
    return net[HERE].query(net[THERE].id, content, hops=0, **options)


class Sink:
    """Fails in one of its methods."""

    def __init__(self, method: str, error: BaseException) -> None:
        self._method = method
        self._error = error

    def _call(self, method: str) -> None:
        if method == self._method:
            raise self._error

    def write(self, data: memoryview) -> None:
        self._call("write")

    def wait_room(self) -> Service[None]:
        self._call("wait_room")
        yield YIELD

    def end(self) -> None:
        self._call("end")


class File:
    """A file whose second read fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._reads = 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > 1:
            raise self._error
        return b"x" * size


def _raises(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        raise error

    return function


def _content(error: BaseException) -> Callable[[], Service[bytes]]:
    def read() -> Service[bytes]:
        yield YIELD
        raise error

    return read


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_progress_callback_ends_its_query_only(net: LocalNetwork, error: BaseException) -> None:
    with pytest.raises(LocalTunnelError, match=f"progress callback failed: {type(error).__name__}") as caught:
        _ask(net, b"x", progress=_raises(error)).result(PATIENCE_S)
    assert type(caught.value.__cause__) is type(error)


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
@pytest.mark.parametrize("method", ["write", "wait_room", "end"])
def test_a_sink_ends_its_query_only(net: LocalNetwork, method: str, error: BaseException) -> None:
    def endless() -> Service[bytes]:
        yield YIELD
        return b"x" * 20_000

    content: Any = endless if method == "end" else b"x"
    with pytest.raises(LocalTunnelError, match=f"sink of the reply failed: {type(error).__name__}"):
        _ask(net, content, sink=Sink(method, error)).result(PATIENCE_S)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_file_that_is_read_ends_its_query_only(net: LocalNetwork, error: BaseException) -> None:
    text = f"reading the content failed: {type(error).__name__}"
    with pytest.raises(LocalTunnelError, match=text):
        _ask(net, File(error)).result(PATIENCE_S)
    with (
        Client(net[HERE]).ask(net[THERE].id, File(error), hops=0) as reply,
        pytest.raises(LocalTunnelError, match=text),
    ):
        reply.result(timeout_s=PATIENCE_S)


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
@pytest.mark.parametrize("make", [_content, _raises])
def test_a_function_that_gives_content_ends_its_query_only(
    net: LocalNetwork, make: Callable[[BaseException], Any], error: BaseException
) -> None:
    with pytest.raises(LocalTunnelError, match=f"reading the content failed: {type(error).__name__}"):
        _ask(net, make(error)).result(PATIENCE_S)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_callback_of_a_future_is_logged(
    net: LocalNetwork, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    is_watched = threading.Event()

    def pieces() -> Iterator[bytes]:
        assert is_watched.wait(PATIENCE_S)
        yield b"x"

    query = _ask(net, pieces())
    query.add_done_callback(_raises(error))
    is_watched.set()
    query.result(PATIENCE_S)
    _check_living(net)
    assert "callback" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_posted_function_is_logged(
    net: LocalNetwork, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    net[HERE].reactor.post(_raises(error))
    _check_living(net)
    assert "_raises.<locals>.function failed" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_users_service_ends_with_its_error(net: LocalNetwork, error: BaseException) -> None:
    with pytest.raises(type(error)):
        net[HERE].reactor.submit(_content(error)()).result(PATIENCE_S)


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
def test_an_inner_service_ends_its_query_only(
    net: LocalNetwork, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    FAILING.error = error
    with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
        _ask(net, b"fail").result(PATIENCE_S)
    assert f"handle() at {__file__}" in caplog.text
    assert f"ended with {type(error).__name__}" in caplog.text


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
def test_a_function_of_services_ends_its_query_only(error: BaseException) -> None:
    def fails(query: Query, reply: Reply) -> Service[None]:
        yield from query.read()
        raise error

    with LocalNetwork(peers=2, service=Services({"fails": fails, "echo": Echo()})) as net:
        client, there = Client(net[HERE]), net[THERE].id
        with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
            client.query(there, b"x", service="fails", hops=0).result(PATIENCE_S)
        assert client.query(there, b"x", service="echo", hops=0).result(PATIENCE_S).read() == b"x"


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
def test_a_service_of_a_tunnel_ends_its_tunnel_only(net: LocalNetwork, error: BaseException) -> None:
    FAILING.error = error
    with (
        pytest.raises(QueryFailed, match="SERVICE_FAILED"),
        Client(net[HERE]).tunnel(net[THERE].id, hops=0) as tunnel,
    ):
        tunnel.ask(b"x", timeout_s=PATIENCE_S)


@pytest.mark.parametrize("error", OF_GENERATORS, ids=repr)
@pytest.mark.parametrize("name", ["find", "no-find"])
def test_a_service_of_a_sub_stream_ends_its_sub_stream_only(
    net: LocalNetwork, name: str, error: BaseException
) -> None:
    FAILING.error = error
    tunnel = Client(net[HERE]).tunnel(net[THERE].id, hops=0)
    with pytest.raises(SubStreamReset, match="SERVICE_FAILED"):  # noqa: PT012 - by either
        stream = tunnel.open(name, timeout_s=PATIENCE_S)
        stream.write(b"fail", timeout_s=PATIENCE_S)
        stream.read(timeout_s=PATIENCE_S)
    tunnel.give_up()


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_progress_of_files_ends_its_transfer_only(error: BaseException, tmp_path: Path) -> None:
    source = tmp_path / "sent"
    source.write_bytes(b"x" * 100_000)
    failing: Any = {"hops": 0, "progress": _raises(error)}
    text = f"progress callback failed: {type(error).__name__}"
    with LocalNetwork(peers=2, service=Files(tmp_path / "store")) as net:
        here, there = net[HERE], net[THERE].id
        with pytest.raises(LocalTunnelError, match=text):
            put(here, there, source, **failing).result(PATIENCE_S)
        put(here, there, source, hops=0).result(PATIENCE_S)
        with pytest.raises(LocalTunnelError, match=text):
            get(here, there, "sent", tmp_path / "fetched", **failing).result(PATIENCE_S)
        get(here, there, "sent", tmp_path / "fetched", hops=0).result(PATIENCE_S)


@pytest.mark.parametrize("error", [*ERRORS, ZeroDivisionError()], ids=repr)
def test_an_observer_of_frames_ends_none(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with LocalNetwork(peers=3, service=Echo(), observe=_raises(error)) as net:
        for _ in range(2):
            assert net[0].query(net[2].id, b"x", hops=1).result(PATIENCE_S).read() == b"x"
    assert "the observer failed" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), Aborted(), ZeroDivisionError()], ids=repr)
def test_a_listener_of_peers_ends_no_link(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        peer_online = peer_offline = staticmethod(_raises(error))

    with LocalNetwork(peers=3, service=Echo()) as net:
        for node in net:
            node.peers.listeners.append(Listener())
        for _ in range(2):
            assert net[0].query(net[2].id, b"x", hops=1).result(PATIENCE_S).read() == b"x"
    assert "a peer listener failed in peer_online" in caplog.text


def test_a_real_ctrl_c_leaves_user_code_in_the_main_thread() -> None:
    """Python raises it only there, and a reactor in that thread must end."""

    def serves(query: Query, reply: Reply) -> Service[None]:
        yield YIELD
        raise KeyboardInterrupt

    def body() -> Service[None]:
        yield from run_service(serves, None, None)

    with pytest.raises(KeyboardInterrupt):
        report_progress(_raises(KeyboardInterrupt()), 1, 2)
    with Reactor() as reactor, pytest.raises(KeyboardInterrupt):
        reactor.run(body())
    with pytest.raises(LocalTunnelError, match=r"progress callback failed: SystemExit$"):
        report_progress(_raises(SystemExit()), 1, 2)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: blocking(5), TypeError, "expected a function of a query and a reply, got 5"),  # type: ignore[arg-type]
        (lambda: BlockingService(print, threads=0), BadArgument, "threads: expected 1 to 10000, got 0"),
        (lambda: BlockingService(print, waiting=-1), BadArgument, "waiting: expected 0 to 1000000, got -1"),
        (lambda: BlockingService(print, silent_s="1"), TypeError, "silent_s: expected a number of seconds"),  # type: ignore[arg-type]
        (
            lambda: FilesSettings(quota_bytes=-1),
            BadArgument,
            "quota_bytes: expected 0 to 1099511627776, got -1",
        ),
        (
            lambda: FilesSettings(may_replace="no"),  # type: ignore[arg-type]
            TypeError,
            "may_replace: expected True or False, got 'no'",
        ),
        (lambda: FilesSettings(read=[bytes(31)]), BadArgument, "read: expected 32 bytes, got 31"),
        (lambda: FilesSettings(write=bytes(32)), TypeError, "write: "),  # type: ignore[arg-type]
        (lambda: FilesSettings(list="everybody"), TypeError, "list: "),  # type: ignore[arg-type]
    ],
)
def test_settings_of_services_are_checked(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make()
