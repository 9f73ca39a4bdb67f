"""Several replies to one query, follow-ups along reply blocks, and cover traffic, between real nodes."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from reactor import Service
from tests.support.errors import raises_code
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import ErrorCode, InnerService, Limits, LocalNetwork, Profile, QueryFailed, ReplyMode, Route
from tunnel.errors import BadArgument, BadRoute, LocalTunnelError, TunnelError
from tunnel.geometry import INTERACTIVE, LONG
from tunnel.modes import MODES
from tunnel.node.query import incoming_replies as spool
from tunnel.node.query.request import SERVED_MODES
from tunnel.routing.cover import CoverPlan, QuerySample, draw_cover
from tunnel.services import Query, Reply

SMALL = Profile(INTERACTIVE)
LIMITS = Limits(idle_s=2.0, answer_s=2.0, linger_s=1.0)
BLOCK_MODES = [mode for mode in SERVED_MODES if MODES[mode].reply_blocks]


class Counting(InnerService):
    """Sends as many replies as the query's first byte states: each is the query and the reply's number."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        content = yield from query.read()
        while piece := (yield from query.read()):
            content += piece
        wanted = content[0] if content else 1
        for number in range(wanted):
            if number:
                yield from reply.next()
            yield from reply.write(content + b" %d of %d" % (number, reply.remaining))


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=8, service=Counting(), limits=LIMITS) as network:
        yield network
        wait_until_idle(network)


# --- several replies


@pytest.mark.parametrize("mode", BLOCK_MODES)
@pytest.mark.parametrize("sent", [1, 3, 8])
def test_replies_arrive_in_order_and_missing_ones_are_empty(
    net: LocalNetwork, mode: ReplyMode, sent: int
) -> None:
    content = bytes([sent]) + b"!" * 3_000
    query = net[0].query(net[7].id, content, hops=2, mode=mode, replies=8, profile=SMALL)
    with query.result(PATIENCE_S) as result:
        found = [reply.read() for reply in result.replies]
        expected = [content + b" %d of %d" % (number, 7 - number) for number in range(sent)]
        assert found == expected + [b""] * (8 - sent)
        assert result.content is result.replies[0]
        assert result.reply_bytes == sum(map(len, found))
        assert len(result.reply_blocks) == (8 if mode is ReplyMode.REPLY_ON_REPLY else 0)
    wait_until_idle(net)


def test_a_sink_for_each_reply(net: LocalNetwork) -> None:
    sinks = [io.BytesIO() for _ in range(3)]
    result = net[0].query(net[7].id, b"\x02x", hops=1, replies=3, sinks=sinks).result(PATIENCE_S)
    assert [sink.getvalue() for sink in sinks] == [b"\x02x 0 of 2", b"\x02x 1 of 1", b""]
    assert result.content is None
    assert result.replies == ()


def test_numbers_of_replies_that_cannot_be(net: LocalNetwork) -> None:
    with pytest.raises(BadArgument, match="replies: expected 1 to 8, got 0"):
        net[0].query(net[7].id, b"", hops=1, replies=0)
    wrong: list[dict[str, Any]] = [{"sinks": [io.BytesIO()] * 2}, {"replies": 2, "sink": io.BytesIO()}]
    for arguments in wrong:
        with pytest.raises(LocalTunnelError, match="a sink for each"):
            net[0].query(net[7].id, b"", hops=1, **arguments)
    for mode in (ReplyMode.NONE, ReplyMode.CACHED, ReplyMode.KNOWN_DEST):
        with pytest.raises(LocalTunnelError, match="does not use `blocks`"):
            net[0].query(net[7].id, b"", hops=1, mode=mode, replies=2).result(PATIENCE_S)
    with pytest.raises(LocalTunnelError, match="4 reply blocks"):
        net[0].query(net[7].id, b"", hops=1, profile=Profile(LONG), replies=4).result(PATIENCE_S)
    wait_until_idle(net)


def test_a_service_that_wants_more_replies_than_there_are(net: LocalNetwork) -> None:
    with pytest.raises(QueryFailed) as caught:
        net[0].query(net[7].id, b"\x03", hops=1, replies=2).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.SERVICE_FAILED
    wait_until_idle(net)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_reply_whose_route_fails_is_named(number: int) -> None:
    """The last node before Alice loses her address when the reply of this number begins."""

    class Forgetting(InnerService):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            while (yield from query.read()):
                pass
            for each in range(3):
                if each:
                    yield from reply.next()
                if each == number:
                    patched.append(True)
                yield from reply.write(b"reply")

    patched: list[bool] = []
    with LocalNetwork(peers=4, service=Forgetting(), limits=LIMITS) as net:
        alice, last = net[0], net[1]
        relay_layers = last.context.codec.relay_layers

        def failing(slot: Any, profile: Profile) -> Any:
            if patched and slot.next_id == alice.id:
                raise LocalTunnelError("a fault of this node")
            return relay_layers(slot, profile)

        last.context.codec.relay_layers = failing  # type: ignore[method-assign]  # a node that fails
        route = Route((last.id, net[2].id), net[3].id)
        query = alice.query(net[3].id, b"q", route=route, replies=3)
        with pytest.raises(QueryFailed) as caught:
            query.result(PATIENCE_S)
        report = caught.value.report
        assert report is not None
        assert report.is_about_reply
        assert (report.route[report.hop or 0], report.code) == (last.id, ErrorCode.INTERNAL)
        wait_until_idle(net)


# --- follow-ups


def test_a_conversation_along_reply_blocks(net: LocalNetwork) -> None:
    result = (net[0].query(net[7].id, b"\x01", hops=2, mode=ReplyMode.REPLY_ON_REPLY, profile=SMALL)).result(
        PATIENCE_S
    )
    for turn in range(4):
        assert len(result.reply_blocks) == 1, turn
        follow_up = net[0].follow_up(result, b"\x01turn %d" % turn, hops=2, wants_blocks=turn < 3)
        assert not result.reply_blocks, turn
        result = follow_up.result(PATIENCE_S)
        assert result.read() == b"\x01turn %d 0 of 0" % turn
        assert result.route.destination == net[7].id
        assert result.has_reply
    with pytest.raises(LocalTunnelError, match="no reply block is left"):
        net[0].follow_up(result, b"more")
    wait_until_idle(net)


def test_a_follow_up_with_several_answers_and_one_without(net: LocalNetwork) -> None:
    first = net[0].query(net[7].id, b"\x02", hops=1, mode=ReplyMode.REPLY_ON_REPLY, replies=2, profile=SMALL)
    result = first.result(PATIENCE_S)
    block = result.reply_blocks[0]
    answers = net[0].follow_up(result, b"\x02and", replies=3).result(PATIENCE_S)
    assert [reply.read() for reply in answers.replies] == [b"\x02and 0 of 2", b"\x02and 1 of 1", b""]
    last = net[0].follow_up(result, b"\x01bye", hops=None).result(PATIENCE_S)
    assert not last.has_reply
    assert last.query_bytes == 4
    # A block serves once, for any holder.
    result.reply_blocks = (block,)
    with raises_code(ErrorCode.REPLAYED):
        net[0].follow_up(result, b"again").result(PATIENCE_S)
    wait_until_idle(net)


def test_a_follow_up_to_a_node_that_has_forgotten_the_query_ends_in_time(net: LocalNetwork) -> None:
    result = (net[0].query(net[7].id, b"\x01", hops=1, mode=ReplyMode.REPLY_ON_REPLY, profile=SMALL)).result(
        PATIENCE_S
    )
    net[7].context.invitations.clear()
    with pytest.raises(QueryFailed, match="a place that is not known"):
        net[0].follow_up(result, b"hello?", idle_s=0.3).result(PATIENCE_S)
    wait_until_idle(net)
    assert not net[0].context.own


# --- cover traffic


@pytest.mark.parametrize("is_loop", [True, False], ids=["loop", "drop"])
@pytest.mark.parametrize("content_bytes", [0, 20_000])
def test_cover_frames_arrive_without_other_effects(
    net: LocalNetwork, is_loop: bool, content_bytes: int
) -> None:
    rng = random.Random(content_bytes)
    sample = QuerySample(SMALL, 3, content_bytes + 4)
    share = float(is_loop)
    futures = []
    for _ in range(5):
        plan = draw_cover(rng, [sample], list(net.directory), origin=net[0].id, loop_share=share)
        assert plan.is_loop == is_loop
        futures.append(net[0].send_cover(plan, mean_delay_s=0.005))
    query = net[0].query(net[7].id, b"\x01as ever", hops=2)
    assert query.result(PATIENCE_S).read() == b"\x01as ever 0 of 0"
    for future in futures:
        future.result(PATIENCE_S)
    wait_until_idle(net)
    assert not net[0].context.pending


def test_a_dropped_loop_is_noticed() -> None:
    with LocalNetwork(peers=4, limits=Limits(idle_s=0.4, linger_s=0.5)) as net:
        thief = net[2]

        def swallow(slot: Any, profile: Profile) -> Any:
            raise LocalTunnelError("thrown away")

        thief.context.codec.relay_layers = swallow  # type: ignore[method-assign]  # a hop that drops
        plan = CoverPlan(Route((net[1].id, thief.id, net[3].id), net[0].id), SMALL, 100, is_loop=True)
        with pytest.raises(QueryFailed):
            net[0].send_cover(plan).result(PATIENCE_S)
        short = CoverPlan(Route((net[1].id,), net[0].id), SMALL, 0, is_loop=True)
        with pytest.raises(BadRoute, match="at least 2"):
            net[0].send_cover(short).result(PATIENCE_S)
        wait_until_idle(net)


def test_the_delay_that_a_sender_drew_is_kept(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots of two proxies order a wait of 150 ms each; the destination's field is 0."""
    monkeypatch.setattr("tunnel.onion.header_builder.draw_delay", lambda mean_s, random_bytes: 15)
    plan = CoverPlan(Route((net[1].id, net[2].id), net[3].id), SMALL, 100, is_loop=False)
    began_s = time.monotonic()
    net[0].send_cover(plan, mean_delay_s=0.1).result(PATIENCE_S)
    assert time.monotonic() - began_s >= 0.3
    wait_until_idle(net)


def test_a_reply_without_end_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer is refused even if the caller set no limit."""
    monkeypatch.setattr(spool, "MOST_BYTES", 3_000_000)

    def endless(query: Query, reply: Reply) -> Service[None]:
        while True:
            yield from reply.write(bytes(100_000))

    with LocalNetwork(peers=3, service=endless, limits=LIMITS) as net:
        with pytest.raises(TunnelError, match="give the query a sink"):
            net[0].query(net[2].id, b"", hops=1).result(PATIENCE_S)
        wait_until_idle(net)
