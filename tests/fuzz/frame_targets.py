"""What follows a header: chunks of messages, replies with layers, and STATUS in every error mode."""

from __future__ import annotations

from collections.abc import Sequence

from readwrite_comp import LayerError, RemoteLayerError
from readwrite_comp.primitives import hmac_sha256
from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tests.fuzz.target import ENGINE, Input, target
from tests.tunnel.helpers import NOW_S, make_peers
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.geometry import ALL_PROFILES, INTERACTIVE, Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.onion.header import Command, Slot
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.onion.key_schedule import Direction, StatusKeys, end_to_end_key, permutation
from tunnel.onion.message import CHALLENGE_BYTES, CHUNK_HEAD, ChunkType, FrameR, MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import HomeTicket
from tunnel.onion.reports import (
    open_status_chunk,
    originate,
    pass_on,
    read_reply_report,
    read_report,
    seal_status_chunk,
)
from tunnel.onion.status import STATUS_TEXT_BYTES, Trail, read_status
from tunnel.routing.route import Route

_PROFILE = Profile(INTERACTIVE)
_GEOMETRY = _PROFILE.geometry
_KEY = bytes(range(32))
_SEED = bytes(range(16))
_SPLITS = ((1 << 16,), (1,), (7, 300))
_PLAIN_BYTES = _GEOMETRY.chunk_bytes - 16
# The longest message of an input: a chunk for each two bytes.
_MOST_CHUNKS = 600

_PEERS = make_peers(3, engine=ENGINE, random_seed=1)
_ALICE, _PROXY, _BOB = _PEERS
_ROUTE = Route((_PROXY.id,), _BOB.id)


def _query(mode: ReplyMode, error_mode: ErrorMode) -> OutgoingQuery:
    return _ALICE.codec.query(_ROUTE, mode, _PROFILE, now_s=NOW_S, error_mode=error_mode)


_QUERIES = {mode: _query(ReplyMode.CACHED, mode) for mode in ErrorMode}
_BY_BLOCK = _query(ReplyMode.ROUTE, ErrorMode.STATUS)


def _sealed_chunks(given: Input, key: bytes) -> bytes:
    """Chunks whose heads, content and padding the input chooses."""
    aead, wire, count = ENGINE.layers.aead(key), b"", 0
    while not given.is_empty and count < _MOST_CHUNKS:
        kind = given.one_of([1, 1, 2, 3, 11, given.number(0, 255)])
        flags = given.one_of([0, 0, 1, given.number(0, 255)])
        content = given.one_of([b"", given.some(64), bytes(16), bytes(_GEOMETRY.chunk_data_bytes)])
        length = given.one_of([len(content), len(content), given.number(0, 65_535)])
        plain = CHUNK_HEAD.pack(kind, flags, given.one_of([0, 0, 1]), length) + content
        plain = plain.ljust(_PLAIN_BYTES, given.one_of([b"\0", b"\0", b"\0", b"\1"]))
        wire += aead.seal(count.to_bytes(12, "big"), plain)
        count += 1
    return wire if given.flag() else wire + given.some(40)


def _reader(on_challenge: bool) -> MessageR:
    reader = MessageR(_PROFILE, _KEY, engine=ENGINE)
    if on_challenge:
        reader.on_challenge = lambda: None
    return reader


def _read(reader: MessageR | FrameR, wire: bytes, splits: Sequence[int]) -> tuple[bytes, str, MessageHead]:
    result = read_message(reader, HostileReader(wire), None, splits)
    return result.content, repr(result.error), reader.head


@target(most_bytes=512)
def message_chunks(given: Input) -> None:
    """Any chunks under the right key: one documented error, whatever the sizes of the reads."""
    is_challenged = given.flag()
    wire = _sealed_chunks(given, _KEY)
    found = []
    for splits in _SPLITS:
        reader = _reader(is_challenged)
        found.append((*_read(reader, wire, splits), reader.challenges))
        assert len(reader.challenges) <= 8
        assert all(len(each) == CHALLENGE_BYTES for each in reader.challenges)
        assert len(found[-1][0]) <= len(wire)
    assert found[0] == found[1] == found[2]


@target(LayerError, most_bytes=256)
def message_changed(given: Input) -> None:
    """A message with one change anywhere, or chunks in another order, gives a prefix of it and an error."""
    content = bytes(given.number(0, 3_000))
    writer, sink = MessageW(_PROFILE, _KEY, engine=ENGINE), HostileWriter()
    write_message(writer, sink, content)
    wire = bytes(sink.data)
    size, count = _GEOMETRY.chunk_bytes, len(sink.data) // _GEOMETRY.chunk_bytes
    changed = bytearray(wire)
    match given.number(0, 3):
        case 0:
            changed[given.number(0, len(wire) - 1)] ^= given.number(1, 255)
        case 1:
            first, second = (size * given.number(0, count - 1) for _ in range(2))
            changed[first : first + size] = wire[second : second + size]
        case 2:
            del changed[given.number(0, len(wire) - 1) :]
        case _:
            at = size * given.number(0, count - 1)
            del changed[at : at + size]
    result = read_message(_reader(on_challenge=False), HostileReader(bytes(changed)), None)
    assert content.startswith(result.content)
    assert (result.error is None) is (changed == wire)
    assert result.error is None or isinstance(result.error, RemoteLayerError)


@target(most_bytes=256)
def reply_layers(given: Input) -> None:
    """A reply by block at its owner: its layers come off, and what is left is read or refused."""
    profile = given.one_of([each for each in ALL_PROFILES if each.geometry is INTERACTIVE])
    ticket = HomeTicket(bytes(8), given.number(0, 3))
    slot = Slot(Command.HOME, 0, _SEED)
    reader = _ALICE.codec.home_reader(slot, ticket, profile)
    _read(reader, given.rest() * given.one_of([1, 20]), (1 << 16,))


def _status_body(given: Input, keys: StatusKeys) -> bytes:
    """A body that its hop has made, with fields that the input chooses."""
    number = given.one_of([0, 1, 0x101, 0x100, given.number(0, 65_535)])
    text = given.some(STATUS_TEXT_BYTES)
    length = given.one_of([len(text), given.number(0, 65_535)])
    content = number.to_bytes(2, "big") + length.to_bytes(2, "big") + text.ljust(STATUS_TEXT_BYTES, b"\0")
    return hmac_sha256(keys.mac, content) + content


@target(MalformedMessage, most_bytes=1024)
def status(given: Input) -> None:
    """A STATUS with any body and any change: an origin and suspects within the route, and a text to print."""
    geometry = given.one_of(ALL_PROFILES).geometry
    hops = given.number(1, min(6, geometry.slots))
    keys = [StatusKeys.derive(bytes([hop]) * 16) for hop in range(hops)]
    origin = given.number(0, hops - 1)
    body = _status_body(given, keys[origin])
    trail = Trail(geometry)
    trail.push(keys[origin].trail, body, given.number(0, 1 << 33))
    data = bytearray(body + bytes(trail))
    ENGINE.layers.xor_keystream(keys[origin].pad, memoryview(data))
    for hop in range(origin - 1, -1, -1):
        if not given.number(0, 7):
            data[given.number(0, len(data) - 1)] ^= given.number(0, 255)
        slot = Slot(Command.RELAY, 0, bytes([hop]) * 16)
        data = bytearray(pass_on(bytes(data), slot, geometry, hold_ms=given.number(0, 99), engine=ENGINE))
    if given.flag():
        data = bytearray(given.one_of([given.rest(), given.take(geometry.status_bytes)]))
    found = read_status(bytes(data), keys, geometry=geometry, engine=ENGINE)
    assert found.origin is None or 0 <= found.origin < hops
    assert all(0 <= each < hops for each in found.suspects)
    assert len(found.hold_ms) <= hops
    assert found.text.isprintable()
    assert not found.succeeded or found.origin == hops - 1


@target(most_bytes=1024)
def status_report(given: Input) -> None:
    """What a first hop sends as STATUS, in every error mode: a report that can be printed."""
    query = _QUERIES[given.one_of(list(ErrorMode))]
    seeds = query.circuit.seeds
    hop = given.number(0, len(seeds) - 1)
    flags = {ErrorMode.STATUS: 0, ErrorMode.XOR: 2, ErrorMode.NONE: 4}[query.error_mode]
    slots = [Slot(Command.DEST, 0, seed, flags=flags) for seed in seeds]
    code = given.one_of([None, *ErrorCode])
    data = originate(
        slots[hop],
        _GEOMETRY,
        code,
        hold_ms=given.number(0, 70_000),
        engine=ENGINE,
        about_next=code is not None and given.flag(),
        text=given.some(300).decode("utf-8", "surrogateescape"),
    )
    for earlier in reversed(slots[:hop]):
        data = pass_on(data, earlier, _GEOMETRY, hold_ms=1, engine=ENGINE)
    match given.number(0, 2):
        case 0:
            data = given.one_of([given.rest(), given.take(_GEOMETRY.status_bytes)])
        case 1:
            at = given.number(0, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ given.number(0, 255)]) + data[at + 1 :]
    report = read_report(query, data, ENGINE)
    assert report is not None or query.error_mode is ErrorMode.NONE
    if report is not None:
        assert str(report).isprintable()
        assert set(report.blamed_ids) <= {*_ROUTE.nodes, *report.block_first_ids}


@target(MalformedMessage, most_bytes=1024)
def status_chunk(given: Input) -> None:
    """The STATUS of a reply in a chunk: a whole one of a block that exists, or it is refused."""
    circuit = _BY_BLOCK.circuit
    plain = CHUNK_HEAD.pack(
        given.one_of([ChunkType.STATUS, given.number(0, 255)]),
        given.one_of([1, given.number(0, 255)]),
        given.one_of([0, given.number(0, 65_535)]),
        given.one_of([_GEOMETRY.status_bytes, given.number(0, 65_535)]),
    )
    plain = (plain + given.some(_GEOMETRY.status_bytes)).ljust(_PLAIN_BYTES, b"\0")
    if given.number(0, 7) == 0:
        plain = plain[:-1] + b"\1"
    key = end_to_end_key(circuit.end_to_end_seed, Direction.BACKWARD)
    chunk = bytearray(ENGINE.layers.aead(key).seal(bytes(12), plain))
    found = open_status_chunk(bytes(chunk), circuit.end_to_end_seed, _GEOMETRY, _GEOMETRY, ENGINE)
    number, status = found
    assert seal_status_chunk(status, circuit.end_to_end_seed, _GEOMETRY, ENGINE, number=number) == chunk
    for seed in reversed(circuit.proxy_seeds):
        permutation(_PROFILE, seed, Direction.BACKWARD, ENGINE).decrypt(memoryview(chunk), 0)
    chunk[given.number(0, len(chunk) - 1)] ^= given.one_of([0, 0, 0, 1])
    report = read_reply_report(_BY_BLOCK, bytes(chunk), ENGINE)
    assert report.is_about_reply
    assert str(report).isprintable()
