"""Every exchange of the scenario vectors, read by the implementation that was written from the document."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.second_implementation import expand, open_header
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
HEADER = 1_024  # all of them are of geometry 1
RELAY, DEST, HOME, DROP = 1, 2, 3, 4


class Walk:
    """A frame from its first link to its last node, by the nodes' private keys."""

    def __init__(self, scenario: dict[str, Any], frame: bytes, first: str) -> None:
        nodes = {node["id"]: node for node in scenario["nodes"].values()}
        at = scenario["nodes"][first]["id"]
        self.links: list[str] = []
        self.seeds: list[bytes] = []
        self.flags: list[int] = []
        self.delays: list[int] = []
        while True:
            self.links.append(hashlib.sha256(frame).hexdigest())
            node = nodes[at]
            fields, following = open_header(
                frame[:HEADER], scenario["profile"], bytes.fromhex(node["onion"]), node["epoch"]
            )
            self.fields, self.chunks = fields, frame[HEADER:]
            if fields.command != RELAY:
                return
            self.seeds.append(fields.seed)
            self.flags.append(fields.flags)
            self.delays.append(fields.delay)
            layers = Layers(scenario["profile"], fields.seed, b"forward")
            frame, at = following + layers.off(self.chunks), fields.next_id.hex()


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_query_and_each_reply(name: str) -> None:
    scenario = EXCHANGES[name]
    profile, mode = scenario["profile"], scenario["mode"]
    alice, bob = scenario["nodes"]["alice"], scenario["nodes"]["bob"]
    query = Walk(scenario, bytes.fromhex(scenario["query"]["first"]), "proxy 1")
    assert query.links == scenario["query"]["links"]
    flags = {"status": (0, 0), "xor": (2, 2), "none": (0, 4)}[scenario["error_mode"]]
    assert set(query.flags) == {flags[0]}
    assert query.fields.flags == flags[1]
    assert query.delays == scenario.get("delays_10ms", [0, 0])
    if mode == "loop":
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
    for number, answer in enumerate(scenario["answers"]):
        last = bytes.fromhex(scenario["replies"][number]["last"])
        assert hashlib.sha256(last).hexdigest() == scenario["replies"][number]["links"][-1]
        if mode == "cached":
            check_cached(scenario, query, last, answer)
        else:
            check_reply(scenario, head.blocks[number : number + 1], head.ticket, last, answer)


def check_cached(scenario: dict[str, Any], query: Walk, last: bytes, answer: str) -> None:
    """Alice puts the layers on again, proxy 1's first; each proxy had taken one off."""
    links = [last]
    for seed in query.seeds:
        links.append(Layers(scenario["profile"], seed, b"backward").on(links[-1]))
    found = [hashlib.sha256(link).hexdigest() for link in links[::-1]]
    assert found == scenario["replies"][0]["links"]
    key = expand(query.fields.seed, b"e2e backward", 32)
    assert read_message(scenario["profile"], key, links[-1]).hex() == "00000000" + answer


def check_reply(
    scenario: dict[str, Any], block: list[bytes], ticket: bytes, last: bytes, answer: str
) -> None:
    profile, home = scenario["profile"], bytes.fromhex(scenario["nodes"]["alice"]["home"])
    arrived = Walk(scenario, last, "alice")
    if arrived.fields.command == DEST:
        assert scenario["mode"] == "known-dest"
        key = expand(arrived.fields.seed, b"e2e forward", 32)
        head, content = split_head(read_message(profile, key, arrived.chunks))
        assert head.answer == ticket == own_ticket(home, ticket[:8])
    else:
        assert arrived.fields.command == HOME
        master = arrived.fields.seed
        _, chunks = home_layers(profile, home, arrived.fields.next_id, master, arrived.chunks)
        seed = expand(master, b"reply e2e", 16)
        assert block[0][56:72] == seed, "what Alice derives is what Bob was given"
        head, content = split_head(read_message(profile, expand(seed, b"e2e forward", 32), chunks))
        assert len(head.blocks) == (scenario["mode"] == "reply-on-reply")
    assert content.hex() == answer
