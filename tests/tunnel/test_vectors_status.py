"""The scenario files of STATUS and established tunnels: made by both engines, read by two readers."""

from __future__ import annotations

import pytest

from readwrite_comp.primitives import sha256
from tests.support.second_status import second_read_status
from tests.support.vectors import load_vectors
from tests.tunnel.helpers import ENGINES, OPENSSL
from tests.vectors import make_established, make_status
from tunnel.crypto.primitives import TunnelEngine, expand
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.onion.key_schedule import StatusKeys
from tunnel.onion.message import ChunkType
from tunnel.onion.status import read_status

STATUSES = load_vectors("status", expected=19)
TUNNELS = load_vectors("established", expected=15)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
def test_the_generators_make_these_files(engine: TunnelEngine) -> None:
    assert make_status.build(engine) == STATUSES
    assert make_established.build(engine) == TUNNELS


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
@pytest.mark.parametrize("name", STATUSES)
def test_alice_reads_what_the_scenario_file_lists(name: str, engine: TunnelEngine) -> None:
    scenario = STATUSES[name]
    geometry = make_status.GEOMETRIES_BY_SLOTS[scenario["slots"]]
    keys = [StatusKeys.derive(bytes.fromhex(seed)) for seed in scenario["seeds"]]
    assert {len(link) // 2 for link in scenario["links"]} == {geometry.status_bytes}
    report = read_status(bytes.fromhex(scenario["links"][-1]), keys, geometry=geometry, engine=engine)
    assert make_status.report_as_json(report) == scenario["report"]
    negative = name.startswith("bad_")
    assert bool(report.suspects) == (negative and "from_the_middle" not in name)


@pytest.mark.parametrize("name", STATUSES)
def test_the_second_implementation_reads_the_same(name: str) -> None:
    scenario = STATUSES[name]
    seeds = [bytes.fromhex(seed) for seed in scenario["seeds"]]
    second = second_read_status(bytes.fromhex(scenario["links"][-1]), seeds, scenario["slots"])
    report = scenario["report"]
    assert {key: second[key] for key in ("origin", "text", "suspects", "hold_ms")} == {
        key: report[key] for key in ("origin", "text", "suspects", "hold_ms")
    }
    if second["code"] == 0 and not report["succeeded"]:
        assert report["code"] == "PROTOCOL"  # success from the middle of the route
    elif second["code"] is not None:
        number = 0 if report["code"] is None else ErrorCode[report["code"]] + 0x100 * report["about_next"]
        assert second["code"] == number


BAD_TUNNELS = [name for name in TUNNELS if name.startswith("bad_")]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
@pytest.mark.parametrize("name", BAD_TUNNELS)
def test_bob_takes_all_chunks_but_the_last(name: str, engine: TunnelEngine) -> None:
    scenario = TUNNELS[name]
    ends = make_established.make_ends(engine, early=scenario["early"])
    *good, bad = [bytes.fromhex(c["chunk"]) for c in scenario["chunks"] if c["from"] == "alice"]
    for chunk in good:
        make_established.receive(ends, "alice", chunk)
        ends["bob"].next_chunk(memoryview(bytearray(996)), 0.0)  # his HELLO must have left before her REKEY
    with pytest.raises(MalformedMessage) as caught:
        make_established.receive(ends, "alice", bad)
    assert caught.value.code is ErrorCode.BAD_CONTENT
    assert scenario["refused"]


@pytest.mark.parametrize("name", [name for name in TUNNELS if name not in BAD_TUNNELS])
def test_a_reader_of_both_directions_written_from_the_document(name: str) -> None:
    """Keys, counters, key changes and heads by hand; the file names the kind of each chunk."""
    scenario = TUNNELS[name]
    privates = {
        end: OPENSSL.x25519_private(sha256(f"mtun1 tunnel vector: {end}".encode()))
        for end in ("alice", "bob")
    }
    shared = privates["alice"].exchange(privates["bob"].public)
    seed, directions = make_established.SEED, {"alice": b"forward", "bob": b"backward"}
    keys = {end: expand(seed, b"e2e " + direction, 32) for end, direction in directions.items()}
    counters = {"alice": 0, "bob": 0}
    switched, hellos = set(), {}
    challenges: list[tuple[str, bytes]] = []
    for chunk in scenario["chunks"]:
        end, what = chunk["from"], chunk["what"]
        nonce = counters[end].to_bytes(12, "big")
        plain = OPENSSL.layers.aead(keys[end]).open(nonce, bytes.fromhex(chunk["chunk"]))
        counters[end] += 1
        kind, data = ChunkType(plain[0]), plain[6 : 6 + int.from_bytes(plain[4:6], "big")]
        words = what.replace(",", "").split()
        assert kind.name == words[0]
        assert plain[1] == ("LAST" in words)
        assert plain[6 + len(data) :] == bytes(980 - 6 - len(data))
        if kind is ChunkType.HELLO:
            hellos[end] = data
            assert data == privates[end].public + (4 * 974).to_bytes(4, "big") + bytes([0, 4])
        elif kind in (ChunkType.MSG, ChunkType.OPEN, ChunkType.OPENED, ChunkType.CLOSE):
            assert int.from_bytes(plain[2:4], "big") == int(words[1])
        elif kind is ChunkType.CREDIT:
            assert data == int(words[1]).to_bytes(2, "big") + int(words[2]).to_bytes(4, "big")
        elif kind is ChunkType.END:
            assert data == words[1].encode()
        elif kind is ChunkType.CHALLENGE:
            assert data == bytes.fromhex(words[1])
            challenges.append((end, data))
        elif kind is ChunkType.PAD:
            assert data == (b"" if words[1:] == ["LAST"] else bytes.fromhex(words[1]))
        if kind is ChunkType.REKEY or (kind is ChunkType.HELLO and end == "bob"):
            if end in switched:
                keys[end] = expand(keys[end], b"rekey", 32)
            else:
                transcript = sha256(hellos["alice"] + hellos["bob"])
                keys[end] = expand(seed + shared, b"hello " + directions[end] + transcript, 32)
                switched.add(end)
            counters[end] = 0
    assert switched == {"alice", "bob"}
    asked, returned = ([data for end, data in challenges if end == name] for name in ("bob", "alice"))
    assert asked == returned
