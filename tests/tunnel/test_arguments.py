"""Names in place of enums, and arguments of a wrong kind: accepted or refused at the call."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor, ReactorThread, Service
from tests.support.network import PATIENCE_S
from tunnel import Limits, LocalNetwork, Node, QueryFailed, ReplyMode
from tunnel.arguments import check_options, checked_count, checked_id, checked_seconds, member
from tunnel.client import Client
from tunnel.config.load import load_config
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import BadArgument, BadRoute, LocalTunnelError, ProfileError
from tunnel.established import Target, TargetKind
from tunnel.geometry import ALL_PROFILES, Profile
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import PaddingMode
from tunnel.modes import ErrorMode
from tunnel.node import LinkPolicy
from tunnel.node.query.request import QueryRequest
from tunnel.routing.route import Route, checked_purpose
from tunnel.services import Query, Reply

ENUMS: list[type[Enum]] = [ReplyMode, ErrorMode, LinkPolicy, PaddingMode]
MEMBERS = [(kind, each) for kind in ENUMS for each in kind]


def failing(query: Query, reply: Reply) -> Service[None]:
    while (yield from query.read()):
        pass
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4) as net:
        yield net


@given(chosen=st.sampled_from(MEMBERS), seed=st.randoms(use_true_random=False))
def test_a_member_is_found_by_name_or_text_in_any_case(chosen: Any, seed: random.Random) -> None:
    kind, each = chosen
    for text in (each.name, each.value if isinstance(each.value, str) else each.name):
        mixed = "".join(seed.choice([char.upper(), char.lower()]) for char in text)
        for written in (mixed, mixed.replace("_", "-"), mixed.replace("-", "_"), f" {mixed}\n"):
            assert member(kind, written, "setting") is each
    assert member(kind, each, "setting") is each


@given(kind=st.sampled_from(ENUMS), text=st.text())
def test_any_other_text_is_refused_with_the_list(kind: type[Enum], text: str) -> None:
    try:
        found = member(kind, text, "setting")
    except BadArgument as error:
        for each in kind:
            label = each.value if isinstance(each.value, str) else each.name.lower()
            assert label in str(error)  # noqa: PT017 - most text is refused, not all
    else:
        assert found.name.replace("_", "-").lower() == text.strip().replace("_", "-").lower()


@pytest.mark.parametrize("value", [None, 0, 1.5, True, b"route", [], LinkPolicy.ONCE, PaddingMode.OFF])
def test_a_value_that_is_neither_a_member_nor_text_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="mode: expected a ReplyMode or one of none, known-dest, route"):
        member(ReplyMode, value, "mode")


def test_a_service_that_fails_accuses_no_hop_when_the_error_mode_is_text() -> None:
    with LocalNetwork(peers=4, service=failing) as net:
        for mode in ("status", "STATUS", ErrorMode.STATUS, "xor", "Xor", ErrorMode.XOR):
            with pytest.raises(QueryFailed) as caught:
                net[0].query(net[3].id, b"x", hops=1, error_mode=mode).result(PATIENCE_S)
            assert "changed" not in str(caught.value)
            assert set(caught.value.blamed) <= {net[3].id}


@pytest.mark.parametrize("mode", ["none", "Known_Dest", "route", "OTHER-ROUTE", "reply_on_reply", "cached"])
def test_a_query_takes_the_name_of_a_mode(mode: str, net: LocalNetwork) -> None:
    result = net[0].query(net[3].id, b"x", hops=1, mode=mode).result(PATIENCE_S)
    assert type(result.mode) is ReplyMode
    assert result.has_reply is (mode != "none")


def test_settings_of_a_node_may_be_names() -> None:
    limits = Limits(link_policy="once", padding="Constant")  # type: ignore[arg-type]
    assert limits.link_policy is LinkPolicy.ONCE
    assert limits.padding is PaddingMode.CONSTANT
    assert limits.pool_policy == Limits(link_policy=LinkPolicy.ONCE).pool_policy


def test_a_configuration_takes_names_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[links]\nlink_policy = "Once"\n[node]\nlog_level = "DEBUG"\n')
    config = load_config(path, {})
    assert config.limits.link_policy is LinkPolicy.ONCE
    path.write_text('[links]\nlink_policy = "twice"\n')
    with pytest.raises(LocalTunnelError, match='"pooled", "once"'):
        load_config(path, {})


@given(profile=st.sampled_from(ALL_PROFILES))
def test_a_profile_is_found_by_name_in_any_case(profile: Profile) -> None:
    for text in (profile.name, profile.name.upper(), profile.name.replace("-", "_"), str(profile.byte)):
        assert Profile.of(text) == profile
    assert checked_purpose("Bulk") == "bulk"


def test_an_engine_is_found_by_name_or_given() -> None:
    for engine in ("OpenSSL", "pycryptodome", tunnel_engine("pycryptodome")):
        with LocalNetwork(peers=2, engine=engine) as net:
            assert net[0].query(net[1].id, b"x", hops=0).result(PATIENCE_S).read() == b"x"
    with pytest.raises(ValueError, match="auto, openssl, pycryptodome"):
        LocalNetwork(peers=2, engine="rot13")


# Refused calls of nodes and clients: (arguments, options), the error, a word of its text.
IDS = {
    "hex": (lambda net: net[3].id.hex(), TypeError, "bytes.fromhex"),
    "name": (lambda _: "node-3", TypeError, "ids_by_name"),
    "a node": (lambda net: net[3], TypeError, "Node's `id`"),
    "a descriptor": (lambda net: net[3].descriptor, TypeError, "Descriptor's `node_id`"),
    "an index": (lambda net: 3, TypeError, "32 bytes"),
    "None": (lambda net: None, TypeError, "32 bytes"),
    "16 bytes": (lambda net: bytes(16), BadArgument, "got 16"),
}
OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative hops": ({"hops": -1}, BadArgument, "hops: expected 0 or more, got -1"),
    "too many hops": ({"hops": 9}, BadRoute, "9 proxies"),
    "hops beyond any profile": ({"hops": 2**70}, ProfileError, "longest is 126"),
    "hops as text": ({"hops": "1"}, TypeError, "hops: expected a whole number"),
    "hops as a flag": ({"hops": True}, TypeError, "hops: expected a whole number"),
    "unknown mode": ({"mode": "nonsense"}, BadArgument, "none, known-dest, route"),
    "a mode of no query": ({"mode": "established"}, LocalTunnelError, "is not for queries"),
    "unknown error mode": ({"error_mode": "nonsense"}, BadArgument, "status, xor, none"),
    "mode of another kind": ({"mode": ErrorMode.NONE}, TypeError, "mode: expected a ReplyMode"),
    "no mode": ({"mode": None}, TypeError, "mode: expected a ReplyMode"),
    "unknown profile": ({"profile": "huge"}, ProfileError, "bulk"),
    "a number as profile": ({"profile": 4}, TypeError, "Profile or its name"),
    "unknown purpose": ({"purpose": "speed"}, BadArgument, "interactive"),
    "ids as route": ({"route": [bytes(32)]}, TypeError, "route: expected a Route, got list"),
    "an id as way back": ({"reply_route": bytes(32)}, TypeError, "reply_route: expected a Route, got bytes"),
    "a limit as text": ({"timeout_s": "5"}, TypeError, "timeout_s: expected a number of seconds"),
    "a limit that is no number": ({"idle_s": float("nan")}, BadArgument, "idle_s: expected seconds"),
    "a negative limit": ({"timeout_s": -1}, BadArgument, "timeout_s: expected seconds"),
    "too many retries": ({"retries": 17}, ValueError, "retries: expected 0 to 16, got 17"),
    "retries as text": ({"retries": "3"}, TypeError, "retries: expected a whole number"),
    "replies as text": ({"replies": "2"}, TypeError, "replies: expected a whole number"),
    "a text file as sink": ({"sink": io.StringIO()}, TypeError, "sink: expected a binary file"),
    "a path as sink": ({"sink": "path"}, TypeError, "sink: expected a binary file"),
    "a number as progress": ({"progress": 3}, TypeError, "progress: expected a function"),
    "a number as rng": ({"rng": 3}, TypeError, "rng: expected a random.Random"),
    "a misspelt option": ({"timeout": 5}, TypeError, "did you mean 'timeout_s'"),
}


@pytest.mark.parametrize(("make", "kind", "word"), IDS.values(), ids=IDS.keys())
def test_a_destination_is_the_bytes_of_an_id(make: Any, kind: Any, word: str, net: LocalNetwork) -> None:
    node, client, wrong = net[0], Client(net[0]), make(net)
    calls: list[Callable[[], object]] = [
        lambda: node.query(wrong, b"x", hops=0),
        lambda: node.call(wrong, b"x", hops=0),
        lambda: client.query(wrong, b"x", hops=0),
        lambda: client.ask(wrong, b"x", hops=0),
        lambda: node.tunnel(wrong, lambda tunnel: iter(()), hops=0),  # type: ignore[arg-type, return-value]
        lambda: client.tunnel(wrong, hops=0),
        lambda: node.choose_route(wrong, 0, ALL_PROFILES[0]),
    ]
    for call in calls:
        with pytest.raises(kind, match=word):
            call()


@pytest.mark.parametrize(("options", "kind", "word"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_option_is_refused_at_the_call(options: Any, kind: Any, word: str, net: LocalNetwork) -> None:
    with pytest.raises(kind, match=word):
        net[0].query(net[3].id, b"x", **options).result(PATIENCE_S)
    names = {"hops", "route", "profile", "purpose"}
    if set(options) <= names:
        with pytest.raises(kind, match=word):
            Client(net[0]).tunnel(net[3].id, **options)
    if set(options) <= {"mode", "error_mode"} and word != "is not for queries":
        route, profile = Route((), net[3].id), ALL_PROFILES[0]
        with pytest.raises(kind, match=word):
            QueryRequest(route, b"x", **{"mode": ReplyMode.ROUTE, **options}, profile=profile, idle_s=1.0)


@pytest.mark.parametrize("limit_bytes", [0, -1, "9", 1.5, None])
def test_a_limit_of_a_read_is_a_number_above_0(limit_bytes: Any, net: LocalNetwork) -> None:
    """0 would look like the end."""
    with Client(net[0]).tunnel(net[3].id, hops=0) as tunnel:
        tunnel.send(b"message", timeout_s=PATIENCE_S)
        assert tunnel.next_message(timeout_s=PATIENCE_S)
        with pytest.raises((TypeError, BadArgument), match="limit_bytes: expected"):
            tunnel.read(limit_bytes, timeout_s=PATIENCE_S)
        assert tunnel.read(timeout_s=PATIENCE_S) == b"message"
        assert tunnel.read(timeout_s=PATIENCE_S) == b""
    with Client(net[0]).ask(net[3].id, b"x", hops=0) as reply:
        with pytest.raises((TypeError, BadArgument), match="limit_bytes: expected"):
            reply.read(limit_bytes, timeout_s=PATIENCE_S)
        assert reply.read(timeout_s=PATIENCE_S) == b"x"


LIMITS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "text": ({"links": "5"}, TypeError),
    "a flag": ({"links": True}, TypeError),
    "a fraction": ({"links": 1.5}, TypeError),
    "negative": ({"guards": -1}, BadArgument),
    "a time as text": ({"idle_s": "60"}, TypeError),
    "no number": ({"idle_s": float("nan")}, BadArgument),
    "unknown policy": ({"link_policy": "sometimes"}, BadArgument),
    "no policy": ({"link_policy": None}, TypeError),
    "unknown padding": ({"padding": "some"}, BadArgument),
    "limits of another kind": ({"tunnel": {"sub_streams": 4}}, TypeError),
}


@pytest.mark.parametrize(("given", "kind"), LIMITS.values(), ids=LIMITS.keys())
def test_limits_are_checked_when_they_are_made(given: Any, kind: Any) -> None:
    with pytest.raises(kind, match=next(iter(given))):
        Limits(**given)


def test_a_network_and_a_node_refuse_wrong_arguments() -> None:
    for wrong in ({"peers": 0}, {"peers": "4"}, {"peers": 2, "limits": {}}, {"peers": 2, "service": 5}):
        with pytest.raises((TypeError, BadArgument)):
            LocalNetwork(**wrong)
    net = LocalNetwork(peers=2)
    with pytest.raises(IndexError, match="enter it first"):
        net[0]
    with net, pytest.raises(IndexError, match="node 9 of a network of 2"):
        net[9]
    with Reactor() as reactor:
        keys = NodeKeys.generate(time.time())
        wrong_kinds: list[dict[str, Any]] = [{"limits": {}}, {"service": 5}, {"host": None}, {"port": "80"}]
        for given_kind in wrong_kinds:
            with pytest.raises(TypeError):
                Node(keys, net.directory, reactor=reactor, **given_kind)
        with pytest.raises(TypeError, match="NodeKeys"):
            Node(b"keys", net.directory, reactor=reactor)  # type: ignore[arg-type]


def test_small_checks() -> None:
    assert checked_id(memoryview(bytes(32))) == bytes(32)
    assert checked_seconds(float("inf"), "s") == float("inf")
    assert checked_seconds(10**400, "s") == float("inf")
    assert checked_count(3, "n", least=3, most=3) == 3
    with pytest.raises(BadArgument, match="n: expected 1 to 2, got 3"):
        checked_count(3, "n", least=1, most=2)
    with pytest.raises(TypeError, match="unknown option 'zzz': expected one of hops, mode"):
        check_options(["zzz"], ["mode", "hops"])


@pytest.mark.parametrize("port", [-1, 65_536, 65_536 + 80, 2**70])
def test_an_address_holds_a_port_that_exists(port: int) -> None:
    with pytest.raises(BadArgument, match="port: expected 0 to 65535"):
        Address("127.0.0.1", port)
    with pytest.raises(LocalTunnelError, match="port"):
        Target(TargetKind.IPV4, bytes(4), port)


@pytest.mark.parametrize("port", ["80", True, None, 80.0])
def test_a_port_is_a_whole_number(port: Any) -> None:
    with pytest.raises(TypeError, match="port: expected a whole number"):
        Address("127.0.0.1", port)
    with pytest.raises(TypeError, match="port: expected a whole number"):
        Target(TargetKind.IPV4, bytes(4), port)


@pytest.mark.parametrize("host", ["", "localhost", "a..b", "1.2.3", "127.0.0.1\0", "\ud800", "1.2.3.4:80"])
def test_an_address_is_no_name(host: str, net: LocalNetwork) -> None:
    with pytest.raises(BadArgument, match="expected an IP address"):
        Address(host, 80)
    for wrong in (None, b"127.0.0.1", 2130706433):
        with pytest.raises(TypeError, match="host: expected an IP address"):
            Address(wrong, 80)  # type: ignore[arg-type]


def test_a_node_that_cannot_be_made_leaves_no_listener_open() -> None:
    with Reactor() as reactor:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ValueError, match="IP address"):
            Node(NodeKeys.generate(time.time()), StaticDirectory(), reactor=reactor, host="localhost")
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_target_is_checked_when_it_is_made(net: LocalNetwork) -> None:
    assert Target("service", bytearray(b"echo")) == Target(TargetKind.SERVICE, b"echo")  # type: ignore[arg-type]
    assert Target(4, bytes(16), 80).kind is TargetKind.IPV6  # type: ignore[arg-type]
    for kind in ("onion", 2, None):
        with pytest.raises((BadArgument, TypeError), match="service, ipv4, domain, ipv6"):
            Target(kind, b"echo")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="address: expected bytes"):
        Target(TargetKind.SERVICE, "echo")  # type: ignore[arg-type]
    with Client(net[0]).tunnel(net[3].id, hops=0) as tunnel:
        for wrong in (b"echo", 5, None):
            with pytest.raises(TypeError, match="target: expected the name of a service"):
                tunnel.open(wrong, timeout_s=PATIENCE_S)  # type: ignore[arg-type]


def test_a_route_is_made_of_ids(net: LocalNetwork) -> None:
    assert Route([net[1].id], net[3].id) == Route((net[1].id,), net[3].id)  # type: ignore[arg-type]
    for wrong in (net[1], net[1].id.hex(), 5):
        with pytest.raises(TypeError, match="a node of the route: expected the 32 bytes of a node id"):
            Route((wrong,), net[3].id)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a node of the route: expected the 32 bytes of a node id"):
            Route((), wrong)  # type: ignore[arg-type]


NODES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an id in hex as own": ({"own": ["ab" * 32]}, TypeError, "own: .*fromhex"),
    "a short id as own": ({"own": [b"x"]}, BadArgument, "own: expected a node id of 32 bytes"),
    "one id as own": ({"own": bytes(32)}, TypeError, "own: expected"),
    "a short family": ({"family": b"x"}, BadArgument, "family: expected 16 bytes, got 1"),
    "family as text": ({"family": "x" * 16}, TypeError, "family: expected bytes"),
    "network as text": ({"network_id": "local"}, TypeError, "network_id: expected bytes"),
    "a short network": ({"network_id": b"x"}, BadArgument, "network_id: expected 16 bytes"),
    "an unknown profile": ({"profiles": (99,)}, ProfileError, "0x63"),
    "no profile": ({"profiles": ()}, BadArgument, "at least one"),
    "profiles as text": ({"profiles": "bulk"}, TypeError, "profiles: expected a whole number"),
    "addresses as text": ({"addresses": ("127.0.0.1:1",)}, TypeError, "a tuple of Address"),
    "a dict as directory": ({"directory": {}}, TypeError, "directory: expected a Directory, got dict"),
}


@pytest.mark.parametrize(("given", "kind", "word"), NODES.values(), ids=NODES.keys())
def test_arguments_of_a_node_are_checked_immediately(given: Any, kind: Any, word: str) -> None:
    """Otherwise the node would run, but others would refuse it, or `own` would protect nothing."""
    with Reactor() as reactor, pytest.raises(kind, match=word):
        Node(
            **{
                "keys": NodeKeys.generate(time.time()),
                "directory": StaticDirectory(),
                "reactor": reactor,
                **given,
            }
        )


def test_a_thread_passed_for_its_reactor_is_named() -> None:
    with ReactorThread() as thread, pytest.raises(TypeError, match="ReactorThread: use its `reactor`"):
        Node(NodeKeys.generate(time.time()), StaticDirectory(), reactor=thread)  # type: ignore[arg-type]


@pytest.mark.parametrize("proxies", [(1, 1), (3, 1)])
def test_the_error_explains_that_a_given_route_visits_a_node_twice(
    net: LocalNetwork, proxies: tuple[int, ...]
) -> None:
    route = Route(tuple(net[index].id for index in proxies), net[3].id)
    for call in (
        lambda: net[0].query(net[3].id, b"x", route=route),
        lambda: Client(net[0]).tunnel(net[3].id, route=route),
    ):
        with pytest.raises(BadRoute, match=r"the route visits node .* twice"):
            call()
