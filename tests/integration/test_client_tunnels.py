"""Tunnels of clients: the same scenarios with each kind of client."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from reactor import Service
from tests.integration.client_kinds import play, run
from tests.integration.client_services import BIG, SERVICES, client_pause, message
from tunnel import Limits, LocalNetwork, Profile, QueryFailed, Route
from tunnel.errors import ErrorCode, LocalTunnelError, ProfileError, SubStreamReset
from tunnel.established import Target, TargetKind
from tunnel.geometry import LONG
from tunnel.services import Query, Reply

Steps = Generator[Any, Any, Any]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=5, service=SERVICES) as net:
        yield net


def test_messages_over_a_tunnel(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=2)
        answers = []
        for name, content in [("upper", b"one"), ("echo", b""), ("echo", b"three")]:
            yield lambda name=name, content=content: tunnel.send(message(name, content))
            answers.append((yield lambda: tunnel.receive()))
        yield lambda: tunnel.write(message("upper", b"in "))
        yield lambda: tunnel.flush()
        yield lambda: tunnel.write(b"pieces")
        yield lambda: tunnel.end_message()
        assert (yield lambda: tunnel.next_message())
        piece = b""
        while data := (yield lambda: tunnel.read(4)):
            piece += data
        report = yield lambda: tunnel.close()
        return [*answers, piece], report.succeeded

    assert run(kind, net, scenario) == ([b"ONE", b"", b"three", b"IN PIECES"], True)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "stream-hctr"),
        ({"purpose": "mixed"}, "default-hctr"),
        ({"purpose": "interactive"}, "interactive-hctr"),
        ({"purpose": "bulk"}, "bulk-hctr"),
        ({"profile": "bulk"}, "bulk"),
        ({"profile": Profile(LONG), "purpose": "interactive"}, "long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tunnel_uses_the_chunk_length_of_its_purpose(
    kind: str, net: LocalNetwork, options: dict[str, Any], name: str
) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=2, **options)
        answer = yield lambda: tunnel.ask(message("upper", b"hello"))
        yield lambda: tunnel.close()
        return tunnel.profile.name, answer

    assert run(kind, net, scenario) == (name, b"HELLO")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"purpose": "chat"}, LocalTunnelError, "invalid purpose 'chat': expected one of mixed, interactive"),
        ({"purpose": "chat", "profile": "bulk"}, LocalTunnelError, "invalid purpose"),
        ({"profile": "huge"}, ProfileError, "unknown profile 'huge'; known: interactive"),
        ({"profile": LONG}, TypeError, "expected a Profile or its name, got Geometry"),
    ],
    ids=["purpose", "both", "name", "type"],
)
def test_an_unknown_purpose_or_profile_is_refused(
    kind: str, net: LocalNetwork, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    def scenario(client: Any) -> Steps:
        with pytest.raises(error, match=words):
            yield lambda: client.tunnel(net[4].id, **options)
        with pytest.raises(error, match=words):
            yield lambda: client.query(net[4].id, b"", **options)

    run(kind, net, scenario)


def test_a_query_takes_the_purpose_of_content_whose_length_is_unknown(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        names = []
        for options in ({}, {"purpose": "bulk"}, {"purpose": "interactive"}, {"profile": "bulk"}):
            query = lambda options=options: client.query(net[4].id, iter([b"a"]), service="echo", **options)  # noqa: E731
            with (yield query) as result:
                assert result.read() == b"a"
                names.append(result.profile.name)
        return names

    assert run(kind, net, scenario) == ["default-hctr", "bulk-hctr", "interactive-hctr", "bulk"]


def test_ask_is_free_of_deadlock(kind: str, net: LocalNetwork) -> None:
    """Far more content than the windows hold, sent to a service that answers while it reads."""

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=1, purpose="interactive")
        answer = yield lambda: tunnel.ask(message("echo", BIG[:500_000]))
        yield lambda: tunnel.close()
        return answer == BIG[:500_000]

    assert run(kind, net, scenario)


def test_sub_streams_reach_named_services_and_nothing_else(kind: str, net: LocalNetwork) -> None:
    refused = [
        "nothing",
        Target(TargetKind.IPV4, b"\x7f\0\0\1", 80),
        Target(TargetKind.DOMAIN, b"example.org", 443),
    ]

    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=2)
        for target in refused:
            with pytest.raises(SubStreamReset, match="the other end does not offer this service") as caught:
                yield lambda target=target: tunnel.open(target)
            assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED
        first = yield lambda: tunnel.open("upper")
        second = yield lambda: tunnel.open("echo")
        broken = yield lambda: tunnel.open("failing")
        got = []
        for stream in (first, second):
            yield lambda stream=stream: stream.write(b"through a stream")
            got.append((yield lambda stream=stream: stream.read()))
            stream.close()
            assert (yield lambda stream=stream: stream.read()) == b""
        yield lambda: broken.write(b"x")
        with pytest.raises(SubStreamReset) as caught:
            yield lambda: broken.read()
        assert caught.value.code is ErrorCode.SERVICE_FAILED
        assert (yield lambda: tunnel.ask(message("echo", b"still here"))) == b"still here"
        yield lambda: tunnel.close()
        return got

    assert run(kind, net, scenario) == [b"THROUGH A STREAM", b"through a stream"]


def test_a_service_that_fails_gives_the_tunnel_up(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=1)
        with pytest.raises(QueryFailed, match="SERVICE_FAILED at the other end") as caught:
            yield lambda: tunnel.ask(message("failing", b"x"))
        assert caught.value.code is ErrorCode.SERVICE_FAILED
        yield lambda: tunnel.close()

    run(kind, net, scenario)


def test_a_tunnel_that_breaks_names_the_hop(kind: str) -> None:
    with LocalNetwork(peers=5) as net:
        route = Route((net[1].id, net[2].id, net[3].id), net[4].id)

        def stop() -> Any:
            net.serving[net[2].id].cancel()

        def scenario(client: Any) -> Steps:
            tunnel = yield lambda: client.tunnel(net[4].id, route=route)
            assert (yield lambda: tunnel.ask(b"x")) == b"x"
            net[0].reactor.post(stop)
            for _ in range(2):
                with pytest.raises(QueryFailed, match=r"hop 2 of 4") as caught:
                    yield lambda: tunnel.receive()
            with pytest.raises(QueryFailed, match=r"hop 2 of 4"):
                yield lambda: tunnel.close()
            report = caught.value.report
            assert report is not None
            return report.code, report.hop, report.about_next

        assert play(kind, net, scenario) == (ErrorCode.DISCONNECTED, 0, True)


def test_a_first_hop_that_is_not_there(kind: str) -> None:
    with LocalNetwork(peers=3) as net:
        net.stop(1)

        def scenario(client: Any) -> Steps:
            with pytest.raises(QueryFailed, match="first hop"):
                yield lambda: client.tunnel(net[2].id, route=Route((net[1].id,), net[2].id))

        play(kind, net, scenario)


def test_a_tunnel_that_is_given_up(kind: str, net: LocalNetwork) -> None:
    def scenario(client: Any) -> Steps:
        tunnel = yield lambda: client.tunnel(net[4].id, hops=1)
        yield lambda: tunnel.send(message("stuck", b""))
        tunnel.give_up()
        with pytest.raises(QueryFailed) as caught:  # noqa: PT012 - after what had come before
            while True:
                yield lambda: tunnel.receive()
        return caught.value.code

    assert run(kind, net, scenario) is ErrorCode.CANCELLED


def test_closing_a_tunnel_whose_other_end_still_sends(kind: str) -> None:
    """Its data is discarded. Otherwise both ends would wait forever."""

    def talker(query: Query, reply: Reply) -> Service[None]:
        while (yield from query.read()):
            pass
        yield from reply.write(BIG)

    with LocalNetwork(peers=3, service=talker) as net:

        def scenario(client: Any) -> Steps:
            tunnel = yield lambda: client.tunnel(net[2].id, hops=1)
            yield lambda: tunnel.send(b"go on")
            assert (yield lambda: tunnel.next_message())
            assert (yield lambda: tunnel.read(10)) == BIG[:10]
            return (yield lambda: tunnel.close())

        assert run(kind, net, scenario).succeeded


@pytest.mark.full
def test_an_idle_tunnel_stays(kind: str) -> None:
    """It stays open for longer than the limit after which a hop ends an idle frame.

    The limit is not shorter, because a busy machine may stop a thread for part of a second.
    """
    with LocalNetwork(peers=4, limits=Limits(idle_s=1.0)) as net:

        def scenario(client: Any) -> Steps:
            tunnel = yield lambda: client.tunnel(net[3].id, hops=2)
            assert (yield lambda: tunnel.ask(b"before")) == b"before"
            for _ in range(16):
                yield lambda: client_pause(kind)
            answer = yield lambda: tunnel.ask(b"after")
            yield lambda: tunnel.close()
            return answer

        assert run(kind, net, scenario) == b"after"
