"""The knowledge of each party about a query: its record is compared with the threat model of
docs/protocol.md.

"No proxy learns more of the route than the neighbour before it and the neighbour after it; Bob learns Alice
only if she tells him; nobody but Bob reads or changes the query, nobody but Alice the reply."
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.network_model.network import ModelNetwork
from tests.network_model.records import Seen, Shape, watch
from tests.network_model.wires import Passage
from tunnel.errors import QueryFailed
from tunnel.modes import MODES, ErrorMode, ReplyMode
from tunnel.node import Limits, QueryResult
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Route
from tunnel.services import Query, Reply, Services, service_prefix

LIBRARY = "a-quiet-library"
QUESTION, ANSWER = b"where is the book of secrets?" * 30, b"on the shelf behind the door." * 60
ALICE, PROXIES, BOB, WAY_BACK, BYSTANDER = 0, (1, 2, 3), 4, (5, 6), 7
NAMES = ("Alice", "proxy 1", "proxy 2", "proxy 3", "Bob", "back 1", "back 2", "bystander")

# Of the nodes each proxy knows its neighbours on the way, and of the rest nothing. In all modes:
OUTWARD = {
    "proxy 1": {"Alice", "proxy 2"},
    "proxy 2": {"proxy 1", "proxy 3"},
    "proxy 3": {"proxy 2", "Bob"},
    "Bob": {"proxy 3", "question", "answer", "service"},
}
# And what the mode adds, where the reply takes another way.
ADDED: dict[ReplyMode, dict[str, set[str]]] = {
    ReplyMode.NONE: {},
    ReplyMode.ROUTE: {},
    ReplyMode.CACHED: {},
    # In this model answers to a known origin, and the blocks that Bob makes, use no proxies.
    ReplyMode.KNOWN_DEST: {"Bob": {"Alice"}},
    ReplyMode.REPLY_ON_REPLY: {},
    ReplyMode.OTHER_ROUTE: {
        "Bob": {"back 1"},
        "back 1": {"Bob", "back 2"},
        "back 2": {"back 1", "Alice"},
    },
}


def library(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    while (yield from query.read()):
        pass
    yield from reply.write(ANSWER)


class Watched:
    """A network whose nodes and wires are watched while Alice asks Bob over three proxies."""

    def __init__(self, net: ModelNetwork) -> None:
        self.net = net
        net[BOB].context.service = Services({LIBRARY: library})
        self.seen = dict(zip(NAMES, map(watch, net.machines), strict=True))
        self.wires: dict[tuple[str, str], bytes] = defaultdict(bytes)
        net.wires.observer = self._see

    def _see(self, passage: Passage) -> None:
        self.wires[passage.source, passage.target] += passage.data

    @property
    def facts(self) -> dict[str, tuple[bytes, ...]]:
        """What is to be found out, and the bytes that show it: of a node its id and its address."""
        nodes = {
            name: (machine.id, ipaddress.ip_address(machine.host).packed)
            for name, machine in zip(NAMES, self.net.machines, strict=True)
        }
        return nodes | {
            "question": (QUESTION[:60],),
            "answer": (ANSWER[:60],),
            "service": (LIBRARY.encode(),),
        }

    def known(self, party: str) -> set[str]:
        """The facts in a party's record, without its own name."""
        return {name for name, signs in self.facts.items() if self.seen[party].knows(*signs)} - {party}

    def ask(self, mode: ReplyMode, error_mode: ErrorMode = ErrorMode.STATUS) -> Future[QueryResult]:
        """Let Alice ask, and wait until all is over."""
        net = self.net
        way_back = None
        if mode is ReplyMode.OTHER_ROUTE:
            way_back = Route(tuple(net[each].id for each in WAY_BACK), net[ALICE].id)
        future = net[ALICE].query(
            net.machines[BOB].id,
            service_prefix(LIBRARY) + QUESTION,
            route=Route(tuple(net[each].id for each in PROXIES), net.machines[BOB].id),
            mode=mode,
            error_mode=error_mode,
            reply_route=way_back,
        )
        net.pass_time(60.0)
        return future


@pytest.fixture
def watched() -> Iterator[Watched]:
    with ModelNetwork(len(NAMES), limits=Limits(answer_hops=0)) as net:
        yield Watched(net)


@pytest.mark.parametrize("mode", ADDED)
def test_who_knows_what_of_a_query(watched: Watched, mode: ReplyMode) -> None:
    result = watched.ask(mode).result(timeout=0)
    assert result.read() == (ANSWER if MODES[mode].has_reply else b"")
    expected = {name: OUTWARD.get(name, set()) | ADDED[mode].get(name, set()) for name in NAMES[1:]}
    if mode is ReplyMode.NONE:
        # His service writes an answer all the same, and nobody gets it.
        assert "answer" in expected["Bob"]
    assert {name: watched.known(name) for name in NAMES[1:]} == expected


def test_who_knows_what_of_a_tunnel(watched: Watched) -> None:
    net, answers = watched.net, []

    def talk(tunnel: NodeTunnel) -> Generator[Any, Any, None]:
        answers.append((yield from tunnel.ask(service_prefix(LIBRARY) + QUESTION)))

    route = Route(tuple(net[each].id for each in PROXIES), net[BOB].id)
    future = net[ALICE].tunnel(net[BOB].id, talk, route=route)
    net.pass_time(60.0)
    assert future.exception(timeout=0) is None
    assert answers == [ANSWER]
    expected = {name: OUTWARD.get(name, set()) for name in NAMES[1:]}
    assert {name: watched.known(name) for name in NAMES[1:]} == expected


@pytest.mark.parametrize("error_mode", ErrorMode)
@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.CACHED])
def test_who_knows_what_of_a_query_that_fails(
    watched: Watched, mode: ReplyMode, error_mode: ErrorMode
) -> None:
    watched.net.crash(BOB)
    error = watched.ask(mode, error_mode).exception(timeout=0)
    assert isinstance(error, QueryFailed)
    expected = {name: OUTWARD.get(name, set()) for name in NAMES[1:]} | {"Bob": set()}
    assert {name: watched.known(name) for name in NAMES[1:]} == expected


@pytest.mark.parametrize("mode", ADDED)
def test_an_observer_of_all_wires_reads_nothing(watched: Watched, mode: ReplyMode) -> None:
    watched.ask(mode).result(timeout=0)
    assert sum(map(len, watched.wires.values())) > 50_000
    for name, signs in watched.facts.items():
        long = [sign for sign in signs if len(sign) > 4]  # four bytes of an address may occur by chance
        for ends, data in watched.wires.items():
            assert not any(sign in data for sign in long), f"{name} on the wire {ends}"


def _shapes(watched: Watched, *parties: str) -> list[Shape]:
    return [shape for party in parties for shape in watched.seen[party].shapes]


def test_frames_look_alike_at_each_proxy_in_each_direction(watched: Watched) -> None:
    """What a proxy can measure shows neither its place, nor the route's length, nor whether it is a reply."""
    watched.ask(ReplyMode.OTHER_ROUTE).result(timeout=0)
    shapes = _shapes(watched, "proxy 1", "proxy 2", "proxy 3", "back 1", "back 2")
    assert len(shapes) == 5
    # The backward half of a query has the status of its reply's way, and that of a reply has none: known, and
    # named in the document as what is not solved.
    assert {len(shape.forward) for shape in shapes} == {1}
    alike = {(shape.profile, shape.header_bytes, shape.next_header_bytes) for shape in shapes}
    assert len(alike) == 1
    assert {length for shape in shapes for length in (*shape.forward, *shape.backward)} == {16_356}


@pytest.mark.parametrize(
    ("one", "other"),
    [("proxy 1", "Bob"), ("proxy 1", "back 1"), ("proxy 2", "back 2"), ("proxy 3", "back 2")],
)
def test_nodes_that_compare_their_records_find_nothing_in_common(
    watched: Watched, one: str, other: str
) -> None:
    """Two that have no neighbour in common cannot tell that they have carried the same query."""
    watched.ask(ReplyMode.OTHER_ROUTE).result(timeout=0)
    assert not _windows(watched.seen[one]) & _windows(watched.seen[other])
    # What one sends, the next one gets: the comparison can find something.
    assert _windows(watched.seen["proxy 1"]) & _windows(watched.seen["proxy 2"])


def _windows(seen: Seen) -> set[bytes]:
    """All pieces of 32 bytes of a record, at each place that is a multiple of 4."""
    return {
        piece[at : at + 32]
        for piece in seen
        for at in range(0, len(piece) - 31, 4)
        if piece[at : at + 32].strip(b"\0")
    }
