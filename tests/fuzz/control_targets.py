"""The control socket: the stream of messages, and the records in them, of both sides."""

from __future__ import annotations

import json
from typing import Any

from tests.fuzz.target import Input, same_in_pieces, target
from tunnel.control.messages import (
    CLIENT_BODY_BYTES,
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
    unpack,
    unpack_attempt,
    unpack_error,
    unpack_welcome,
)
from tunnel.errors import ControlError, QueryFailed
from tunnel.routing.route import Route

_RECORDS: list[type[Any]] = [
    *(Welcome, QueryMessage, RouteRequest, Route),
    *(PeerRecord, QueryProgress, QueryOutcome),
]
_LIMIT = 4_096
_HEAD_BYTES = 5
_ID = "ab" * 32
_REPORT = {
    "route": [_ID, _ID],
    "succeeded": False,
    "hop": 1,
    "code": "TIMEOUT",
    "about_next": True,
    "text": "",
    "suspects": [0],
    "hold_ms": [1],
    "is_about_reply": False,
    "block_first_ids": [],
}
_ROUTE: dict[str, object] = {"proxies": [_ID], "destination": _ID}
_FAILURE = {"text": "it failed", "code": "BUSY", "report": _REPORT, "blamed": [_ID], "hint": ""}
_EXAMPLES: list[dict[str, object]] = [
    {"node_id": _ID, "hops": 3, "bias": 1, "pid": 7, "version": VERSION},
    {
        "destination": _ID,
        "hops": 3,
        "route": None,
        "reply_route": _ROUTE,
        "profile": "default",
        "purpose": "bulk",
        "mode": "ROUTE",
        "error_mode": "STATUS",
        "retries": 1,
        "idle_s": 1.5,
        "timeout_s": 9,
        "content": "00ff",
        "prefix": "",
        "client_key": None,
    },
    {"destination": _ID, "hops": 3, "profile": "bulk"},
    _ROUTE,
    {"descriptor": "00", "state": "SEEN"},
    {"sent": 1, "received": 2},
    {
        "route": _ROUTE,
        "mode": "ROUTE",
        "profile": "default",
        "query_bytes": 1,
        "reply_bytes": 2,
        "report": _REPORT,
        "attempts": [_FAILURE],
    },
]
_ERROR: dict[str, object] = {
    "name": "QueryFailed",
    "text": "",
    "hint": "",
    "hops": None,
    "available": None,
    "failure": _FAILURE,
    "attempts": [_FAILURE],
}


@target(most_bytes=1024)
def control_stream(given: Input) -> None:
    """A stream of messages in any pieces: the same messages, and one message held at most."""
    is_node = given.flag()
    data = b"" if given.flag() else bytes([given.one_of(list(MessageKind)), 0, 0, 0, given.number(0, 9)])
    data += given.rest()

    def outcome(pieces: list[bytes]) -> tuple[list[object], str]:
        parser, found = MessageParser(_LIMIT, is_node=is_node), list[object]()
        try:
            for piece in pieces:
                parser.feed(piece)
                while (message := parser.next()) is not None:
                    assert len(message[1]) <= _LIMIT
                    found.append(message)
                    if message[1]:
                        attempt, content = unpack_attempt(message[1])
                        assert bytes([attempt]) + content == message[1]
        except ControlError as error:
            return found, str(error)
        return found, ""

    same_in_pieces(data, outcome)


def _changed(value: object, given: Input) -> object:
    """A JSON value with changes: a number, a text or a type of its own in some places."""
    if isinstance(value, dict):
        return {key: _changed(each, given) for key, each in value.items() if given.number(0, 63) != 63}
    if isinstance(value, list) and given.number(0, 7) != 7:
        return [_changed(each, given) for each in value] * given.one_of([1, 1, 1, 0, 2])
    if given.number(0, 7) != 7:
        return value
    number = given.number(0, 1 << 70)
    return given.one_of(
        [
            *(None, True, [], {}, number, -number, 10**400, 1e308, float("inf"), float("nan")),
            *(given.some(20).decode("utf-8", "replace"), _ID + " ", "\ud800"),
        ]
    )


@target(ControlError, most_bytes=1024)
def control_records(given: Input) -> None:
    """Any JSON as a record: what is read is packed and read as the same, and can be shown."""
    index = given.number(0, len(_RECORDS))
    example = _ERROR if index == len(_RECORDS) else _EXAMPLES[index]
    body = given.rest() if given.flag() else json.dumps(_changed(example, given)).encode()
    if index == len(_RECORDS):
        error = unpack_error(body)
        assert str(error) is not None
        again = unpack_error(pack_error(error)[_HEAD_BYTES:])
        assert (type(again), str(again)) == (type(error), str(error))
        if isinstance(error, QueryFailed) and error.report is not None:
            assert str(error.report)
            assert error.report.blamed_ids is not None
        return
    kind = _RECORDS[index]
    record: object = unpack(kind, body)
    assert repr(record)
    packed = pack(record)
    if len(packed) <= CLIENT_BODY_BYTES:
        assert unpack(kind, packed[_HEAD_BYTES:]) == record or kind is QueryOutcome
    if isinstance(record, QueryOutcome) and record.report is not None:
        assert str(record.report)
        assert record.report.blamed_ids is not None
    if isinstance(record, Welcome):
        unpack_welcome(body)
