"""Rules of the control socket, broken by a program of the node's own user.

Checked for each: the client gets one ERROR and the end of the connection, or the end alone; another client is
served as before; no error is logged and nothing is left.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from reactor import Handle
from tests.hostile.network import Hang, MemoryNetwork
from tests.hostile.rules import outside
from tunnel.control import ControlServer
from tunnel.control.messages import (
    CLIENT_BODY_BYTES,
    MessageKind,
    QueryMessage,
    pack,
    pack_attempt,
    pack_message,
    unpack_error,
)
from tunnel.errors import ControlError

MESSAGES = Path(__file__).resolve().parent.parent.parent / "tunnel" / "control" / "messages.py"
_WITHIN_S: Final = 5.0


class ControlPeer:
    """A client that sends anything, and takes whole messages."""

    def __init__(self, network: MemoryNetwork, path: Path) -> None:
        self._network = network
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        network.settle()  # the next one must find room in the backlog
        self._held = b""
        self.messages: list[tuple[int, bytes]] = []
        self.has_ended = False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._network.settle()
            except (BrokenPipeError, ConnectionResetError):
                return

    def look(self) -> None:
        """Take what has come."""
        self._network.settle()
        while not self.has_ended:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.has_ended = not data
            self._held += data
        while len(self._held) >= 5 and len(self._held) >= (end := 5 + int.from_bytes(self._held[1:5], "big")):
            self.messages.append((self._held[0], self._held[5:end]))
            self._held = self._held[end:]

    def wait(self, condition: Callable[[], bool], within_s: float = _WITHIN_S) -> None:
        """Raises Hang."""
        for _ in range(int(within_s / 0.25) + 1):
            self.look()
            if condition():
                return
            self._network.pass_time(0.25)
        raise Hang(f"not so after {within_s:g} s")

    def close(self) -> None:
        self._socket.close()


class Control:
    """The control socket of the victim."""

    def __init__(self, network: MemoryNetwork, folder: Path) -> None:
        self.network = network
        self.path = folder / "control"
        self._server = ControlServer(network.victim, network.directory, self.path)
        self._serving: Handle[None] = network.reactor.spawn(self._server.serve())

    def peer(self) -> ControlPeer:
        return ControlPeer(self.network, self.path)

    def check_honest(self) -> None:
        """Another client lists the peers."""
        peer = self.peer()
        peer.send(pack_message(MessageKind.PEERS))
        peer.wait(lambda: peer.has_ended)
        assert peer.messages[-1][0] == MessageKind.DONE
        peer.close()

    def close(self) -> None:
        self.network.run(self._server.finish())
        self._serving.cancel()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with MemoryNetwork() as network:
        made = Control(network, tmp_path_factory.mktemp("control"))
        yield made
        made.close()


def _query(**changes: Any) -> bytes:
    """A QUERY with other JSON in some fields."""
    record = json.loads(pack(QueryMessage(bytes(32), content=b"x"))[5:])
    record |= changes
    return pack_message(MessageKind.QUERY, json.dumps(record).encode())


def _without(name: str) -> bytes:
    record = json.loads(pack(QueryMessage(bytes(32)))[5:])
    del record[name]
    return pack_message(MessageKind.QUERY, json.dumps(record).encode())


_FIELDS: Final = tuple(json.loads(pack(QueryMessage(bytes(32)))[5:]))
_WRONG: Final[tuple[Any, ...]] = (True, -1, 1.5, "x", "zz", [], [1], {}, {"a": 1}, 10**30, [[[[]]]])
_BEGUN: Final = pack(QueryMessage(bytes(32)))  # its content follows


class Row(NamedTuple):
    """A rule: its sentence in the module's documentation, the bytes that break it, and the values."""

    name: str
    sentence: str
    make: Callable[[Any], bytes]
    values: Sequence[Any]


_RECORD: Final = "A record is a dataclass; its body is a JSON object with exactly the fields of the class"
_TYPES: Final = "read by their types"
_ROWS: Final = (
    Row("kind", "client QUERY `QueryMessage`", lambda n: pack_message(n), outside(1, 5, 8)),
    Row(
        "length",
        "each body has a limit",
        lambda n: b"\1" + n.to_bytes(4, "big"),
        range(CLIENT_BODY_BYTES + 1, 1 << 32),
    ),
    Row("no JSON", _RECORD, lambda n: pack_message(MessageKind.QUERY, bytes(n)), range(1, 100)),
    Row(
        "no object",
        _RECORD,
        lambda text: pack_message(MessageKind.QUERY, text),
        (b"", b"1", b"[]", b"null", b'"x"', b"NaN", b"\xff"),
    ),
    Row(
        "deep", _RECORD, lambda n: pack_message(MessageKind.QUERY, b"[" * n), (10, 100_000, CLIENT_BODY_BYTES)
    ),
    Row(
        "long number",
        _TYPES,
        lambda n: pack_message(MessageKind.QUERY, b'{"hops": ' + b"9" * n + b"}"),
        (5_000, 150_000),
    ),
    Row("field missing", _RECORD, _without, _FIELDS),
    Row("field too many", _RECORD, lambda name: _query(**{name: 1}), ("more", "", "__class__")),
    Row(
        "destination", _TYPES, lambda value: _query(destination=value), (*_WRONG, None, "00" * 31, "00" * 33)
    ),
    Row("hops", _TYPES, lambda value: _query(hops=value), (*_WRONG, 1000)),
    Row("route", _TYPES, lambda value: _query(route=value), _WRONG),
    Row("profile", _TYPES, lambda value: _query(profile=value), _WRONG),
    Row("mode", _TYPES, lambda value: _query(mode=value), (*_WRONG, None, "ESTABLISHED")),
    Row("retries", _TYPES, lambda value: _query(retries=value), (True, -1, 1.5, "x", [], None, 17, 10**30)),
    Row(
        "idle_s",
        _TYPES,
        lambda value: _query(idle_s=value),
        (True, -1, "x", [], float("inf"), float("nan"), 0),
    ),
    Row("content", _TYPES, lambda value: _query(content=value), (True, 1, "x", "zz", [], {})),
    Row(
        "request",
        "One connection carries one request.",
        lambda kind: pack_attempt(kind, 0),
        (MessageKind.CONTENT, MessageKind.END),
    ),
    Row(
        "second request",
        "One connection carries one request.",
        lambda kind: _BEGUN + pack_message(kind, b""),
        (MessageKind.QUERY, MessageKind.PEERS, MessageKind.ROUTE),
    ),
    Row(
        "no attempt",
        "CONTENT attempt u8, data",
        lambda kind: _BEGUN + pack_message(kind),
        (MessageKind.CONTENT, MessageKind.END),
    ),
    Row(
        "content after its end",
        "END attempt u8",
        lambda kind: _BEGUN + pack_attempt(MessageKind.END, 0) + pack_attempt(kind, 0, b"x"),
        (MessageKind.CONTENT, MessageKind.END),
    ),
)


def _break(control: Control, row: Row, value: Any) -> None:
    network = control.network
    network.records.faults.clear()
    before = network.tables()
    peer = control.peer()
    peer.send(row.make(value))
    peer.wait(lambda: peer.has_ended)
    control.check_honest()
    kinds = [kind for kind, _ in peer.messages]
    assert kinds[0] == MessageKind.WELCOME
    assert kinds[-1] == MessageKind.ERROR, f"the node answered {kinds[1:]}"
    assert isinstance(unpack_error(peer.messages[-1][1]), Exception)
    peer.close()
    network.pass_time(2.0)
    grown = {name: size for name, size in network.tables().items() if size > before[name]}
    assert not grown
    assert not network.records.faults


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.name)
def test_a_broken_rule_ends_its_own_connection(control: Control, row: Row) -> None:
    rng = random.Random(row.name)
    _break(control, row, row.values[0])
    _break(control, row, rng.choice(row.values))


@pytest.mark.full
@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.name)
def test_many_values(control: Control, row: Row) -> None:
    rng = random.Random(row.name)
    values = row.values if len(row.values) <= 20 else [row.values[-1], *rng.choices(row.values, k=20)]
    for value in values:
        _break(control, row, value)


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0\1\0", _BEGUN[:20]])
def test_a_client_that_sends_no_request_is_dropped(control: Control, data: bytes) -> None:
    peer = control.peer()
    peer.send(data)
    peer.wait(lambda: peer.has_ended, 15.0)
    peer.close()
    control.check_honest()


def test_clients_that_hang_up_anywhere_leave_nothing(control: Control) -> None:
    before = control.network.tables()
    whole = _BEGUN + pack_attempt(MessageKind.CONTENT, 0, b"x")
    for count in range(0, len(whole) + 1, 7):
        peer = control.peer()
        peer.send(whole[:count])
        peer.look()
        peer.close()
    control.check_honest()
    control.network.pass_time(2.0)
    assert all(size <= before[name] for name, size in control.network.tables().items())


def test_too_many_clients_do_not_lock_others_out_for_long(control: Control) -> None:
    """Those that send nothing are dropped after some seconds."""
    peers = [control.peer() for _ in range(74)]  # ten more than are served; these find room in the backlog
    last = peers[-1]
    last.wait(lambda: last.has_ended, 60.0)
    assert isinstance(unpack_error(last.messages[-1][1]), ControlError)
    control.network.pass_time(15.0)
    control.check_honest()
    for peer in peers:
        peer.close()


def test_each_rule_stands_in_the_documentation() -> None:
    text = " ".join(MESSAGES.read_text(encoding="utf-8").split())
    assert [row.name for row in _ROWS if row.sentence not in text] == []
