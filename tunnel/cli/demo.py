"""Start real nodes on loopback, send a query through them, check the reply, and show the work of each
node."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import os
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import IO, Any

from tunnel.arguments import plain_name
from tunnel.cli.options import command, count, filled_path, profile, readable_file, size
from tunnel.cli.terminal import ProgressBar, readable_size, say, say_json, table
from tunnel.codes import short
from tunnel.errors import ConfigError, ProfileError
from tunnel.geometry import Profile
from tunnel.local_network import LocalNetwork
from tunnel.modes import MODES, ReplyMode
from tunnel.node import FrameReport, Limits, LinkPolicy, Node, QueryResult
from tunnel.node.query.request import SERVED_MODES, QueryOptions
from tunnel.services import InnerService, Query, Reply

__all__ = ["PositionSampler", "add_parser"]

_EXAMPLE = """\
example:
  mtun demo                                  25 nodes, 23 proxies, a text of 300 KiB
  mtun demo --peers 5 --file README.md       your own file, through 3 proxies
  mtun demo --peers 128 --mode none --json   the longest route, printed as JSON
"""
_MOST_PEERS = 1_000
_DIRECTIONS = "query", "reply"
_LINKS = {"pooled": "links that carry many messages", "once": "one link per message"}
LINE = "the quick brown fox carries message %06d through peers that only Alice knows\n"


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "demo", __doc__, _EXAMPLE, run)
    add = parser.add_argument
    add(
        "--peers",
        type=count(2, _MOST_PEERS),
        default=25,
        metavar="N",
        help="number of nodes, Alice and Bob included (default 25)",
    )
    add(
        "--hops",
        type=count(0, 126),
        metavar="N",
        help="number of proxies (default: all nodes but Alice and Bob)",
    )
    content = parser.add_mutually_exclusive_group()
    content.add_argument(
        "--size",
        type=size(0, 1 << 40),
        default=300 * 1024,
        help="length of a generated text (default 300KiB)",
    )
    content.add_argument("--file", type=filled_path, help="send this file instead of a generated text")
    add(
        "--mode",
        type=plain_name,
        choices=[str(mode) for mode in SERVED_MODES],
        default=str(ReplyMode.ROUTE),
        help="reply mode",
    )
    add(
        "--profile",
        type=profile,
        metavar="NAME",
        help="interactive, default, long, bulk or stream (default: default if it holds the route, else long)",
    )
    engines = ("auto", "openssl", "pycryptodome")
    add("--engine", type=plain_name, choices=engines, default="auto", help="crypto library")
    add(
        "--links",
        type=plain_name,
        choices=[policy.value for policy in LinkPolicy],
        default=LinkPolicy.POOLED.value,
        help="pooled: long-lived links carry many messages; once: one link for each message (default pooled)",
    )
    add(
        "--seed",
        type=count(0, 1 << 63),
        help="make the choice of the route repeatable (keys are always fresh)",
    )


class _Digest:
    """A sink that counts and digests the content, and discards it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self.bytes += len(data)
        self._hash.update(data)

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


class _Uppercase(InnerService):
    """Bob's service: returns the query in upper case, and digests both."""

    def __init__(self) -> None:
        self.received = _Digest()
        self.sent = _Digest()

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while chunk := (yield from query.read()):
            self.received.write(chunk)
            if reply.is_possible:
                answer = chunk.upper()
                self.sent.write(answer)
                yield from reply.write(answer)


class _DigestingSource:
    """Alice's file. Its content is digested while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = _Digest()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.write(data)
        return data


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A query and its reply, and all that the report shows of them.

    Attributes:
        query, reply: reports of both frames, in the order of their routes.
        digests: SHA-256 of the content as sent and as received, by the names in the JSON output.
        ports: of each node, by id.
    """

    alice: bytes
    result: QueryResult
    query: list[FrameReport]
    reply: list[FrameReport]
    query_bytes: int
    reply_bytes: int
    digests: dict[str, str | None]
    seconds: float
    engine: str
    ports: dict[bytes, int]


def run(options: argparse.Namespace) -> int:
    """Run the demonstration. Returns the exit status."""
    hops = options.peers - 2 if options.hops is None else options.hops
    exchange = _exchange(options, hops, _fitting_profile(options, hops))
    outcome = _outcome(options, hops, exchange)
    if options.json:
        say_json(outcome["ok"], outcome, indent=1)
    else:
        say(f"{_frame_table(exchange)}\n\n{_summary(outcome)}")
    return 0 if outcome["ok"] else 1


def _exchange(options: argparse.Namespace, hops: int, chosen: Profile) -> _Exchange:
    """Start the nodes, send the query and wait for the reply."""
    service = _Uppercase()
    reports: list[FrameReport] = []
    rng = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
    with (
        open_content(options) as file,
        LocalNetwork(
            options.peers,
            service=service,
            engine=options.engine,
            limits=Limits(link_policy=LinkPolicy(options.links)),
            observe=reports.append,
        ) as net,
    ):
        if not options.json:
            say(
                f"{len(net)} nodes are listening on 127.0.0.1, {hops} {'proxy' if hops == 1 else 'proxies'}, "
                f"mode {options.mode}, profile {chosen.name}, engine {net.engine.name}, {options.links} links"
            )
        alice, bob = (net[position] for position in rng.sample(range(len(net)), 2))
        source, sink = _DigestingSource(file), _Digest()
        size = os.fstat(file.fileno()).st_size if options.file else options.size
        asked: QueryOptions = {"hops": hops, "mode": options.mode, "profile": chosen, "sink": sink}
        if options.seed is not None:
            asked["rng"] = PositionSampler(rng, net)
        started_s = time.monotonic()
        result = _query(alice, bob, source, size, is_quiet=options.json, options=asked)
        seconds = time.monotonic() - started_s
        ports = {node.id: node.address.port for node in net}
    query, reply = _frames(alice.id, result, reports)
    return _Exchange(
        alice.id,
        result,
        query,
        reply,
        source.digest.bytes,
        sink.bytes,
        _digests(source.digest, service, sink, has_reply=result.has_reply),
        seconds,
        net.engine.name,
        ports,
    )


def _outcome(options: argparse.Namespace, hops: int, exchange: _Exchange) -> dict[str, Any]:
    """The fields of the JSON output."""
    digests = exchange.digests
    has_arrived = all(
        digests[f"{name}_sha256_sent"] == digests[f"{name}_sha256_received"] for name in _DIRECTIONS
    )
    return {
        "ok": has_arrived and _is_uniform(exchange),
        "peers": options.peers,
        "hops": hops,
        "mode": str(exchange.result.mode),
        "profile": exchange.result.profile.name,
        "engine": exchange.engine,
        "link_policy": options.links,
        "query_bytes": exchange.query_bytes,
        "reply_bytes": exchange.reply_bytes,
        **digests,
        "seconds": round(exchange.seconds, 4),
        "links": _links(exchange.query, exchange.reply),
    }


def _query(
    alice: Node, bob: Node, source: _DigestingSource, size: int, *, is_quiet: bool, options: QueryOptions
) -> QueryResult:
    """Send the query and wait for its reply, with a progress bar unless `is_quiet`."""
    both_ways = 2 if MODES[ReplyMode(options["mode"])].has_reply else 1
    with contextlib.closing(ProgressBar(size * both_ways, enabled=not is_quiet)) as bar:
        options["progress"] = lambda sent, received: bar.update(sent + received)
        return alice.query(bob.id, source, **options).result()


def _digests(
    query: _Digest, service: _Uppercase, reply: _Digest, *, has_reply: bool
) -> dict[str, str | None]:
    """Digests of query and reply, as sent and as received."""
    return {
        "query_sha256_sent": query.hex,
        "query_sha256_received": service.received.hex,
        "reply_sha256_sent": service.sent.hex if has_reply else None,
        "reply_sha256_received": reply.hex if has_reply else None,
    }


class PositionSampler(random.Random):
    """Draws by position in the network: ids are new each time, and the same seed gives the same positions."""

    def __init__(self, rng: random.Random, net: LocalNetwork) -> None:
        super().__init__()
        self._rng = rng
        self._order = {node.id: i for i, node in enumerate(net)}

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return self._rng.sample(sorted(population, key=self._order.__getitem__), k)


def _fitting_profile(options: argparse.Namespace, hops: int) -> Profile:
    """The profile of the query. An impossible route fails here, before a node is made."""
    most = options.peers - 2
    if hops > most:
        more = f"; or --peers {hops + 2}" if hops + 2 <= _MOST_PEERS else ""
        raise ConfigError(
            f"--hops {hops}: {options.peers} nodes, Alice and Bob included, leave {most} for proxies",
            f"give --hops {most}{' or fewer' if most else ''}{more}",
        )
    chosen: Profile = options.profile or Profile.for_proxies(hops)
    if hops > chosen.geometry.max_proxies:
        raise ProfileError(
            f"a route of {hops} proxies does not fit profile {chosen.name!r}, which holds "
            f"{chosen.geometry.max_proxies}"
        )
    return chosen


def open_content(options: argparse.Namespace) -> IO[bytes]:
    if options.file is not None:
        return readable_file(options.file)
    return io.BufferedReader(_MadeText(options.size))


class _MadeText(io.RawIOBase):
    """Numbered lines, generated while they are read, so that a text of any size takes no memory."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._numbers = itertools.count()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            numbers = itertools.islice(self._numbers, 1000)
            self._rest = memoryview("".join(LINE % number for number in numbers).encode("ascii"))
        piece = self._rest[: min(len(buffer), self._left)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        self._left -= len(piece)
        return len(piece)


def _is_uniform(exchange: _Exchange) -> bool:
    """Whether each frame had the same length on all its links, and no link is missing."""
    result, query, reply = exchange.result, exchange.query, exchange.reply
    is_uniform = len({report.bytes_out for report in query}) == 1 and len(query) == len(result.route.nodes)
    if result.has_reply:
        # Proxies do not report a reply over the query's open streams: only Bob's part of it is known.
        is_home = bool(reply) and (
            reply[-1].neighbour == exchange.alice or MODES[result.mode].backward_content
        )
        is_uniform &= is_home and len({report.bytes_out for report in reply}) == 1
    return is_uniform


def _frames(
    alice: bytes, result: QueryResult, reports: list[FrameReport]
) -> tuple[list[FrameReport], list[FrameReport]]:
    """The reports of query and reply, each in the order of its route. The reply may take another route."""
    left = list(reports)
    bob = result.route.nodes[-1]
    query: list[FrameReport] = []
    reply: list[FrameReport] = []
    for frame, node, end in (query, alice, bob), (reply, bob, alice):
        while node != end and (report := next((one for one in left if one.node == node), None)):
            left.remove(report)
            frame.append(report)
            node = report.neighbour
    return query, reply


def _links(query: list[FrameReport], reply: list[FrameReport]) -> list[dict[str, object]]:
    """The bytes of both frames on each link: first the query's route, then other links of the reply's."""
    back = {(report.neighbour, report.node): report.bytes_out for report in reply}
    there = {(report.node, report.neighbour): report.bytes_out for report in query}
    return [
        {
            "from": source.hex(),
            "to": target.hex(),
            "query_frame_bytes": there.get((source, target), 0),
            "reply_frame_bytes": back.get((source, target), 0),
        }
        for source, target in {**there, **back}
    ]


def _frame_table(exchange: _Exchange) -> str:
    query, reply = exchange.query, exchange.reply
    nodes = exchange.alice, *exchange.result.route.nodes
    start_s = min(report.started_s for report in [*query, *reply])
    roles = {node: f"proxy {i}" for i, node in enumerate(nodes)} | {nodes[0]: "Alice", nodes[-1]: "Bob"}
    others = [report.node for report in reply if report.node not in roles]  # of a reply over another route
    roles |= {node: f"reply {i}" for i, node in enumerate(others, start=1)}
    rows = []
    for node, role in roles.items():
        cells = [role, short(node), f":{exchange.ports[node]}"]
        for frame in query, reply:
            received = next((report for report in frame if report.neighbour == node), None)
            sent = next((report for report in frame if report.node == node), None)
            cells += [_bytes_out(received), _bytes_out(sent), _milliseconds(sent, start_s)]
        rows.append(cells)
    return table(["node", "id", "port", "query in", "out", "left at", "reply in", "out", "left at"], rows)


def _bytes_out(report: FrameReport | None) -> str:
    return "" if report is None else f"{report.bytes_out:,}"


def _milliseconds(report: FrameReport | None, start_s: float) -> str:
    return "" if report is None else f"{(report.ended_s - start_s) * 1000:,.1f} ms"


def _summary(outcome: dict[str, Any]) -> str:
    query_frames = {link["query_frame_bytes"] for link in outcome["links"]} - {0}  # 0: only the reply's
    lines = [
        _verdict(
            name, outcome[f"{name}_bytes"], outcome[f"{name}_sha256_sent"], outcome[f"{name}_sha256_received"]
        )
        for name in _DIRECTIONS
        if outcome[f"{name}_sha256_sent"] is not None
    ]
    if len(query_frames) == 1:
        lines.append(
            f"each frame had the same length on all its links: {query_frames.pop():,} bytes for the query"
        )
    moved = outcome["query_bytes"] + outcome["reply_bytes"]
    rate = moved / max(outcome["seconds"], 1e-9)
    lines.append(
        f"{outcome['seconds']:.3f} s, {readable_size(rate)}/s of content end to end, over "
        f"{_LINKS[outcome['link_policy']]} (policy `{outcome['link_policy']}`)"
    )
    lines.append("ok" if outcome["ok"] else "FAILED: digests or frame lengths differ")
    return "\n".join(lines)


def _verdict(name: str, count: int, sent: str, received: str) -> str:
    if sent == received:
        return f"{name}: {count:,} bytes arrived intact, sha256 {sent[:16]}…"
    return f"{name}: {count:,} bytes, DIFFERENT: sha256 {sent[:16]}… sent, {received[:16]}… received"
