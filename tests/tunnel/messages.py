"""Writers and readers of sealed messages with fixed keys and reply blocks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.tunnel.helpers import (
    OPENSSL,
    SMALL,
    seeded_bytes,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.geometry import Profile
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import ReplyBlock

KEY = bytes(range(32))
SEEDS = [bytes([index]) * 128 for index in range(3)]
HEADER = b"onion header" * 20
PREFIX_BYTES = 4
DATA = SMALL.geometry.chunk_data_bytes

contents = st.integers(0, 2**32).flatmap(
    lambda seed: st.one_of(st.integers(0, 40), st.integers(0, 12 * DATA)).map(
        lambda size: seeded_bytes(seed)(size)
    )
)


def block(number: int, profile: Profile = SMALL) -> ReplyBlock:
    source = seeded_bytes(number)
    header = source(profile.geometry.header_bytes)
    return ReplyBlock(profile, number, source(32), source(18), source(16), header)


def blocks(count: int, profile: Profile = SMALL) -> list[ReplyBlock]:
    return [block(number, profile) for number in range(count)]


def writer(
    profile: Profile = SMALL, engine: TunnelEngine = OPENSSL, reply_blocks: Sequence[ReplyBlock] = ()
) -> MessageW:
    return MessageW(profile, KEY, engine=engine, head=MessageHead(tuple(reply_blocks)))


def reader(profile: Profile = SMALL, engine: TunnelEngine = OPENSSL) -> MessageR:
    return MessageR(profile, KEY, engine=engine)
