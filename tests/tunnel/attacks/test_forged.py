"""Threat: forged, random, truncated or oversized bytes from a sender who has the keys.

A hostile Alice seals any bytes to Bob, and a hostile Bob to Alice. Whatever the plaintext, the reader ends
with a documented error of `readwrite_comp` or with a valid message; it never hangs, never raises another
error, and releases nothing after the fault. The victim sees BAD_CONTENT or TRUNCATED.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import RemoteLayerError
from readwrite_comp.testing import HostileReader, read_message
from tests.support.errors import raises_code
from tests.tunnel.exchange import cast_of, exchange
from tests.tunnel.helpers import OPENSSL, SMALL
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage, ProfileError
from tunnel.geometry import NODE_ID_BYTES
from tunnel.modes import ReplyMode
from tunnel.onion.header import Command, Slot
from tunnel.onion.message import MessageR
from tunnel.onion.message_head import MessageHead, OriginClaim, head_bytes
from tunnel.onion.reply_block import ReplyBlock

KEY = bytes(32)
PLAIN = SMALL.geometry.chunk_bytes - 16


def sealed(plaintexts: list[bytes]) -> bytes:
    aead = OPENSSL.layers.aead(KEY)
    return b"".join(
        aead.seal(number.to_bytes(12, "big"), plain.ljust(PLAIN, b"\0")[:PLAIN])
        for number, plain in enumerate(plaintexts)
    )


heads = st.one_of(
    st.binary(max_size=8),
    st.builds(
        lambda flags, rest: bytes([0, flags, 0, 0]) + rest, st.integers(0, 31), st.binary(max_size=200)
    ),
)
chunks = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda kind, last, data: bytes([kind, last, 0, 0]) + len(data).to_bytes(2, "big") + data,
        st.integers(0, 4),
        st.integers(0, 2),
        heads,
    ),
)


@given(st.lists(chunks, max_size=6))
def test_any_plaintext_under_the_right_key(plaintexts: list[bytes]) -> None:
    wire = sealed(plaintexts)
    reader = MessageR(SMALL, KEY, engine=OPENSSL)
    result = read_message(reader, HostileReader(wire), None)
    if result.error is not None:
        assert isinstance(result.error, RemoteLayerError)
    else:
        assert reader.head.pack(), "a head that a writer makes"


@given(st.binary(max_size=700))
def test_any_head_is_parsed_or_refused_with_the_documented_error(data: bytes) -> None:
    try:
        need = head_bytes(data)
    except MalformedMessage:
        return
    if need > len(data):
        longer = data.ljust(need, b"\0")
        try:
            assert head_bytes(longer) >= need, "it never asked for more than there is"
        except MalformedMessage:
            return
        return
    try:
        head = MessageHead.parse(data[:need])
    except MalformedMessage:
        return
    assert head.pack() == data[:need], "one head, one form"


tickets = st.binary(min_size=24, max_size=24)


@given(
    st.sampled_from(["none", "blocks", "origin", "backward"]),
    st.none() | tickets,
    st.booleans(),
    tickets,
    st.binary(min_size=69, max_size=478),
    st.binary(min_size=64, max_size=64),
)
def test_every_head_that_is_made_is_read_back(
    way: str, answer: bytes | None, wants: bool, ticket: bytes, descriptor: bytes, signature: bytes
) -> None:
    block = ReplyBlock(SMALL, 1, bytes(32), bytes(18), bytes(16), bytes(1_024))
    head = MessageHead(
        reply_blocks=(block, block) if way == "blocks" else (),
        origin=OriginClaim(ticket, descriptor, signature) if way == "origin" else None,
        answer=answer,
        backward=way == "backward",
        wants_blocks=wants and way == "blocks",
    )
    packed = head.pack()
    assert head_bytes(packed) == len(packed)
    assert MessageHead.parse(packed) == head
    for cut in (3, 4, len(packed) // 2, len(packed) - 1):
        if cut < len(packed):
            assert cut < head_bytes(packed[:cut]) <= len(packed)


def test_heads_that_no_reader_takes_are_not_written() -> None:
    block = ReplyBlock(SMALL, 1, bytes(32), bytes(18), bytes(16), bytes(1_024))
    claim = OriginClaim(bytes(24), bytes(100), bytes(64))
    for head in (
        MessageHead((block,) * 9),
        MessageHead((block,), backward=True),
        MessageHead((block,), claim),
        MessageHead(origin=claim, backward=True),
        MessageHead(wants_blocks=True),
    ):
        with pytest.raises(LocalTunnelError):
            head.pack()


def test_home_slots_that_others_made() -> None:
    """Any node can seal HOME to Alice, but only her home key makes a valid ticket."""
    cast = cast_of(3)
    done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a"], profile=SMALL)
    reply = done.replies[0].relayed
    assert reply is not None
    good = reply.opened.slot
    for at in range(NODE_ID_BYTES):
        forged = bytearray(good.next_id)
        forged[at] ^= 1
        with raises_code(ErrorCode.BAD_HEADER, match="not made here"):
            cast.alice.codec.home_ticket(Slot(Command.HOME, good.expiry, good.seed, next_id=bytes(forged)))


def test_profiles_that_do_not_exist() -> None:
    for byte in (0, 6, 0x16, 0x20, 0x21, 0xFF):
        with pytest.raises(ProfileError):
            ReplyBlock.unpack(bytes([byte]) + bytes(1_095))
