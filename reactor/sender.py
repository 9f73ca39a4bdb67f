"""Senders that count: a channel closes when the last of them is gone, and its receivers learn of it.

The channel itself is the *weak* sender: sending through it does not keep it open. So a producer is given
`channel.sender()`, and the consumer, or whoever only sends now and then, the channel.
"""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from reactor.errors import ChannelClosed
from reactor.requests import Service

__all__ = ["Sender"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class _Channel(Protocol[T_contra]):
    """What a sender needs of its channel."""

    name: str

    def send(self, item: T_contra, /) -> Service[None]: ...
    def send_nowait(self, item: T_contra, /) -> None: ...
    def drop_sender(self) -> None: ...
    def lose_sender(self) -> None: ...


class Sender(Generic[T]):
    """The right to send into a channel, and the promise to say when no more will come.

    Made by `channel.sender()`, and given up by `close`, at the end of a `with` block, or by being dropped (in
    a reference cycle or a kept traceback it is dropped late: prefer `with`).
    """

    __slots__ = ("_channel", "_is_closed")

    def __init__(self, channel: _Channel[T]) -> None:
        self._channel = channel
        self._is_closed = False

    def send(self, item: T) -> Service[None]:
        """Send an item, waiting for room.

        Raises:
            ChannelClosed: the sender or the channel is closed; it was not sent.
        """
        self._check()
        return self._channel.send(item)

    def send_nowait(self, item: T) -> None:
        """Send an item without waiting.

        Raises:
            ChannelFull: there is no room.
            ChannelClosed: the sender or the channel is closed.
        """
        self._check()
        self._channel.send_nowait(item)

    def close(self) -> None:
        """Send no more. Done twice it does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._channel.drop_sender()

    def _check(self) -> None:
        if self._is_closed:
            raise ChannelClosed(f"this sender of {self._channel.name} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # In whichever thread the collector happens to run, perhaps in the middle of a send.
        if not self._is_closed:
            self._is_closed = True
            self._channel.lose_sender()
