"""The texts for a failed connection: they name the far end, but not the route."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Unpack

import pytest

from reactor import Reactor, Service, ServiceCancelled, Sleep, Spawn, TimedOut
from tests.support.logs import records_of, texts_of
from tunnel.errors import ErrorCode, QueryFailed, SubStreamReset, TableFull
from tunnel.established import Target, TargetKind
from tunnel.front.failures import end_of, failure_of, summary
from tunnel.front.reverse import ReverseForward
from tunnel.front.tunnel_pool import TunnelPool
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import NodeTunnel

SERVICE = Target(TargetKind.SERVICE, b"ssh")
ADDRESS = Target(TargetKind.IPV4, bytes(4), 80)
NAME = Target(TargetKind.DOMAIN, b"site.test", 80)
UNREACHED = QueryFailed("could not connect to node 7f3a90c1", ErrorCode.NEXT_REFUSED)


@pytest.mark.parametrize(
    ("target", "end"), [(SERVICE, "the publishing node"), (ADDRESS, "the exit"), (NAME, "the exit")]
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SubStreamReset(ErrorCode.TARGET_REFUSED, by_other_end=True), "was refused by the target"),
        (SubStreamReset(ErrorCode.TARGET_NOT_ALLOWED, by_other_end=True), "does not offer this service"),
        (TimedOut("opening"), "did not reach the target within 60 s (TIMEOUT)"),
    ],
)
def test_the_text_names_the_far_end_and_its_failure(
    target: Target, end: str, error: Exception, words: str
) -> None:
    failed = failure_of(error, end_of(target))
    assert failed.text.startswith(f"{end} {words}")
    assert summary(failed).startswith(failed.text)
    is_hidden = target is SERVICE and failed.code is ErrorCode.TARGET_NOT_ALLOWED
    assert ("--key FILE" in summary(failed)) is is_hidden


@pytest.mark.parametrize("error", [UNREACHED, TableFull("all 64 tunnels to that node are in use")])
def test_the_log_has_the_reason_without_the_route(error: Exception) -> None:
    line = summary(failure_of(error, "the exit"))
    assert "7f3a90c1" not in line
    assert "the exit" not in line  # it has done nothing


class Down:
    """A node whose network is down."""

    def open_tunnel(self, destination: bytes, **_: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        yield Sleep(0)
        raise QueryFailed(str(UNREACHED), UNREACHED.code)


def advise(_: QueryFailed) -> str:
    return "start the network"


def test_a_pool_gives_the_remedy_of_its_owner() -> None:
    def fail() -> Service[QueryFailed]:
        pool = TunnelPool(Down(), bytes(32))
        pool.advise = advise
        try:
            yield from pool.open(SERVICE, "key")
        except QueryFailed as error:
            return error
        finally:
            yield from pool.close()
        raise AssertionError

    with Reactor() as reactor:
        error = reactor.run(fail())
    assert error.hint == "start the network"
    assert summary(failure_of(error, "the exit")).endswith("(NEXT_REFUSED); start the network")


def test_a_reverse_forward_logs_the_remedy_and_no_route(caplog: pytest.LogCaptureFixture) -> None:
    forward = ReverseForward(Down(), bytes(32), ("127.0.0.1", 0), ("127.0.0.1", 80), advise=advise)

    def until_logged() -> Service[Any]:
        serving = yield Spawn(forward.serve(), "reverse forward")
        while not records_of(caplog):
            yield Sleep(0)
        serving.cancel("seen")
        with contextlib.suppress(ServiceCancelled):
            yield from serving.join()

    with caplog.at_level(logging.INFO, "tunnel.front"), Reactor() as reactor:
        reactor.run(until_logged())
    (line,) = texts_of(caplog)
    assert line.startswith("the reverse forward has not begun yet, and will be tried again: ")
    assert line.endswith("; start the network")
    assert "7f3a90c1" not in line
