"""Threat: a reply block that is used twice, or by somebody to whom Bob gave it. On real nodes.

A block is a ticket for one frame to Alice. Whoever has it from Bob can write in his place, as Bob himself
could have written anything. But only one frame arrives, and Bob's own use of the block then fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from reactor import Service
from tests.support.held import Held
from tests.support.network import PATIENCE_S, assert_works, wait_until, wait_until_idle
from tunnel import LocalNetwork, Node, QueryResult, ReplyMode, Route
from tunnel.errors import ErrorCode, PeerError
from tunnel.node.query.frame_io import start_frame
from tunnel.node.relay.status_reporter import wait_status
from tunnel.onion.codec import OnionCodec
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import ReplyBlock

BY_BLOCK = pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE])


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def net(held: Held) -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=8, service=held) as network:
        yield network


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[ReplyBlock]:
    """The blocks that Bob has received: he shows them to Mallory."""
    shown: list[ReplyBlock] = []
    parse = MessageHead.parse

    def parse_and_show(raw: bytes) -> MessageHead:
        head = parse(raw)
        shown.extend(head.reply_blocks)
        return head

    monkeypatch.setattr(MessageHead, "parse", staticmethod(parse_and_show))
    return shown


def use(net: LocalNetwork, node: Node, block: ReplyBlock, content: bytes) -> ErrorCode | None:
    """Send a frame along a block. Returns the code of its refusal; None: the first node has taken it."""

    def send() -> Service[ErrorCode | None]:
        try:
            frame = node.context.codec.reply(block, now_s=node.context.wall_clock())
            writer = yield from start_frame(node.context, frame, is_own=True)
            yield from writer.write(content)
            yield from writer.finish()
            writer.stream.finish()
            yield from wait_status(writer.stream)
        except PeerError as error:
            return error.code
        return None

    return net.submit(send()).result(PATIENCE_S)


def ask(net: LocalNetwork, mode: ReplyMode, replies: int = 1) -> Future[QueryResult]:
    """Alice, node 0, asks Bob, node 1, over nodes 2 and 3; another way back is over 4 and 5."""
    there = Route((net[2].id, net[3].id), net[1].id)
    back = Route((net[4].id, net[5].id), net[0].id) if mode is ReplyMode.OTHER_ROUTE else None
    return net[0].query(net[1].id, b"question", route=there, reply_route=back, mode=mode, replies=replies)


def let(net: LocalNetwork, held: Held) -> None:
    def service() -> Service[None]:
        held.let()
        yield from ()

    net.submit(service()).result(PATIENCE_S)


@BY_BLOCK
def test_somebody_else_uses_it_first(
    net: LocalNetwork, held: Held, blocks: list[ReplyBlock], mode: ReplyMode
) -> None:
    bob, mallory = net[1], net[7]
    query = ask(net, mode)
    wait_until(net, lambda: held.asked)
    assert use(net, mallory, blocks[0], b"forged") is None
    assert query.result(PATIENCE_S).read() == b"forged", "Bob could have said so himself"
    # Bob notices: the first node of the block refuses his own reply.
    let(net, held)
    wait_until(net, lambda: bob.counters.answers_failed)
    assert sum(node.counters.headers_replayed for node in net) == 1
    wait_until_idle(net)
    assert_works(net)


@BY_BLOCK
def test_somebody_else_uses_it_afterwards(
    net: LocalNetwork, held: Held, blocks: list[ReplyBlock], mode: ReplyMode
) -> None:
    let(net, held)
    assert ask(net, mode).result(PATIENCE_S).read() == b"question"
    wait_until_idle(net)
    for mallory in (net[6], net[7]):
        assert use(net, mallory, blocks[0], b"forged") is ErrorCode.REPLAYED
    assert sum(node.counters.headers_replayed for node in net) == 2
    assert not net[0].counters.headers_replayed, "the first node of the way has refused them"
    assert_works(net)


@BY_BLOCK
def test_bob_uses_it_twice(net: LocalNetwork, held: Held, blocks: list[ReplyBlock], mode: ReplyMode) -> None:
    """His own node refuses that already; a hostile one forgets what it has used."""
    bob = net[1]
    let(net, held)
    assert ask(net, mode).result(PATIENCE_S).read() == b"question"
    wait_until_idle(net)
    assert use(net, bob, blocks[0], b"again") is ErrorCode.REPLAYED
    assert not any(node.counters.headers_replayed for node in net), "it has not left his node"
    forgetful = OnionCodec(ring=bob.context.codec.ring, directory=net.directory)
    bob.context.codec = forgetful
    assert use(net, bob, blocks[0], b"again") is ErrorCode.REPLAYED
    assert sum(node.counters.headers_replayed for node in net) == 1


@BY_BLOCK
def test_it_is_used_when_the_query_has_ended(
    net: LocalNetwork, held: Held, blocks: list[ReplyBlock], mode: ReplyMode
) -> None:
    """It reaches Alice, who no longer waits: she refuses it, and nobody is blamed."""
    alice, mallory = net[0], net[7]
    query = ask(net, mode)
    wait_until(net, lambda: held.asked)
    query.cancel()
    wait_until(net, lambda: not alice.context.pending)
    failed = alice.counters.frames_failed
    use(net, mallory, blocks[0], b"late")
    wait_until(net, lambda: alice.counters.frames_failed > failed)
    assert alice.counters.frames_failed == failed + 1
    let(net, held)
    wait_until_idle(net)
    assert_works(net)


def test_one_block_of_two_is_used_by_somebody_else(
    net: LocalNetwork, held: Held, blocks: list[ReplyBlock]
) -> None:
    """Alice gets one frame for each block, in the order of the blocks."""
    bob, mallory = net[1], net[7]
    query = ask(net, ReplyMode.OTHER_ROUTE, replies=2)
    wait_until(net, lambda: held.asked)
    assert use(net, mallory, blocks[1], b"forged") is None
    let(net, held)
    result = query.result(PATIENCE_S)
    assert [spool.read() for spool in result.replies] == [b"question", b"forged"]
    wait_until(net, lambda: bob.counters.answers_failed)
