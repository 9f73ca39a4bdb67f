"""The layout of attachments: round trips in any pieces, and one documented error for every wrong byte."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import MalformedMessage
from tunnel.services.attachments import (
    MAX_PIECE_BYTES,
    AttachmentEnd,
    AttachmentParser,
    AttachmentStart,
    pack_attachments,
)
from tunnel.services.names import file_name

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
ONE = b"\x01\x01a\x00\x00\x00\x02hi\x00\x00\x00\x00" + hashlib.sha256(b"hi").digest() + b"\x00"


def parse(message: bytes, step: int = 1 << 30, most: int = 16) -> list[tuple[str, bytes, bytes]]:
    """(name, content, digest) of each attachment of a message that arrives in pieces."""
    parser = AttachmentParser(most=most)
    found: list[tuple[str, bytes, bytes]] = []
    for start in range(0, len(message), step):
        for event in parser.feed(message[start : start + step]):
            if isinstance(event, AttachmentStart):
                found.append((event.name, b"", b""))
            elif isinstance(event, AttachmentEnd):
                found[-1] = (*found[-1][:2], event.digest)
            else:
                name, content, digest = found[-1]
                found[-1] = (name, content + event, digest)
    parser.finish()
    return found


def test_the_layout_as_it_is_written() -> None:
    assert b"".join(pack_attachments([("a", b"hi")])) == ONE
    assert b"".join(pack_attachments([])) == b"\x00"


@given(st.dictionaries(NAMES, st.binary(max_size=200_000), max_size=4), st.integers(1, 100_000))
def test_round_trip(contents: dict[str, bytes], step: int) -> None:
    message = b"".join(pack_attachments(contents.items()))
    assert parse(message, max(step, len(message) // 200 + 1)) == [
        (name, content, hashlib.sha256(content).digest()) for name, content in contents.items()
    ]


def test_byte_by_byte_and_from_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"from a path" * 1000)
    message = b"".join(pack_attachments([("path", path), ("object", io.BytesIO(b"object")), ("empty", b"")]))
    assert [(name, content) for name, content, _ in parse(message, 1)] == [
        ("path", b"from a path" * 1000),
        ("object", b"object"),
        ("empty", b""),
    ]


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_a_message_or_one_error(data: bytes, step: int) -> None:
    try:
        found = parse(data, step)
    except MalformedMessage:
        return
    assert all(file_name(name.encode()) == name for name, _, _ in found)


@given(st.integers(0, len(ONE) - 1), st.integers(1, 255), st.integers(1, len(ONE)))
def test_a_changed_byte_is_seen_whatever_the_cut(place: int, change: int, step: int) -> None:
    """It is an error of the layout, another name, or content that does not have the digest."""
    changed = bytearray(ONE)
    changed[place] ^= change
    try:
        found = parse(bytes(changed), step)
    except MalformedMessage:
        return
    (name, content, digest), *_ = found
    assert name != "a" or hashlib.sha256(content).digest() != digest


@pytest.mark.parametrize("count", range(len(ONE)))
def test_a_message_that_ends_early(count: int) -> None:
    with pytest.raises(MalformedMessage, match="ends within its attachments"):
        parse(ONE[:count])


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x02", "kind 2"),
        (ONE + b"x", "after the end"),
        (b"\x01\x00", "without a name"),
        (b"\x01\x03../", "invalid name"),
        (b"\x01\x02..", "invalid name"),
        (b"\x01\x05.part", "invalid name"),
        (b"\x01\x03a/b", "invalid name"),
        (b"\x01\x03a\0b", "invalid name"),
        (b"\x01\x03u\xcc\x88", "invalid name"),
        (b"\x01\x01\xfc", "invalid name"),
        (ONE[:-1] + ONE, "same name"),
        (b"\x01\x01a" + (MAX_PIECE_BYTES + 1).to_bytes(4, "big"), "a piece of"),
    ],
)
def test_malformed_attachments_are_refused(message: bytes, what: str) -> None:
    for step in (1, 1000):
        with pytest.raises(MalformedMessage, match=what):
            parse(message, step)


def test_too_many() -> None:
    message = b"".join(pack_attachments((f"n{i}", b"") for i in range(17)))
    assert len(parse(message, most=17)) == 17
    with pytest.raises(MalformedMessage, match="more than 16"):
        parse(message)


def test_kept_bytes_are_bounded_by_a_head() -> None:
    parser = AttachmentParser()
    message = b"".join(pack_attachments([("a", bytes(300_000))]))
    for start in range(0, len(message), 7):
        list(parser.feed(message[start : start + 7]))
        assert len(parser.held) <= 255
