"""The scenario vectors: both engines make them again, and read each file from its fields alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from readwrite_comp import LayerError, Truncated
from readwrite_comp.testing import HostileReader, HostileWriter, read_message, write_message
from tests.support.vectors import load_vectors
from tests.tunnel.helpers import ENGINES, make_keys
from tests.vectors.make_scenarios import EXPECTED, build_all
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, PeerError
from tunnel.geometry import Profile
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Command, OpeningKey, Slot, open_header
from tunnel.onion.header_builder import OutgoingFrame
from tunnel.onion.message import MessageR
from tunnel.onion.message_head import MessageHead, answered_query, check_origin, head_bytes
from tunnel.onion.reply_block import HomeTicket, ReplyBlock

T = TypeVar("T")
SCENARIOS = load_vectors("onion", expected=EXPECTED)
KINDS = ("exchange", "follow_up", "handed_on", "receipts", "open", "message", "block", "home", "origin")


def of_kind(kind: str) -> list[str]:
    return [name for name, scenario in SCENARIOS.items() if scenario["kind"] == kind]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_engine_makes_every_file_again(engine: TunnelEngine) -> None:
    assert build_all(engine) == SCENARIOS


def test_each_kind_has_valid_and_invalid_scenarios() -> None:
    assert {scenario["kind"] for scenario in SCENARIOS.values()} == set(KINDS)
    for kind in KINDS:
        outcomes = {SCENARIOS[name]["expect"] for name in of_kind(kind)}
        assert "ok" in outcomes
        assert len(outcomes) > 1 or kind == "exchange"


def ring_of(scenario: dict[str, Any], engine: TunnelEngine) -> KeyRing:
    """A ring with the scenario's one onion key, advanced to its time."""
    spare = make_keys("spare")
    epoch = scenario["epoch"]
    onion = OnionKey(epoch, epoch + EPOCH_S, bytes.fromhex(scenario["onion"]), bytes(32))
    ring = KeyRing(replace(spare, onion=onion), engine)
    for now_s in range(epoch, int(scenario["now"]), 3_600):
        ring.advance(now_s)
    ring.advance(scenario["now"])
    return ring


def outcome(call: Callable[[], T]) -> tuple[T | None, tuple[str, str]]:
    """The result of a call, and its name in the scenario."""
    try:
        return call(), ("ok", "")
    except PeerError as error:
        return None, (type(error).__name__, error.code.name)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("name", of_kind("open"))
def test_headers(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    tunnel = OnionCodec(ring=ring_of(scenario, engine), directory=StaticDirectory())
    tunnel.node_id = bytes.fromhex(scenario["node"])
    header, neighbour = bytes.fromhex(scenario["header"]), bytes.fromhex(scenario["neighbour"])
    profile, found = Profile.from_byte(scenario["profile"]), ("ok", "")
    for _ in range(scenario["times"]):
        assert found == ("ok", ""), "only the last may fail"
        opened, found = outcome(
            lambda: tunnel.open_frame(header, profile, neighbour=neighbour, now_s=scenario["now"])
        )
        assert opened is None or opened.slot.seed.hex() == scenario["seed"]
    assert found == (scenario["expect"], scenario["code"])


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("name", of_kind("message"))
def test_messages(name: str, engine: TunnelEngine) -> None:
    """Failures as a layer reports them, and the node's code for them."""
    scenario = SCENARIOS[name]
    reader = MessageR(Profile.from_byte(scenario["profile"]), bytes.fromhex(scenario["key"]), engine=engine)
    r = HostileReader(bytes.fromhex(scenario["wire"]))
    result = read_message(reader, r, None)
    assert len(result.content) == scenario["released_bytes"]
    assert hashlib.sha256(result.content).hexdigest() == scenario["released_sha256"]
    error: LayerError | None = result.error
    if error is None:
        is_whole = r.position == len(bytes.fromhex(scenario["wire"]))
        assert scenario["expect"] == ("ok" if is_whole else "trailing")
        return
    assert type(error).__name__ == scenario["expect"]
    assert scenario["code"] == ("TRUNCATED" if isinstance(error, Truncated) else "BAD_CONTENT")


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("name", of_kind("block"))
def test_blocks(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    keys = NodeKeys.generate(scenario["now"])
    keys = replace(keys, identity=bytes.fromhex(scenario["identity"]))
    bob = OnionCodec(ring=KeyRing(keys, engine), directory=StaticDirectory())
    assert bob.node_id.hex() == scenario["node"]
    block, found = ReplyBlock.unpack(bytes.fromhex(scenario["block"])), ("ok", "")
    frame: OutgoingFrame | None = None
    for _ in range(scenario["times"]):
        assert found == ("ok", "")
        frame, found = outcome(lambda: bob.reply(block, now_s=scenario["now"]))
    assert found == (scenario["expect"], scenario["code"])
    if frame is not None:
        w = HostileWriter()
        write_message(frame.layer, w, bytes.fromhex(scenario["content"]))
        assert hashlib.sha256(w.data).hexdigest() == scenario["frame_sha256"]


@pytest.mark.parametrize("name", of_kind("home"))
def test_tickets(name: str) -> None:
    scenario = SCENARIOS[name]
    master, ticket = bytes.fromhex(scenario["master"]), bytes.fromhex(scenario["ticket"])
    slot = Slot(Command.HOME, 0, master, next_id=ticket)
    home, found = outcome(lambda: HomeTicket.unpack(slot, bytes.fromhex(scenario["home"])))
    assert found == (scenario["expect"], scenario["code"])
    query_id = bytes.fromhex(scenario["query_id"])
    assert home in (None, HomeTicket(query_id, scenario["proxies"], scenario["number"]))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("name", of_kind("origin"))
def test_origins(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    packed = bytes.fromhex(scenario["head"])
    assert head_bytes(packed) == len(packed)
    claim = MessageHead.parse(packed).origin
    assert claim is not None
    origin, found = outcome(
        lambda: check_origin(
            claim,
            destination=bytes.fromhex(scenario["node"]),
            dest_seed=bytes.fromhex(scenario["dest_seed"]),
            engine=engine,
        )
    )
    assert found == (scenario["expect"], scenario["code"])
    if origin is not None:
        query_id = answered_query(bytes.fromhex(scenario["home"]), origin.ticket)
        assert query_id.hex() == scenario["query_id"]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("name", of_kind("exchange"))
def test_the_first_link_of_an_exchange_read_hop_by_hop(name: str, engine: TunnelEngine) -> None:
    """From the nodes' private keys and the first link alone: every link, and Bob's content."""
    scenario = SCENARIOS[name]
    profile = Profile.from_byte(scenario["profile"])
    frame, size = bytes.fromhex(scenario["query"]["first"]), profile.geometry.header_bytes
    by_id = {bytes.fromhex(node["id"]): node for node in scenario["nodes"].values()}
    at, links = bytes.fromhex(scenario["nodes"]["proxy 1"]["id"]), []
    reader = OnionCodec(ring=KeyRing(make_keys("spare"), engine), directory=StaticDirectory())
    while True:
        links.append(hashlib.sha256(frame).hexdigest())
        node = by_id[at]
        key = OpeningKey(engine.hpke_private(bytes.fromhex(node["onion"])), node["epoch"])
        opened = open_header(frame[:size], profile, [key], engine=engine)
        if opened.slot.command is not Command.RELAY:
            break
        forward, _ = reader.relay_layers(opened.slot, profile)
        body = bytearray(frame[size:])
        for number, start in enumerate(range(0, len(body), forward.block_bytes)):
            forward.decrypt(memoryview(body)[start : start + forward.block_bytes], number)
        frame, at = opened.next_header + bytes(body), opened.slot.next_id
    assert links == scenario["query"]["links"]
    if opened.slot.command is Command.DEST:
        behind = reader.destination_reader(opened.slot, profile)
        result = read_message(behind, HostileReader(frame[size:]), None)
        assert (result.content.hex(), result.error) == (scenario["content"], None)
        assert behind.head.pack().hex() == scenario["query"]["head"]


def test_codes_are_known() -> None:
    names = {code.name for code in ErrorCode} | {""}
    assert {scenario.get("code", "") for scenario in SCENARIOS.values()} <= names
