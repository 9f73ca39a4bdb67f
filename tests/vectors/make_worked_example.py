"""The worked example of docs/protocol.md: one query over two proxies, and its reply, byte for byte.

    python -m tests.vectors.make_worked_example             # prints what would change, changes nothing
    python -m tests.vectors.make_worked_example --write     # the JSON file, and the document's vector blocks

Alice sends `ping` to Bob through proxies 1 and 2 in geometry 1 with a reply block (mode `route`); Bob answers
`pong`. The project's own code runs, `OnionCodec` on all four nodes, with two replacements: each random draw,
and the ephemeral key of each HPKE seal and of the handshake. Both come from `secret(name)`, SHAKE-256 of a
name that the document lists, so that a second implementation needs no table of random numbers.

These bytes are the project's own: they record its behaviour, and do not prove it correct. For that there
are the official vectors of the primitives, and `tests/support/second_implementation.py`, a reader of these
bytes that is written from the document alone.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.hpke import seal_with_ephemeral
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.geometry import INTERACTIVE, Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys, OnionKey
from tunnel.link.handshake import Initiator, Responder, Settings
from tunnel.link.mux import Multiplexer, MuxLimits
from tunnel.link.noise import LinkKeys, rekeyed
from tunnel.link.records import RecordOpener, record_bytes_of
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec, OutgoingFrame
from tunnel.onion.header import Command, Opened, Slot
from tunnel.onion.key_schedule import (
    Direction,
    end_to_end_key,
    header_key,
    layer_keys,
    reply_end_to_end_seed,
    reply_hop_seed,
)
from tunnel.onion.message import MessageW
from tunnel.routing.route import Route

__all__ = [
    "DOCUMENT",
    "DRAWS",
    "EPHEMERALS",
    "EXAMPLE",
    "NETWORK_ID",
    "NODES",
    "NOW_S",
    "PADDED_BYTES",
    "build",
    "secret",
    "shown",
]

EXAMPLE = Path(__file__).with_name("worked_example.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"

NOW_S = 1_800_000_000  # 2027-01-15 08:00 UTC, a whole hour
EPOCH_S = NOW_S - 600
NETWORK_ID = b"mtun local net.."
NODES = ("alice", "proxy1", "proxy2", "bob")
QUERY = b"ping"
REPLY = b"pong"
PADDED_BYTES = 8_000
PROFILE_BYTES = (1, 2, 3, 4, 5)  # whatever engine makes the descriptors

# In the order in which they are drawn, with the bytes of each.
DRAWS = (
    ("query id", 8),
    ("master seed", 16),
    ("reply expiry proxy2", 8),
    ("reply expiry proxy1", 8),
    ("reply expiry alice", 8),
    ("reply padding", 640),
    ("block expiry", 8),
    ("query seed proxy1", 16),
    ("query seed proxy2", 16),
    ("query seed bob", 16),
    ("query expiry proxy1", 8),
    ("query expiry proxy2", 8),
    ("query expiry bob", 8),
    ("query padding", 640),
)
# In the order of sealing: each header from its last slot to its first.
EPHEMERALS = (
    "reply ephemeral alice",
    "reply ephemeral proxy1",
    "reply ephemeral proxy2",
    "query ephemeral bob",
    "query ephemeral proxy2",
    "query ephemeral proxy1",
)

Values = dict[str, bytes]


def secret(name: str, length: int = 32) -> bytes:
    """All values that are random outside this example."""
    return hashlib.shake_256(b"mtun1 worked example: " + name.encode("ascii")).digest(length)


class _Draws:
    """A source of random bytes that returns the named draws, in order, and refuses every other call."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._left = list(DRAWS)

    def __call__(self, length: int) -> bytes:
        name, expected = self._left.pop(0)
        assert length == expected, f"draw {name!r} is of {length} bytes, expected {expected}"
        self._values[f"draw.{name}"] = drawn = secret(name, length)
        return drawn

    def finish(self) -> None:
        assert not self._left, f"not drawn: {self._left}"


def _engine_with_fixed_seals(engine: TunnelEngine, values: Values) -> TunnelEngine:
    """A copy of `engine` whose `hpke_seal` uses the named ephemeral keys in order, and notes its input."""
    names = iter(EPHEMERALS)

    def seal(public: bytes, info: bytes, plaintext: bytes) -> bytes:
        name = next(names)
        direction, _, node = name.split()
        values[f"{direction}.info.{node}"] = info
        values[f"{direction}.fields.{node}"] = plaintext
        return seal_with_ephemeral(engine, public, info, plaintext, ephemeral=secret(name))

    fixed = copy.copy(engine)
    vars(fixed)["hpke_seal"] = seal
    return fixed


def _keys(name: str) -> NodeKeys:
    return NodeKeys(
        identity=secret(f"{name} identity"),
        link=secret(f"{name} link"),
        onion=OnionKey(EPOCH_S, EPOCH_S + 86_400, secret(f"{name} onion"), secret(f"{name} table")),
        home=secret(f"{name} home"),
    )


def build(engine: TunnelEngine) -> Values:
    """Run the example on `engine`; every value by its name, in the order of the document."""
    values: Values = {"now": NOW_S.to_bytes(4, "big"), "epoch": EPOCH_S.to_bytes(4, "big")}
    keys = {name: _keys(name) for name in NODES}
    descriptors = {
        name: keys[name].descriptor(
            (Address("127.0.0.1", 4001 + number),), NOW_S, engine, profiles=PROFILE_BYTES
        )
        for number, name in enumerate(NODES)
    }
    for name in NODES:
        values[f"{name}.identity seed"] = keys[name].identity
        values[f"{name}.node id"] = descriptors[name].node_id
        values[f"{name}.link private"] = keys[name].link
        values[f"{name}.link public"] = descriptors[name].link_key
        values[f"{name}.onion private"] = keys[name].onion.private
        values[f"{name}.onion public"] = descriptors[name].onion_keys[0].public
    values["alice.home key"] = keys["alice"].home
    values["alice.descriptor"] = descriptors["alice"].signed

    draws = _Draws(values)
    fixed = _engine_with_fixed_seals(engine, values)
    directory = StaticDirectory(descriptors.values())
    tunnels = {
        name: OnionCodec(ring=KeyRing(keys[name], fixed), directory=directory, random_bytes=draws)
        for name in NODES
    }
    ids = {name: descriptors[name].node_id for name in NODES}
    profile = Profile(INTERACTIVE)

    route = Route((ids["proxy1"], ids["proxy2"]), ids["bob"])
    query = tunnels["alice"].query(route, ReplyMode.ROUTE, profile, now_s=NOW_S)
    draws.finish()
    stream = _written(query.frame, QUERY)
    seeds = [values[f"draw.query seed {name}"] for name in NODES[1:]]
    for name, seed in zip(NODES[1:3], seeds[:2], strict=True):
        _note_relay(values, f"query.{name}", seed)
        values[f"query.{name} backward"] = layer_keys(seed, Direction.BACKWARD)
    key = values["query.bob e2e forward"] = end_to_end_key(seeds[2], Direction.FORWARD)
    slot = _carry(values, "query", stream, ("alice", "proxy1", "proxy2", "bob"), tunnels, ids)
    assert slot.slot.command is Command.DEST
    values["query.filler"] = values["query.header proxy2-bob"][-256:]
    plain = _open_chunks(values, "query", key, engine)
    values["block"] = plain[4 : 4 + profile.geometry.reply_block_bytes]

    reader = tunnels["bob"].destination_reader(slot.slot, profile)
    frame = io.BytesIO(values["query.chunk 0 sealed"] + values["query.chunk 1 sealed"])
    reader.read_header(frame)
    (block,) = reader.head.reply_blocks
    assert block.pack() == values["block"]

    master = values["draw.master seed"]
    for number, name in enumerate(("proxy2", "proxy1")):
        seed = values[f"reply.seed {name}"] = reply_hop_seed(master, number)
        _note_relay(values, f"reply.{name}", seed)
    values["reply.e2e seed"] = reply_end_to_end_seed(master)
    key = values["reply.e2e forward"] = end_to_end_key(values["reply.e2e seed"], Direction.FORWARD)
    stream = _written(tunnels["bob"].reply(block, now_s=NOW_S), REPLY)
    slot = _carry(values, "reply", stream, ("bob", "proxy2", "proxy1", "alice"), tunnels, ids)
    assert slot.slot.command is Command.HOME
    ticket = tunnels["alice"].home_ticket(slot.slot)
    assert (ticket.query_id, ticket.proxies) == (query.query_id, 2)
    home = tunnels["alice"].home_reader(slot.slot, ticket, profile)
    frame = io.BytesIO(values["reply.chunk 0 proxy1-alice"])
    home.read_header(frame)
    content = bytearray(64)
    assert content[: home.read_into(frame, content)] == REPLY
    values["reply.chunk 0 sealed"] = values["reply.chunk 0 bob-proxy2"]  # Bob adds no layer
    _open_chunks(values, "reply", key, engine)

    _cached(values, tunnels, query.circuit.end_to_end_seed, engine)
    _padded(values, profile, engine)
    _link(values, query.frame, keys, descriptors, engine)
    return values


def _written(frame: OutgoingFrame, content: bytes) -> bytes:
    sink = io.BytesIO()
    frame.layer.write_header(sink)
    assert frame.layer.write_into(sink, content) == len(content)
    frame.layer.write_end(sink)
    return sink.getvalue()


def _note_relay(values: Values, prefix: str, seed: bytes) -> None:
    values[f"{prefix} header key"] = header_key(seed)
    values[f"{prefix} forward"] = layer_keys(seed, Direction.FORWARD)


def _carry(
    values: Values,
    direction: str,
    stream: bytes,
    path: tuple[str, ...],
    tunnels: dict[str, OnionCodec],
    ids: dict[str, bytes],
) -> Opened:
    """Carry a frame along `path`, record it on each link, and return what the last node opened."""
    profile = Profile(INTERACTIVE)
    header_bytes, chunk_bytes = profile.geometry.header_bytes, profile.geometry.chunk_bytes
    for sender, receiver in itertools.pairwise(path):
        header, chunks = stream[:header_bytes], stream[header_bytes:]
        values[f"{direction}.header {sender}-{receiver}"] = header
        parts = [bytearray(chunks[i : i + chunk_bytes]) for i in range(0, len(chunks), chunk_bytes)]
        for number, part in enumerate(parts):
            values[f"{direction}.chunk {number} {sender}-{receiver}"] = bytes(part)
        opened = tunnels[receiver].open_frame(header, profile, neighbour=ids[sender], now_s=NOW_S)
        if opened.slot.command is Command.RELAY:
            forward, _ = tunnels[receiver].relay_layers(opened.slot, profile)
            for number, part in enumerate(parts):
                forward.decrypt(memoryview(part), number)
            stream = opened.next_header + b"".join(parts)
    if direction == "query":
        for number in range(len(parts)):
            values[f"query.chunk {number} sealed"] = values[f"query.chunk {number} proxy2-bob"]
    return opened


def _open_chunks(values: Values, direction: str, key: bytes, engine: TunnelEngine) -> bytes:
    """Note each chunk's plain form; return the data of all of them."""
    data = b""
    number = 0
    while (sealed := values.get(f"{direction}.chunk {number} sealed")) is not None:
        plain = engine.layers.aead(key).open(number.to_bytes(12, "big"), sealed, b"")
        values[f"{direction}.chunk {number} plain"] = plain
        data += plain[6 : 6 + int.from_bytes(plain[4:6], "big")]
        number += 1
    return data


def _cached(values: Values, tunnels: dict[str, OnionCodec], dest_seed: bytes, engine: TunnelEngine) -> None:
    """The same answer in mode `cached`: over the query's own streams, each proxy with its backward keys."""
    profile = Profile(INTERACTIVE)
    slots = {name: Slot(Command.RELAY, 0, values[f"draw.query seed {name}"]) for name in ("proxy1", "proxy2")}
    message = tunnels["bob"].cached_reply(Slot(Command.DEST, 0, dest_seed), profile)
    sink = io.BytesIO()
    message.write_header(sink)
    message.write_into(sink, REPLY)
    message.write_end(sink)
    key = values["cached.e2e backward"] = end_to_end_key(dest_seed, Direction.BACKWARD)
    chunk = bytearray(sink.getvalue())
    values["cached.chunk 0 plain"] = engine.layers.aead(key).open(bytes(12), bytes(chunk))
    values["cached.chunk 0 bob-proxy2"] = bytes(chunk)
    for name, link in (("proxy2", "proxy2-proxy1"), ("proxy1", "proxy1-alice")):
        _, backward = tunnels[name].relay_layers(slots[name], profile)
        backward.decrypt(memoryview(chunk), 0)
        values[f"cached.chunk 0 {link}"] = bytes(chunk)


def _padded(values: Values, profile: Profile, engine: TunnelEngine) -> None:
    """A message long enough to be padded: 9 chunks, and the PAD chunk that makes them 10."""
    message = MessageW(profile, end_to_end_key(secret("padded seed", 16), Direction.FORWARD), engine=engine)
    sink = io.BytesIO()
    message.write_header(sink)
    content = memoryview(secret("padded content", PADDED_BYTES))
    while content:
        content = content[message.write_into(sink, content) :]
    message.write_end(sink)
    chunks = values["padded.chunks"] = sink.getvalue()
    key = values["padded.e2e forward"] = end_to_end_key(secret("padded seed", 16), Direction.FORWARD)
    for number in (8, 9):
        sealed = chunks[number * profile.geometry.chunk_bytes :][: profile.geometry.chunk_bytes]
        plain = engine.layers.aead(key).open(number.to_bytes(12, "big"), sealed, b"")
        values[f"padded.chunk {number} plain"] = plain


def _link(
    values: Values,
    frame: OutgoingFrame,
    keys: dict[str, NodeKeys],
    descriptors: dict[str, Descriptor],
    engine: TunnelEngine,
) -> None:
    """The link from Alice to proxy 1: handshake, and all records of her half."""
    limits = MuxLimits()
    settings = Settings.make(
        NOW_S,
        descriptors["alice"].profiles,
        max_streams=limits.max_streams,
        window_bytes=limits.window_bytes,
    )
    values["link.settings"] = settings.pack()
    initiator = Initiator(
        network_id=NETWORK_ID,
        link_private=keys["alice"].link_private(engine),
        remote_link_key=descriptors["proxy1"].link_key,
        descriptor=descriptors["alice"],
        settings=settings,
        engine=engine,
        fixed_ephemeral_for_tests_only=secret("link ephemeral alice"),
    )
    responder = Responder(
        network_id=NETWORK_ID,
        link_private=keys["proxy1"].link_private(engine),
        settings=settings,
        engine=engine,
        fixed_ephemeral_for_tests_only=secret("link ephemeral proxy1"),
    )
    values["link.M1"] = initiator.hello()
    values["link.M2"] = responder.hello(values["link.M1"])
    values["link.M3"] = initiator.reply(values["link.M2"])
    assert responder.final(values["link.M3"], now_s=NOW_S).node_id == descriptors["alice"].node_id
    mine, theirs = initiator.finish(), responder.finish()
    assert theirs == LinkKeys(mine.receive_key, mine.send_key, mine.handshake_hash)
    values["link.handshake hash"] = mine.handshake_hash
    values["link.key alice-proxy1"] = mine.send_key
    values["link.key proxy1-alice"] = mine.receive_key
    values["link.key alice-proxy1 from record 16384 on"] = rekeyed(mine.send_key, engine)

    link = Multiplexer(
        mine,
        is_dialler=True,
        engine=engine,
        limits=limits,
        make_notifier=threading.Event,
        now_s=lambda: NOW_S,
    )
    stream = link.open(frame.profile)
    for name in ("header alice-proxy1", "chunk 0 alice-proxy1", "chunk 1 alice-proxy1"):
        content = values[f"query.{name}"]
        assert stream.write(content) == len(content)
    stream.finish()
    link.go_away()
    records = values["link.records"] = bytes(link.pending)
    record = values["link.record 0"] = records[: record_bytes_of(records[:4])]
    values["link.record 0 plain"] = bytes(
        RecordOpener(theirs.receive_key, engine).open(memoryview(bytearray(record)))
    )


def shown(name: str, value: bytes) -> str:
    """One line of a vector block: the bytes if they are few, else their ends and their SHA-256."""
    if len(value) <= 128:
        return f"{name} = {value.hex()}"
    return (
        f"{name} = {value[:16].hex()} … {value[-16:].hex()} ({len(value)} bytes, "
        f"sha256 {hashlib.sha256(value).hexdigest()})"
    )


def filled_in(document: str, values: Values) -> str:
    """The document with each line of its vector blocks written anew; the names before the = stay."""
    return "".join(
        shown(name, values[name]) + "\n" if name else line for name, line in vector_lines(document)
    )


def vector_lines(document: str) -> Iterator[tuple[str, str]]:
    """Each line of the document, with the name that it shows if it stands in a ```vector block."""
    inside = False
    for line in document.splitlines(keepends=True):
        if line.startswith("```"):
            inside = line.strip() == "```vector"
            yield "", line
        else:
            yield (line.split(" = ")[0].strip() if inside and line.strip() else ""), line


def as_json(values: Values) -> str:
    about = "Worked example of docs/protocol.md; made by make_worked_example.py. All bytes in hex."
    return json.dumps({"about": about, "values": {n: v.hex() for n, v in values.items()}}, indent=1) + "\n"


def main(arguments: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    parser = argparse.ArgumentParser(prog="make_worked_example", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the files")
    options = parser.parse_args(arguments)
    values = build(tunnel_engine())
    document = DOCUMENT.read_text(encoding="utf-8")
    changed = 0
    for path, text in ((EXAMPLE, as_json(values)), (DOCUMENT, filled_in(document, values))):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        changed += 1
        write(f"{'wrote' if options.write else 'differs:'} {path.name}\n")
        if options.write:
            path.write_text(text, encoding="utf-8")
    return 0 if options.write else min(changed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
