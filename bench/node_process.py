"""One node in its own process, controlled over a pipe: `python -m bench.node_process KEYS PEERS`.

`bench.processes` starts it. The node binds its port and reports its descriptor; the parent collects the
descriptors of all nodes in the file PEERS and sends `go`; only then the node reads the file and serves. So no
port is guessed and no wait is timed.

The reactor runs in a thread, and the main thread reads the pipe. During a transfer it sleeps in `read`, which
costs no processor time. Requests:

    go                                       read PEERS and serve
    peers                                    read PEERS again
    query   destination, mode, profile, …    send a query; see `_Child.query`
    received                                 queries that the inner service received since the last request
    round_trips  kind, count, …              repeat a query and time each (`bench.round_trips`)
    socks   destination, route               open a SOCKS port with tunnels over this route
    open_tunnels, move, close_tunnels        many established tunnels (`bench.round_trips.ManyTunnels`)
    usage                                    processor time and memory
    reset_peak                               reset the peak of the memory to the present use
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, cast

from bench.content import DIGESTS, DigestingSink, RepeatedContent
from bench.control import ControlPipe, Message
from bench.round_trips import ManyTunnels, round_trips
from bench.services import SERVICES, Sink, make_service
from bench.usage import own_usage, reset_peak
from reactor import ReactorThread
from tunnel import Limits, Node, Profile, QueryResult, ReplyMode, Route
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.front.socks_server import SocksServer
from tunnel.geometry import GEOMETRIES, STREAM
from tunnel.identity.keys import NodeKeys
from tunnel.node.context import LOCAL_NETWORK_ID
from tunnel.node.limits import LinkPolicy

__all__ = ["main"]

log = logging.getLogger("bench.node")

_MOST_S = 600.0


class _Child:
    """The node of this process and the answers to the parent's requests."""

    def __init__(self, options: argparse.Namespace, pipe: ControlPipe) -> None:
        self._pipe = pipe
        self._digest: str = options.digest
        self._peers: Path = options.peers
        self._engine = tunnel_engine(options.engine)
        self._directory = StaticDirectory()
        self._service = make_service(options.service, self._digest)
        self._tunnels: ManyTunnels | None = None
        self._thread = ReactorThread()
        self._node = Node(
            NodeKeys.load(options.keys),
            self._directory,
            reactor=self._thread.reactor,
            service=self._service,
            engine=self._engine,
            limits=Limits(idle_s=options.idle, link_policy=LinkPolicy(options.links), queries=4096),
            network_id=options.network,
            host=options.host,
            port=options.port,
        )
        self._thread.start()
        descriptor = base64.b64encode(self._node.descriptor.signed).decode("ascii")
        pipe.result(0, {"descriptor": descriptor, "engine": self._engine.name})

    def close(self) -> None:
        self._thread.close()

    def answer(self, message: Message) -> None:
        """Carry out one request. A failure is reported to the parent, and the process continues."""
        number = message["id"]
        methods: dict[str, Callable[[Message], Message | None]] = {
            "go": self.go,
            "peers": self.read_peers,
            "query": self.query,
            "received": self.received,
            "round_trips": self.round_trips,
            "socks": self.socks,
            "open_tunnels": self.open_tunnels,
            "move": self.move,
            "close_tunnels": self.close_tunnels,
            "usage": lambda _: asdict(own_usage()),
            "reset_peak": self.reset_peak,
        }
        try:
            result = methods[message["do"]](message)
        except Exception as error:  # noqa: BLE001 - the parent raises it from its request
            self._pipe.error(number, error)
            return
        if result is not None:
            self._pipe.result(number, result)

    def go(self, message: Message) -> Message:
        found = self.read_peers(message)
        self._thread.submit(self._node.serve(), name="node").add_done_callback(_end_if_failed)
        return found

    def read_peers(self, _: Message) -> Message:
        for descriptor in StaticDirectory.load(self._peers, self._engine):
            self._directory.publish(descriptor)
        return {"peers": len(self._directory)}

    def received(self, _: Message) -> Message:
        queries = self._service.take_received() if isinstance(self._service, Sink) else []
        return {"queries": queries}

    def reset_peak(self, _: Message) -> Message:
        reset_peak()
        return {}

    def round_trips(self, message: Message) -> Message:
        times = round_trips(
            self._node,
            _route(message),
            message["kind"],
            count=message["count"],
            content_bytes=message["content_bytes"],
        )
        return {"seconds": self._thread.submit(times).result(_MOST_S)}

    def socks(self, message: Message) -> Message:
        """Fields: destination, route. The port serves as long as the node."""
        route = _route(message)
        server = SocksServer(self._node, route.destination, port=0, route=route)
        self._thread.submit(server.serve(), name="front").add_done_callback(_end_if_failed)
        return {"port": server.entrance.listener.address[1]}

    def open_tunnels(self, message: Message) -> Message:
        """Fields: destination, route, profile, count."""
        # By its byte, which finds another length of chunks of a network that has one (`--stream-chunk`).
        profile = Profile.from_byte(Profile.from_name(message["profile"]).byte)
        self._tunnels = ManyTunnels(self._node, _route(message), profile)
        self._thread.submit(self._tunnels.open(message["count"])).result(_MOST_S)
        return {}

    def move(self, message: Message) -> Message:
        """Field: content_bytes, the sum of all tunnels."""
        assert self._tunnels is not None
        return {"seconds": self._thread.submit(self._tunnels.move(message["content_bytes"])).result(_MOST_S)}

    def close_tunnels(self, _: Message) -> Message:
        assert self._tunnels is not None
        self._thread.submit(self._tunnels.close()).result(_MOST_S)
        return {}

    def query(self, message: Message) -> None:
        """Send a query. The answer to the request follows when the query has ended.

        Fields: destination and route (node ids in hex; or `hops`), mode, profile (name, or None for the
        default), content_bytes or path, idle_s, retries (then the reply is held in memory), and notify_bytes:
        send one event `reached` when this amount of content has been sent.
        """
        number = message["id"]
        profile = message["profile"]
        sink, retries = DigestingSink(self._digest), message["retries"]
        notify_bytes = message["notify_bytes"]

        def watch(sent: int, received: int) -> None:
            nonlocal notify_bytes
            if notify_bytes is not None and sent >= notify_bytes:
                notify_bytes = None
                self._pipe.event(number, "reached", {"sent": sent, "received": received})

        content = _open_content(message)
        started_s, cpu_before = time.perf_counter(), own_usage().cpu_s

        def ended(future: Future[QueryResult]) -> None:
            seconds, cpu_s = time.perf_counter() - started_s, own_usage().cpu_s - cpu_before
            content.close()
            error = future.exception()
            if error is not None:
                self._pipe.error(number, error)
                return
            result = future.result()
            if retries and result.has_reply:
                sink.write(result.read())
            digest = sink.hexdigest() if result.has_reply else ""
            report = {"reply_digest": digest, "seconds": seconds, "cpu_s": cpu_s}
            self._pipe.result(number, _fields(result) | report)

        self._node.query(
            bytes.fromhex(message["destination"]),
            content,
            hops=message["hops"],
            route=None if message["route"] is None else _route(message),
            mode=ReplyMode(message["mode"]),
            profile=None if profile is None else Profile.from_name(profile),
            idle_s=message["idle_s"],
            # A sink cannot return what it has received, so its first byte would end the retries.
            sink=None if retries else cast(IO[bytes], sink),
            retries=retries,
            progress=None if notify_bytes is None else watch,
        ).add_done_callback(ended)


def _route(message: Message) -> Route:
    return Route(tuple(map(bytes.fromhex, message["route"])), bytes.fromhex(message["destination"]))


def _fields(result: QueryResult) -> Message:
    """The fields of a `QueryReport` that the result itself has."""
    return {
        "route": [node.hex() for node in result.route.nodes],
        "mode": result.mode.value,
        "profile": result.profile.name,
        "query_bytes": result.query_bytes,
        "reply_bytes": result.reply_bytes,
        "attempts": [
            {"error": str(failure), "blamed": [node.hex() for node in failure.blamed]}
            for failure in result.attempts
        ],
    }


def _open_content(message: Message) -> IO[bytes]:
    if message["path"] is not None:
        return Path(message["path"]).open("rb")
    return cast(IO[bytes], RepeatedContent(message["content_bytes"]))


def _end_if_failed(serving: Future[None]) -> None:
    """End the process of a node that no longer serves, so that it does not look alive."""
    if not serving.cancelled() and serving.exception() is not None:
        log.critical("the node has failed", exc_info=serving.exception())
        logging.shutdown()
        os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.node_process", description=__doc__.splitlines()[0])
    parser.add_argument("keys", type=Path, help="key file of this node")
    parser.add_argument("peers", type=Path, help="peer file; read when the parent sends go")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument("--network", type=bytes.fromhex, default=LOCAL_NETWORK_ID, help="network id in hex")
    parser.add_argument("--engine", default="auto")
    parser.add_argument(
        "--links", choices=list(LinkPolicy), default="pooled", help="once: one link for each message"
    )
    parser.add_argument(
        "--stream-chunk", type=int, metavar="BYTES", help="other chunks of geometry stream, for measurements"
    )
    parser.add_argument("--service", choices=SERVICES, default="echo")
    parser.add_argument("--digest", choices=DIGESTS, default="sha256", help="digest of received content")
    parser.add_argument(
        "--idle", type=float, default=60.0, help="end a frame after this number of seconds without traffic"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Ctrl-C reaches the whole process group: the parent then stops this process in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options.stream_chunk is not None:
        GEOMETRIES[STREAM.code] = replace(STREAM, chunk_bytes=options.stream_chunk)
    pipe = ControlPipe()
    child = _Child(options, pipe)
    try:
        for message in pipe.requests():
            child.answer(message)
    finally:
        child.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
