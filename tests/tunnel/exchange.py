"""A whole exchange in memory, in any reply mode: Alice's query, Bob's replies, every frame on every link.

Each step is a call that a node makes with the bytes that it has. The bytes of each link and the headers that
each proxy opened are recorded for the tests of attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from readwrite_comp import ExtRead, ExtWrite, LayerError
from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tests.tunnel.helpers import NOW_S, Peer, Relayed, chunks_of, make_peers, relay_frame
from tunnel.crypto.primitives import TunnelEngine
from tunnel.geometry import Profile
from tunnel.modes import MODES, ErrorMode, ReplyMode
from tunnel.onion.header import Command
from tunnel.onion.header_builder import OutgoingFrame, OutgoingQuery
from tunnel.onion.message_head import MessageHead
from tunnel.routing.route import Route

__all__ = [
    "MESSAGE_MODES",
    "PLAIN",
    "Cast",
    "Exchange",
    "Pace",
    "Reply",
    "by_block",
    "cast_of",
    "exchange",
    "receive",
    "send",
    "walk_back",
]

MESSAGE_MODES = [mode for mode in ReplyMode if mode is not ReplyMode.ESTABLISHED]


@dataclass(frozen=True)
class Pace:
    """How bytes are offered and requested: sizes of pieces, and scripts of the streams (0 refuses a call)."""

    write: Sequence[int] = (1 << 20,)
    read: Sequence[int] = (1 << 16,)
    script: tuple[int, ...] = ()
    rounds: int = 0


PLAIN = Pace()


def send(layer: ExtWrite, content: bytes, pace: Pace = PLAIN) -> bytes:
    """The wire bytes of one message through `layer`."""
    w = HostileWriter(pace.script * pace.rounds)
    write_message(layer, w, content, pace.write)
    return bytes(w.data)


def receive(layer: ExtRead, wire: bytes, pace: Pace = PLAIN) -> tuple[bytes, LayerError | None]:
    """The content in `wire`, which must hold one message and no byte more unless there is an error."""
    r = HostileReader(wire, pace.script * pace.rounds)
    result = read_message(layer, r, None, pace.read)
    assert result.error is not None or r.position == len(wire), "bytes after the message"
    return result.content, result.error


@dataclass(frozen=True)
class Cast:
    """Alice, the proxies of the query in order, Bob, and the proxies of another reply route in order."""

    alice: Peer
    proxies: Sequence[Peer]
    bob: Peer
    others: Sequence[Peer]

    @property
    def way(self) -> list[Peer]:
        """Every node after Alice."""
        return [*self.proxies, self.bob]

    @property
    def route(self) -> Route:
        return Route(tuple(peer.id for peer in self.proxies), self.bob.id)

    @property
    def other_route(self) -> Route:
        """From Bob's first other proxy to Alice."""
        return Route(tuple(peer.id for peer in self.others), self.alice.id)


@cache
def _peers(count: int) -> list[Peer]:
    """Made once: headers are new each time, so old entries in the replay tables have no effect."""
    return make_peers(count)


def cast_of(count: int, *, engine: TunnelEngine | None = None, random_seed: int | None = None) -> Cast:
    """Peers for routes of `count` nodes, Alice and Bob included, as the original counts."""
    total = 2 * count - 2
    if engine is None and random_seed is None:
        peers = _peers(total)
    elif engine is None:
        peers = make_peers(total, random_seed=random_seed)
    else:
        peers = make_peers(total, engine=engine, random_seed=random_seed)
    return Cast(peers[0], peers[1 : count - 1], peers[count - 1], peers[count:])


@dataclass(frozen=True)
class Reply:
    """One reply as it reached Alice.

    Attributes:
        links: the frame on each link, Bob's first. relayed: the frame as it arrived; None: it came over the
            backward halves.
        head: of its message.
    """

    content: bytes
    links: list[bytes]
    relayed: Relayed | None
    head: MessageHead


@dataclass
class Exchange:
    """All frames of an exchange."""

    query: OutgoingQuery
    relayed: Relayed
    content: bytes
    head: MessageHead
    replies: list[Reply] = field(default_factory=list)


def exchange(
    cast: Cast,
    mode: ReplyMode,
    content: bytes,
    answers: Sequence[bytes] = (),
    *,
    profile: Profile,
    pace: Pace = PLAIN,
    error_mode: ErrorMode = ErrorMode.STATUS,
    unused_blocks: int = 0,
) -> Exchange:
    """Alice queries, Bob sends each of `answers`; every step is checked.

    Args:
        unused_blocks: reply blocks that the query carries beyond one for each answer.
    """
    row = MODES[mode]
    alice, bob = cast.alice.codec, cast.bob.codec
    reply_routes = (cast.other_route,) if mode in (ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY) else ()
    query = alice.query(
        cast.route,
        mode,
        profile,
        now_s=NOW_S,
        error_mode=error_mode,
        reply_routes=reply_routes,
        blocks=max(1, len(answers) + unused_blocks) if row.reply_blocks else None,
        descriptor=cast.alice.descriptor if row.names_alice else None,
    )
    assert query.frame.first_id == cast.way[0].id
    assert (query.query_id is not None) == bool(row.reply_blocks or row.names_alice)
    wire = send(query.frame.layer, content, pace)
    relayed = relay_frame(wire, profile, cast.way, origin=cast.alice.id)
    assert {len(link) for link in relayed.links} == {len(wire)}
    assert relayed.opened.slot.command is Command.DEST
    behind = bob.destination_reader(relayed.opened.slot, profile)
    arrived, error = receive(behind, relayed.body, pace)
    assert (arrived, error) == (content, None)
    head = behind.head
    assert head.mode is (ReplyMode.ROUTE if mode is ReplyMode.OTHER_ROUTE else mode)
    assert bob.answered_query(head) is None
    done = Exchange(query, relayed, arrived, head)
    for number, answer in enumerate(answers):
        done.replies.append(_reply(cast, done, mode, number, answer, pace))
    return done


def _reply(cast: Cast, done: Exchange, mode: ReplyMode, number: int, answer: bytes, pace: Pace) -> Reply:
    if mode is ReplyMode.CACHED:
        return _cached(cast, done, answer, pace)
    if mode is ReplyMode.KNOWN_DEST:
        return _answer(cast, done, answer, pace)
    assert MODES[mode].reply_blocks
    back = list(cast.proxies[::-1]) if mode is ReplyMode.ROUTE else list(cast.others)
    block = done.head.reply_blocks[number]
    routes = (Route(tuple(peer.id for peer in cast.proxies), cast.bob.id),) if done.head.wants_blocks else ()
    frame = cast.bob.codec.reply(block, now_s=NOW_S, reply_routes=routes)
    reply = by_block(frame, cast.bob, back, cast.alice, answer, done.query.query_id, number, pace)
    if done.head.wants_blocks:
        # Alice sends along Bob's block, over the query's proxies; the frame reaches him like a reply.
        (onward,) = reply.head.reply_blocks
        further = cast.alice.codec.reply(onward, now_s=NOW_S)
        by_block(further, cast.alice, list(cast.proxies), cast.bob, answer[::-1], frame.query_id, 0, pace)
    return reply


def by_block(
    frame: OutgoingFrame,
    sender: Peer,
    proxies: list[Peer],
    owner: Peer,
    content: bytes,
    query_id: bytes | None,
    number: int,
    pace: Pace = PLAIN,
) -> Reply:
    """A frame along a reply block, from its user to its maker."""
    way = [*proxies, owner]
    assert frame.first_id == way[0].id
    wire = send(frame.layer, content, pace)
    relayed = relay_frame(wire, frame.profile, way, origin=sender.id)
    assert {len(link) for link in relayed.links} == {len(wire)}
    assert relayed.opened.slot.command is Command.HOME
    ticket = owner.codec.home_ticket(relayed.opened.slot)
    assert (ticket.query_id, ticket.number, ticket.proxies) == (query_id, number, len(proxies))
    reader = owner.codec.home_reader(relayed.opened.slot, ticket, frame.profile)
    assert receive(reader, relayed.body, pace) == (content, None)
    return Reply(content, relayed.links, relayed, reader.head)


def _cached(cast: Cast, done: Exchange, answer: bytes, pace: Pace) -> Reply:
    profile = done.query.frame.profile
    body = send(cast.bob.codec.cached_reply(done.relayed.opened.slot, profile), answer, pace)
    links = walk_back(cast, done, body)
    reader = done.query.backward
    assert reader is not None
    assert receive(reader, links[-1], pace) == (answer, None)
    return Reply(answer, links, None, reader.head)


def walk_back(cast: Cast, done: Exchange, body: bytes, first: int | None = None) -> list[bytes]:
    """Carry chunks over the backward halves. Returns the bytes on each link, Bob's first.

    Args:
        first: begin at this proxy of the query (0 = Alice's first), as if `body` had just reached it.
    """
    profile = done.query.frame.profile
    links = [body]
    count = len(cast.proxies) if first is None else first + 1
    for peer, opened in list(zip(cast.proxies, done.relayed.proxied, strict=True))[:count][::-1]:
        _, backward = peer.codec.relay_layers(opened.slot, profile)
        out = bytearray()
        for number, chunk in enumerate(chunks_of(links[-1], profile)):
            work = bytearray(chunk)
            backward.decrypt(memoryview(work), number)
            out += work
        links.append(bytes(out))
    return links


def _answer(cast: Cast, done: Exchange, answer: bytes, pace: Pace) -> Reply:
    profile = done.query.frame.profile
    origin = cast.bob.codec.origin(done.relayed.opened.slot, done.head)
    assert origin.descriptor == cast.alice.descriptor
    route = Route(tuple(peer.id for peer in cast.others), cast.alice.id)
    query = cast.bob.codec.answer(origin, route, profile, now_s=NOW_S)
    wire = send(query.frame.layer, answer, pace)
    relayed = relay_frame(wire, profile, [*cast.others, cast.alice], origin=cast.bob.id)
    assert relayed.opened.slot.command is Command.DEST
    reader = cast.alice.codec.destination_reader(relayed.opened.slot, profile)
    assert receive(reader, relayed.body, pace) == (answer, None)
    assert cast.alice.codec.answered_query(reader.head) == done.query.query_id
    return Reply(answer, relayed.links, relayed, reader.head)
