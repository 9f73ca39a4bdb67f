"""The messages of the control socket: one side reads what the other packs, and refuses other bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.codes import Report
from tunnel.control import messages
from tunnel.control.messages import (
    CLIENT_BODY_BYTES,
    CONTENT_BYTES,
    NODE_BODY_BYTES,
    VERSION,
    MessageKind,
    MessageParser,
    PeerRecord,
    QueryMessage,
    QueryOutcome,
    QueryProgress,
    RouteRequest,
    Welcome,
    pack,
    pack_error,
    pack_message,
    unpack,
    unpack_error,
    unpack_welcome,
)
from tunnel.errors import BadRoute, ControlError, ErrorCode, PeerError, ProfileError, QueryFailed
from tunnel.geometry import ALL_PROFILES
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.routing.route import Route

OWN_ID = b"n" * 32
ids = st.integers(0, 255).map(lambda value: bytes([value]) * 32)
profiles = st.sampled_from(ALL_PROFILES)
seconds = st.none() | st.floats(0)
PROFILE = ALL_PROFILES[0]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def routes(destination: bytes) -> st.SearchStrategy[Route]:
    return st.lists(ids, max_size=5).map(lambda proxies: Route(tuple(proxies), destination))


reports = st.builds(
    Report,
    st.lists(ids, min_size=2, max_size=4).map(tuple),
    st.booleans(),
    st.none() | st.integers(0, 1),
    st.none() | st.sampled_from(ErrorCode),
    st.booleans(),
    st.text(max_size=50),
    st.lists(st.integers(0, 1), max_size=3).map(tuple),
    st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple),
    st.booleans(),
)
failures = st.builds(
    QueryFailed,
    st.text(max_size=50),
    st.none() | st.sampled_from(ErrorCode),
    st.none() | reports,
    st.lists(ids, max_size=3).map(tuple),
    hint=st.text(max_size=50),
)
requests = st.builds(
    QueryMessage,
    st.just(b"d" * 32),
    st.none() | st.integers(0, 126),
    st.none() | routes(b"d" * 32),
    st.none() | routes(OWN_ID),
    st.none() | profiles,
    st.sampled_from((None, "mixed", "interactive", "bulk", "stream")),
    st.sampled_from(ReplyMode),
    st.sampled_from(ErrorMode),
    st.integers(0, 16),
    seconds,
    seconds,
    st.none() | st.binary(max_size=200),
)
outcomes = st.builds(
    QueryOutcome,
    routes(b"d" * 32),
    st.sampled_from(ReplyMode),
    profiles,
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.none() | reports,
)


def body(message: bytes, *, is_node: bool) -> bytes:
    """The body of a complete message, as the other side receives it."""
    parser = MessageParser(CLIENT_BODY_BYTES if is_node else NODE_BODY_BYTES, is_node=is_node)
    parser.feed(message)
    found = parser.next()
    assert found is not None
    parser.feed(message)
    assert parser.next() == found, "nothing is left of the first message"
    return found[1]


def facts(error: BaseException) -> list[Any]:
    return [
        type(error),
        str(error),
        *(vars(error).get(key) for key in ("code", "report", "blamed", "hint", "hops")),
    ]


@given(requests)
def test_a_query_arrives_as_it_was_asked(request: QueryMessage) -> None:
    assert unpack(QueryMessage, body(pack(request), is_node=True)) == request


@given(outcomes, st.lists(failures, max_size=3))
def test_an_outcome_arrives_with_its_failed_attempts(
    outcome: QueryOutcome, attempts: list[QueryFailed]
) -> None:
    packed = replace(outcome, attempts=tuple(attempts))
    found = unpack(QueryOutcome, body(pack(packed), is_node=False))
    assert list(map(facts, found.attempts)) == list(map(facts, attempts))
    assert found.route == outcome.route
    assert found.report == outcome.report


@given(failures, st.lists(failures, max_size=3))
def test_a_failed_query_arrives_with_hop_code_and_text(
    error: QueryFailed, attempts: list[QueryFailed]
) -> None:
    error.attempts = tuple(attempts)
    found = unpack_error(body(pack_error(error), is_node=False))
    assert isinstance(found, QueryFailed)
    assert facts(found) == facts(error)
    assert list(map(facts, found.attempts)) == list(map(facts, attempts))


@pytest.mark.parametrize(
    "error",
    [
        BadRoute("too few", hops=3, available=1),
        BadRoute("no guard", hint="add peers"),
        ProfileError("too long"),
        ControlError("busy", "try later"),
        TypeError("no bytes"),
    ],
)
def test_an_error_keeps_its_class_text_and_hint(error: Exception) -> None:
    found = unpack_error(body(pack_error(error), is_node=False))
    assert facts(found) == facts(error)


def test_an_error_of_the_users_node_is_a_failed_query() -> None:
    found = unpack_error(body(pack_error(PeerError("nothing moved", ErrorCode.TIMEOUT)), is_node=False))
    assert isinstance(found, QueryFailed)
    assert found.code is ErrorCode.TIMEOUT
    found = unpack_error(body(pack_error(KeyError("a bug's secret")), is_node=False))
    assert isinstance(found, QueryFailed)
    assert found.code is ErrorCode.INTERNAL
    assert "secret" not in str(found)


def test_the_longest_query_and_its_longest_failure_fit() -> None:
    route = Route((b"p" * 32,) * 126, b"d" * 32)
    request = QueryMessage(
        b"d" * 32, route=route, reply_route=Route(route.proxies, OWN_ID), content=bytes(CONTENT_BYTES)
    )
    assert unpack(QueryMessage, body(pack(request), is_node=True)) == request
    report = Report(route.nodes, False, 126, ErrorCode.TIMEOUT, text="é" * 5000, hold_ms=(1,) * 127)
    failure = QueryFailed("x" * 100_000, ErrorCode.TIMEOUT, report, route.nodes)
    failure.attempts = (failure,) * 17
    found = unpack_error(body(pack_error(failure), is_node=False))
    assert isinstance(found, QueryFailed)
    assert len(found.attempts) == 17


def test_a_text_of_any_length_fits() -> None:
    found = unpack_error(body(pack_error(BadRoute("é" * 100_000)), is_node=False))
    assert str(found).startswith("é" * 2000)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_cause_only_documented_errors(data: bytes) -> None:
    for record in (QueryMessage, QueryOutcome, RouteRequest, Welcome, QueryProgress, PeerRecord, Route):
        with contextlib.suppress(ControlError):
            unpack(record, data)
    for read in (unpack_error, unpack_welcome, messages.unpack_attempt):
        with contextlib.suppress(ControlError):
            read(data)


@given(requests, st.data())
def test_a_cut_or_changed_query_is_refused_or_another_query(
    request: QueryMessage, data: st.DataObject
) -> None:
    whole = bytearray(body(pack(request), is_node=True))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    for changed in (bytes(whole), bytes(whole[:place])):
        with contextlib.suppress(ControlError):
            unpack(QueryMessage, changed)


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 9))
def test_messages_are_parsed_however_their_bytes_arrive(bodies: list[bytes], step: int) -> None:
    stream = b"".join(pack_message(MessageKind.CONTENT, data) for data in bodies)
    parser, found = MessageParser(CLIENT_BODY_BYTES, is_node=True), []
    for start in range(0, len(stream), step):
        parser.feed(stream[start : start + step])
        while (message := parser.next()) is not None:
            found.append(message)
    assert found == [(MessageKind.CONTENT, data) for data in bodies]


@pytest.mark.parametrize(
    "head",
    [
        b"\x00" + bytes(4),  # no kind
        b"\x81" + bytes(4),  # a node's message from a client
        b"\x02\xff\xff\xff\xff",  # 4 GiB
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_a_message_that_no_client_sends_is_refused_before_its_body(head: bytes) -> None:
    parser = MessageParser(CLIENT_BODY_BYTES, is_node=True)
    parser.feed(head)
    with pytest.raises(ControlError):
        parser.next()


def test_a_node_of_another_version_is_named_as_such() -> None:
    for other in (
        body(pack(Welcome(OWN_ID, 3, 0, 4, VERSION + 1)), is_node=False),
        b'{"version": 9, "name": "a node of the future"}',
        bytes([1, 3, 0, 0, 0, 0, 4]) + OWN_ID,
    ):
        with pytest.raises(ControlError, match="another version"):
            unpack_welcome(other)


@given(json_values)
def test_arbitrary_json_causes_only_documented_errors(value: Any) -> None:
    for record, sample in (
        (QueryMessage, QueryMessage(OWN_ID)),
        (RouteRequest, RouteRequest(OWN_ID, 1, PROFILE)),
    ):
        found = json.loads(body(pack(sample), is_node=True))
        for name in found:
            with contextlib.suppress(ControlError):
                unpack(record, json.dumps(found | {name: value}).encode())
    with pytest.raises(ControlError):
        unpack(QueryMessage, b"[" * CLIENT_BODY_BYTES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("destination", "0g"), ("destination", 5), ("hops", -1), ("hops", True), ("hops", 1.0),
        ("hops", 2**65),
        ("idle_s", 10**400), ("timeout_s", -(10**400)),
        ("idle_s", -1.0), ("idle_s", float("nan")), ("idle_s", "1"), ("purpose", "fast"), ("mode", "other"),
        ("mode", []), ("profile", "huge"), ("profile", 1), ("route", []), ("route", {"proxies": []}),
        ("content", "0"), ("stray", 1),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_query_is_refused(name: str, value: Any) -> None:
    whole = json.loads(body(pack(QueryMessage(b"d" * 32)), is_node=True))
    with pytest.raises(ControlError, match="QUERY"):
        unpack(QueryMessage, json.dumps(whole | {name: value}).encode())


@pytest.mark.parametrize(("hop", "suspects"), [(2, ()), (126, ()), (None, (2,)), (0, (0, 5))])
def test_a_report_of_nodes_outside_its_route_is_refused(hop: int | None, suspects: tuple[int, ...]) -> None:
    """Its text would name them."""
    report = Report((OWN_ID, OWN_ID), False, 1, ErrorCode.BUSY, suspects=(1,))
    whole = json.loads(body(pack_error(QueryFailed("it failed", report=report)), is_node=False))
    assert str(unpack_error(json.dumps(whole).encode())) == "it failed"
    whole["failure"]["report"] |= {"hop": hop, "suspects": suspects}
    with pytest.raises(ControlError, match="on a route of 2"):
        unpack_error(json.dumps(whole).encode())
