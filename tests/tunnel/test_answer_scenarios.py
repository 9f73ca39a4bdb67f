"""The scenario vectors of events after a reply by block: a STATUS passed on, a frame along a block of Bob's.

Each is read by the library with both engines, and by the implementation that was written from the document.
`test_scenarios` checks that the engines make the files again.
"""

from __future__ import annotations

from typing import Any

import pytest

from readwrite_comp.primitives import sha256
from readwrite_comp.testing import HostileReader, read_message
from tests.support.errors import raises_code
from tests.support.second_implementation import expand
from tests.support.second_implementation_frames import (
    DEST,
    Refused,
    Reply,
    Walk,
    block_seeds,
    read_handed_on,
    split_message,
)
from tests.support.second_implementation_modes import Layers
from tests.support.second_status import second_read_status
from tests.support.vectors import load_vectors
from tests.tunnel.helpers import ENGINES
from tests.vectors.make_scenarios import EXPECTED
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.geometry import Profile
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import EPOCH_S, NodeKeys, OnionKey
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.relay.status_reporter import wait_status
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import OpeningKey, open_header
from tunnel.onion.header_builder import Circuit, OutgoingFrame, OutgoingQuery, ReplyPath
from tunnel.onion.message import FrameW, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import HomeTicket
from tunnel.onion.reports import read_reply_report, seal_status_chunk
from tunnel.routing.route import Route

SCENARIOS = load_vectors("onion", expected=EXPECTED)
HANDED_ON = [name for name, scenario in SCENARIOS.items() if scenario["kind"] == "handed_on"]
FOLLOW_UPS = [name for name, scenario in SCENARIOS.items() if scenario["kind"] == "follow_up"]
by_library = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def query_of(scenario: dict[str, Any], engine: TunnelEngine) -> OutgoingQuery:
    """Alice's record of her query."""
    profile = Profile.from_byte(scenario["profile"])
    ids = {name: bytes.fromhex(node["id"]) for name, node in scenario["nodes"].items()}
    there = Route((ids["proxy 1"], ids["proxy 2"]), ids["bob"])
    back = Route(there.proxies[::-1], ids["alice"])
    layer = FrameW(b"", [], MessageW(profile, bytes(32), engine=engine))
    way = Circuit(ids["proxy 1"], profile, b"", tuple(bytes.fromhex(seed) for seed in scenario["seeds"]))
    return OutgoingQuery(
        there,
        OutgoingFrame(way.first_id, profile, layer),
        ReplyMode.ROUTE,
        ErrorMode.STATUS,
        way,
        reply_paths=tuple(ReplyPath(back, profile, bytes.fromhex(master)) for master in scenario["masters"]),
    )


@by_library
@pytest.mark.parametrize("name", HANDED_ON)
def test_alice_reads_the_status_that_bob_hands_on(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    query, wire = query_of(scenario, engine), bytes.fromhex(scenario["wire"])
    size = query.frame.profile.geometry.chunk_bytes
    if scenario["expect"] == "MalformedMessage":
        with pytest.raises(MalformedMessage) as caught:
            read_reply_report(query, wire, engine)
        assert caught.value.code is ErrorCode[scenario["code"]]
        return
    report = read_reply_report(query, wire[:size], engine)
    assert report.is_about_reply
    assert scenario["report"] == {
        "origin": report.hop, "code": "" if report.code is None else report.code.name,
        "about_next": report.about_next, "text": report.text, "suspects": list(report.suspects),
        "hold_ms": list(report.hold_ms), "succeeded": report.succeeded,
    }  # fmt: skip
    # Then a node waits for the end of the backward half, and takes no further byte.
    behind = HostileReader(wire[size:])
    assert (scenario["expect"] == "trailing") == bool(wire[size:])
    if wire[size:]:
        with pytest.raises(MalformedMessage) as caught:
            list(wait_status(behind))  # type: ignore[arg-type]  # a stream, as far as it is read here
        assert caught.value.code is ErrorCode[scenario["code"]]


@by_library
@pytest.mark.parametrize("name", [name for name in HANDED_ON if SCENARIOS[name]["expect"] == "ok"])
def test_bob_seals_the_chunk_of_the_file(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    geometry, seed = Profile.from_byte(scenario["profile"]).geometry, bytes.fromhex(scenario["seeds"][-1])
    status = bytes.fromhex(scenario["status"])
    chunk = seal_status_chunk(status, seed, geometry, engine, number=scenario["number"])
    assert sha256(chunk).hex() == scenario["links"][0]


@pytest.mark.parametrize("name", HANDED_ON)
def test_the_second_implementation_reads_the_same_status(name: str) -> None:
    """From the query's frame and the nodes' keys: the seeds, the block's master, the chunk, the STATUS."""
    scenario = SCENARIOS[name]
    profile, nodes = scenario["profile"], scenario["nodes"]
    query = Walk(scenario, bytes.fromhex(scenario["query"]["first"]), nodes["proxy 1"]["id"])
    assert query.fields.command == DEST
    seeds = [*query.seeds, query.fields.seed]
    head, content = split_message(profile, expand(seeds[-1], b"e2e forward", 32), query.chunks)
    assert content.hex() == scenario["content"]
    wire = bytes.fromhex(scenario["wire"])
    if scenario["expect"] != "ok":
        reason = {
            "number_out_of_range": "no such block",
            "second_for_the_same_block": "trailing",
            "second_for_another_block": "trailing",
            "last_missing": "no STATUS",
            "type_msg": "no STATUS",
            "too_short": "length",
            "padding_not_zero": "padding",
            "chunk_changed_by_a_proxy": "does not open",
        }[name.removeprefix("handed_on_")]
        with pytest.raises(Refused, match=reason):
            read_handed_on(profile, seeds, head.blocks, wire)
        assert scenario["code"] == "BAD_CONTENT"
        return
    number, status = read_handed_on(profile, seeds, head.blocks, wire)
    assert (number, status.hex()) == (scenario["number"], scenario["status"])
    chunks = [wire]
    for seed in query.seeds:
        chunks.append(Layers(profile, seed, b"backward").on(chunks[-1]))
    assert [sha256(chunk).hex() for chunk in chunks[::-1]] == scenario["links"]
    block = head.blocks[number]
    way = Walk(scenario, block[72:], block[6:38].hex())
    assert way.at == nodes["alice"]["id"]
    master, proxies = way.fields.seed, way.fields.next_id[8]
    found = second_read_status(status, block_seeds(master, proxies), slots=8)
    report = scenario["report"]
    for key in ("origin", "text", "suspects", "hold_ms"):
        assert found[key] == report[key]
    if found["code"] is None:
        assert report["suspects"]
    else:
        code = ErrorCode[report["code"]] if report["code"] else 0
        assert found["code"] == code + 256 * report["about_next"]


def tunnel_of(node: dict[str, Any], engine: TunnelEngine) -> OnionCodec:
    epoch, onion = node["epoch"], bytes.fromhex(node["onion"])
    keys = NodeKeys(
        bytes.fromhex(node["identity"]),
        bytes(range(32)),
        OnionKey(epoch, epoch + EPOCH_S, onion, bytes(32)),
        bytes.fromhex(node["home"]),
    )
    return OnionCodec(ring=KeyRing(keys, engine), directory=StaticDirectory())


def read_home(
    scenario: dict[str, Any], made: dict[str, Any], name: str, engine: TunnelEngine
) -> tuple[HomeTicket, MessageHead, bytes]:
    """Open a frame as the owner of its block has it."""
    node, profile = scenario["nodes"][name], Profile.from_byte(scenario["profile"])
    owner, frame, size = tunnel_of(node, engine), bytes.fromhex(made["last"]), profile.geometry.header_bytes
    key = OpeningKey(engine.hpke_private(bytes.fromhex(node["onion"])), node["epoch"])
    slot = open_header(frame[:size], profile, [key], engine=engine).slot
    ticket = owner.home_ticket(slot)
    reader = owner.home_reader(slot, ticket, profile)
    result = read_message(reader, HostileReader(frame[size:]), None)
    assert result.error is None
    return ticket, reader.head, result.content


@by_library
@pytest.mark.parametrize("name", FOLLOW_UPS)
def test_the_frames_over_a_reply_block_of_bob(name: str, engine: TunnelEngine) -> None:
    scenario = SCENARIOS[name]
    contents, count = scenario["contents"], len(scenario["answers"])
    _, head, content = read_home(scenario, scenario["replies"][0], "alice", engine)
    assert (content.hex(), len(head.reply_blocks), head.wants_blocks) == (contents[1], 2, False)
    alice = tunnel_of(scenario["nodes"]["alice"], engine)
    if scenario["expect"] != "ok":
        with raises_code(ErrorCode.UNKNOWN_NEXT) as caught:
            alice.reply(head.reply_blocks[0], now_s=scenario["now"])
        assert (type(caught.value).__name__, caught.value.code.name) == (scenario["expect"], scenario["code"])
    assert alice.reply(head.reply_blocks[1], now_s=scenario["now"]).profile.byte == scenario["profile"]
    ticket, head, content = read_home(scenario, scenario["follow_up"], "bob", engine)
    assert (ticket.number, content.hex(), len(head.reply_blocks)) == (1, contents[2], count)
    assert head.wants_blocks == scenario["wants_blocks"]
    for number, made in enumerate(scenario["follow_up_replies"]):
        ticket, head, content = read_home(scenario, made, "alice", engine)
        assert (ticket.number, content.hex()) == (number, scenario["answers"][number])
        assert len(head.reply_blocks) == (2 if scenario["wants_blocks"] else 0)


@pytest.mark.parametrize("name", FOLLOW_UPS)
def test_the_second_implementation_continues_as_well(name: str) -> None:
    """Each frame is made again from the block that it takes, and compared on every link."""
    scenario = SCENARIOS[name]
    profile, nodes, contents = scenario["profile"], scenario["nodes"], scenario["contents"]

    def along(made: dict[str, Any], owner: str, blocks: list[bytes], number: int) -> Reply:
        reply = Reply(scenario, bytes.fromhex(made["last"]), owner, blocks[number], number)
        assert reply.links == made["links"]
        return reply

    query = Walk(scenario, bytes.fromhex(scenario["query"]["first"]), nodes["proxy 1"]["id"])
    head, content = split_message(profile, expand(query.fields.seed, b"e2e forward", 32), query.chunks)
    assert (content.hex(), head.flags, len(head.blocks)) == (contents[0], 4, 1)
    reply = along(scenario["replies"][0], "alice", head.blocks, 0)
    assert (reply.content.hex(), reply.head.flags, len(reply.head.blocks)) == (contents[1], 0, 2)
    begins_at_alice = reply.head.blocks[0][6:38].hex() == nodes["alice"]["id"]
    assert begins_at_alice == (scenario["code"] == "UNKNOWN_NEXT")
    assert reply.head.blocks[0][6:38] != reply.head.blocks[1][6:38]
    further = along(scenario["follow_up"], "bob", reply.head.blocks, 1)
    assert further.content.hex() == contents[2]
    assert further.head.flags == (4 if scenario["wants_blocks"] else 0)
    assert len(further.head.blocks) == len(scenario["answers"])
    answers = [
        along(made, "alice", further.head.blocks, number)
        for number, made in enumerate(scenario["follow_up_replies"])
    ]
    assert [answer.content.hex() for answer in answers] == scenario["answers"]
    assert {len(answer.head.blocks) for answer in answers} <= {2 if scenario["wants_blocks"] else 0}
    # A follow-up has its own id, which all its blocks share.
    assert len({reply.query_id, further.query_id, *(answer.query_id for answer in answers)}) == (
        3 if answers else 2
    )
