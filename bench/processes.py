"""A network of one process per node on this machine, for benchmarks and for tests of whole processes.

    with NodeProcesses(5, service="echo") as net:
        report = net.query(0, 4, content_bytes=1_000_000, route=[1, 2, 3], mode="route").result()
        assert report["reply_digest"] == report["query_digest"]
        print(report["seconds"], net.usage(2).cpu_s, net.log(2))

Nodes are named by their index. Content is made in the asking process as it is sent and digested where it
arrives (`bench.content`), so a transfer of any length needs no memory and no disk. `bench.control` sends
requests to the processes, and `bench.node_process` carries them out.
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypedDict, cast

from bench.content import content_digest, file_digest
from bench.control import (
    CALL_TIMEOUT_S,
    ControlledProcess,
    Message,
    ProcessError,
    RequestRefused,
    stop_processes,
)
from bench.services import Received
from bench.usage import Usage
from tunnel import ErrorCode, QueryFailed
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys

__all__ = ["FailedAttempt", "NodeProcess", "NodeProcesses", "QueryReport", "RunningQuery"]

QUERY_TIMEOUT_S = 600.0
_LOG_TAIL_CHARACTERS = 2_000


class FailedAttempt(TypedDict):
    """A failed attempt before the successful one: its error, and the ids (hex) of the suspected nodes."""

    error: str
    blamed: list[str]


class QueryReport(TypedDict):
    """The outcome of a query.

    `query_digest` is the digest of the content as sent, `reply_digest` that of the reply as received ("" in
    mode `none`). `seconds` is the time from the call to its result, connections and handshakes included;
    `cpu_s` is the processor time of the asking process in that time.
    """

    route: list[str]
    mode: str
    profile: str
    query_bytes: int
    reply_bytes: int
    query_digest: str
    reply_digest: str
    seconds: float
    cpu_s: float
    attempts: list[FailedAttempt]


class RunningQuery:
    """A query in progress.

    Attributes:
        reached: a future of (bytes sent, bytes of reply received), done when `notify_bytes` have been sent.
            If the query fails first, it fails with the same error; if the query ends first, it is cancelled.
    """

    def __init__(self, query_digest: str) -> None:
        self.reached: Future[tuple[int, int]] = Future()
        self._query_digest = query_digest
        self._result: Future[Message] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether `result` returns or raises immediately."""
        return self._result is not None and self._result.done()

    def result(self, timeout_s: float = QUERY_TIMEOUT_S) -> QueryReport:
        """Wait for the end of the query.

        Raises:
            QueryFailed: Alice's node reports a failure. RequestRefused: the query could not be built.
            ProcessEnded: Alice's process has ended. TimeoutError: the query has not ended in time.
        """
        assert self._result is not None
        try:
            fields = self._result.result(timeout_s)
        except RequestRefused as error:
            if error.kind != QueryFailed.__name__:
                raise
            raise QueryFailed(error.text, None if error.code is None else ErrorCode[error.code]) from error
        return cast(QueryReport, {**fields, "query_digest": self._query_digest})

    def _follow(self, result: Future[Message]) -> None:
        self._result = result
        result.add_done_callback(self._ended)

    def _event(self, message: Message) -> None:
        self.reached.set_result((message["sent"], message["received"]))

    def _ended(self, result: Future[Message]) -> None:
        if self.reached.done():
            return
        error = result.exception()
        if error is None:
            self.reached.cancel()
        else:
            self.reached.set_exception(error)


class NodeProcess:
    """One node of the network, seen from its parent.

    Attributes:
        index: its number in the network.
        descriptor: None until the process has started.
    """

    def __init__(self, index: int, process: ControlledProcess) -> None:
        self.index = index
        self.process = process
        self.descriptor: Descriptor | None = None

    @property
    def id(self) -> bytes:
        """The node id."""
        assert self.descriptor is not None
        return self.descriptor.node_id

    @property
    def pid(self) -> int:
        """The process id, for profilers."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.is_running

    def kill(self) -> None:
        """Kill the process (SIGKILL), as a crash would."""
        self.process.kill()


class NodeProcesses:
    """A context manager that starts `count` nodes which know each other, and stops them.

    Args:
        count: number of nodes.
        engine: "auto", "openssl" or "pycryptodome".
        service: the service of each node: "echo" (which only counts in mode `none`), "exit" (the same, and
            an exit to this machine), "sink", "ping", or "hold", which never answers.
        directory: for key files, peer file and logs; by default a temporary one, removed at the end.
        digest: "sha256", or the cheaper "crc32" for benchmarks.
        idle_s: a frame without traffic for this time is ended.
        links: the link policy, "pooled" or "once".
        stream_chunk: bytes of a chunk of geometry `stream`; None: as the protocol says.
        network_id: 16 bytes; None: the id of local networks.
        hosts: the listening address of each node; by default loopback.
        prefixes: for each node a command that runs it, such as `ip netns exec NAME`.
        start_timeout_s: limit for the start of all nodes together.
    Raises (on entry):
        ProcessError: a node did not start; the text has the end of its log. TimeoutError: the nodes did not
            start in time.
    Raises (on exit):
        ProcessError: a process did not end on request and was killed.
    """

    def __init__(
        self,
        count: int,
        *,
        engine: str = "auto",
        service: str = "echo",
        directory: Path | None = None,
        digest: str = "sha256",
        idle_s: float = 60.0,
        links: str = "pooled",
        stream_chunk: int | None = None,
        network_id: bytes | None = None,
        hosts: Sequence[str] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._count = count
        self._directory = directory
        self._digest = digest
        self._options = ["--engine", engine, "--service", service, "--digest", digest, "--idle", str(idle_s)]
        self._options += ["--links", links]
        self._options += [] if stream_chunk is None else ["--stream-chunk", str(stream_chunk)]
        self._options += [] if network_id is None else ["--network", network_id.hex()]
        self._hosts = ["127.0.0.1"] * count if hosts is None else hosts
        self._prefixes: Sequence[Sequence[str]] = [()] * count if prefixes is None else prefixes
        self._peers = Path()
        self._start_timeout_s = start_timeout_s
        self._cleanup = ExitStack()
        self.engine_name = ""
        self.nodes: tuple[NodeProcess, ...] = ()

    def __enter__(self) -> NodeProcesses:
        if self._directory is None:
            directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mtun-bench-")))
        else:
            directory = self._directory
        try:
            self._peers = directory / "peers"
            self._start(directory)
        except BaseException:
            stop_processes([node.process for node in self.nodes])
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            killed = stop_processes([node.process for node in self.nodes])
            if error is not None:
                self._note_logs(error)
        finally:
            self._cleanup.close()
        if killed and error is None:
            raise ProcessError(f"killed, because they did not end on request: {', '.join(killed)}")

    def _note_logs(self, error: BaseException) -> None:
        """Add the ends of the nodes' logs to an error: the logs are removed with the network."""
        for node in self.nodes:
            tail = node.process.log()[-_LOG_TAIL_CHARACTERS:].strip()
            if tail:
                error.add_note(f"log of node {node.index} ends:\n{tail}")

    def _start(self, directory: Path) -> None:
        for index in range(self._count):
            NodeKeys.generate(time.time()).save(directory / f"node-{index}.keys")
            self.nodes = (*self.nodes, self._start_node(index, directory, port=0))
        until_s = time.monotonic() + self._start_timeout_s
        for node in self.nodes:
            self._meet(node, until_s)
        self._save_peers()
        for answer in [node.process.request("go") for node in self.nodes]:
            answer.result(until_s - time.monotonic())

    def _start_node(self, index: int, directory: Path, *, port: int) -> NodeProcess:
        arguments = [str(directory / f"node-{index}.keys"), str(self._peers), *self._options]
        process = ControlledProcess(
            "bench.node_process",
            [*arguments, "--host", self._hosts[index], "--port", str(port)],
            name=f"node {index}",
            log_path=directory / f"node-{index}.log",
            prefix=self._prefixes[index],
        )
        return NodeProcess(index, process)

    def _meet(self, node: NodeProcess, until_s: float) -> None:
        hello = node.process.hello.result(until_s - time.monotonic())
        node.descriptor = Descriptor.parse(base64.b64decode(hello["descriptor"]), tunnel_engine())
        self.engine_name = hello["engine"]

    def _save_peers(self) -> None:
        StaticDirectory(node.descriptor for node in self.nodes if node.descriptor is not None).save(
            self._peers
        )

    def restart(self, index: int) -> None:
        """Restart a killed node with the same keys and port, and a new onion key that all others learn."""
        dead = self.nodes[index]
        assert dead.descriptor is not None
        assert not dead.is_running
        dead.process.release()
        port = dead.descriptor.addresses[0].port
        until_s = time.monotonic() + self._start_timeout_s
        node = self._start_node(index, self._peers.parent, port=port)
        self.nodes = (*self.nodes[:index], node, *self.nodes[index + 1 :])
        self._meet(node, until_s)
        self._save_peers()
        requests = ["go" if other is node else "peers" for other in self.nodes if other.is_running]
        alive = [other for other in self.nodes if other.is_running]
        for answer in [other.process.request(do) for other, do in zip(alive, requests, strict=True)]:
            answer.result(until_s - time.monotonic())

    # -- queries -------------------------------------------------------------------------------------------

    def query(
        self,
        origin: int,
        destination: int,
        *,
        content_bytes: int = 0,
        path: Path | None = None,
        hops: int = 3,
        route: Sequence[int] | None = None,
        mode: str = "route",
        profile: str | None = None,
        idle_s: float | None = None,
        retries: int = 0,
        notify_bytes: int | None = None,
    ) -> RunningQuery:
        """Make node `origin` query node `destination`, and return immediately.

        Args:
            content_bytes: length of generated content. path: a file to send instead.
            route: the indices of the proxies, in place of `hops` chosen at random.
            mode: "none" or "route". profile: its name; None: the default for the route.
            retries: number of further attempts over other routes; the reply is then held in memory.
            notify_bytes: `reached` is done when this amount of content has been sent.
        Raises:
            ProcessEnded: the asking process has ended.
        """
        digest = (
            content_digest(content_bytes, self._digest) if path is None else file_digest(path, self._digest)
        )
        running = RunningQuery(digest)
        fields = {
            "destination": self.nodes[destination].id.hex(),
            "content_bytes": content_bytes,
            "path": None if path is None else str(path),
            "hops": hops,
            "route": None if route is None else [self.nodes[index].id.hex() for index in route],
            "mode": mode,
            "profile": profile,
            "idle_s": idle_s,
            "retries": retries,
            "notify_bytes": notify_bytes,
        }
        running._follow(self.nodes[origin].process.request("query", fields, on_event=running._event))
        return running

    def round_trips(
        self, route: Sequence[int], kind: str, *, count: int, content_bytes: int = 64
    ) -> list[float]:
        """Let the first node of `route` query the last one `count` times. Returns the seconds of each.

        Args:
            route: all nodes, both ends included. kind: one of `bench.round_trips.KINDS`.
        """
        fields = {**self._route_fields(route), "kind": kind, "count": count, "content_bytes": content_bytes}
        origin = self.nodes[route[0]].process
        return cast(list[float], origin.call("round_trips", fields, timeout_s=QUERY_TIMEOUT_S)["seconds"])

    def socks(self, route: Sequence[int]) -> int:
        """Let the first node of `route` open a SOCKS port with tunnels to the last one. Returns the port."""
        return cast(int, self.nodes[route[0]].process.call("socks", self._route_fields(route))["port"])

    def open_tunnels(self, route: Sequence[int], count: int, *, profile: str) -> None:
        """Let the first node of `route` open `count` established tunnels to the last one."""
        fields = {**self._route_fields(route), "count": count, "profile": profile}
        self.nodes[route[0]].process.call("open_tunnels", fields, timeout_s=QUERY_TIMEOUT_S)

    def move(self, origin: int, content_bytes: int) -> float:
        """Send this amount through the tunnels of `origin`, in equal parts. Returns the seconds."""
        answer = self.nodes[origin].process.call(
            "move", {"content_bytes": content_bytes}, timeout_s=QUERY_TIMEOUT_S
        )
        return cast(float, answer["seconds"])

    def close_tunnels(self, origin: int) -> None:
        """Close the tunnels of `origin`."""
        self.nodes[origin].process.call("close_tunnels", timeout_s=QUERY_TIMEOUT_S)

    def _route_fields(self, route: Sequence[int]) -> Message:
        ids = [self.nodes[index].id.hex() for index in route]
        return {"route": ids[1:-1], "destination": ids[-1]}

    # -- state of a node -----------------------------------------------------------------------------------

    def usage(self, index: int) -> Usage:
        """Processor time and memory of a node's process."""
        return Usage(**self.nodes[index].process.call("usage"))

    def reset_peak(self, index: int) -> None:
        """Reset `peak_rss_bytes` of a node to its present use."""
        self.nodes[index].process.call("reset_peak")

    def received(self, index: int, *, timeout_s: float = CALL_TIMEOUT_S) -> list[Received]:
        """The complete queries that a node's service ("sink" or "echo") has received since the last call."""
        return cast(
            list[Received], self.nodes[index].process.call("received", timeout_s=timeout_s)["queries"]
        )

    def log(self, index: int) -> str:
        """The log of a node; it can be read after the node's end too."""
        return self.nodes[index].process.log()
