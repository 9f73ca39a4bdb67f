"""Retries by each kind of client and by commands: around a dead proxy, never after a part of a reply."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import Service
from tests.integration.client_kinds import play
from tests.support.network import wait_until_idle
from tunnel import LocalNetwork, QueryFailed, Route
from tunnel.cli import client as cli_client
from tunnel.cli.main import main
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode
from tunnel.node.query.request import CallOptions, QueryOptions, RouteOptions, checked_request
from tunnel.services import Echo, Ping, Services

Steps = Generator[Any, Any, Any]
SERVICES = Services({"echo": Echo(), "ping": Ping()})
DEAD, BOB = 3, 6


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    """A network with one dead node. The others have not noticed yet."""
    with LocalNetwork(peers=7, service=SERVICES) as network:
        network.stop(DEAD)
        yield network


def way(net: LocalNetwork, *proxies: int) -> Route:
    return Route(tuple(net[index].id for index in proxies), net[BOB].id)


@pytest.mark.parametrize("proxies", [(DEAD,), (1, DEAD)], ids=["first", "last"])
def test_a_query_avoids_a_dead_proxy(kind: str, net: LocalNetwork, proxies: tuple[int, ...]) -> None:
    def scenario(client: Any) -> Steps:
        route = way(net, *proxies)
        return (yield lambda: client.query(net[BOB].id, b"hi", service="echo", route=route, retries=1))

    result = play(kind, net, scenario)
    assert result.read() == b"hi"
    (failure,) = result.attempts
    assert failure.code is ErrorCode.NEXT_REFUSED
    assert net[DEAD].id in failure.blamed
    assert net[DEAD].id not in result.route.proxies
    assert len(result.route.proxies) == len(proxies)
    wait_until_idle(net)


def test_without_retries_the_failure_is_the_callers(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        with pytest.raises(QueryFailed, match="NEXT_REFUSED") as caught:
            yield lambda: client.query(net[BOB].id, b"hi", service="echo", route=way(net, 1, DEAD))
        return caught.value.attempts

    assert play(kind, net, scenario) == ()


@pytest.mark.parametrize("service", [None, "echo"])
def test_a_file_is_sent_again_from_where_it_began(kind: str, service: str | None) -> None:
    """Also with the name of a service, which is part of each attempt."""
    content = os.urandom(200_000)
    with LocalNetwork(peers=7, service=SERVICES if service else None) as net:
        net.stop(DEAD)

        def scenario(client: Any) -> Steps:
            file = io.BytesIO(b"not this" + content)
            file.seek(8)
            route = way(net, 1, DEAD)
            return (yield lambda: client.query(net[BOB].id, file, service=service, route=route, retries=2))

        result = play(kind, net, scenario)
        assert len(result.attempts) == 1
        assert result.read() == content


def test_a_streamed_reply_is_retried_until_it_begins(kind: str, net: LocalNetwork) -> None:
    content = os.urandom(600_000)  # more than the buffers hold for a reader

    def scenario(client: Any) -> Steps:
        reply = yield lambda: client.ask(
            net[BOB].id, content, service="echo", route=way(net, 1, DEAD), retries=1
        )
        got = b""
        while data := (yield lambda: reply.read()):
            got += data
        return got, (yield lambda: reply.result())

    got, result = play(kind, net, scenario)
    assert got == content
    assert len(result.attempts) == 1
    wait_until_idle(net)


def test_a_reply_that_has_begun_is_not_asked_for_again(kind: str) -> None:
    """Its reader has received a part of it, and a second reply need not continue the first."""
    with LocalNetwork(peers=7, service=SERVICES) as net:

        def kill() -> None:
            net.serving[net[1].id].cancel()

        def scenario(client: Any) -> Steps:
            content = bytes(3_000_000)
            route = way(net, 1)
            reply = yield lambda: client.ask(net[BOB].id, content, service="echo", route=route, retries=3)
            assert (yield lambda: reply.read())
            net[0].reactor.post(kill)
            with pytest.raises(QueryFailed) as caught:  # noqa: PT012 - after what had come before
                while True:
                    assert (yield lambda: reply.read())
            return caught.value

        failure = play(kind, net, scenario)
        assert net[1].id in failure.blamed
        assert failure.attempts == ()


async def _pieces() -> AsyncIterator[bytes]:
    yield b"once"


def _service() -> Service[bytes]:
    return b""
    yield


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("method", ["query", "ask"])
@pytest.mark.parametrize("service", [None, "echo"])
def test_content_that_cannot_be_sent_again_is_refused(
    kind: str, net: LocalNetwork, method: str, service: str | None
) -> None:
    contents: list[Any] = [iter([b"once"]), _service, _Pipe(b"once")]
    if kind == "asyncio":
        contents.append(_pieces())

    def scenario(client: Any) -> Steps:
        call = getattr(client, method)
        for content in contents:
            with pytest.raises(TypeError, match="sent again"):
                yield lambda content=content: call(net[BOB].id, content, service=service, retries=1)
        for retries in (-1, 17):
            with pytest.raises(ValueError, match="retries"):
                yield lambda retries=retries: call(net[BOB].id, b"", service=service, retries=retries)
        with pytest.raises(TypeError, match="retry"):
            yield lambda: call(net[BOB].id, b"", retry=1)

    play(kind, net, scenario)
    wait_until_idle(net)


def test_a_call_is_made_once_and_may_be_sent_twice(net: LocalNetwork) -> None:
    """A call is a value: each time it begins with its own routes."""
    call = net[0].call(net[BOB].id, b"\x04echohi", route=way(net, DEAD), retries=1)
    results = [net.submit(net[0].query_service(call)).result(30) for _ in range(2)]
    assert [result.read() for result in results] == [b"hi", b"hi"]
    assert [len(result.attempts) for result in results] == [1, 1]


def test_every_option_is_taken_and_documented() -> None:
    taken = inspect.signature(checked_request).parameters
    assert set(QueryOptions.__optional_keys__) == {
        name for name, parameter in taken.items() if parameter.kind is parameter.KEYWORD_ONLY
    }
    said = "".join(str(options.__doc__) for options in (RouteOptions, CallOptions, QueryOptions))
    assert [name for name in QueryOptions.__optional_keys__ if f"        {name}: " not in said] == []


# -- commands --------------------------------------------------------------------------------------------


@pytest.fixture
def peers(net: LocalNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer file of the network; each route that a command draws passes the dead node."""
    path = tmp_path / "peers"
    StaticDirectory(node.descriptor for node in net).save(path)
    monkeypatch.setattr(cli_client.Client, "route", lambda self, destination: way(net, 1, DEAD))
    return path


def test_route_shows_the_route_that_the_query_took(
    net: LocalNetwork, peers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["route", net[BOB].id.hex(), "--peers", str(peers)]
    assert main([*arguments, "--retries", "2", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["ok"], outcome["report"]) == (True, "delivered")
    assert len(outcome["hops"]) == 3
    assert net[DEAD].id.hex() not in {hop["id"] for hop in outcome["hops"]}
    assert all(hop["held_ms"] is not None for hop in outcome["hops"])
    (failed,) = outcome["failed"]
    assert "NEXT_REFUSED" in failed
    assert main([*arguments, "--retries", "2"]) == 0
    assert re.search(r"failed before: .*could not connect to \S", capsys.readouterr().out)


def test_route_without_a_success_shows_the_first(
    net: LocalNetwork, peers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (2, 4, 5):  # of the remaining nodes, only the first hop of the drawn route answers
        net.stop(index)
    assert main(["route", net[BOB].id.hex(), "--peers", str(peers), "--retries", "3", "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert [hop["id"] for hop in outcome["hops"]] == [node_id.hex() for node_id in way(net, 1, DEAD).nodes]
    assert len(outcome["failed"]) >= 2
    assert outcome["report"] in outcome["failed"][0]


def test_bench_measures_a_route_that_works(
    net: LocalNetwork, peers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", net[BOB].id.hex(), "--peers", str(peers), "--count", "2", "--size", "10KiB"]
    assert main([*arguments, "--json"]) == 1
    capsys.readouterr()
    assert main([*arguments, "--retries", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hops"] == 2
