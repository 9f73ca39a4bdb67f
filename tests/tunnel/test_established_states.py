"""Every chunk type in every state of an established tunnel: legal by the tables, or BAD_CONTENT.

One end is real, the other is written by hand and sends any chunks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import OPENSSL
from tests.tunnel.tunnels import ECHO, RawEnd, make_end
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage, PeerError
from tunnel.established import End, Target, TargetKind, TunnelLimits
from tunnel.established import keys as keys_module
from tunnel.established.layouts import (
    HELLO_BYTES,
    MAX_WINDOW_BYTES,
    PROOF_BYTES,
    STREAM_TABLE,
    TUNNEL_TABLE,
    Hello,
    StreamEvent,
    StreamState,
    TunnelState,
    pack_close,
    pack_credit,
    unpack_close,
    unpack_credit,
    unpack_open,
)
from tunnel.geometry import INTERACTIVE, padme
from tunnel.onion.message import ChunkType

DATA = INTERACTIVE.chunk_data_bytes
ENDS = [End.ALICE, End.BOB]
PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def raw(end: End, *, limits: TunnelLimits | None = None) -> RawEnd:
    """`end` by hand, facing a real other end, established."""
    other = End.BOB if end is End.ALICE else End.ALICE
    hand = RawEnd(make_end(other, limits=limits), end)
    hand.establish()
    return hand


def first_id(hand: RawEnd) -> int:
    return 1 if hand.end is End.ALICE else 2


# --- the tunnel's table -------------------------------------------------------------------------------------


def tunnel_in(state: TunnelState, end: End) -> RawEnd | None:
    """A real other end whose receiving direction is in `state`; None where `end` cannot bring it there."""
    other = End.BOB if end is End.ALICE else End.ALICE
    hand = RawEnd(make_end(other), end)
    if state is TunnelState.AWAIT_HELLO:
        return hand
    if state is TunnelState.EARLY:
        if end is End.BOB:
            return None
        hand.send(ChunkType.HELLO, hand.hello)
        hand.take_all()
        return hand
    hand.establish()
    if state is TunnelState.ENDED:
        hand.other.close()
        hand.send(ChunkType.CLOSE, pack_close(None))
        hand.take_all()
        end_by_hand(hand)
    return hand


def end_by_hand(hand: RawEnd) -> None:
    while padme(hand.sent + 1) != hand.sent + 1:
        hand.send(ChunkType.PAD)
    hand.send(ChunkType.PAD, flags=1)


def data_for(kind: ChunkType, hand: RawEnd) -> tuple[bytes, int]:
    """Legal data of a chunk of this type in a tunnel that has only stream 0."""
    match kind:
        case ChunkType.HELLO:
            return hand.hello, 0
        case ChunkType.MSG | ChunkType.END:
            return b"data", 0
        case ChunkType.OPEN:
            return ECHO.pack(), first_id(hand)
        case ChunkType.CLOSE:
            return pack_close(None), 0
        case ChunkType.CHALLENGE:
            return b"challenge or not", 0
        case _:
            return b"", 0


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", TunnelState)
@pytest.mark.parametrize("kind", [*ChunkType, 0, 12, 255])
def test_every_type_in_every_state_of_the_tunnel(end: End, state: TunnelState, kind: int) -> None:
    hand = tunnel_in(state, end)
    if hand is None:
        return  # only Alice's direction has early chunks
    if state is TunnelState.EARLY and kind == ChunkType.REKEY:
        hand.rekey()
        assert hand.other.is_established
        return
    data, sub_stream = data_for(ChunkType(kind), hand) if kind in list(ChunkType) else (b"", 0)
    if kind == ChunkType.OPENED:  # needs a sub-stream of the real end
        if state in (TunnelState.EARLY, TunnelState.RUNNING):
            sub_stream = hand.other.open(ECHO).number
            hand.take_all()
    elif kind == ChunkType.CREDIT and state in (TunnelState.EARLY, TunnelState.RUNNING):
        hand.other.outgoing.write(b"abc")
        hand.other.outgoing.flush()
        hand.take_all()
        data = pack_credit([(0, 3)])
    elif kind == ChunkType.CHALLENGE and end is End.ALICE and state is TunnelState.RUNNING:
        data = hand.other.proofs.take(1)  # a receipt answers Bob's challenge
    error = hand.refused(kind, data, sub_stream=sub_stream)
    legal = kind in list(ChunkType) and ChunkType(kind) in TUNNEL_TABLE[state]
    assert (error is None) == legal
    if error is not None:
        assert isinstance(error, MalformedMessage)
        assert error.code is ErrorCode.BAD_CONTENT
        # Permanent: nothing more is accepted or sent.
        assert repr(hand.refused(ChunkType.PAD)) == repr(error)
        assert not hand.other.next_chunk(memoryview(bytearray(996)), 0.0)
        with pytest.raises(MalformedMessage):
            hand.other.incoming.next_message()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", [k for k in ChunkType if k is not ChunkType.PAD])
def test_last_is_on_pad_only(end: End, kind: ChunkType) -> None:
    hand = raw(end)
    hand.other.close()
    hand.send(ChunkType.CLOSE, pack_close(None))
    hand.take_all()
    assert padme(hand.sent + 1) == hand.sent + 1
    assert isinstance(hand.refused(kind, data_for(kind, hand)[0], flags=1), MalformedMessage)


@pytest.mark.parametrize("flags", [2, 3, 0x81])
def test_unknown_flags_beside_last(flags: int) -> None:
    hand = raw(End.ALICE)
    hand.other.close()
    hand.send(ChunkType.CLOSE, pack_close(None))
    hand.take_all()
    assert padme(hand.sent + 1) == hand.sent + 1
    assert hand.refused(ChunkType.PAD, flags=flags)


@pytest.mark.parametrize("end", ENDS)
def test_end_of_message_on_a_sub_stream(end: End) -> None:
    hand, number = stream_in(StreamState.OPEN, end)
    assert hand.refused(ChunkType.END, b"x", sub_stream=number)


@pytest.mark.parametrize("end", ENDS)
def test_last_before_everything_has_ended(end: End) -> None:
    def closed_by_us(hand: RawEnd) -> None:
        hand.send(ChunkType.CLOSE, pack_close(None))

    def closed_by_other(hand: RawEnd) -> None:
        hand.other.close()
        hand.take_all()

    def with_a_sub_stream(hand: RawEnd) -> None:
        hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=first_id(hand))
        closed_by_us(hand)
        closed_by_other(hand)

    preparations: list[Callable[[RawEnd], None]] = [closed_by_us, closed_by_other, with_a_sub_stream]
    for prepare in preparations:
        hand = raw(end)
        prepare(hand)
        with pytest.raises(MalformedMessage, match="before its streams"):
            end_by_hand(hand)


@pytest.mark.parametrize("end", ENDS)
def test_last_flag_on_a_count_between_buckets(end: End) -> None:
    hand = raw(end)
    hand.other.close()
    hand.send(ChunkType.CLOSE, pack_close(None))
    hand.take_all()
    while padme(hand.sent + 1) == hand.sent + 1:
        hand.send(ChunkType.PAD)
    assert hand.refused(ChunkType.PAD, flags=1)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", [ChunkType.HELLO, ChunkType.PAD, ChunkType.REKEY, ChunkType.CREDIT])
def test_chunks_of_the_tunnel_have_no_sub_stream(end: End, kind: ChunkType) -> None:
    hand = raw(end) if kind is not ChunkType.HELLO else tunnel_in(TunnelState.AWAIT_HELLO, end)
    assert hand
    data = hand.hello if kind is ChunkType.HELLO else b""
    error = hand.refused(kind, data, sub_stream=1)
    assert error
    assert "sub-stream 1" in str(error)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("kind", "data", "sub_stream"),
    [
        (ChunkType.PAD, b"x", 0),
        (ChunkType.REKEY, b"x", 0),
        (ChunkType.MSG, b"", 0),
        (ChunkType.END, b"x", 1),
        (ChunkType.OPENED, b"x", 1),
        (ChunkType.OPENED, b"", 0),
        (ChunkType.OPEN, ECHO.pack(), 0),
        (ChunkType.CLOSE, b"", 0),
        (ChunkType.CLOSE, b"\x00", 0),
        (ChunkType.CLOSE, b"\x00\x00\x00", 0),
        (ChunkType.CLOSE, b"\x00\xff", 0),
        (ChunkType.CREDIT, b"", 0),
        (ChunkType.CREDIT, bytes(5), 0),
        (ChunkType.CREDIT, pack_credit([(0, 1), (0, 1)])[:-1], 0),
        (ChunkType.CREDIT, pack_credit([(0, 0)]), 0),
        (ChunkType.CREDIT, pack_credit([(0, 1)]), 0),  # more than the window
        (ChunkType.CREDIT, pack_credit([(0, 2**32 - 1)]), 0),
        (ChunkType.CREDIT, pack_credit([(7, 1)]), 0),  # of a stream that never was
    ],
)
def test_contents_that_no_end_sends(end: End, kind: ChunkType, data: bytes, sub_stream: int) -> None:
    hand = raw(end)
    assert isinstance(hand.refused(kind, data, sub_stream=sub_stream), MalformedMessage)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(HELLO_BYTES - 1),
        bytes(HELLO_BYTES + 1),
        Hello(b"\x09" + bytes(31), 4 * DATA - 1, 64).pack(),
        Hello(b"\x09" + bytes(31), MAX_WINDOW_BYTES + 1, 64).pack(),
        Hello(b"\x09" + bytes(31), 4 * DATA, 3).pack(),
        Hello(bytes(32), 4 * DATA, 64).pack(),  # all zero: of low order
        Hello(b"\x01" + bytes(31), 4 * DATA, 64).pack(),
    ],
)
@pytest.mark.parametrize("end", ENDS)
def test_hellos_that_are_refused(end: End, data: bytes) -> None:
    hand = tunnel_in(TunnelState.AWAIT_HELLO, end)
    assert hand
    assert isinstance(hand.refused(ChunkType.HELLO, data), MalformedMessage)


def test_rekey_before_bobs_hello_has_left() -> None:
    hand = RawEnd(make_end(End.BOB), End.ALICE)
    hand.send(ChunkType.HELLO, hand.hello)
    error = hand.refused(ChunkType.REKEY)
    assert error
    assert "HELLO" in str(error)


@pytest.mark.parametrize("place", [0, 1, 500, -1])
def test_padding_that_is_not_zero(place: int) -> None:
    hand = raw(End.ALICE)
    padding = bytearray(DATA - 1)
    padding[place] = 1
    with pytest.raises(MalformedMessage, match="not zero"):
        hand.other.received(memoryview(hand.seal(ChunkType.MSG, b"x", padding=bytes(padding))))


@pytest.mark.parametrize("flags", [2, 4, 0x80, 0xFF])
def test_unknown_flags(flags: int) -> None:
    assert raw(End.ALICE).refused(ChunkType.MSG, b"x", flags=flags)


def test_a_length_beyond_the_chunk() -> None:
    hand = raw(End.ALICE)
    plain = bytes([1, 0, 0, 0]) + (DATA + 1).to_bytes(2, "big") + bytes(DATA)
    chunk = bytearray(OPENSSL.layers.aead(hand.send_key).seal(hand.send_count.to_bytes(12, "big"), plain))
    with pytest.raises(MalformedMessage, match="length 975"):
        hand.other.received(memoryview(chunk))


def test_a_key_that_serves_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = raw(End.ALICE)
    monkeypatch.setattr(keys_module, "MAX_KEY_CHUNKS", 8)
    for _ in range(7):
        hand.send(ChunkType.PAD)
    hand.rekey()
    for _ in range(7):
        hand.send(ChunkType.PAD)
    error = hand.refused(ChunkType.PAD)
    assert error
    assert "no REKEY" in str(error)


# --- the streams' table -----------------------------------------------------------------------------------


def stream_in(state: StreamState, end: End) -> tuple[RawEnd, int]:
    """A real end that has a sub-stream in `state`, by chunks and calls alone, and the sub-stream's id."""
    hand = raw(end)
    number = first_id(hand)
    if state is StreamState.IDLE:
        return hand, number
    if state is StreamState.AWAIT_OPENED:
        sub = hand.other.open(ECHO)
        hand.take_all()
        return hand, sub.number
    hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=number)
    sub = hand.other.accept()
    sub.confirm()
    sub.write(b"abc")
    hand.take_all()
    if state in (StreamState.ENDED, StreamState.GONE):
        hand.send(ChunkType.CLOSE, pack_close(None), sub_stream=number)
    if state is StreamState.GONE:
        sub.close()
    if state is StreamState.DISCARDING:
        sub.give_up()
    hand.take_all()
    return hand, number


EVENT_CHUNKS: dict[StreamEvent, Callable[[int], tuple[ChunkType, bytes, int]]] = {
    StreamEvent.OPEN: lambda number: (ChunkType.OPEN, ECHO.pack(), number),
    StreamEvent.OPENED: lambda number: (ChunkType.OPENED, b"", number),
    StreamEvent.MSG: lambda number: (ChunkType.MSG, b"data", number),
    StreamEvent.CREDIT: lambda number: (ChunkType.CREDIT, pack_credit([(number, 3)]), 0),
    StreamEvent.CLOSE: lambda number: (ChunkType.CLOSE, pack_close(None), number),
    StreamEvent.GIVE_UP: lambda number: (ChunkType.CLOSE, pack_close(ErrorCode.BUSY), number),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", StreamState)
@pytest.mark.parametrize("event", EVENT_CHUNKS)
def test_every_event_in_every_state_of_a_sub_stream(end: End, state: StreamState, event: StreamEvent) -> None:
    hand, number = stream_in(state, end)
    kind, data, sub_stream = EVENT_CHUNKS[event](number)
    error = hand.refused(kind, data, sub_stream=sub_stream)
    assert (error is None) == (event in STREAM_TABLE[state]), error
    if error is not None:
        assert error.code is ErrorCode.BAD_CONTENT


@pytest.mark.parametrize("end", ENDS)
def test_stream_0_is_open_from_the_beginning_and_ends_with_close(end: End) -> None:
    for kind, data in [(ChunkType.MSG, b"x"), (ChunkType.END, b"x"), (ChunkType.END, b"")]:
        hand = raw(end)
        assert hand.refused(kind, data) is None
        if kind is ChunkType.END:
            hand.send(ChunkType.CLOSE, pack_close(None))
            assert hand.refused(kind, data)
        else:
            error = hand.refused(ChunkType.CLOSE, pack_close(None))
            assert error
            assert "inside a message" in str(error)
    hand = raw(end)
    hand.send(ChunkType.CLOSE, pack_close(None))
    assert hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=first_id(hand))
    hand = raw(end)
    hand.send(ChunkType.CLOSE, pack_close(None))
    assert hand.refused(ChunkType.CLOSE, pack_close(None))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("number", [3, 4, 5, 65_535])
def test_ids_are_the_next_one_of_their_end(end: End, number: int) -> None:
    hand = raw(end)
    assert hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=number)
    hand = raw(end)
    assert hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=3 - first_id(hand))
    hand = raw(end)
    hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=first_id(hand))
    assert hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=first_id(hand))


@pytest.mark.parametrize("number", [0, 1])
def test_more_than_the_window_is_an_error(number: int) -> None:
    hand = raw(End.ALICE, limits=TunnelLimits(window_chunks=4))
    if number:
        hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=number)
    for _ in range(4):
        hand.send(ChunkType.MSG, bytes(DATA), sub_stream=number)
    assert hand.other.held_bytes == 4 * DATA
    error = hand.refused(ChunkType.MSG, b"x", sub_stream=number)
    assert error
    assert hand.other.held_bytes == 0


def test_a_flood_of_empty_messages_is_bounded_by_credit() -> None:
    hand = raw(End.ALICE, limits=TunnelLimits(window_chunks=4))
    for _ in range(4 * DATA // 16):
        hand.send(ChunkType.END)
    assert hand.refused(ChunkType.END)


def test_a_stream_that_was_given_up_still_has_a_window() -> None:
    hand, number = stream_in(StreamState.DISCARDING, End.ALICE)
    for _ in range(TunnelLimits().window_bytes(INTERACTIVE) // DATA):
        hand.send(ChunkType.MSG, bytes(DATA), sub_stream=number)
        assert hand.other.held_bytes == 0
    assert hand.refused(ChunkType.MSG, b"x", sub_stream=number)


def test_a_flood_of_sub_streams_is_an_error() -> None:
    hand = raw(End.ALICE, limits=TunnelLimits(sub_streams=4))
    for number in (1, 3, 5, 7):
        hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=number)
    error = hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=9)
    assert error
    assert "limit of 4" in str(error)


def test_opening_and_aborting_sub_streams_does_not_evade_the_limit() -> None:
    """As in HTTP/2's rapid reset: a sub-stream counts until this end's CLOSE has also been sent."""
    hand = raw(End.ALICE, limits=TunnelLimits(sub_streams=4))
    for number in (1, 3, 5, 7):
        hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=number)
        hand.send(ChunkType.CLOSE, pack_close(ErrorCode.CANCELLED), sub_stream=number)
    with pytest.raises(BlockingIOError):
        hand.other.accept()  # the service has no work left
    assert len(hand.other.table.controls) == 4
    assert hand.refused(ChunkType.OPEN, ECHO.pack(), sub_stream=9)


def test_after_giving_up_only_the_end_counts() -> None:
    hand = raw(End.ALICE)
    hand.other.give_up(ErrorCode.BUSY)
    assert (ChunkType.CLOSE, 0, 0, pack_close(ErrorCode.BUSY)) in hand.take_all()
    for kind, data, sub_stream in [
        (ChunkType.MSG, b"on its way", 0),
        (ChunkType.OPEN, ECHO.pack(), 1),
        (ChunkType.CLOSE, pack_close(None), 0),
        (ChunkType.PAD, b"", 0),
    ]:
        hand.send(kind, data, sub_stream=sub_stream)
    hand.rekey()
    end_by_hand(hand)
    assert hand.other.is_finished
    assert hand.other.held_bytes == 0


chunks = st.tuples(
    st.sampled_from([*map(int, ChunkType), 0, 99]),
    st.one_of(
        st.binary(max_size=DATA),
        st.just(pack_close(None)),
        st.sampled_from([pack_close(code) for code in ErrorCode]),
        st.just(ECHO.pack()),
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2_000)), max_size=3).map(pack_credit),
        st.just(b""),
    ),
    st.integers(0, 6),
    st.sampled_from([0, 0, 0, 0, 1, 2]),
)
user_calls = st.sampled_from(
    ["accept", "open", "write", "end", "close", "read", "give_up_sub", "finish_sub", "finish_all", "pad"]
)


@given(end=st.sampled_from(ENDS), moves=st.lists(st.one_of(chunks, user_calls), max_size=40))
def test_any_sequence_of_chunks_and_calls_gives_documented_errors_only(
    end: End, moves: list[tuple[int, bytes, int, int] | str]
) -> None:
    hand = raw(end, limits=TunnelLimits(window_chunks=4, sub_streams=4))
    subs = []
    for move in moves:
        try:
            if isinstance(move, tuple):
                kind, data, sub_stream, flags = move
                if kind == ChunkType.REKEY and not (data or sub_stream or flags):
                    hand.rekey()
                else:
                    hand.send(kind, data, sub_stream=sub_stream, flags=flags)
            elif move == "accept":
                subs.append(hand.other.accept())
                subs[-1].confirm()
            elif move == "open":
                subs.append(hand.other.open(ECHO))
            elif move == "write":
                hand.other.outgoing.write(b"message")
                for sub in subs:
                    sub.write(b"data")
            elif move == "end":
                hand.other.outgoing.end()
            elif move == "close":
                hand.other.close()
            elif move == "read":
                for sub in subs:
                    sub.readinto(bytearray(500))
                hand.other.incoming.next_message()
            elif move == "give_up_sub":
                for sub in subs:
                    sub.give_up()
            elif move == "finish_sub":
                for sub in subs:
                    sub.finish()
                    sub.stop(ErrorCode.CANCELLED)
            elif move == "finish_all":
                hand.other.finish_streams()
            else:
                hand.other.pad()
            hand.take_all()
        except MalformedMessage as error:
            assert error.code is ErrorCode.BAD_CONTENT  # noqa: PT017 - any of the moves may raise it
            assert not hand.other.next_chunk(memoryview(bytearray(996)), 0.0)
            return
        except (BlockingIOError, LocalTunnelError, PeerError):
            continue
        assert hand.other.held_bytes <= 2 * (4 + 1) * 5 * DATA


# --- layouts ----------------------------------------------------------------------------------------------


targets = st.one_of(
    st.builds(Target, st.just(TargetKind.IPV4), st.binary(min_size=4, max_size=4), st.integers(1, 65_535)),
    st.builds(Target, st.just(TargetKind.IPV6), st.binary(min_size=16, max_size=16), st.integers(1, 65_535)),
    st.builds(
        Target,
        st.just(TargetKind.DOMAIN),
        st.text("abcXYZ019-._", min_size=1, max_size=255).map(str.encode),
        st.integers(1, 65_535),
    ),
    st.builds(Target, st.just(TargetKind.SERVICE), st.text("abc-.", min_size=1).map(str.encode)),
)


@given(targets)
def test_targets_there_and_back(target: Target) -> None:
    data = target.pack()
    assert len(data) <= 4 + 255
    assert Target.unpack(data) == target
    assert str(target)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_target(data: bytes) -> None:
    try:
        target = Target.unpack(data)
    except MalformedMessage:
        return
    assert target.pack() == data


@pytest.mark.parametrize(
    ("kind", "address", "port", "shown"),
    [
        (TargetKind.IPV4, bytes([127, 0, 0, 1]), 80, "127.0.0.1:80"),
        (TargetKind.IPV6, bytes(15) + b"\x01", 443, "[::1]:443"),
        (TargetKind.DOMAIN, b"example.org", 22, "example.org:22"),
        (TargetKind.SERVICE, b"echo", 0, "echo"),
    ],
)
def test_how_targets_are_shown(kind: TargetKind, address: bytes, port: int, shown: str) -> None:
    assert str(Target(kind, address, port)) == shown


@pytest.mark.parametrize(
    ("kind", "address", "port"),
    [
        (TargetKind.IPV4, bytes(3), 80),
        (TargetKind.IPV6, bytes(4), 80),
        (TargetKind.DOMAIN, b"", 80),
        (TargetKind.DOMAIN, b"a" * 256, 80),
        (TargetKind.DOMAIN, b"exa mple.org", 80),
        (TargetKind.DOMAIN, b"a\r\nb", 80),
        (TargetKind.DOMAIN, b"a\x00b", 80),
        (TargetKind.DOMAIN, "ä.org".encode(), 80),
        (TargetKind.DOMAIN, b"example.org", 0),
        (TargetKind.DOMAIN, b"example.org", 65_536),
        (TargetKind.SERVICE, b"echo", 80),
        (TargetKind.SERVICE, b"", 0),
    ],
)
def test_targets_that_do_not_fit(kind: TargetKind, address: bytes, port: int) -> None:
    with pytest.raises(LocalTunnelError):
        Target(kind, address, port)


@given(st.binary(max_size=40))
def test_any_bytes_as_close_and_credit(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        assert pack_close(unpack_close(data)) == data
    with contextlib.suppress(MalformedMessage):
        assert pack_credit(unpack_credit(data)) == data


# --- the document -----------------------------------------------------------------------------------------


def rows_under(title: str) -> dict[str, str]:
    section = PROTOCOL.split(f"### {title}\n")[1].split("\n#")[0]
    return dict(re.findall(r"^\| ([A-Z_]+) \| (.*?) \|", section, re.MULTILINE))


def test_the_documents_tables_are_those_of_the_code() -> None:
    written = rows_under("States of a direction")
    assert written == {
        state.name: ", ".join(kind.name for kind in ChunkType if kind in legal) or "nothing"
        for state, legal in TUNNEL_TABLE.items()
    }
    written = rows_under("States of a stream")
    assert written == {
        state.name: ", ".join(
            event.name if after is state else f"{event.name} → {after.name}" for event, after in row.items()
        )
        for state, row in STREAM_TABLE.items()
    }


@given(st.binary(max_size=200))
def test_the_opening_of_a_sub_stream_is_read_exactly(data: bytes) -> None:
    try:
        target, proof = unpack_open(data)
    except MalformedMessage:
        return
    assert target.pack() + proof == data
    assert len(proof) in (0, PROOF_BYTES)


@given(st.binary(min_size=1, max_size=200))
def test_only_a_whole_proof_follows_a_target(rest: bytes) -> None:
    packed = Target(TargetKind.DOMAIN, b"example.org", 80).pack()
    if len(rest) == PROOF_BYTES:
        assert unpack_open(packed + rest)[1] == rest
    else:
        with pytest.raises(MalformedMessage, match="after its target"):
            unpack_open(packed + rest)
