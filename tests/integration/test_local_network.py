"""Queries through real nodes on real sockets: sizes, routes, modes, engines, services."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from reactor import RunInThread, Sleep
from tests.support.logs import records_of
from tests.support.network import PATIENCE_S, assert_works, wait_until_idle
from tunnel import InnerService, Limits, LocalNetwork, Ping, Profile, QueryFailed, ReplyMode, Route
from tunnel.client import Client
from tunnel.client.clients import ThreadTunnel
from tunnel.errors import BadRoute, ErrorCode, LocalTunnelError, ProfileError, SubStreamReset
from tunnel.geometry import BULK, DEFAULT, GEOMETRIES, INTERACTIVE, LONG, Geometry
from tunnel.modes import MODES
from tunnel.node import FrameReport
from tunnel.node.limits import LinkPolicy
from tunnel.node.query.request import SERVED_MODES
from tunnel.services import (
    BlockingQuery,
    BlockingReply,
    Echo,
    Query,
    Reply,
    Services,
    blocking,
    service_prefix,
)

# Links that end with their message, so that the reply path must be dialled.
ONCE = Limits(link_policy=LinkPolicy.ONCE)
EDGE = [-23, -22, -21, -1, 0, 1]


@pytest.mark.parametrize("engine", ["openssl", pytest.param("pycryptodome", marks=pytest.mark.full)])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_contents_around_every_edge(geometry: Geometry, engine: str) -> None:
    reports: list[FrameReport] = []
    with LocalNetwork(peers=4, engine=engine, observe=reports.append) as net:
        for size in [0, 1, *(geometry.chunk_bytes + offset for offset in EDGE), 100_000]:
            reports.clear()
            content = os.urandom(size)
            query = net[0].query(net[3].id, content, hops=2, profile=Profile(geometry))
            result = query.result(timeout=PATIENCE_S)
            assert result.read() == content
            assert (result.query_bytes, result.reply_bytes) == (size, size)
            nodes = [net[0].id, *result.route.nodes]
            forward = {r.bytes_out for r in reports if nodes.index(r.neighbour) > nodes.index(r.node)}
            backward = {r.bytes_out for r in reports if nodes.index(r.neighbour) < nodes.index(r.node)}
            assert forward == {geometry.frame_bytes(size + 4 + geometry.reply_block_bytes)}
            assert backward == {geometry.frame_bytes(size + 4)}
            assert len(reports) == 6
        wait_until_idle(net)


@pytest.mark.parametrize("mode", SERVED_MODES)
def test_a_query_to_the_node_itself_is_refused_with_the_reason(mode: ReplyMode) -> None:
    with LocalNetwork(peers=6) as net, pytest.raises(BadRoute, match="cannot query itself"):
        net[0].query(net[0].id, b"ping", hops=1, mode=mode).result(timeout=PATIENCE_S)


@pytest.mark.full
@pytest.mark.parametrize("mode", SERVED_MODES)
@pytest.mark.parametrize("hops", [0, 1, 5, 23])
def test_route_lengths(hops: int, mode: ReplyMode) -> None:
    # A reply path over other proxies needs as many again; one that the other end draws needs at least one.
    others = {ReplyMode.OTHER_ROUTE: 2 * hops, ReplyMode.KNOWN_DEST: max(1, hops)}.get(mode, hops)
    with LocalNetwork(peers=others + 2) as net:
        content = os.urandom(1_000_000 if hops < 6 else 50_000)
        with net[0].query(net[hops + 1].id, content, hops=hops, mode=mode).result(PATIENCE_S) as result:
            assert len(result.route.proxies) == hops
            assert result.has_reply == MODES[mode].has_reply
            assert result.read() == (content if result.has_reply else b"")
        wait_until_idle(net)


@pytest.mark.full
def test_longest_route() -> None:
    with LocalNetwork(peers=128) as net:
        result = net[0].query(net[127].id, b"far away", hops=126).result(timeout=PATIENCE_S)
        assert result.read() == b"far away"
        assert result.profile == Profile(LONG, max(net.engine.suites))
        wait_until_idle(net)


def test_many_queries_at_once() -> None:
    with LocalNetwork(peers=6) as net:
        contents = [os.urandom(1000 * i) for i in range(40)]
        futures = [
            net[i % 6].query(net[(i + 3) % 6].id, content, hops=2) for i, content in enumerate(contents)
        ]
        for future, content in zip(futures, contents, strict=True):
            assert future.result(timeout=PATIENCE_S).read() == content
        wait_until_idle(net)


def test_files_in_and_out() -> None:
    class Digest:
        def __init__(self) -> None:
            self.sha256 = hashlib.sha256()

        def write(self, data: memoryview) -> None:
            self.sha256.update(data)

    content, sink, seen = os.urandom(5_000_000), Digest(), []
    with LocalNetwork(peers=3) as net:
        result = (
            net[0]
            .query(
                net[2].id,
                io.BytesIO(content),
                hops=1,
                sink=sink,
                profile=Profile(BULK),
                progress=lambda *counts: seen.append(counts),
            )
            .result(timeout=PATIENCE_S)
        )
    assert sink.sha256.digest() == hashlib.sha256(content).digest()
    assert seen[-1] == (len(content), len(content))
    assert seen == sorted(seen)
    with pytest.raises(LocalTunnelError, match="the sink of the query"):
        result.read()


def test_ping_answers_when_the_query_is_whole() -> None:
    with LocalNetwork(peers=3, service=Ping()) as net:
        assert net[0].query(net[2].id, b"x" * 100_000, hops=1).result(timeout=PATIENCE_S).read() == b"pong"


def test_service_that_answers_before_it_reads_and_leaves_the_rest_unread() -> None:
    class Hasty(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            yield from reply.write(b"early")
            yield from reply.flush()
            yield from query.read()

    with LocalNetwork(peers=3, service=Hasty()) as net:
        assert (
            net[0].query(net[2].id, os.urandom(500_000), hops=1).result(timeout=PATIENCE_S).read() == b"early"
        )
        wait_until_idle(net)


def test_service_that_exits_ends_its_query_and_not_the_network(caplog: pytest.LogCaptureFixture) -> None:
    class Exiting(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            if (yield from query.read()) == b"exit":
                raise SystemExit(3)

    with LocalNetwork(peers=3, service=Exiting()) as net:
        with pytest.raises(QueryFailed, match="SERVICE_FAILED"):
            net[0].query(net[2].id, b"exit", hops=1).result(timeout=PATIENCE_S)
        assert net[0].query(net[2].id, b"stay", hops=1).result(timeout=PATIENCE_S).read() == b""
    assert "Exiting.handle() at" in caplog.text


@pytest.mark.parametrize("service", ["exits", "in a thread", "blocks"])
def test_a_service_that_exits_ends_neither_tunnel_nor_network(service: str) -> None:
    def exits(query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield from reply.write(b"begun")
        raise SystemExit(3)

    def exits_in_a_thread(query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield RunInThread(sys.exit, 3)

    def blocks(query: BlockingQuery, reply: BlockingReply) -> None:
        sys.exit(3)

    services: dict[str, Any] = {"exits": exits, "in a thread": exits_in_a_thread, "blocks": blocking(blocks)}
    served = Services({"it": services[service], "echo": Echo()})
    with LocalNetwork(peers=3, service=served) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        with pytest.raises(SubStreamReset, match="SERVICE_FAILED"):
            _read_to_end(tunnel, "it")
        assert tunnel.ask(service_prefix("echo") + b"on", timeout_s=PATIENCE_S) == b"on"


def _read_to_end(tunnel: ThreadTunnel, name: str) -> None:
    stream = tunnel.open(name)
    while stream.read(timeout_s=PATIENCE_S):
        pass


def test_content_that_is_neither_bytes_nor_a_file() -> None:
    with LocalNetwork(peers=2) as net, pytest.raises(TypeError, match="got str"):
        net[0].query(net[1].id, "text", hops=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("fails_after", [0, 1, 10])
@pytest.mark.parametrize("mode", SERVED_MODES)
def test_service_that_fails(fails_after: int, mode: ReplyMode, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            for _ in range(fails_after):
                yield from reply.write((yield from query.read()))
            raise ZeroDivisionError("a bug in a user's service")

    with LocalNetwork(peers=6, service=Failing()) as net:
        with pytest.raises(QueryFailed, match="SERVICE_FAILED") as caught:
            net[0].query(net[3].id, os.urandom(300_000), hops=2, mode=mode).result(timeout=PATIENCE_S)
        assert caught.value.code is ErrorCode.SERVICE_FAILED
        wait_until_idle(net)
    assert "Failing.handle() at" in caplog.text


@pytest.mark.full
def test_reply_that_takes_longer_than_the_idle_limit() -> None:
    """The query's streams are idle meanwhile; they are released before a proxy ends them as idle."""

    class Slow(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            while (yield from query.read()):
                pass
            for _ in range(40):
                yield Sleep(0.05)
                yield from reply.write(b"x" * 20_000)

    with LocalNetwork(peers=4, service=Slow(), limits=Limits(idle_s=1.5)) as net:
        result = net[0].query(net[3].id, b"go", hops=2).result(timeout=PATIENCE_S)
        assert result.read() == b"x" * 800_000
        wait_until_idle(net)


def test_service_that_thinks_for_too_long() -> None:
    class Thinker(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            yield Sleep(3600)

    with LocalNetwork(peers=3, service=Thinker(), limits=Limits(answer_s=0.4)) as net:
        with pytest.raises(QueryFailed, match="TIMEOUT"):
            net[0].query(net[2].id, b"go", hops=1).result(timeout=PATIENCE_S)
        wait_until_idle(net)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_a_failed_reply_route_is_reported_over_the_streams_of_the_query(hops: int) -> None:
    """The last hop before Alice no longer knows her when Bob answers. Her query fails immediately."""

    class Forgetting(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            while (yield from query.read()):
                pass
            net.directory.forget(net[0].id)
            yield from reply.write(b"you will never read this")

    with LocalNetwork(peers=4, service=Forgetting(), limits=ONCE) as net:
        started_s = time.monotonic()
        query = net[0].query(net[3].id, b"go", hops=hops)
        with pytest.raises(QueryFailed, match="UNKNOWN_NEXT"):
            query.result(timeout=PATIENCE_S)
        assert time.monotonic() - started_s < 10  # the idle limit is 60 s
        wait_until_idle(net)


def test_sink_that_fails_is_the_users_error() -> None:
    class Full:
        def write(self, data: memoryview) -> None:
            raise OSError("no space left")

    with LocalNetwork(peers=3) as net:
        with pytest.raises(LocalTunnelError, match="no space left"):
            net[0].query(net[2].id, b"x" * 50_000, hops=1, sink=Full()).result(timeout=PATIENCE_S)
        wait_until_idle(net)
        assert_works(net)


def test_source_that_fails_is_the_users_error() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("disk on fire")

    with LocalNetwork(peers=3) as net:
        with pytest.raises(OSError, match="disk on fire"):
            net[0].query(net[2].id, Broken(), hops=1).result(timeout=PATIENCE_S)
        wait_until_idle(net)
        assert_works(net)


def test_routes_that_cannot_be() -> None:
    with LocalNetwork(peers=4) as net:
        with pytest.raises(BadRoute, match="needs as many peers"):
            net[0].query(net[3].id, b"", hops=3)
        long_route = Route(tuple(os.urandom(32) for _ in range(7)), net[3].id)
        for node_id in long_route.proxies:
            net.directory.publish(dataclasses.replace(net[1].descriptor, node_id=node_id))
        too_long = net[0].query(net[3].id, b"", route=long_route, profile=Profile(INTERACTIVE))
        with pytest.raises(ProfileError, match="holds 6"):
            too_long.result(timeout=PATIENCE_S)
        for route in [
            Route((net[1].id, net[1].id), net[3].id),
            Route((net[0].id,), net[3].id),
            Route((os.urandom(32),), net[3].id),
            Route((), net[0].id),
        ]:
            with pytest.raises(BadRoute):
                net[0].query(route.destination, b"", route=route, profile=Profile(DEFAULT)).result(
                    timeout=PATIENCE_S
                )
        wait_until_idle(net)


def test_network_that_is_closed_before_its_nodes_serve_leaks_nothing() -> None:
    """An immediate failure, such as a wrong route, cancels the nodes before their first step."""
    for _ in range(20):
        with LocalNetwork(peers=3):
            pass  # an unclosed socket is a ResourceWarning, which is an error here


@pytest.mark.full
@pytest.mark.parametrize(("peers", "enough"), [(128, 4096), (1000, 5064)])
def test_a_low_limit_of_open_files_is_reported_with_the_remedy(peers: int, enough: int) -> None:
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from tunnel.cli import main\n"
        "raise SystemExit(main(['demo', '--hops', '2', '--peers', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(peers)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "limit here is 256" in done.stderr
    assert f"ulimit -n {enough}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_cannot_use_the_parents_network_but_can_start_its_own() -> None:
    program = """
        import asyncio, multiprocessing, os, sys, threading
        from reactor.errors import Forked
        from tunnel import LocalNetwork
        from tunnel.client import Client
        from tunnel.client.aio import AsyncClient

        def ask(net):
            return net[0].query(net[3].id, b"x", hops=1).result(30).read()

        def pieces():
            gate.wait(60)
            yield b"x"

        async def ask_in_asyncio():
            async with AsyncClient(net[0]) as client:
                await client.query(net[3].id, b"x", hops=1)

        def in_child():
            refused = 0
            for use in (
                lambda: ask(net),
                lambda: Client(net[0]).query(net[3].id, b"x", hops=1).result(30),
                lambda: Client(net[0]).tunnel(net[3].id, hops=1).__enter__(),
                lambda: asyncio.run(ask_in_asyncio()),
                lambda: net.submit(iter(())),
                lambda: asked.result(30),
                lambda: reply.read(timeout_s=30),
                lambda: tunnel.ask(b"x", timeout_s=30),
                lambda: tunnel.close(timeout_s=30),
            ):
                try:
                    use()
                except Forked:
                    refused += 1
            with LocalNetwork(peers=4) as own:
                own_works = ask(own) == b"x"
            net.close()
            os._exit(refused * 10 + own_works)

        with LocalNetwork(peers=4) as net:
            assert ask(net) == b"x"
            gate = threading.Event()
            asked = net[0].query(net[3].id, pieces(), hops=1)
            tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
            reply = Client(net[0]).ask(net[3].id, pieces(), hops=1)
            child = multiprocessing.get_context("fork").Process(target=in_child)
            child.start()
            child.join(60)
            gate.set()
            print(child.exitcode, asked.result(30).read(), reply.read(), tunnel.ask(b"x"), ask(net))
            tunnel.close()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert (done.stdout, done.stderr) == ("91 b'x' b'x' b'x' b'x'\n", "")


def test_a_network_is_entered_once(caplog: pytest.LogCaptureFixture) -> None:
    with LocalNetwork(peers=3) as net:
        with pytest.raises(LocalTunnelError, match="is open already"):
            net.__enter__()
        assert_works(net)
    with pytest.raises(LocalTunnelError, match="was closed"):
        net.__enter__()
    assert not records_of(caplog)
