"""Nodes in separate processes: content of any length arrives in bounded memory, and a crash is survived."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.content import RepeatedContent, content_digest, new_digest
from bench.control import ControlledProcess, ProcessEnded, ProcessError, stop_processes
from bench.processes import NodeProcesses
from tunnel import QueryFailed

pytestmark = pytest.mark.full

PROXIES = [1, 2, 3]
ALICE, BOB = 0, 4
MIB = 1024 * 1024
# The additional memory that a long transfer may need, compared with a short one.
MEMORY_BOUND_BYTES = 16 * MIB
# Longer than any time limit of a node.
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def net() -> Iterator[NodeProcesses]:
    with NodeProcesses(5) as network:
        yield network


@pytest.mark.parametrize("content_bytes", [0, 1, MIB])
def test_a_query_without_reply_arrives_whole(net: NodeProcesses, content_bytes: int) -> None:
    report = net.query(ALICE, BOB, content_bytes=content_bytes, route=PROXIES, mode="none").result(TIMEOUT_S)
    assert report["query_bytes"] == content_bytes
    assert report["reply_bytes"] == 0
    assert report["route"] == [net.nodes[index].id.hex() for index in (*PROXIES, BOB)]
    assert net.received(BOB) == [{"content_bytes": content_bytes, "digest": report["query_digest"]}]


@pytest.mark.parametrize("content_bytes", [0, 1, MIB])
def test_a_query_is_echoed_whole(net: NodeProcesses, content_bytes: int) -> None:
    report = net.query(ALICE, BOB, content_bytes=content_bytes, route=PROXIES, mode="route").result(TIMEOUT_S)
    assert report["reply_bytes"] == content_bytes
    assert report["reply_digest"] == report["query_digest"]
    assert net.received(BOB) == [{"content_bytes": content_bytes, "digest": report["query_digest"]}]


def test_a_file_is_sent_through_a_route_chosen_at_random(net: NodeProcesses, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(bytes(range(256)) * 300)
    report = net.query(BOB, ALICE, path=path, hops=2).result(TIMEOUT_S)
    assert len(report["route"]) == 3
    assert report["reply_digest"] == report["query_digest"]
    assert [received["content_bytes"] for received in net.received(ALICE)] == [256 * 300]


def test_usage_and_log_of_each_node(net: NodeProcesses) -> None:
    for node in net.nodes:
        usage = net.usage(node.index)
        assert usage.cpu_s > 0
        assert MIB < usage.rss_bytes <= usage.peak_rss_bytes
        assert "Traceback" not in net.log(node.index)
    net.reset_peak(ALICE)


@pytest.mark.parametrize("mode", ["none", "route"])
@pytest.mark.parametrize("megabytes", [24, pytest.param(256, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_content(mode: str, megabytes: int) -> None:
    with NodeProcesses(5) as network:  # new processes, because a peak covers the whole life of a process
        for content_bytes in (MIB, megabytes * MIB):
            before = [network.usage(index).peak_rss_bytes for index in range(5)]
            report = network.query(ALICE, BOB, content_bytes=content_bytes, route=PROXIES, mode=mode).result()
            (received,) = network.received(BOB)
            assert received["digest"] == report["query_digest"]
            assert report["reply_digest"] == (report["query_digest"] if mode == "route" else "")
        after = [network.usage(index).peak_rss_bytes for index in range(5)]
    grown = [end - start for start, end in zip(before, after, strict=True)]
    assert max(grown) < MEMORY_BOUND_BYTES, f"peaks grew by {grown} bytes"


def test_a_dying_proxy_ends_only_its_query() -> None:
    with NodeProcesses(5) as network:
        # More content than can be in transit, so the transfer cannot end before the proxy does.
        running = network.query(
            ALICE, BOB, content_bytes=1 << 30, route=PROXIES, mode="none", notify_bytes=4 * MIB
        )
        sent, _ = running.reached.result(TIMEOUT_S)
        assert sent >= 4 * MIB
        network.nodes[2].kill()
        with pytest.raises(QueryFailed) as failure:
            running.result(TIMEOUT_S)
        assert failure.value.code is not None
        assert [node.is_running for node in network.nodes] == [True, True, False, True, True]
        assert network.received(BOB) == []
        with pytest.raises(ProcessEnded, match="node 2 has ended"):
            network.usage(2)
        report = network.query(ALICE, BOB, content_bytes=1000, route=[3, 1]).result(TIMEOUT_S)
        assert report["reply_digest"] == report["query_digest"]


def test_a_query_that_cannot_be_built_raises_the_reason(net: NodeProcesses) -> None:
    with pytest.raises(ProcessError, match="BadRoute"):
        net.query(ALICE, BOB, content_bytes=1, hops=9).result(TIMEOUT_S)


def test_a_node_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(ProcessEnded, match="no_such_engine"), NodeProcesses(2, engine="no_such_engine"):
        pass


def test_a_node_that_fails_ends_its_process_and_an_error_has_its_log(tmp_path: Path) -> None:
    def fail() -> None:
        with NodeProcesses(2, directory=tmp_path) as network:
            # "go" is not sent twice: two services cannot accept from one listener.
            network.nodes[1].process.call("go")
            assert network.nodes[1].process.wait(TIMEOUT_S)
            network.usage(1)

    with pytest.raises(ProcessEnded) as failure:
        fail()
    log = (tmp_path / "node-1.log").read_text()
    assert "the node has failed" in log
    assert log.strip().splitlines()[-1] in "".join(failure.value.__notes__)


def test_all_processes_end_with_the_network() -> None:
    with NodeProcesses(2) as network:
        nodes = network.nodes
        assert all(node.is_running for node in nodes)
    assert not any(node.is_running for node in nodes)


def test_a_node_ends_when_its_pipe_is_closed(tmp_path: Path) -> None:
    with NodeProcesses(2, directory=tmp_path) as network:
        node = network.nodes[1]
        node.process.close_input()
        assert node.process.wait(TIMEOUT_S)
        assert not node.is_running
    assert (tmp_path / "node-1.log").exists()


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = 'import signal\nprint(\'{"id": 0, "result": {}}\', flush=True)\nsignal.pause()\n'
    (tmp_path / "stubborn.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = ControlledProcess("stubborn", [], name="stubborn", log_path=tmp_path / "log")
    process.hello.result(TIMEOUT_S)
    assert stop_processes([process], timeout_s=0.2) == ["stubborn"]
    assert not process.is_running


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("size", [0, 1, 65_520, 65_521, 65_522, 200_000])
def test_made_content_has_the_digest_that_is_foretold(size: int) -> None:
    whole = RepeatedContent(size).read()
    assert len(whole) == size
    state = new_digest("sha256")
    state.update(whole)
    assert state.hexdigest() == content_digest(size, "sha256")
    parts = bytearray(size)
    content, position = RepeatedContent(size), 0
    while count := content.readinto(memoryview(parts)[position : position + 999]):
        position += count
    assert bytes(parts) == whole
    for start in (0, size // 3, size):
        assert content.seek(start) == start
        assert content.read() == whole[start:]
        assert content.tell() == size
