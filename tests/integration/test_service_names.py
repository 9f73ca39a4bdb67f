"""The log names the user's function: when a service fails, and when it keeps the node's loop."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Generator
from io import BufferedReader, BufferedWriter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reactor import Service, Signal, Sleep
from tests.support.logs import texts_of
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import InnerService, LocalNetwork, QueryFailed
from tunnel.client import Client
from tunnel.client.clients import ThreadStream
from tunnel.errors import SubStreamReset
from tunnel.established import SubStream
from tunnel.services import Echo, Query, Reply, Services, StreamService, blocking
from tunnel.services.attachments import pack_attachments, save_attachments
from tunnel.services.base import service_prefix


def generator(query: Query, reply: Reply) -> Service[None]:
    yield from query.read()
    raise KeyError("x")


def thread(query: BufferedReader, reply: BufferedWriter) -> None:
    query.read()
    raise KeyError("x")


def attachments(query: Query, reply: Reply) -> Service[None]:
    yield from save_attachments(query.read, Path("/a folder that does not exist"))


class Method(InnerService):
    def handle(self, query: Query, reply: Reply) -> Service[None]:
        return generator(query, reply)


KINDS: dict[str, tuple[Any, str]] = {
    "generator": (generator, "generator"),
    "method": (Method(), "Method.handle"),
    "thread": (blocking(thread), "thread"),
    "attachments": (attachments, "attachments"),
}
# With a second service beside it, so that the log must tell them apart.
KINDS |= {
    f"named-{kind}": (Services({"good": Echo(), "bad": service}), f"bad: {function}")
    for kind, (service, function) in KINDS.items()
}
CONTENT = b"".join(pack_attachments([("a.txt", b"hello")]))


def query(net: LocalNetwork, name: str | None) -> None:
    with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
        Client(net[0]).query(net[1].id, CONTENT, hops=0, service=name).result(PATIENCE_S)


def message(net: LocalNetwork, name: str | None) -> None:
    prefix = b"" if name is None else service_prefix(name)
    with pytest.raises(QueryFailed), Client(net[0]).tunnel(net[1].id, hops=0) as tunnel:
        tunnel.ask(prefix + CONTENT, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("ask", [query, message])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_names_the_function(
    kind: str, ask: Callable[[LocalNetwork, str | None], None], caplog: pytest.LogCaptureFixture
) -> None:
    service, name = KINDS[kind]
    with LocalNetwork(peers=2, service=service) as net:
        ask(net, "bad" if kind.startswith("named") else None)
        wait_until_idle(net)
    (line,) = texts_of(caplog, logging.WARNING)
    assert f" inner service {name}() at {__file__}:" in line


class OfStreams(StreamService):
    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        stream.confirm()
        yield from generator(_Empty(), None)  # type: ignore[arg-type]


class _Empty:
    def read(self) -> Service[bytes]:
        yield Sleep(0)
        return b""


STREAMS = {"streams": (Services({"bad": OfStreams()}), "bad: OfStreams.serve")}


def ask(stream: ThreadStream) -> bytes:
    """Some services fail before they have read anything, so either call may raise the failure."""
    stream.write(CONTENT, timeout_s=PATIENCE_S)
    stream.close()
    return stream.read(timeout_s=PATIENCE_S)


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind.startswith("named")), *STREAMS])
def test_a_failure_in_a_sub_stream_names_the_function(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    service, name = (KINDS | STREAMS)[kind]
    with LocalNetwork(peers=2, service=service) as net:
        with (
            Client(net[0]).tunnel(net[1].id, hops=0) as tunnel,
            tunnel.open("bad") as stream,
            pytest.raises(SubStreamReset, match="SERVICE_FAILED"),
        ):
            ask(stream)
        wait_until_idle(net)
    (line,) = texts_of(caplog, logging.WARNING)
    assert f"inner service {name}() at {__file__}:" in line


def test_a_name_that_the_other_end_chose_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Anything(Services):
        def find(self, name: bytes) -> InnerService:
            return Method()

    with LocalNetwork(peers=2, service=Anything({"good": Echo()})) as net:
        query(net, "secret-of-the-peer")
        wait_until_idle(net)
    assert "inner service Method.handle() at" in caplog.text
    assert "secret-of-the-peer" not in caplog.text


class _Clock(SimpleNamespace):
    """`time` for the loop; a service that "blocks" sets its clock ahead."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr("reactor.core.loop.time", clock)
    return clock


def _slow_names(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The services that kept a loop for an hour, as the clock shows."""
    return [
        record.getMessage()
        for record in caplog.records
        if "kept the loop for 3600" in record.getMessage() or "kept the loop for 3601" in record.getMessage()
    ]


@pytest.mark.parametrize("ask", [query, message])
@pytest.mark.parametrize("has_name", [False, True])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_slow_step_names_the_function(
    clock: _Clock, ask: Any, has_name: bool, is_last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if the service ends in the slow step."""

    def slow(query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        clock.ahead_s += 3600
        if not is_last:
            yield from reply.write(b"done")

    service = Services({"slow": slow}) if has_name else slow
    with LocalNetwork(peers=2, service=service) as net:
        client, name = Client(net[0]), "slow" if has_name else None
        if ask is query:
            client.query(net[1].id, b"x", hops=0, service=name).result(PATIENCE_S)
        else:
            with client.tunnel(net[1].id, hops=0) as tunnel:
                tunnel.ask(service_prefix("slow") + b"x" if has_name else b"x", timeout_s=PATIENCE_S)
        wait_until_idle(net)
    (line,) = _slow_names(caplog)
    label = "slow: " if has_name else ""
    assert f"service '{label}{slow.__qualname__}() at {__file__}:" in line


def test_a_slow_step_of_a_content_names_its_function(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    pieces = [b"a", b"b", b""]

    def content() -> Service[bytes]:
        clock.ahead_s += 3600 if len(pieces) == 2 else 0
        return pieces.pop(0)
        yield

    with LocalNetwork(peers=2) as net:
        assert net[0].query(net[1].id, content, hops=0).result(PATIENCE_S).read() == b"ab"
        wait_until_idle(net)
    (line,) = _slow_names(caplog)
    assert f"service 'content of {content.__qualname__}() at {__file__}:" in line


def test_no_step_is_named_after_the_guards(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A slow callback of the user runs in a service of the node, which has its own name."""

    class Sink(io.BytesIO):
        def write(self, data: object) -> int:
            clock.ahead_s += 3600
            return super().write(data)  # type: ignore[arg-type]

    with LocalNetwork(peers=2) as net:
        net[0].query(net[1].id, b"x", hops=0, sink=Sink()).result(PATIENCE_S)
        wait_until_idle(net)
    (line,) = _slow_names(caplog)
    assert "run_with_guards" not in line
    assert "receive" in line
