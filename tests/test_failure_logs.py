"""The log of failures that reach no caller: one line for ordinary failures, a traceback for bugs."""

from __future__ import annotations

import ast
import gc
import logging
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from reactor import Reactor, Scope, Service, Sleep, Spawn, ThreadPark
from reactor.errors import Broken, ConnectError, TimedOut, UnexpectedEnd
from readwrite_comp.errors import Truncated
from tests.support.logs import texts_of
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import InnerService, LocalNetwork, QueryFailed, Route
from tunnel.client import Client
from tunnel.errors import BadRoute, Disconnected, ErrorCode, HandshakeError, NextRefused, StreamReset
from tunnel.services import Echo, Query, Reply

ROOT = Path(__file__).parents[1]

EVERYDAY = [
    Broken("connection lost: Connection reset by peer"),
    ConnectError("host", 1, 111, "Connection refused"),
    TimedOut("no answer"),
    UnexpectedEnd(3, 32),
    ConnectionResetError(104, "Connection reset by peer"),
    BrokenPipeError(32, "Broken pipe"),
    TimeoutError("timed out"),
    socket.gaierror(-2, "Name or service not known"),
    OSError(113, "No route to host"),
    OSError(101, "Network is unreachable"),
    Truncated("the stream ended early"),
    Disconnected("connection ended without GOAWAY"),
    NextRefused("Connection refused"),
    HandshakeError("another node"),
    StreamReset(ErrorCode.DISCONNECTED),
    QueryFailed("no answer within 3 s"),
]
BUGS = [
    KeyError("x"),
    OSError(28, "No space left on device"),
    BadRoute("a node twice"),
    AssertionError(),
]


def _fail(error: BaseException) -> Service[None]:
    yield Sleep(0)
    raise error


def _unjoined(error: BaseException) -> None:
    def body() -> Service[None]:
        yield Spawn(_fail(error), "one")
        for _ in range(5):
            yield Sleep(0)

    with Reactor() as reactor:
        reactor.run(body())


def _in_a_scope(error: BaseException) -> None:
    def body() -> Service[None]:
        scope = Scope("all", fail_together=False)
        yield from scope.spawn(_fail(error), name="one")
        yield from scope.join()

    with Reactor() as reactor:
        reactor.run(body())


@pytest.mark.parametrize("run", [_unjoined, _in_a_scope])
@pytest.mark.parametrize("error", [*EVERYDAY, *BUGS], ids=lambda error: type(error).__name__)
def test_only_a_bug_has_a_traceback(run: Any, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(error)
    (record,) = (record for record in caplog.records if "'one'" in record.getMessage())
    is_bug = error in BUGS
    assert bool(record.exc_info) is is_bug
    assert record.levelno == (logging.ERROR if is_bug else logging.WARNING)
    if not is_bug:
        assert record.getMessage().endswith(f": {type(error).__name__}: {error}")


@pytest.mark.parametrize(("kind", "is_bug"), [(Broken, False), (StreamReset, False), (KeyError, True)])
def test_a_dropped_handle_behaves_the_same(
    kind: type[Exception], is_bug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Service[None]:
        yield Sleep(0)
        raise kind(ErrorCode.BUSY)

    before = set(threading.enumerate())
    handle = ThreadPark().spawn(fail(), name="one")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        del thread
    del handle
    gc.collect()
    (record,) = (record for record in caplog.records if "'one'" in record.getMessage())
    assert bool(record.exc_info) is is_bug


def test_the_traceback_of_an_everyday_failure_is_in_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _unjoined(Broken("cut"))
    first, second = (record for record in caplog.records if "'one'" in record.getMessage())
    assert (bool(first.exc_info), bool(second.exc_info)) == (False, True)


@pytest.mark.parametrize("error", [QueryFailed("no answer"), ConnectionRefusedError(111, "refused")])
def test_a_failed_connection_of_an_inner_service_is_logged_in_one_line(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Gateway(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            yield from query.read()
            raise error

    with LocalNetwork(peers=2, service=Gateway()) as net, pytest.raises(QueryFailed, match="SERVICE_FAILED"):
        net[0].query(net[1].id, b"x", hops=0).result(timeout=60)
    (record,) = (record for record in caplog.records if "Gateway.handle() at" in record.getMessage())
    assert not record.exc_info


def test_no_module_logs_tracebacks_by_itself() -> None:
    for package in ("reactor", "readwrite_comp", "tunnel"):
        for path in (ROOT / package).rglob("*.py"):
            if path == ROOT / "reactor" / "errors.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    names = {keyword.arg for keyword in node.keywords}
                    is_traceback = node.func.attr == "exception" and "log" in ast.unparse(node.func.value)
                    assert "exc_info" not in names, f"{path}, line {node.lineno}: use log_failure"
                    assert not is_traceback, f"{path}, line {node.lineno}: use log_failure"


def test_a_cut_link_is_logged_in_one_line_for_any_number_of_failed_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LocalNetwork(peers=3, service=Echo()) as net:
        route = Route((net[1].id,), net[2].id)
        tunnels = [Client(net[0]).tunnel(net[2].id, route=route) for _ in range(3)]
        for tunnel in tunnels:
            assert tunnel.ask(b"x", timeout_s=PATIENCE_S) == b"x"
        caplog.clear()
        net.stop(2)
        for tunnel in tunnels:
            for call in (tunnel.ask, tunnel.ask, tunnel.send):
                with pytest.raises(QueryFailed):
                    call(bytes(1_000_000), timeout_s=PATIENCE_S)
            tunnel.give_up()
        (line,) = texts_of(caplog, logging.WARNING)
        assert "lost a link: Disconnected" in line


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_reply_that_its_user_gives_up_is_no_warning(how: str, caplog: pytest.LogCaptureFixture) -> None:
    def endless(query: Query, reply: Reply) -> Service[None]:
        while True:
            yield from reply.write(bytes(65_536))

    caplog.set_level(logging.INFO)
    with LocalNetwork(peers=4, service=endless) as net:
        for _ in range(5):
            reply = Client(net[0]).ask(net[3].id, b"x", hops=1)
            assert reply.read(timeout_s=PATIENCE_S)
            reply.cancel() if how == "cancel" else reply.__exit__(None, None, None)
        wait_until_idle(net)
    assert "UNKNOWN_QUERY" in caplog.text or "given up" in caplog.text
    assert texts_of(caplog, logging.WARNING) == []


@pytest.mark.parametrize("error", [KeyError("x"), QueryFailed("no answer")])
def test_a_failed_service_is_logged_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fails(query: Query, reply: Reply) -> Service[None]:
        yield from query.read()
        raise error

    with LocalNetwork(peers=2, service=fails) as net:
        with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
            net[0].query(net[1].id, b"x", hops=0).result(PATIENCE_S)
        wait_until_idle(net)
    (line,) = texts_of(caplog, logging.WARNING)
    assert f"inner service {fails.__qualname__}() at {__file__}" in line
