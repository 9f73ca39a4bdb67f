"""Every cell in every state is legal, or causes the documented error with the documented scope.

The oracle is written from docs/protocol.md, "Streams", not from the code's table.
"""

from __future__ import annotations

import pytest

from tests.tunnel.helpers import SMALL
from tests.tunnel.mux_helpers import Flag, RawPeer, cell, read_all
from tunnel.errors import ErrorCode, LinkError, LocalTunnelError, StreamReset
from tunnel.link.cells import MAX_CREDIT, CellType
from tunnel.link.mux import MuxStream
from tunnel.link.stream import ENDED, MAY_SEND_DATA, TRANSITIONS, Half

T = CellType
OPEN_PAYLOAD = bytes([1, SMALL.byte, 0, 0, 0, 0])
CREDIT = (100).to_bytes(4, "big")
RESET = (8).to_bytes(2, "big")
LEGAL_PAYLOADS = {
    T.OPEN: OPEN_PAYLOAD,
    T.DATA: b"content",
    T.CREDIT: CREDIT,
    T.FIN: b"",
    T.RESET: RESET,
    T.STATUS: b"status",
    T.PING: bytes(8),
    T.GOAWAY: b"",
    T.PEER_EXCHANGE: b"peers",
}
OF_STREAM = (T.OPEN, T.DATA, T.CREDIT, T.FIN, T.RESET, T.STATUS)

# The cells before on stream 2 (the peer's) or 1 (ours); then the next cell and its outcome.
# "ok": applied. "stream": RESET PROTOCOL of that stream. "link": the link ends. "late": ignored.
ORACLE: dict[str, dict[CellType, str]] = {
    "never opened": {
        T.OPEN: "ok", T.DATA: "link", T.CREDIT: "link", T.FIN: "link", T.RESET: "link", T.STATUS: "link",
    },
    "peer's, open": {
        T.OPEN: "link", T.DATA: "ok", T.CREDIT: "ok", T.FIN: "ok", T.RESET: "ok", T.STATUS: "stream",
    },
    "peer's, its FIN": {
        T.OPEN: "link", T.DATA: "stream", T.CREDIT: "ok", T.FIN: "stream", T.RESET: "ok", T.STATUS: "stream",
    },
    "peer's, its RESET": {
        T.OPEN: "link", T.DATA: "link", T.CREDIT: "late", T.FIN: "late", T.RESET: "late", T.STATUS: "late",
    },
    "peer's, our RESET": {
        T.OPEN: "link", T.DATA: "late", T.CREDIT: "late", T.FIN: "late", T.RESET: "late", T.STATUS: "late",
    },
    "peer's, complete": {
        T.OPEN: "link", T.DATA: "link", T.CREDIT: "late", T.FIN: "late", T.RESET: "late", T.STATUS: "late",
    },
    "peer's, refused": {
        T.OPEN: "link", T.DATA: "late", T.CREDIT: "late", T.FIN: "late", T.RESET: "late", T.STATUS: "late",
    },
    "ours, open": {
        T.OPEN: "link", T.DATA: "ok", T.CREDIT: "ok", T.FIN: "ok", T.RESET: "ok", T.STATUS: "stream",
    },
    "ours, its FIN": {
        T.OPEN: "link", T.DATA: "stream", T.CREDIT: "ok", T.FIN: "stream", T.RESET: "ok", T.STATUS: "ok",
    },
    "ours, its STATUS": {
        T.OPEN: "link", T.DATA: "stream", T.CREDIT: "ok", T.FIN: "stream", T.RESET: "ok", T.STATUS: "stream",
    },
    "ours, complete": {
        T.OPEN: "link", T.DATA: "link", T.CREDIT: "late", T.FIN: "late", T.RESET: "late", T.STATUS: "late",
    },
}  # fmt: skip


def reach(state: str) -> tuple[RawPeer, int, MuxStream[Flag] | None]:
    """A link whose peer (the dialler's acceptor: even numbers) has brought a stream into this state."""
    peer = RawPeer.make(is_dialler=True)
    mux = peer.mux
    if state == "never opened":
        return peer, 2, None
    if state == "peer's, refused":
        peer.say(cell(T.OPEN, 2, bytes([1, 0xEE, 0, 0, 0, 0])))
        assert list(peer.hear()) == [(T.RESET, 2, (11).to_bytes(2, "big"))]
        return peer, 2, None
    if state.startswith("ours"):
        stream = mux.open(SMALL)
        number = stream.id
        if state in ("ours, its FIN", "ours, its STATUS", "ours, complete"):
            peer.say(cell(T.FIN, number))
        if state in ("ours, its STATUS", "ours, complete"):
            peer.say(cell(T.STATUS, number, b"good"))
            assert stream.status == b"good"
        if state == "ours, complete":
            stream.finish()
    else:
        peer.say(cell(T.OPEN, 2, OPEN_PAYLOAD))
        accepted = mux.accept_nowait()
        assert accepted is not None
        stream, number = accepted, 2
        if state == "peer's, its RESET":
            peer.say(cell(T.RESET, 2, RESET))
        if state == "peer's, our RESET":
            stream.reset(ErrorCode.BUSY)
        if state in ("peer's, its FIN", "peer's, complete"):
            peer.say(cell(T.FIN, 2))
        if state == "peer's, complete":
            stream.finish()
            stream.send_status(b"done")
    peer.heard()
    assert ("complete" in state or "RESET" in state) == (mux.streams == 0)
    return peer, number, stream


@pytest.mark.parametrize("kind", OF_STREAM, ids=lambda kind: kind.name)
@pytest.mark.parametrize("state", ORACLE)
def test_every_cell_in_every_state(state: str, kind: CellType) -> None:
    peer, number, stream = reach(state)
    bystander = peer.mux.open(SMALL)
    peer.heard()
    before = peer.mux.streams
    expected = ORACLE[state][kind]
    said = cell(kind, number, LEGAL_PAYLOADS[kind])
    if expected == "link":
        with pytest.raises(LinkError):
            peer.say(said)
        assert isinstance(bystander.error, LinkError)
        assert peer.heard() == [(T.RESET, 0, (1).to_bytes(2, "big"))]
        return
    peer.say(said)
    assert bystander.error is None
    heard = peer.heard()
    if expected == "stream":
        assert heard == [(T.RESET, number, (1).to_bytes(2, "big"))]
        assert stream is not None
        assert isinstance(stream.error, LinkError)
        assert peer.mux.streams == before - 1
    else:
        assert heard == []
        if expected == "late":
            assert peer.mux.streams == before
    # The link continues in any case.
    peer.say(cell(T.DATA, bystander.id, b"still here"))
    assert read_all(bystander) == b"still here"


def test_the_oracle_covers_every_state_and_cell() -> None:
    assert all(set(row) == set(OF_STREAM) for row in ORACLE.values())
    assert set(LEGAL_PAYLOADS) | {T.PAD} == set(CellType)


def test_the_table_is_closed_and_has_two_ends() -> None:
    assert set(TRANSITIONS) == set(Half)
    assert {after for row in TRANSITIONS.values() for after in row.values()} <= set(Half)
    assert {Half.FORWARD_ENDED, Half.BACKWARD_ENDED} == ENDED
    assert {Half.FORWARD_OPEN, Half.BACKWARD_OPEN} == MAY_SEND_DATA


# --- layouts ---

WRONG_LENGTHS = [
    *[(T.OPEN, length) for length in (0, 5, 7)],
    *[(T.CREDIT, length) for length in (0, 3, 5)],
    (T.FIN, 1),
    *[(T.RESET, length) for length in (0, 1, 3)],
    *[(T.STATUS, length) for length in (0, 2_497)],
    *[(T.PING, length) for length in (0, 7, 9)],
    (T.GOAWAY, 1),
    *[(T.PEER_EXCHANGE, length) for length in (0, 4_097)],
    (T.DATA, 0),
]
OPEN_2 = cell(T.OPEN, 2, OPEN_PAYLOAD)
FORBIDDEN = {
    **{f"{kind.name} of {n} bytes": [OPEN_2, cell(kind, 2 if kind in OF_STREAM else 0, bytes(n))]
       for kind, n in WRONG_LENGTHS},
    **{f"type {kind}": [OPEN_2, cell(kind, 2, b"x")] for kind in (10, 11, 128, 255)},
    **{f"flags {flags}": [cell(T.OPEN, 2, OPEN_PAYLOAD, flags=flags)] for flags in (1, 128)},
    **{f"{kind.name} of the link": [cell(kind, 0, LEGAL_PAYLOADS[kind])]
       for kind in OF_STREAM if kind is not T.RESET},
    **{f"{kind.name} of a stream": [OPEN_2, cell(kind, 2, LEGAL_PAYLOADS[kind])]
       for kind in (T.PING, T.GOAWAY, T.PEER_EXCHANGE)},
    "OPEN of our parity": [cell(T.OPEN, 3, OPEN_PAYLOAD)],
    "OPEN twice": [OPEN_2, OPEN_2],
    "OPEN of a smaller number": [cell(T.OPEN, 4, OPEN_PAYLOAD), OPEN_2],
    "OPEN of version 2": [cell(T.OPEN, 2, bytes([2]) + OPEN_PAYLOAD[1:])],
    "OPEN with too much credit": [
        cell(T.OPEN, 2, OPEN_PAYLOAD[:2] + (MAX_CREDIT // 2 + 1).to_bytes(4, "big"))
    ],
    "OPEN after GOAWAY": [cell(T.GOAWAY, 0), OPEN_2],
    "a second GOAWAY": [cell(T.GOAWAY, 0), cell(T.GOAWAY, 0)],
    "CREDIT of nothing": [OPEN_2, cell(T.CREDIT, 2, bytes(4))],
    "CREDIT of too much": [OPEN_2, cell(T.CREDIT, 2, (MAX_CREDIT + 1).to_bytes(4, "big"))],
    "RESET with code 0": [OPEN_2, cell(T.RESET, 2, bytes(2))],
    "RESET with an unknown code": [OPEN_2, cell(T.RESET, 2, (999).to_bytes(2, "big"))],
    "RESET of the link": [cell(T.RESET, 0, RESET)],
    "an answer to no PING": [cell(T.PING, 0, bytes([1]) + bytes(7))],
    "a PING of kind 2": [cell(T.PING, 0, bytes([2]) + bytes(7))],
    "a cell longer than its record": [cell(T.DATA, 2, b"x", length=2_000)],
    "a cut cell head": [OPEN_2, cell(T.DATA, 2, bytes(1004 - 14 - 8 - 7)), b"\1\0\0\0\0\0\0"],
    "padding that is not zero": [OPEN_2, b"\0\0\0\1"],
    "more content than credit": [OPEN_2, *4 * [cell(T.DATA, 2, bytes(996))], cell(T.DATA, 2, b"x")],
    "content for a number not yet opened": [OPEN_2, cell(T.DATA, 4, b"x")],
    "content for a number of ours not yet opened": [cell(T.DATA, 1, b"x")],
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_bytes_end_the_link(name: str) -> None:
    peer = RawPeer.make(is_dialler=True)
    with pytest.raises(LinkError) as caught:
        peer.say(*FORBIDDEN[name])
    error = peer.mux.error
    assert error is caught.value
    assert not peer.mux.streams
    with pytest.raises(LinkError):
        peer.mux.open(SMALL)
    with pytest.raises(LinkError):
        peer.mux.accept_nowait()
    with pytest.raises(LinkError):
        peer.mux.received(0)
    heard = peer.heard()
    assert heard == [(T.RESET, 0, caught.value.code.to_bytes(2, "big"))]
    peer.mux.close()
    assert peer.mux.sender.out.pending.nbytes == 0


@pytest.mark.parametrize(
    "wire", [b"\0\0\0\0", b"\0\x40\0\0", b"\0\1\0\1", b"\0\1\1\0", b"\0\1\0\0" + bytes(1020)]
)
def test_malformed_records_end_the_link(wire: bytes) -> None:
    peer = RawPeer.make()
    with pytest.raises(LinkError):
        peer.say_bytes(wire)
    assert peer.mux.error is not None


def test_excessive_credit_ends_the_stream() -> None:
    peer = RawPeer.make(is_dialler=True)
    stream = peer.mux.open(SMALL)
    peer.heard()
    peer.say(cell(T.CREDIT, stream.id, MAX_CREDIT.to_bytes(4, "big")))
    assert isinstance(stream.error, LinkError)
    assert peer.heard() == [(T.RESET, stream.id, (1).to_bytes(2, "big"))]
    assert peer.mux.error is None


# --- mistakes of this side ---


def test_calls_out_of_order_are_local_errors() -> None:
    peer = RawPeer.make(is_dialler=True)
    stream = peer.mux.open(SMALL)
    with pytest.raises(LocalTunnelError, match="status"):
        stream.send_status(b"x")
    stream.finish()
    with pytest.raises(LocalTunnelError, match="finish"):
        stream.write(b"x")
    peer.say(OPEN_2)
    accepted = peer.mux.accept_nowait()
    assert accepted is not None
    with pytest.raises(LocalTunnelError, match="status"):
        accepted.send_status(b"x")
    accepted.finish()
    for status in (b"", bytes(2_497)):
        with pytest.raises(LocalTunnelError, match="bytes"):
            accepted.send_status(status)
    accepted.send_status(b"x")
    with pytest.raises(LocalTunnelError, match="status"):
        accepted.send_status(b"x")
    assert [kind for kind, _, _ in peer.heard()] == [T.OPEN, T.FIN, T.FIN, T.STATUS]


def test_an_end_is_sent_once() -> None:
    peer = RawPeer.make(is_dialler=True)
    stream = peer.mux.open(SMALL)
    for _ in range(2):
        stream.finish()
    for _ in range(2):
        stream.reset(ErrorCode.CANCELLED)
    stream.finish()
    assert [kind for kind, _, _ in peer.heard()] == [T.OPEN, T.FIN, T.RESET]
    with pytest.raises(StreamReset):
        stream.write(b"x")
    with pytest.raises(StreamReset):
        stream.readinto(memoryview(bytearray(1)))
