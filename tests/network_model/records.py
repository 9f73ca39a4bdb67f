"""What a node learns of the frames that pass it or end at it: each opened header, each chunk before and after
its layer, each status, and the content that its service gets.

`watch(machine)` puts a recording codec, links and service in place of the node's own. A fact is a byte
string, such as a node's id: a party knows it if its record contains it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from reactor import Service
from readwrite_comp.wideblock import WidePermutation
from tests.network_model.network import Machine
from tunnel.geometry import Profile
from tunnel.node.context import Links, Stream
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Opened, Slot
from tunnel.onion.message import MessageR
from tunnel.services import InnerService, Query, Reply

__all__ = ["Seen", "Shape", "watch"]


@dataclass
class Shape:
    """What a proxy can measure of one frame.

    Attributes:
        header_bytes, next_header_bytes: as received and as sent.
        forward, backward: lengths of the chunks. status_bytes: 0 before the status.
    """

    profile: str
    header_bytes: int
    next_header_bytes: int
    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)


@dataclass
class Seen:
    """The record of one node."""

    pieces: list[bytes] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    heads: list[MessageR] = field(default_factory=list)

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        for stream in self.streams:
            yield stream.peer_id
            yield stream.status or b""
        for reader in self.heads:
            yield reader.head.pack()

    def knows(self, *signs: bytes) -> bool:
        """Whether one of the byte strings is in the record."""
        return any(sign in piece for piece in self for sign in signs)


class _WatchedLayer:
    """A proxy's permutation; it records each chunk before and after."""

    def __init__(self, real: WidePermutation, seen: Seen, lengths: list[int]) -> None:
        self._real = real
        self._seen = seen
        self._lengths = lengths

    def decrypt(self, chunk: memoryview, number: int) -> None:
        """Remove this hop's layer."""
        self._seen.pieces.append(bytes(chunk))
        self._real.decrypt(chunk, number)
        self._seen.pieces.append(bytes(chunk))
        self._lengths.append(len(chunk))


class _WatchedCodec:
    """The codec of a node; it records what opens."""

    def __init__(self, real: OnionCodec, seen: Seen) -> None:
        self._real = real
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def open_frame(self, header: bytes, profile: Profile, *, neighbour: bytes, **options: Any) -> Opened:
        opened = self._real.open_frame(header, profile, neighbour=neighbour, **options)
        self._seen.pieces += [header, neighbour, opened.slot.pack(), opened.next_header]
        self._seen.shapes.append(Shape(profile.name, len(header), len(opened.next_header)))
        return opened

    def relay_layers(self, slot: Slot, profile: Profile) -> tuple[WidePermutation, WidePermutation]:
        shape = self._seen.shapes[-1]  # of the header that was opened just before
        forward, backward = self._real.relay_layers(slot, profile)
        watched = (
            _WatchedLayer(forward, self._seen, shape.forward),
            _WatchedLayer(backward, self._seen, shape.backward),
        )
        return cast(tuple[WidePermutation, WidePermutation], watched)

    def destination_reader(self, slot: Slot, profile: Profile) -> MessageR:
        reader = self._real.destination_reader(slot, profile)
        self._seen.heads.append(reader)
        return reader


class _WatchedLinks:
    """The links of a node; it records the neighbours to which frames go, and their statuses."""

    def __init__(self, real: Links, seen: Seen) -> None:
        self._real = real
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def open_stream(self, peer_id: bytes, profile: Profile, *, is_own: bool = False) -> Service[Stream]:
        stream = yield from self._real.open_stream(peer_id, profile, is_own=is_own)
        self._seen.streams.append(stream)
        return stream


class _WatchedService(InnerService):
    """The service of a node; it records the content of queries."""

    def __init__(self, real: InnerService, seen: Seen) -> None:
        self._real = real
        self._seen = seen

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        watched = cast(Query, _WatchedContent(query, self._seen))
        yield from self._real.handle(watched, _WatchedReply(reply, self._seen))


class _WatchedContent:
    def __init__(self, real: Query, seen: Seen) -> None:
        self._real = real
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def read(self) -> Generator[Any, Any, bytes]:
        piece = yield from self._real.read()
        self._seen.pieces.append(piece)
        return piece


class _WatchedReply:
    def __init__(self, real: Reply, seen: Seen) -> None:
        self._real = real
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        self._seen.pieces.append(bytes(data))
        yield from self._real.write(data)


def watch(machine: Machine) -> Seen:
    """Record what the node of this machine sees from now on."""
    assert machine.node is not None
    seen, context = Seen(), machine.node.context
    context.codec = cast(OnionCodec, _WatchedCodec(context.codec, seen))
    context.links = cast(Links, _WatchedLinks(context.links, seen))
    context.service = _WatchedService(context.service, seen)
    return seen
