"""Every number that a public call takes has a range: outside it the call names the argument and the range."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reactor import (
    BadRequest,
    Channel,
    Reactor,
    ReactorThread,
    ReadYield,
    SharedChannel,
    SocketStream,
    TcpListener,
    ThreadPark,
    ThreadPool,
    UnixListener,
    serve,
)
from reactor.core.timers import FakeClock
from reactor.run.debug import dump
from tests.support.fake_dht import FakeDht
from tests.support.network import PATIENCE_S
from tests.tunnel.helpers import OPENSSL
from tunnel import Client, Limits, LocalNetwork
from tunnel.arguments import LEAST_SECONDS, MOST_BYTES, MOST_SECONDS, range_of
from tunnel.cli import main
from tunnel.client import FilesClient, list_files
from tunnel.config import load_config
from tunnel.directory import DhtDirectory, ExchangeDirectory
from tunnel.established import TunnelLimits
from tunnel.geometry import MAX_BLOCKS, Profile
from tunnel.link.neighbour_pool import PoolPolicy
from tunnel.routing.cover import CoverPlan
from tunnel.routing.route import Route
from tunnel.services import AttachmentLimits, BlockingService, ExitSettings, FilesSettings


class Number(NamedTuple):
    """One number. `take` calls what takes it; `least` and `most` are accepted."""

    take: Callable[[Any], object]
    least: float
    most: float
    is_time: bool = False


class On(NamedTuple):
    """What the calls need."""

    net: LocalNetwork
    folder: Path

    @property
    def client(self) -> Client:
        return Client(self.net[0])

    @property
    def bob(self) -> bytes:
        return self.net[1].id


def _settings(kind: Any) -> dict[str, Number]:
    def take(name: str) -> Callable[[Any], object]:
        return lambda value: kind(**{name: value})

    return {
        f"{kind.__name__}.{each.name}": Number(
            take(each.name), *range_of(each), isinstance(each.default, float)
        )
        for each in fields(kind)
        if type(each.default) in (int, float)
    }


def _query(on: On, name: str) -> Callable[[Any], object]:
    return lambda value: on.net[0].call(on.bob, b"x", **{"hops": 0, name: value})


def _dht(name: str) -> Callable[[Any], object]:
    def take(value: Any) -> None:
        options = {name: value}
        DhtDirectory(engine=OPENSSL, network_id=bytes(16), module=FakeDht(), **options).close()

    return take


def _read(value: Any) -> None:
    ends = socket.socketpair()
    ends[0].setblocking(False)
    ends[1].sendall(b"x")
    with closing(ends[1]), SocketStream(ends[0]) as stream, Reactor() as reactor:
        reactor.run(ReadYield(stream).read(value))


def _ask(on: On, value: Any) -> None:
    tunnel = on.client.tunnel(on.bob, hops=0, timeout_s=PATIENCE_S)
    try:
        tunnel.send(b"x", timeout_s=value)
    finally:
        tunnel.give_up()


def _reply(on: On, value: Any) -> None:
    with on.client.ask(on.bob, b"", hops=0) as reply:
        reply.result(timeout_s=PATIENCE_S)
        reply.result(timeout_s=value)


def _config(on: On, name: str) -> Callable[[Any], object]:
    if not (on.folder / "net").exists():
        assert main(["network", str(on.folder / "net"), "--nodes", "1"]) == 0
    config = load_config(on.folder / "net" / "node-0" / "node.toml", {})
    return lambda value: replace(config, **{name: value})


def _cover(on: On, value: Any) -> None:
    plan = CoverPlan(Route((), on.bob), Profile.for_proxies(0), 0, False)
    on.net[0].send_cover(plan, mean_delay_s=value).cancel()


def _steps(service: Any) -> None:
    """Run a service up to its first wait."""
    try:
        next(service)
    except StopIteration:
        pass
    finally:
        service.close()


TABLE: dict[str, Callable[[On], Number]] = {}
for _kind in (Limits, TunnelLimits, FilesSettings, ExitSettings, AttachmentLimits, PoolPolicy):
    for _name, _number in _settings(_kind).items():
        TABLE[_name] = partial(lambda number, on: number, _number)
TABLE |= {
    "LocalNetwork.peers": lambda on: Number(LocalNetwork, 1, 10_000),
    "query.hops": lambda on: Number(_query(on, "hops"), 0, math.inf),
    "query.replies": lambda on: Number(_query(on, "replies"), 1, MAX_BLOCKS),
    "query.retries": lambda on: Number(_query(on, "retries"), 0, 16),
    "query.idle_s": lambda on: Number(_query(on, "idle_s"), LEAST_SECONDS, math.inf, True),
    "query.timeout_s": lambda on: Number(_query(on, "timeout_s"), 0, math.inf, True),
    "ThreadTunnel.timeout_s": lambda on: Number(lambda value: _ask(on, value), 1, math.inf, True),
    "ThreadReply.timeout_s": lambda on: Number(lambda value: _reply(on, value), 1, math.inf, True),
    "FilesClient.retries": lambda on: Number(
        lambda value: FilesClient(on.net[0], on.bob, retries=value), 0, 16
    ),
    "FilesClient.timeout_s": lambda on: Number(
        lambda value: FilesClient(on.net[0], on.bob, timeout_s=value), 0, math.inf, True
    ),
    "send_cover.mean_delay_s": lambda on: Number(lambda value: _cover(on, value), 0, MOST_SECONDS, True),
    "BlockingService.threads": lambda on: Number(
        lambda value: BlockingService(_echo, threads=value), 1, 10_000
    ),
    "BlockingService.waiting": lambda on: Number(
        lambda value: BlockingService(_echo, waiting=value), 0, 1_000_000
    ),
    "BlockingService.silent_s": lambda on: Number(
        lambda value: BlockingService(_echo, silent_s=value), LEAST_SECONDS, 604_800, True
    ),
    "DhtDirectory.port": lambda on: Number(_dht("port"), 0, 65_535),
    "DhtDirectory.limit": lambda on: Number(_dht("limit"), 1, math.inf),
    "DhtDirectory.refresh_s": lambda on: Number(_dht("refresh_s"), LEAST_SECONDS, MOST_SECONDS, True),
    "DhtDirectory.soon_s": lambda on: Number(_dht("soon_s"), LEAST_SECONDS, MOST_SECONDS, True),
    "ExchangeDirectory.limit": lambda on: Number(
        lambda value: ExchangeDirectory(engine=OPENSSL, limit=value), 1, math.inf
    ),
    "NodeConfig.refresh_s": lambda on: Number(_config(on, "refresh_s"), LEAST_SECONDS, MOST_SECONDS, True),
    "NodeConfig.stop_s": lambda on: Number(_config(on, "stop_s"), LEAST_SECONDS, MOST_SECONDS, True),
    "NodeConfig.dht_port": lambda on: Number(_config(on, "dht_port"), 0, 65_535),
    "Reactor.slow_step_s": lambda on: Number(
        lambda value: Reactor(slow_step_s=value).close(), 0, math.inf, True
    ),
    "FakeClock.start_s": lambda on: Number(FakeClock, -math.inf, math.inf, True),
    "FakeClock.advance.seconds": lambda on: Number(FakeClock().advance, 0, math.inf, True),
    "Channel.capacity": lambda on: Number(Channel, 1, math.inf),
    "SharedChannel.capacity": lambda on: Number(SharedChannel, 1, math.inf),
    "ThreadPark.max_threads": lambda on: Number(lambda value: ThreadPark(max_threads=value), 1, math.inf),
    "ThreadPool.threads": lambda on: Number(lambda value: ThreadPool(value).close(), 1, math.inf),
    "TcpListener.port": lambda on: Number(lambda value: TcpListener("127.0.0.1", value).close(), 0, 65_535),
    "TcpListener.backlog": lambda on: Number(
        lambda value: TcpListener("127.0.0.1", 0, backlog=value).close(), 0, 2**31 - 1
    ),
    "UnixListener.backlog": lambda on: Number(
        lambda value: UnixListener(on.folder / "s", backlog=value, replace_stale=True).close(), 0, 2**31 - 1
    ),
    "ReadYield.read.limit_bytes": lambda on: Number(_read, 1, 1 << 20),
    "dump.limit": lambda on: Number(lambda value: dump(on.net[0].reactor, limit=value), 0, math.inf),
    "serve.limit": lambda on: Number(
        lambda value: _steps(serve(object(), Channel(1), limit=value)),
        0,
        math.inf,
    ),
    "ReactorThread.close.timeout_s": lambda on: Number(
        lambda value: ReactorThread().close(value), -math.inf, math.inf, True
    ),
}
# Their most is not the last accepted number, but the last one that can be tried here.
NO_MOST = {"ReadYield.read.limit_bytes", "TcpListener.port"}


def _echo(query: Any, reply: Any) -> None: ...


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[On]:
    with LocalNetwork(peers=2) as net:
        yield On(net, tmp_path_factory.mktemp("numbers"))


def _wrong(number: Number) -> Iterator[Any]:
    """Values outside the range, and those that are no number."""
    yield from (True, "9", math.nan, b"1", [1])
    if number.least > -math.inf:
        yield -1
        yield -math.inf
        if number.is_time:
            yield from (number.least / 2,) if 0 < number.least < 1 else ()
        else:
            yield int(number.least) - 1
    if not number.is_time:
        yield from (1.5, math.inf, 1e300)
    if number.most < math.inf:
        yield from (number.most + 1, 2**70)
        yield math.inf


@pytest.mark.parametrize("name", TABLE)
def test_a_number_out_of_range_is_refused_by_name(name: str, on: On) -> None:
    number = TABLE[name](on)
    argument = name.rpartition(".")[2]
    if name in NO_MOST:
        number = Number(number.take, number.least, math.inf, number.is_time)
    for value in _wrong(number):
        with pytest.raises((TypeError, ValueError, BadRequest)) as caught:
            pytest.fail(f"{name} took {value!r}: {number.take(value)!r}")
        text = str(caught.value)
        assert argument in text or "a time to wait is a number" in text or "a clock goes" in text, (
            value,
            text,
        )


@pytest.mark.parametrize("name", TABLE)
def test_the_ends_of_the_range_are_accepted(name: str, on: On) -> None:
    number = TABLE[name](on)
    for value in {number.least, number.most} - {math.inf, -math.inf}:
        if name != "TcpListener.port":
            number.take(value if number.is_time else int(value))


def test_the_time_for_a_leave_is_checked_when_it_begins(on: On) -> None:
    for value in (-1, math.nan, True, "9"):
        service = on.net[0].leave(value)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match="within_s"):
            next(service)


def test_a_client_refuses_a_number_before_it_sends(on: On) -> None:
    for options in ({"timeout_s": -1}, {"retries": 17}, {"retries": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            list_files(on.net[0], on.bob, **options)


def test_a_size_is_not_larger_than_any_disk() -> None:
    assert range_of(next(each for each in fields(FilesSettings) if each.name == "quota_bytes")) == (
        0,
        MOST_BYTES,
    )
