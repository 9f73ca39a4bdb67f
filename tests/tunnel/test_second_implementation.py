"""Every exchange of the scenario vectors, read by the implementation written from the document."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.second_implementation import expand
from tests.support.second_implementation_frames import DEST, DROP, HOME, Reply, Walk
from tests.support.second_implementation_modes import (
    Layers,
    check_origin,
    home_layers,
    own_ticket,
    read_message,
    split_head,
)
from tests.support.vectors import load_vectors
from tests.vectors.make_scenarios import EXPECTED

EXCHANGES = {
    name: scenario
    for name, scenario in load_vectors("onion", expected=EXPECTED).items()
    if scenario["kind"] == "exchange"
}


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
