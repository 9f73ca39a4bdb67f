"""The worked example of docs/protocol.md: made again by both engines, and read by a second implementation.

Three checks: the project still writes these bytes; the document's text suffices to read them; the hex
in the document is that of the file.
"""

from __future__ import annotations

import json

import pytest

from tests.support.second_implementation import (
    accept_handshake,
    expand,
    filler,
    layer_off,
    layer_on,
    next_record_key,
    open_chunk,
    open_header,
    open_record,
    public_key,
    ticket_mac,
)
from tests.vectors.make_worked_example import (
    DOCUMENT,
    DRAWS,
    EPHEMERALS,
    EXAMPLE,
    NETWORK_ID,
    NODES,
    PADDED_BYTES,
    as_json,
    build,
    filled_in,
    main,
    secret,
    vector_lines,
)
from tunnel.crypto.primitives import tunnel_engine

PROFILE = 1


@pytest.fixture(scope="module")
def example() -> dict[str, bytes]:
    values = json.loads(EXAMPLE.read_text(encoding="utf-8"))["values"]
    assert len(values) == 112
    return {name: bytes.fromhex(value) for name, value in values.items()}


@pytest.mark.parametrize("engine", ["openssl", "pycryptodome"])
def test_the_project_writes_it_byte_for_byte(engine: str, example: dict[str, bytes]) -> None:
    made = build(tunnel_engine(engine))
    assert list(made) == list(example)
    for name, value in made.items():
        assert value == example[name], name
    assert as_json(made) == EXAMPLE.read_text(encoding="utf-8")


def test_every_hex_value_of_the_document_is_that_of_the_example(example: dict[str, bytes]) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    names = [name for name, _ in vector_lines(document) if name]
    assert len(names) == len(set(names)), "a value is shown twice"
    assert set(names) == set(example), "the document shows all values of the example, and no others"
    assert filled_in(document, example).splitlines() == document.splitlines()


def test_the_generator_finds_no_difference() -> None:
    said: list[str] = []
    assert main([], said.append) == 0
    assert said == []


def test_all_random_values_follow_the_rule_of_the_document(example: dict[str, bytes]) -> None:
    for name, length in DRAWS:
        assert example[f"draw.{name}"] == secret(name, length)
    for node in NODES:
        assert example[f"{node}.link private"] == secret(f"{node} link")
        assert example[f"{node}.link public"] == public_key(secret(f"{node} link"))
        assert example[f"{node}.onion public"] == public_key(secret(f"{node} onion"))
    headers = ["reply.header proxy1-alice", "reply.header proxy2-proxy1", "reply.header bob-proxy2"]
    headers += ["query.header proxy2-bob", "query.header proxy1-proxy2", "query.header alice-proxy1"]
    for header, name in zip(headers, EPHEMERALS, strict=True):
        assert example[header][:32] == public_key(secret(name)), name


def _carry(example: dict[str, bytes], direction: str, path: list[str]) -> tuple[int, bytes, bytes]:
    """Carry the frame along `path` by the document. Returns the last slot's command, next id and seed."""
    epoch = int.from_bytes(example["epoch"], "big")
    header = example[f"{direction}.header {path[0]}-{path[1]}"]
    for here, there in zip(path[1:], [*path[2:], ""], strict=True):
        link = f"{path[path.index(here) - 1]}-{here}"
        assert header == example[f"{direction}.header {link}"]
        fields, next_header = open_header(header, PROFILE, example[f"{here}.onion private"], epoch)
        assert fields.flags == fields.delay == 0
        assert fields.reserved == bytes(6)
        assert fields.next_address == bytes(18)
        assert fields.expiry % 3600 == 0
        if not there:
            return fields.command, fields.next_id, fields.seed
        assert fields.command == 1
        assert fields.next_id == example[f"{there}.node id"]
        keys = expand(fields.seed, b"forward", 128)
        number = 0
        while (chunk := example.get(f"{direction}.chunk {number} {link}")) is not None:
            after = layer_off(keys, chunk, number)
            assert after == example[f"{direction}.chunk {number} {here}-{there}"]
            assert layer_on(keys, after, number) == chunk
            number += 1
        header = next_header
    raise AssertionError("a path has an end")


def _content(example: dict[str, bytes], direction: str, key: bytes, count: int) -> bytes:
    content = b""
    for number in range(count):
        kind, is_last, data = open_chunk(key, example[f"{direction}.chunk {number} sealed"], number)
        assert (kind, is_last) == ((2, True) if number == count - 1 else (1, False))
        content += data
    return content


def test_a_second_implementation_reads_the_cached_reply(example: dict[str, bytes]) -> None:
    """Proxies remove a layer, as in each direction; Alice adds them again, hop 1 first."""
    keys = [expand(example[f"draw.query seed proxy{number}"], b"backward", 128) for number in (1, 2)]
    assert keys == [example["query.proxy1 backward"], example["query.proxy2 backward"]]
    chunk = example["cached.chunk 0 bob-proxy2"]
    for key, link in ((keys[1], "proxy2-proxy1"), (keys[0], "proxy1-alice")):
        chunk = layer_off(key, chunk, 0)
        assert chunk == example[f"cached.chunk 0 {link}"]
    for key in keys:
        chunk = layer_on(key, chunk, 0)
    seal = expand(example["draw.query seed bob"], b"e2e backward", 32)
    assert seal == example["cached.e2e backward"]
    assert open_chunk(seal, chunk, 0) == (2, True, b"\0\0\0\0pong")


def test_a_second_implementation_carries_the_query(example: dict[str, bytes]) -> None:
    command, next_id, seed = _carry(example, "query", ["alice", "proxy1", "proxy2", "bob"])
    assert (command, next_id, seed) == (2, bytes(32), example["draw.query seed bob"])
    last = example["query.header proxy2-bob"]
    seeds = [example["draw.query seed proxy1"], example["draw.query seed proxy2"]]
    assert last[128:] == example["draw.query padding"] + filler(seeds, 1024)
    assert last[-256:] == example["query.filler"]
    message = _content(example, "query", expand(seed, b"e2e forward", 32), 2)
    assert message == b"\1\0\0\0" + example["block"] + b"ping"
    block = example["block"]
    assert block[:2] == b"\1\0"
    assert block[6:38] == example["proxy2.node id"]
    assert block[38:56] == bytes(18)
    assert block[56:72] == example["reply.e2e seed"]
    assert block[72:] == example["reply.header bob-proxy2"]


def test_a_second_implementation_carries_the_reply(example: dict[str, bytes]) -> None:
    command, ticket, master = _carry(example, "reply", ["bob", "proxy2", "proxy1", "alice"])
    assert (command, master) == (3, example["draw.master seed"])
    assert ticket[:16] == example["draw.query id"] + b"\2" + bytes(7)
    assert ticket[16:] == ticket_mac(example["alice.home key"], master, ticket[:16])
    chunk = example["reply.chunk 0 proxy1-alice"]
    for proxy in (1, 0):
        seed = expand(master, b"hop" + proxy.to_bytes(2, "big"), 16)
        chunk = layer_on(expand(seed, b"forward", 128), chunk, 0)
    assert chunk == example["reply.chunk 0 sealed"]
    key = expand(expand(master, b"reply e2e", 16), b"e2e forward", 32)
    assert _content(example, "reply", key, 1) == bytes(4) + b"pong"


def test_a_second_implementation_reads_the_padded_message(example: dict[str, bytes]) -> None:
    key = expand(secret("padded seed", 16), b"e2e forward", 32)
    assert key == example["padded.e2e forward"]
    chunks, message = example["padded.chunks"], b""
    assert len(chunks) == 10 * 996
    for number in range(10):
        kind, is_last, data = open_chunk(key, chunks[number * 996 : number * 996 + 996], number)
        assert (kind, is_last) == ((1, False) if number < 8 else (2, False) if number == 8 else (3, True))
        assert len(data) == (974 if number < 8 else 4 + PADDED_BYTES - 8 * 974 if number == 8 else 0)
        message += data
    assert message == bytes(4) + secret("padded content", PADDED_BYTES)


def test_the_keys_of_the_backward_halves(example: dict[str, bytes]) -> None:
    for proxy in ("proxy1", "proxy2"):
        seed = example[f"draw.query seed {proxy}"]
        assert example[f"query.{proxy} backward"] == expand(seed, b"backward", 128)


def test_a_second_implementation_accepts_the_link(example: dict[str, bytes]) -> None:
    link = accept_handshake(
        NETWORK_ID,
        example["proxy1.link private"],
        secret("link ephemeral proxy1"),
        example["link.settings"],
        example["link.M1"],
        example["link.M3"],
    )
    assert link.second_message == example["link.M2"]
    assert link.initiator_settings == example["link.settings"]
    assert link.initiator_descriptor == example["alice.descriptor"]
    assert link.handshake_hash == example["link.handshake hash"]
    assert link.initiator_key == example["link.key alice-proxy1"]
    assert link.responder_key == example["link.key proxy1-alice"]

    later = example["link.key alice-proxy1 from record 16384 on"]
    assert later == next_record_key(link.initiator_key)

    records, frames = example["link.records"], b""
    assert records.startswith(example["link.record 0"])
    for number, units in enumerate((2, 1, 1, 1)):
        plain = open_record(link.initiator_key, records[: units * 1024], number)
        records = records[units * 1024 :]
        if number == 0:
            assert plain == example["link.record 0 plain"]
        length = 0
        while length < len(plain) and plain[length]:
            length += 8 + int.from_bytes(plain[length + 2 : length + 4], "big")
        assert not any(plain[length:])
        frames += plain[:length]
    assert records == b""
    header, chunks = (
        example["query.header alice-proxy1"],
        [example[f"query.chunk {number} alice-proxy1"] for number in range(2)],
    )
    expected = [
        "01 00 0006 00000001 01 01 00000000",
        "02 00 0400 00000001" + header.hex(),
        "02 00 03e4 00000001" + chunks[0].hex(),
        "02 00 03e4 00000001" + chunks[1].hex(),
        "04 00 0000 00000001",
        "08 00 0000 00000000",
    ]
    assert frames == bytes.fromhex("".join(expected))
