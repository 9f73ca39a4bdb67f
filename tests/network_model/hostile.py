"""Nodes that break the rules for frames that pass them: real nodes with a part replaced.

A hostile node answers PINGs, keeps its links and answers queries that end there, as an attacker would who
wants to stay in routes. `make_hostile(node, how)` replaces its `context.links` and `context.codec`;
`make_honest` puts the real ones back. Frames that pass already keep what they were opened with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from reactor import Service, Sleep
from readwrite_comp.wideblock import WidePermutation
from tunnel.errors import NextRefused, TableFull
from tunnel.geometry import Profile
from tunnel.node import Node
from tunnel.node.context import Links, Stream
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import Command, Opened, Slot

__all__ = ["BEHAVIOURS", "make_honest", "make_hostile"]


class _OtherLinks:
    """The links of a node, with a changed `open_stream` for the frames of others."""

    def __init__(
        self, node: Node, change: Callable[[Stream], Stream] | None, error: Exception | None
    ) -> None:
        self._node = node
        self._links = node.links
        self._change = change
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._links, name)

    def open_stream(self, peer_id: bytes, profile: Profile, *, is_own: bool = False) -> Service[Stream]:
        if is_own:
            return (yield from self._links.open_stream(peer_id, profile, is_own=True))
        if self._error is not None:
            raise type(self._error)(*self._error.args)
        while self._change is None and self._node.context.links is self:
            yield Sleep(1.0)  # silent, until it is honest again
        stream = yield from self._links.open_stream(peer_id, profile)
        return stream if self._change is None else self._change(stream)


class _OtherStream:
    """A stream to the next node. A subclass changes what goes in or comes out."""

    def __init__(self, stream: Stream) -> None:
        object.__setattr__(self, "stream", stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.stream, name, value)


class _Swallowing(_OtherStream):
    """Takes the header along and keeps all content."""

    def write(self, data: memoryview) -> int:
        """Only what comes first, the header, goes on."""
        stream: Stream = self.stream
        return len(data) if stream.content_out >= stream.profile.geometry.header_bytes else stream.write(data)


class _Ending(_OtherStream):
    """Ends the forward half after the header."""

    def write(self, data: memoryview) -> int:
        """As `_Swallowing`, and FIN for the content."""
        stream: Stream = self.stream
        if stream.content_out < stream.profile.geometry.header_bytes:
            return stream.write(data)
        stream.finish()
        return len(data)


class _Rewriting(_OtherStream):
    """Changes each STATUS that comes from the next node."""

    @property
    def status(self) -> bytes | None:
        status: bytes | None = self.stream.status
        return None if status is None else bytes([status[0] ^ 1, *status[1:]])


class _Garbled:
    """A permutation that changes one bit of each chunk."""

    def __init__(self, real: WidePermutation) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def decrypt(self, chunk: memoryview, number: int) -> None:
        """Remove this hop's layer, wrongly."""
        self._real.decrypt(chunk, number)
        chunk[0] ^= 1


class _OtherCodec:
    """The codec of a node, which garbles what passes or refuses headers."""

    def __init__(self, codec: OnionCodec, *, garbles: bool = False, refuses: bool = False) -> None:
        self.real = codec
        self._garbles = garbles
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def relay_layers(self, slot: Slot, profile: Profile) -> tuple[WidePermutation, WidePermutation]:
        layers = self.real.relay_layers(slot, profile)
        if not self._garbles:
            return layers
        return cast(tuple[WidePermutation, WidePermutation], tuple(map(_Garbled, layers)))

    def open_frame(self, *args: Any, **options: Any) -> Opened:
        opened = self.real.open_frame(*args, **options)
        if self._refuses and opened.slot.command is Command.RELAY:
            raise TableFull("this node lies: it has room")
        return opened


def _links(change: type[_OtherStream] | None, error: Exception | None = None) -> Callable[[Node], None]:
    def apply(node: Node) -> None:
        links = _OtherLinks(node, cast(Any, change), error)
        node.context.links = cast(Links, links)

    return apply


def _codec(**how: bool) -> Callable[[Node], None]:
    def apply(node: Node) -> None:
        node.context.codec = cast(OnionCodec, _OtherCodec(node.context.codec, **how))

    return apply


BEHAVIOURS: Final[dict[str, Callable[[Node], None]]] = {
    "is silent": _links(None),
    "swallows": _links(_Swallowing),
    "ends early": _links(_Ending),
    "rewrites": _links(_Rewriting),
    "accuses": _links(None, NextRefused("the next node cannot be reached (a lie)")),
    "garbles": _codec(garbles=True),
    "refuses": _codec(refuses=True),
}
"""What a hostile node does with the frames of others."""


def make_hostile(node: Node, how: str) -> None:
    """Let a node do so from now on."""
    make_honest(node)
    BEHAVIOURS[how](node)


def make_honest(node: Node) -> None:
    """Let it follow the rules again."""
    context = node.context
    context.links = node.links
    if isinstance(context.codec, _OtherCodec):
        context.codec = context.codec.real
