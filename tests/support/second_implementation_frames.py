"""Whole frames of the reader written from docs/protocol.md: walked from node to node, and made again.

Like `second_implementation`, whose parts it uses: nothing of the packages under test, slow and simple on
purpose. It adds the use of a reply block, Bob's STATUS chunk, and replies along a block.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.second_implementation import Fields, expand, open_header
from tests.support.second_implementation_modes import (
    Head,
    Layers,
    home_layers,
    padme,
    read_message,
    split_head,
)

__all__ = [
    "DEST",
    "DROP",
    "HOME",
    "RELAY",
    "Refused",
    "Reply",
    "Walk",
    "block_seeds",
    "read_handed_on",
    "split_message",
]

RELAY, DEST, HOME, DROP = 1, 2, 3, 4
_PROFILES = {  # 128·N, C
    1: (1_024, 996),
    2: (4_096, 16_356),
    3: (16_384, 16_356),
    4: (4_096, 64_484),
    5: (1_920, 8_164),
}
_STATUS_BYTES = {1: 432, 2: 2_496, 3: 768, 4: 2_496, 5: 796}
_MSG, _END, _PAD, _STATUS = 1, 2, 3, 4
_LAST = 1


class Refused(Exception):
    """A refusal by the document, with its word for the reason."""


def _seal(key: bytes, number: int, head: bytes, data: bytes, size: int) -> bytes:
    plain = (head + data).ljust(size - 16, b"\0")
    return AESGCM(key).encrypt(bytes(4) + number.to_bytes(8, "big"), plain, None)


def write_message(profile: int, key: bytes, message: bytes) -> bytes:
    """Content chunk: the chunks of a message that is written as a whole."""
    size = _PROFILES[profile % 16][1]
    room = size - 22
    pieces = [message[at : at + room] for at in range(0, len(message), room)]
    count = padme(len(pieces))
    pieces += [b""] * (count - len(pieces))
    ends_at = -(-len(message) // room) - 1
    chunks = b""
    for number, data in enumerate(pieces):
        kind = _MSG if number < ends_at else _END if number == ends_at else _PAD
        head = struct.pack(">BBHH", kind, _LAST if number == count - 1 else 0, 0, len(data))
        chunks += _seal(key, number, head, data, size)
    return chunks


def split_message(profile: int, key: bytes, chunks: bytes) -> tuple[Head, bytes]:
    """Head and content."""
    return split_head(read_message(profile, key, chunks))


class Walk:
    """A frame from its first link to its last node, by the nodes' private keys.

    Args:
        first: the node id of its first node, in hex.
    """

    def __init__(
        self, scenario: dict[str, Any], frame: bytes, first: str, profile: int | None = None
    ) -> None:
        nodes = {node["id"]: node for node in scenario["nodes"].values()}
        profile = scenario["profile"] if profile is None else profile
        size = _PROFILES[profile % 16][0]
        self.at = first
        self.links: list[str] = []
        self.seeds: list[bytes] = []
        self.flags: list[int] = []
        self.delays: list[int] = []
        self.fields: Fields
        while True:
            self.links.append(hashlib.sha256(frame).hexdigest())
            node = nodes[self.at]
            self.fields, following = open_header(
                frame[:size], profile, bytes.fromhex(node["onion"]), node["epoch"]
            )
            self.chunks = frame[size:]
            if self.fields.command != RELAY:
                return
            self.seeds.append(self.fields.seed)
            self.flags.append(self.fields.flags)
            self.delays.append(self.fields.delay)
            layers = Layers(profile, self.fields.seed, b"forward")
            frame, self.at = following + layers.off(self.chunks), self.fields.next_id.hex()


class Reply:
    """A frame along a reply block, read at the owner of the block and then made again from the block.

    Args:
        last: the frame on the last link. owner: of the block: "alice" or "bob".
        block: from the message head. number: its place there, from 0.
    """

    def __init__(self, scenario: dict[str, Any], last: bytes, owner: str, block: bytes, number: int) -> None:
        profile, node = block[0], scenario["nodes"][owner]
        arrived = Walk(scenario, last, node["id"], profile)
        assert arrived.fields.command == HOME
        assert not block[1]
        ticket, self.master = arrived.fields.next_id, arrived.fields.seed
        assert ticket[9] == number, "the ticket has the block's place"
        self.proxies = ticket[8]
        home = bytes.fromhex(node["home"])
        self.query_id, chunks = home_layers(profile, home, ticket, self.master, arrived.chunks)
        seed = expand(self.master, b"reply e2e", 16)
        assert block[56:72] == seed, "what the owner derives is what the user was given"
        key = expand(seed, b"e2e forward", 32)
        message = read_message(profile, key, chunks)
        self.head, self.content = split_head(message)
        # Using one: the header as it is, and the message with no layer of the user's own.
        frame = block[72:] + write_message(profile, key, message)
        walked = Walk(scenario, frame, block[6:38].hex(), profile)
        assert walked.fields == arrived.fields
        assert walked.seeds == block_seeds(self.master, self.proxies)[:-1]
        self.links = walked.links


def block_seeds(master: bytes, proxies: int) -> list[bytes]:
    """Reply block, and Status: the seeds that read its STATUS: the proxies', then the owner's HOME."""
    return [expand(master, b"hop" + struct.pack(">H", proxy), 16) for proxy in range(proxies)] + [master]


def read_handed_on(profile: int, seeds: list[bytes], blocks: list[bytes], wire: bytes) -> tuple[int, bytes]:
    """Status, "Of a reply by block": the number of a block, and the STATUS of the frame along it.

    Args:
        seeds: of the query's proxies, proxy 1 first, and of the DEST slot.
        blocks: that Alice sent. wire: all content of the query's backward half, as it reaches Alice.
    """
    size = _PROFILES[profile % 16][1]
    chunk = wire[:size]
    if len(chunk) < size:
        raise Refused("truncated")
    for seed in seeds[:-1]:
        chunk = Layers(profile, seed, b"backward").on(chunk)
    try:
        plain = AESGCM(expand(seeds[-1], b"e2e backward", 32)).decrypt(bytes(12), chunk, None)
    except InvalidTag as error:
        raise Refused("does not open") from error
    kind, flags, number, length = struct.unpack_from(">BBHH", plain)
    if (kind, flags) != (_STATUS, _LAST):
        raise Refused("no STATUS")
    if number >= len(blocks):
        raise Refused("no such block")
    if length != _STATUS_BYTES[blocks[number][0] % 16]:
        raise Refused("length")
    if any(plain[6 + length :]):
        raise Refused("padding")
    if len(wire) > size:
        raise Refused("trailing")
    return number, plain[6 : 6 + length]
