"""A bounded queue between services of one thread. Between threads: shared_channel.py.

    yield from channel.send(item)
    item = yield from channel.receive()

An item goes straight to a waiting receiver without entering the queue. The item of a waiting sender is moved
into the queue by the receiver that makes room. So the order of items and of waiters is kept, and **a send or
a receive has either happened or not**: one that is cancelled or times out has sent or taken nothing.

A `Sender` counts: the channel closes with its last sender, and receivers notice. The channel itself is the
*weak* sender, which does not keep it open. Producers get `channel.sender()`; the consumer and occasional
senders use the channel.
"""

from __future__ import annotations

import contextlib
from collections import deque
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from reactor.core.forgotten import Reminder, reminded, settle
from reactor.core.requests import PARKED, Request, Service, Waiter
from reactor.errors import ChannelClosed, ChannelEmpty, ChannelFull, Closed

__all__ = ["Channel", "ReceiveCounted", "ReceiveItem", "SendItem", "Sender", "check_capacity"]


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


class ReceiveItem(Request):
    """Resume with the next item. One per channel, made once."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel

    def begin(self, task: Waiter) -> object:
        """Answer with an item, or park the task. For the runner."""
        channel = self._channel
        if channel._items or channel.is_closed:
            return channel.receive_nowait()
        channel._receivers.append(task)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self._channel._receivers.remove(task)

    def give_back(self, item: Any) -> None:
        """Undo a receive whose item nobody wants, before anybody could have seen it missing."""
        channel = self._channel
        if channel._receivers:
            channel._receivers.popleft().wake(item)
        else:
            channel._items.appendleft(item)


class ReceiveCounted(ReceiveItem):
    """The same for a channel whose senders count: a dropped one is noticed by whoever would wait."""

    __slots__ = ()

    def begin(self, task: Waiter) -> object:
        answer = super().begin(task)
        # After parking: whoever drops a sender looks for parked receivers after taking note of it.
        if answer is PARKED and self._channel._lost:
            self._channel._reap()
        return answer


class SendItem(Request):
    """Resume when the item has been taken. One per blocked send."""

    __slots__ = ("_channel", "item", "task")

    def __init__(self, channel: Channel[Any], item: Any) -> None:
        self._channel = channel
        self.item = item
        self.task: Waiter | None = None

    def begin(self, task: Waiter) -> object:
        """Park the task. For the runner."""
        self.task = task
        self._channel._senders.append(self)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self._channel._senders.remove(self)


def check_capacity(capacity: object) -> None:
    """Refuse what is not a number of items. Raises ValueError."""
    if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
        raise ValueError(f"a channel holds at least 1 item, got capacity {capacity!r}")


class Channel(Generic[T]):
    """A queue of at most `capacity` items.

    Any number of services may send and receive; each item goes to one of them.

    Args:
        capacity: items held before a sender waits, at least 1.
        name: for messages.

    Attributes:
        receiving: the request behind `receive`.
    Raises:
        ValueError: `capacity` is less than 1, or not a whole number.
    """

    __slots__ = (
        "_items",
        "_lost",
        "_receivers",
        "_sender_count",
        "_senders",
        "capacity",
        "is_closed",
        "name",
        "receiving",
    )

    def __init__(self, capacity: int, name: str | None = None) -> None:
        check_capacity(capacity)
        self.capacity = capacity
        self.name = name if name is not None else "channel"
        self.is_closed = False
        self._items: deque[T] = deque()
        self._receivers: deque[Waiter] = deque()
        self._senders: deque[SendItem] = deque()
        self._sender_count = 0
        self._lost: deque[None] = deque()
        self.receiving = ReceiveItem(self)

    def __len__(self) -> int:
        return len(self._items)

    @reminded
    def send(self, reminder: Reminder, item: T) -> Service[None]:
        """Send an item, waiting for room: `yield from channel.send(item)`.

        Raises:
            ChannelClosed: closed before the item was taken; it was not sent.
        """
        settle(reminder)
        del reminder
        if len(self._items) < self.capacity or self.is_closed:
            self.send_nowait(item)
        else:
            yield SendItem(self, item)

    @reminded
    def receive(self, reminder: Reminder) -> Service[T]:
        """Take the next item, waiting for one: `item = yield from channel.receive()`.

        Raises:
            ChannelClosed: closed, and all items have been taken.
        """
        settle(reminder)
        del reminder
        if self._items or self.is_closed:
            return self.receive_nowait()
        item: T = yield self.receiving
        return item

    def send_nowait(self, item: T) -> None:
        """Send an item without waiting.

        Raises:
            ChannelFull: there is no room.
            ChannelClosed: the channel is closed.
        """
        if self.is_closed:
            raise ChannelClosed(f"{self.name} is closed")
        if self._receivers:
            self._receivers.popleft().wake(item)
        elif len(self._items) < self.capacity:
            self._items.append(item)
        else:
            raise ChannelFull(f"{self.name} holds {self.capacity} items, its capacity")

    def receive_nowait(self) -> T:
        """Take the next item without waiting.

        Raises:
            ChannelEmpty: there is none.
            ChannelClosed: there is none, and the channel is closed.
        """
        if not self._items:
            if self.is_closed:
                raise ChannelClosed(f"{self.name} is closed and drained")
            raise ChannelEmpty(f"{self.name} is empty")
        item = self._items.popleft()
        if self._senders:
            blocked = self._senders.popleft()
            self._items.append(blocked.item)
            assert blocked.task is not None
            blocked.task.wake()
        return item

    def close(self) -> None:
        """Close for both sides.

        What is in the queue can still be received; who waits gets `ChannelClosed`. Done twice it does
        nothing.
        """
        if self.is_closed:
            return
        self.is_closed = True
        while self._receivers:
            self._receivers.popleft().wake_error(ChannelClosed(f"{self.name} was closed"))
        while self._senders:
            task = self._senders.popleft().task
            assert task is not None
            task.wake_error(ChannelClosed(f"{self.name} was closed before the item was taken"))

    def sender(self) -> Sender[T]:
        """Make a sender that keeps the channel open; it closes with the last of them. See `Sender`.

        Raises:
            ChannelClosed: it is closed.
        """
        if self.is_closed:
            raise ChannelClosed(f"{self.name} is closed")
        self._sender_count += 1
        if not isinstance(self.receiving, ReceiveCounted):
            self.receiving = ReceiveCounted(self)
        return Sender(self)

    def drop_sender(self) -> None:
        """Count a sender that was closed. For `Sender`."""
        self._sender_count -= 1
        if self._sender_count == 0:
            self.close()

    def lose_sender(self) -> None:
        """Take note of a sender that was dropped, at any line of any thread. For `Sender`."""
        self._lost.append(None)
        # IndexError: nobody waits, and who comes will look. Closed: who waited is being ended.
        with contextlib.suppress(IndexError, Closed):
            self._receivers[0].runner.post(self._reap)

    def _reap(self) -> None:
        while self._lost:
            self._lost.popleft()
            self.drop_sender()

    def __repr__(self) -> str:
        closed = " closed" if self.is_closed else ""
        return f"<Channel {self.name!r} {len(self._items)} of {self.capacity}{closed}>"
