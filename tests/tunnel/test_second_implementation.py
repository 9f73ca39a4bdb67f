"""Every exchange of the scenario vectors, read by the implementation written from the document."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.second_implementation import expand
from tests.support.second_implementation_frames import DEST, DROP, HOME, Refused, Reply, Walk, block_seeds
from tests.support.second_implementation_modes import (
    Layers,
    check_origin,
    home_layers,
    own_ticket,
    read_message,
    split_head,
)
from tests.support.second_implementation_receipts import (
    answer_by_block,
    read_challenged,
    read_receipt_frame,
)
from tests.support.vectors import load_vectors
from tests.vectors.make_scenarios import EXPECTED

SCENARIOS = load_vectors("onion", expected=EXPECTED)
EXCHANGES = {name: scenario for name, scenario in SCENARIOS.items() if scenario["kind"] == "exchange"}
RECEIPTS = {name: scenario for name, scenario in SCENARIOS.items() if scenario["kind"] == "receipts"}


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_query_and_each_reply(name: str) -> None:
    scenario = EXCHANGES[name]
    profile, mode = scenario["profile"], scenario["mode"]
    alice, bob = scenario["nodes"]["alice"], scenario["nodes"]["bob"]
    query = Walk(scenario, bytes.fromhex(scenario["query"]["first"]), scenario["nodes"]["proxy 1"]["id"])
    assert query.links == scenario["query"]["links"]
    flags = {"status": (0, 0), "xor": (2, 2), "none": (0, 4)}[scenario["error_mode"]]
    assert set(query.flags) == {flags[0]}
    assert query.fields.flags == flags[1]
    assert query.delays == scenario.get("delays_10ms", [0, 0])
    if mode == "loop":
        assert query.fields.command == HOME
        home = bytes.fromhex(alice["home"])
        _, chunks = home_layers(profile, home, query.fields.next_id, query.fields.seed, query.chunks)
        key = expand(expand(query.fields.seed, b"reply e2e", 16), b"e2e forward", 32)
        assert read_message(profile, key, chunks) == bytes(4) + bytes.fromhex(scenario["content"])
        return
    assert query.fields.command == (DROP if mode == "drop" else DEST)
    message = read_message(profile, expand(query.fields.seed, b"e2e forward", 32), query.chunks)
    head, content = split_head(message)
    assert content.hex() == scenario["content"]
    if mode == "drop":
        return
    assert message[: len(message) - len(content)].hex() == scenario["query"]["head"]
    blocks = max(1, len(scenario["answers"])) if mode in ("route", "other-route", "reply-on-reply") else 0
    assert len(head.blocks) == blocks
    assert head.flags == {"known-dest": 1, "reply-on-reply": 4, "cached": 8}.get(mode, 0)
    if mode == "known-dest":
        asked = check_origin(head, bytes.fromhex(bob["id"]), query.fields.seed)
        assert asked.hex() == alice["id"]
    query_ids = set()
    for number, answer in enumerate(scenario["answers"]):
        made = scenario["replies"][number]
        last = bytes.fromhex(made["last"])
        assert hashlib.sha256(last).hexdigest() == made["links"][-1]
        if mode == "cached":
            check_cached(scenario, query, last, answer)
        elif mode == "known-dest":
            check_known_dest(scenario, head.ticket, last, answer)
        else:
            reply = Reply(scenario, last, "alice", head.blocks[number], number)
            assert reply.links == made["links"]
            assert reply.content.hex() == answer
            assert len(reply.head.blocks) == (mode == "reply-on-reply")
            query_ids.add(reply.query_id)
    assert len(query_ids) == bool(blocks), "one id for all blocks of a query"


def check_cached(scenario: dict[str, Any], query: Walk, last: bytes, answer: str) -> None:
    """Alice adds the layers again, proxy 1's first; each proxy removed one."""
    links = [last]
    for seed in query.seeds:
        links.append(Layers(scenario["profile"], seed, b"backward").on(links[-1]))
    found = [hashlib.sha256(link).hexdigest() for link in links[::-1]]
    assert found == scenario["replies"][0]["links"]
    key = expand(query.fields.seed, b"e2e backward", 32)
    assert read_message(scenario["profile"], key, links[-1]).hex() == "00000000" + answer


def check_known_dest(scenario: dict[str, Any], ticket: bytes, last: bytes, answer: str) -> None:
    alice = scenario["nodes"]["alice"]
    arrived = Walk(scenario, last, alice["id"])
    assert arrived.fields.command == DEST
    key = expand(arrived.fields.seed, b"e2e forward", 32)
    head, content = split_head(read_message(scenario["profile"], key, arrived.chunks))
    assert head.answer == ticket == own_ticket(bytes.fromhex(alice["home"]), ticket[:8])
    assert content.hex() == answer


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_reply_with_challenges_and_its_receipts(name: str) -> None:
    scenario = RECEIPTS[name]
    profile, made = scenario["profile"], scenario["replies"][0]
    query = Walk(scenario, bytes.fromhex(scenario["query"]["first"]), scenario["nodes"]["proxy 1"]["id"])
    last = bytes.fromhex(made["last"])
    assert hashlib.sha256(last).hexdigest() == made["links"][-1]
    if scenario["mode"] == "cached":
        for seed in query.seeds:
            last = Layers(profile, seed, b"backward").on(last)
        key = expand(query.fields.seed, b"e2e backward", 32)
        check_message(scenario, key, last)
        check_receipt_frames(scenario)
        return
    arrived = Walk(scenario, last, scenario["nodes"]["alice"]["id"], profile)
    ticket, master = arrived.fields.next_id, arrived.fields.seed
    home = bytes.fromhex(scenario["nodes"]["alice"]["home"])
    _, chunks = home_layers(profile, home, ticket, master, arrived.chunks)
    end_to_end = expand(master, b"reply e2e", 16)
    key = expand(end_to_end, b"e2e forward", 32)
    if scenario["expect"] != "ok":
        with pytest.raises(Refused):
            read_challenged(profile, key, chunks)
        return
    challenges = check_message(scenario, key, chunks)
    check_receipts_on_the_way(scenario, block_seeds(master, ticket[8])[:-1], end_to_end, challenges)


def check_message(scenario: dict[str, Any], key: bytes, chunks: bytes) -> list[bytes]:
    message, challenges = read_challenged(scenario["profile"], key, chunks)
    assert message.hex() == "00000000" + scenario["answer"]
    assert [challenge.hex() for challenge in challenges] == scenario["challenges"]
    return challenges


def check_receipts_on_the_way(
    scenario: dict[str, Any], seeds: list[bytes], end_to_end: bytes, challenges: list[bytes]
) -> None:
    """On each link of the backward half: each proxy removes a layer, that next to Alice first."""
    wire = answer_by_block(scenario["profile"], seeds, end_to_end, challenges)
    links = [wire]
    for seed in seeds[::-1]:
        links.append(Layers(scenario["profile"], seed, b"backward").off(links[-1]))
    assert [link.hex() for link in links] == scenario["receipts"]["links"]


def check_receipt_frames(scenario: dict[str, Any]) -> None:
    returned = [
        read_receipt_frame(
            Walk(scenario, bytes.fromhex(frame), scenario["nodes"]["proxy 1"]["id"]), scenario["profile"]
        ).hex()
        for frame in scenario["receipts"]["frames"]
    ]
    assert returned == scenario["challenges"]
