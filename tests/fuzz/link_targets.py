"""Links: cells, records, the multiplexer with its streams; and those who wait for a place or a turn."""

from __future__ import annotations

import random

from tests.fuzz.target import ENGINE, Input, target
from tests.tunnel.mux_helpers import KEY_1, KEY_2, Clock, Flag, cell
from tunnel.errors import ErrorCode, LinkError, LocalTunnelError, ProfileError, TunnelError
from tunnel.geometry import ALL_PROFILES, Profile
from tunnel.link.cells import (
    CELL_HEAD,
    CellType,
    pack_credit,
    pack_open,
    pack_ping,
    pack_reset,
    parse_credit,
    parse_open,
    parse_ping,
    parse_reset,
    split_cells,
)
from tunnel.link.handshake import MAX_BITS
from tunnel.link.mux import Multiplexer, MuxLimits, MuxStream
from tunnel.link.newcomers import Newcomer, Newcomers
from tunnel.link.noise import LinkKeys
from tunnel.link.records import (
    MAX_RECORD_BYTES,
    RECORD_OVERHEAD,
    UNIT_BYTES,
    BufferPool,
    RecordSealer,
    record_bytes_for,
)
from tunnel.link.turns import HeaderTurns

_MOST_STREAMS = 4
_TURNS_PER_S = 100
_LIMITS = MuxLimits(max_streams=_MOST_STREAMS, peer_max_streams=_MOST_STREAMS, window_bytes=1 << 20)
# One for all inputs, since a new one for each would be garbage of half a megabyte.
_BUFFERS = BufferPool()
_PROFILE_BYTES = [*(profile.byte for profile in ALL_PROFILES), 0, 6, 255]
# Each stream of the peer and of this side may have OPEN, FIN, RESET and CREDIT waiting; then GOAWAY, PING.
_MOST_CONTROL_BYTES = 20 * (64 + 8 * _MOST_STREAMS)


@target(LinkError, most_bytes=512)
def cells(given: Input) -> None:
    """What splits into cells is what they pack to, with zeros behind it."""
    data = given.rest()
    packed = b""
    for kind, stream, payload in split_cells(memoryview(data)):
        packed += CELL_HEAD.pack(kind, 0, len(payload), stream) + payload
        _check_payload(kind, stream, payload)
    assert packed.ljust(len(data), b"\0") == data


def _check_payload(kind: int, stream: int, payload: memoryview) -> None:
    packed = None
    match kind:
        case CellType.OPEN:
            profile, window = parse_open(payload)
            try:
                packed = pack_open(stream, Profile.from_byte(profile), window)
            except ProfileError:
                return
        case CellType.CREDIT:
            packed = pack_credit(stream, parse_credit(payload))
        case CellType.RESET:
            packed = pack_reset(stream, parse_reset(payload))
        case CellType.PING:
            is_answer, token = parse_ping(payload)
            packed = pack_ping(token, is_answer=is_answer)
    assert packed is None or packed[CELL_HEAD.size :] == payload


class _Side:
    """A multiplexer, a peer that has the keys and seals what it likes, and the user of the streams."""

    def __init__(self, *, is_dialler: bool) -> None:
        self.clock = Clock()
        self.buffers = _BUFFERS
        self.is_dialler = is_dialler
        self.mux: Multiplexer[Flag] = Multiplexer(
            LinkKeys(KEY_1, KEY_2, b""),
            is_dialler=is_dialler,
            engine=ENGINE,
            limits=_LIMITS,
            make_notifier=Flag,
            now_s=self.clock,
            buffers=self.buffers,
        )
        self._sealer = RecordSealer(KEY_2, ENGINE)
        self.streams: list[MuxStream[Flag]] = []

    def record(self, plain: bytes) -> bytes:
        plain = plain[: MAX_RECORD_BYTES - RECORD_OVERHEAD]
        record = bytearray(record_bytes_for(len(plain)))
        record[4 : 4 + len(plain)] = plain
        self._sealer.seal(memoryview(record))
        return bytes(record)

    def receive(self, wire: bytes, most: int = 1 << 20) -> None:
        while wire:
            space = self.mux.space()
            count = min(len(space), len(wire), most)
            space[:count] = wire[:count]
            wire = wire[count:]
            self.mux.received(count)

    def check(self) -> None:
        """All that a peer can make grow is bounded."""
        mux, table = self.mux, self.mux.table
        theirs = len(table.streams) - table.own
        assert 0 <= theirs <= _MOST_STREAMS
        assert table.own <= _MOST_STREAMS
        assert table.window_bytes <= _LIMITS.window_bytes
        assert len(table.arrived) <= _MOST_STREAMS
        assert mux.budget.used_bytes <= _LIMITS.window_bytes
        assert mux.sender.control.size <= _MOST_CONTROL_BYTES
        for stream in table.streams.values():
            assert stream.unread_bytes <= stream.window_bytes
        assert self.buffers.borrowed <= 2

    def close(self) -> None:
        """Nothing is left of a link that was closed."""
        self.mux.close()
        for stream in self.streams:
            stream.reset(ErrorCode.CANCELLED)
        assert not self.mux.streams
        assert not self.mux.budget.used_bytes
        assert not self.mux.budget.holders
        assert not self.buffers.borrowed


def _cell(given: Input) -> bytes:
    """One cell, with the right length or any bytes."""
    kind, stream = given.number(0, 10), given.number(0, 10)
    match kind:
        case CellType.OPEN:
            payload = bytes([1, given.one_of(_PROFILE_BYTES)]) + given.one_of([bytes(4), given.take(4)])
        case CellType.CREDIT:
            payload = given.take(4)
        case CellType.RESET:
            payload = bytes([0, given.number(0, 25)])
            stream = given.one_of([stream, stream + 1])
        case CellType.DATA:
            payload = bytes(given.one_of([1, 100, 996, 4_000, 16_356]))
        case CellType.FIN | CellType.GOAWAY:
            payload = b""
            stream = 0 if kind == CellType.GOAWAY else stream
        case CellType.PING:
            stream, payload = 0, bytes([given.number(0, 2)]) + given.number(0, 3).to_bytes(7, "big")
        case _:
            payload = given.some(64)
    return cell(kind, stream, payload)


def _use(side: _Side, given: Input) -> None:
    """One call of the user."""
    mux = side.mux
    action = given.number(0, 9)
    if action == 0 and (arrived := mux.accept_nowait()) is not None:
        side.streams.append(arrived)
    elif action == 1:
        side.streams.append(mux.open(given.one_of(ALL_PROFILES), extra_window=given.number(0, 5_000)))
    elif action == 2:
        mux.ping()
    elif action == 3:
        side.clock.now_s += 1
        mux.sent(len(mux.pending))
    elif action == 4 and given.number(0, 15) == 0:
        mux.go_away()
    elif side.streams:
        stream = given.one_of(side.streams)
        match action:
            case 5:
                stream.readinto(memoryview(bytearray(given.one_of([1, 1_000, 100_000]))))
            case 6:
                stream.write(bytes(given.one_of([1, 996, 5_000])))
            case 7:
                stream.finish()
            case 8:
                stream.send_status(b"status")
            case 9:
                stream.reset(ErrorCode.CANCELLED)


@target(TunnelError, most_bytes=1024)
def mux(given: Input) -> None:
    """Any cells of a peer and any calls of the user: documented errors, bounded tables, nothing left."""
    side = _Side(is_dialler=given.flag())
    try:
        while not given.is_empty:
            if given.flag():
                side.receive(side.record(b"".join(_cell(given) for _ in range(given.number(1, 4)))))
            else:
                try:
                    _use(side, given)
                except (BlockingIOError, LocalTunnelError):
                    continue
                except TunnelError:
                    if side.mux.error is not None:
                        raise
            side.check()
    finally:
        side.close()


@target(LinkError, most_bytes=1024)
def link_records(given: Input) -> None:
    """Records, right and wrong, as a whole and in pieces: the same cells are taken and the same refused."""
    maker, wire = _Side(is_dialler=False), b""
    for _ in range(given.number(0, 4)):
        record = bytearray(maker.record(_cell(given) + given.some(16)))
        if given.flag():
            record[given.number(0, 1) * (len(record) - 1)] ^= given.number(0, 255)
        wire += record
    wire += given.rest()
    outcomes = []
    for piece in (1 << 20, UNIT_BYTES, 1_000):
        side = _Side(is_dialler=False)
        try:
            side.receive(wire, piece)
            outcome = ""
        except LinkError as error:
            outcome = str(error)
        outcomes.append((outcome, sorted(side.mux.table.streams), bytes(side.mux.pending)))
        side.close()
    assert outcomes[0] == outcomes[1] == outcomes[2]


@target(most_bytes=512)
def header_turns(given: Input) -> None:
    """Links that wait for turns, leave, and send garbage: each turn is given once, and never too many."""
    turns: HeaderTurns[Flag] = HeaderTurns(per_s=_TURNS_PER_S)
    waiting: list[tuple[bytes, Flag]] = []
    now_s = latest_s = 0.0
    given_turns, steps_back_s = 0, 0.0
    while not given.is_empty:
        source, weight = bytes([given.number(0, 5)]), given.one_of([1.0, 8.0])
        match given.number(0, 4):
            case 0:
                given_turns += turns.take(source, weight=weight, now_s=now_s)
            case 1:
                waiting.append((source, Flag()))
                turns.wait(source, bytes([given.number(0, 3)]), waiting[-1][1], weight=weight)
            case 2 if waiting:
                left = waiting.pop(given.number(0, len(waiting) - 1))
                turns.leave(*left)
            case 3:
                turns.charge(source, bytes([given.number(0, 3)]), weight=weight)
            case _:
                step_s = given.number(0, 255) / 1_000 - 0.01
                now_s, steps_back_s = now_s + step_s, steps_back_s + max(0.0, -step_s)
                latest_s = max(latest_s, now_s)
        rest_s = turns.give(now_s)
        given_turns += sum(flag.is_set for _, flag in waiting)
        waiting = [(source, flag) for source, flag in waiting if not flag.is_set]
        assert len(turns) == len(waiting)
        assert (rest_s is None) is (not waiting)
        assert rest_s is None or 0 < rest_s <= 1 / _TURNS_PER_S
    for left in waiting:
        turns.leave(*left)
    assert not len(turns)
    assert turns.sources <= 6
    # A clock that is set back gives the seconds of the step a second time.
    assert given_turns <= _TURNS_PER_S * (latest_s + steps_back_s) + _TURNS_PER_S / 10 + 1


@target(most_bytes=512)
def newcomers(given: Input) -> None:
    """Connections before their handshake: never more than the places, and each loses its place once."""
    limit = given.number(1, 8)
    places = Newcomers(limit, rng=random.Random(1), calm_per_s=4)
    here: list[Newcomer] = []
    now_s = 0.0
    while not given.is_empty:
        network = bytes([given.number(0, 4)])
        match given.number(0, 3):
            case 0:
                here.append(Newcomer(network, network, lambda: None))
                loser = places.add(here[-1])
                if loser is not None:
                    here.remove(loser)
            case 1 if here:
                places.remove(here.pop(given.number(0, len(here) - 1)))
            case 2 if here:
                given.one_of(here).has_spoken = True
            case _:
                now_s += given.one_of([0.0, 0.4, 1.0, 60.0, -5.0])
                bits = places.puzzle_bits(network, now_s=now_s)
                assert bits == 0 or 12 <= bits <= MAX_BITS
        assert list(places) == here
        assert len(places) <= limit
