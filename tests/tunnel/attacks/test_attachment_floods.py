"""Threat: messages with attachments that never end, or pause, use up what their receiver has: descriptors,
memory, disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from reactor import Reactor, Service, Signal, Spawn
from tests.tunnel.helpers import settle
from tunnel.errors import ErrorCode, MalformedMessage, TableFull
from tunnel.services import AttachmentLimits, save_attachments
from tunnel.services.attachments import MAX_PIECE_BYTES

MESSAGES = 40
PIECE_BYTES = 16_000
SENT_BYTES = 20 * PIECE_BYTES


class Sender:
    """A message that arrives in pieces; then its sender pauses for ever."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.read_bytes = 0
        self.is_paused = False

    def read(self) -> Service[bytes]:
        piece = next(self._pieces, b"")
        self.read_bytes += len(piece)
        if not piece:
            self.is_paused = True
            yield Signal()
        return piece


def attachments(count: int, declared: int = PIECE_BYTES) -> Iterator[bytes]:
    """`count` attachments, the last one without an end. Args: declared: the length that its pieces state."""
    for number in range(count - 1):
        name = b"file %d" % number
        digest = hashlib.sha256(b"x").digest()
        yield bytes([1, len(name)]) + name + b"\0\0\0\1x" + bytes(4) + digest
    yield b"\1\4last"
    while True:
        left = declared
        yield declared.to_bytes(4, "big")
        while left:
            yield bytes(min(left, PIECE_BYTES))
            left -= min(left, PIECE_BYTES)


def paused(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The first `SENT_BYTES` of a message."""
    sent = 0
    while sent < SENT_BYTES:
        piece = next(pieces)
        sent += len(piece)
        yield piece


@pytest.mark.parametrize("declared", [PIECE_BYTES, MAX_PIECE_BYTES])
def test_messages_that_pause_hold_no_descriptor_and_little_memory(
    reactor: Reactor, tmp_path: Path, declared: int
) -> None:
    """Each has 16 attachments, and pauses in the last one, whatever length it has declared."""
    senders = [Sender(paused(attachments(16, declared))) for _ in range(MESSAGES)]

    def play() -> Service[None]:
        before, held = len(os.listdir("/proc/self/fd")), tracemalloc.get_traced_memory()[0]
        handles = []
        for sender in senders:
            handles.append((yield Spawn(save_attachments(sender.read, tmp_path))))
        while not all(sender.is_paused for sender in senders):
            yield from settle()
        assert len(os.listdir("/proc/self/fd")) <= before + MESSAGES // 4, "those of threads at most"
        assert tracemalloc.get_traced_memory()[0] - held < MESSAGES * 100_000, (
            "a batch for each, and 16 parts"
        )
        assert len(os.listdir(tmp_path)) == 16 * MESSAGES
        for handle in handles:
            handle.cancel()
        yield from settle()
        assert not os.listdir(tmp_path)

    tracemalloc.start()
    try:
        reactor.run(play())
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "limits"),
    [(1, AttachmentLimits(total_bytes=100_000)), (17, None), (3, AttachmentLimits(count=2))],
    ids=["endless", "more than 16", "more than allowed"],
)
def test_a_message_beyond_its_limits_ends_and_leaves_nothing(
    reactor: Reactor, tmp_path: Path, count: int, limits: AttachmentLimits | None
) -> None:
    sender = Sender(attachments(count))
    with pytest.raises(MalformedMessage):
        reactor.run(save_attachments(sender.read, tmp_path, limits))
    assert sender.read_bytes < 100_000 + 5 * PIECE_BYTES
    assert not os.listdir(tmp_path)


def test_a_full_disk_ends_endless_messages(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: together they leave the rest of the disk free."""
    room, left = 1_000_000, 5_000_000

    def shown(folder: Path) -> SimpleNamespace:
        used = sum(entry.stat().st_size for entry in os.scandir(folder))
        return SimpleNamespace(free=room + left - used)

    monkeypatch.setattr(shutil, "disk_usage", shown)
    limits = AttachmentLimits(left_free_bytes=left)
    senders = [Sender(attachments(1)) for _ in range(4)]
    refused: list[TableFull] = []
    most = 0

    def save(sender: Sender) -> Service[None]:
        try:
            yield from save_attachments(sender.read, tmp_path, limits)
        except TableFull as error:
            refused.append(error)

    def play() -> Service[None]:
        nonlocal most
        for sender in senders:
            yield Spawn(save(sender))
        while len(refused) < len(senders):
            most = max(most, sum(entry.stat().st_size for entry in os.scandir(tmp_path)))
            yield from settle()

    reactor.run(play())
    assert {error.code for error in refused} == {ErrorCode.BUSY}
    assert 0 < most <= room + len(senders) * 65_536
    assert not os.listdir(tmp_path)


def test_a_part_that_was_replaced_while_its_sender_paused(reactor: Reactor, tmp_path: Path) -> None:
    """Its descriptor is opened again, and must be of the same file."""
    resume = Signal()

    class Resuming(Sender):
        def read(self) -> Service[bytes]:
            if self.read_bytes >= SENT_BYTES and not self.is_paused:
                self.is_paused = True
                yield resume
            return (yield from super().read())

    sender = Resuming(attachments(1))

    def play() -> Service[None]:
        handle = yield Spawn(save_attachments(sender.read, tmp_path))
        while not sender.is_paused:
            yield from settle()
        (part,) = tmp_path.iterdir()
        other = tmp_path / "other"
        other.write_bytes(b"other")
        other.replace(part)
        resume.set()
        yield from handle.join()

    with pytest.raises(OSError, match="replaced the unfinished file"):
        reactor.run(play())
    assert not os.listdir(tmp_path)
