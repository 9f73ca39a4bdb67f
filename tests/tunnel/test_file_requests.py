"""The layouts of the files service: packed fields are unpacked, and other bytes are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import MalformedMessage
from tunnel.services.file_requests import (
    ENTRY_HEAD_BYTES,
    MAX_FILE_BYTES,
    NO_DIGEST,
    REPLY_BYTES,
    REQUEST_HEAD_BYTES,
    FileEntry,
    FileReply,
    FileRequest,
    FileStatus,
    Operation,
)
from tunnel.services.names import safe_name

NAMES = st.text(max_size=100).map(safe_name)
SIZES = st.integers(0, MAX_FILE_BYTES)
DIGESTS = st.binary(min_size=32, max_size=32)
D = bytes(range(32))


@given(st.sampled_from(Operation), NAMES, SIZES, SIZES, DIGESTS)
def test_requests(operation: Operation, name: str, one: int, two: int, digest: bytes) -> None:
    size, offset = max(one, two), min(one, two)
    match operation:
        case Operation.PUT:
            request = FileRequest(operation, name, size, offset, digest)
        case Operation.OFFER:
            request = FileRequest(operation, name, size, 0, digest)
        case Operation.GET:
            request = FileRequest(operation, name, 0, 0 if digest == NO_DIGEST else offset, digest)
        case _:
            request = FileRequest(operation, name)
    packed = request.pack()
    assert FileRequest.name_bytes(packed[:REQUEST_HEAD_BYTES]) == len(name.encode())
    assert FileRequest.unpack(packed) == request


@given(st.sampled_from(FileStatus), SIZES, SIZES, DIGESTS)
def test_replies(status: FileStatus, one: int, two: int, digest: bytes) -> None:
    reply = FileReply(status)
    if status in (FileStatus.OK, FileStatus.STORED):
        reply = FileReply(status, max(one, two), min(one, two), digest)
    assert len(reply.pack()) == REPLY_BYTES
    assert FileReply.unpack(reply.pack()) == reply


@given(NAMES, SIZES)
def test_entries(name: str, size: int) -> None:
    packed = FileEntry(name, size).pack()
    assert FileEntry.name_bytes(packed[:ENTRY_HEAD_BYTES]) == len(name.encode())
    assert FileEntry.unpack(packed) == FileEntry(name, size)


@given(st.binary(min_size=REQUEST_HEAD_BYTES, max_size=REQUEST_HEAD_BYTES + 130))
def test_any_bytes_are_a_request_or_one_error(data: bytes) -> None:
    try:
        request = FileRequest.unpack(data)
    except MalformedMessage:
        return
    assert request.pack() == data


@given(st.binary(min_size=REPLY_BYTES, max_size=REPLY_BYTES))
def test_any_bytes_are_a_reply_or_one_error(data: bytes) -> None:
    try:
        reply = FileReply.unpack(data)
    except MalformedMessage:
        return
    assert reply.pack() == data


@given(st.binary(min_size=ENTRY_HEAD_BYTES, max_size=150))
def test_any_bytes_are_an_entry_or_one_error(data: bytes) -> None:
    try:
        entry = FileEntry.unpack(data)
    except MalformedMessage:
        return
    assert entry.pack() == data


@pytest.mark.parametrize(
    "request_",
    [
        FileRequest(Operation.PUT, "a", 1, 2, D),
        FileRequest(Operation.PUT, "a", MAX_FILE_BYTES + 1, 0, D),
        FileRequest(Operation.PUT, "", 1, 0, D),
        FileRequest(Operation.OFFER, "a", 1, 1, D),
        FileRequest(Operation.GET, "a", 1),
        FileRequest(Operation.GET, "a", 0, 1),
        FileRequest(Operation.GET, "a", 0, MAX_FILE_BYTES + 1, D),
        FileRequest(Operation.GET, "../a"),
        FileRequest(Operation.LIST, "a", 1),
        FileRequest(Operation.LIST, "a", 0, 1),
        FileRequest(Operation.LIST, "", 0, 0, D),
    ],
)
def test_a_field_too_many_is_refused(request_: FileRequest) -> None:
    with pytest.raises(MalformedMessage):
        FileRequest.unpack(request_.pack())


def test_a_request_is_never_a_reply() -> None:
    for operation in Operation:
        with pytest.raises(MalformedMessage, match="status"):
            FileReply.unpack((FileRequest(operation, "name").pack() + bytes(100))[:REPLY_BYTES])


@pytest.mark.parametrize(
    "reply", [FileReply(FileStatus.FULL, 1), FileReply(FileStatus.OK, 1, 2), FileReply(FileStatus.OK, 2**63)]
)
def test_replies_that_contradict_themselves(reply: FileReply) -> None:
    with pytest.raises(MalformedMessage):
        FileReply.unpack(reply.pack())
