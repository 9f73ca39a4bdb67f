"""Bounded queues: `Channel` between services of one thread, `SharedChannel` between any threads.

    yield from channel.send(item)
    item = yield from channel.receive()

An item goes straight to a waiting receiver without entering the queue. The item of a waiting sender is moved
into the queue by the receiver that makes room. So items and waiters keep their order, and **a send or a
receive has either happened or not**: one that is cancelled or times out has sent or taken nothing. A channel
is open until `close`.

Between threads. A service that waits for another thread is parked on a `CrossThreadWait`; a waiting thread is
a `ThreadWaiter`. The answering thread first *claims* the waiter, under the lock of the channel or handle, and
then delivers. A cancellation or a timeout claims it too, so exactly one of them wins. A receiver that is
cancelled after another thread has given it an item gets the item first and the cancellation at its next
yield; nothing is lost and nothing goes back.

Rules for changing `SharedChannel`:

1. The lock is held for a few lines that neither wait nor call out. Answers are delivered after it is
   released.
2. Live receivers are queued only while there are no items, live senders only while there is no room.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from reactor.core.forgotten import Reminder, reminded, settle
from reactor.core.requests import PARKED, Claim, Request, Service, Waiter
from reactor.core.timers import lock_timeout
from reactor.errors import ChannelClosed, ChannelEmpty, ChannelFull, Closed, TimedOut

__all__ = [
    "Channel",
    "CrossThreadWait",
    "ReceiveItem",
    "SendItem",
    "SharedChannel",
    "ThreadWaiter",
    "WaitQueue",
]

T = TypeVar("T")
_NOTHING: Final = object()


class ReceiveItem(Request):
    """Resume with the next item. One per channel, made once."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel

    def begin(self, task: Waiter) -> object:
        """See `Request`. Raises ChannelClosed: closed, and all items have been taken."""
        channel = self._channel
        if channel._items or channel.is_closed:
            return channel.receive_nowait()
        channel._receivers.append(task)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self._channel._receivers.remove(task)

    def give_back(self, item: Any) -> None:
        """Return an item whose receiver has another answer, before another receiver could have missed it."""
        self._channel._put_back(item)


class SendItem(Request):
    """Resume when the item has been taken or queued. One per send that finds no room."""

    __slots__ = ("_channel", "item", "task")

    def __init__(self, channel: Channel[Any], item: Any) -> None:
        self._channel = channel
        self.item = item
        self.task: Waiter | None = None

    def begin(self, task: Waiter) -> object:
        self.task = task
        self._channel._senders.append(self)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self._channel._senders.remove(self)


class Channel(Generic[T]):
    """A queue of at most `capacity` items, for services of one thread.

    Any number of services may send and receive; each item goes to one of them.

    Args:
        capacity: items held before a sender waits, at least 1.
        name: for messages.

    Attributes:
        receiving: the request behind `receive`.
    Raises:
        ValueError: `capacity` is less than 1, or not a whole number.
    """

    __slots__ = ("_items", "_receivers", "_senders", "capacity", "is_closed", "name", "receiving")

    def __init__(self, capacity: int, name: str = "channel") -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise ValueError(f"a channel holds at least 1 item, got capacity {capacity!r}")
        self.capacity = capacity
        self.name = name
        self.is_closed = False
        self._items: deque[T] = deque()
        self._receivers: deque[Any] = deque()
        self._senders: deque[Any] = deque()
        self.receiving = ReceiveItem(self)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def waiting_receivers(self) -> int:
        """Receivers that wait for an item. Between threads true for a moment only, as `len`."""
        return len(self._receivers)

    @property
    def waiting_senders(self) -> int:
        """Senders that wait for room. Between threads true for a moment only, as `len`."""
        return len(self._senders)

    @reminded
    def send(self, reminder: Reminder, item: T) -> Service[None]:
        """Send an item, waiting for room: `yield from channel.send(item)`.

        Raises:
            ChannelClosed: closed before the item was taken; it was not sent.
        """
        settle(reminder)
        del reminder
        if not self._offer(item):
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
            ChannelFull: the channel holds its capacity.
            ChannelClosed: the channel is closed.
        """
        if not self._offer(item):
            raise ChannelFull(f"{self.name} holds {self.capacity} items, its capacity")

    def receive_nowait(self) -> T:
        """Take the next item without waiting.

        Raises:
            ChannelEmpty: no item is waiting.
            ChannelClosed: no item is waiting, and the channel is closed.
        """
        item = self._take()
        if item is _NOTHING:
            raise ChannelEmpty(f"{self.name} is empty")
        return cast(T, item)

    def close(self) -> None:
        """Close for both sides. Idempotent.

        The items in the queue can still be received; waiting services get `ChannelClosed`.
        """
        self.is_closed = True
        while self._receivers:
            self._receivers.popleft().wake_error(self._closed())
        while self._senders:
            self._senders.popleft().task.wake_error(self._closed_before_taken())

    def _offer(self, item: T) -> bool:
        """Give an item to a receiver or to the queue. Returns False when there is no room."""
        if self.is_closed:
            raise self._closed()
        if self._receivers:
            self._receivers.popleft().wake(item)
        elif len(self._items) < self.capacity:
            self._items.append(item)
        else:
            return False
        return True

    def _take(self) -> object:
        """Receive. Returns the item or _NOTHING."""
        if not self._items:
            if self.is_closed:
                raise self._drained()
            return _NOTHING
        item = self._items.popleft()
        if self._senders:
            blocked = self._senders.popleft()
            self._items.append(blocked.item)
            blocked.task.wake()
        return item

    def _put_back(self, item: T) -> None:
        """Give an item to a waiting receiver, or make it the next one again."""
        if self._receivers:
            self._receivers.popleft().wake(item)
        else:
            self._items.appendleft(item)

    def _closed(self) -> ChannelClosed:
        return ChannelClosed(f"{self.name} is closed")

    def _closed_before_taken(self) -> ChannelClosed:
        return ChannelClosed(f"{self.name} was closed before the item was taken")

    def _drained(self) -> ChannelClosed:
        return ChannelClosed(f"{self.name} is closed and drained")

    def __repr__(self) -> str:
        closed = " closed" if self.is_closed else ""
        return f"<{type(self).__name__} {self.name!r} {len(self._items)} of {self.capacity}{closed}>"


class WaitQueue(Protocol):
    """An object that other threads answer: a `SharedChannel`, or a handle of another thread."""

    def forget(self, waiter: Any, /) -> None:
        """Remove a waiter, from any thread, if it is still there."""


class CrossThreadWait:
    """A service that waits for an answer of another thread; its task is parked on this.

    Args:
        queue: gets the wait.
        item: the item of a blocked sender.
    """

    __slots__ = ("_claim", "_queue", "item", "task")

    # For the loop, which detects services that nothing can wake.
    is_from_outside = True

    def __init__(self, task: Waiter, queue: WaitQueue, item: Any = None) -> None:
        self.task = task
        self.item = item
        self._claim = task.make_claim()
        self._queue = queue

    def claim(self) -> bool:
        """Take the right to answer, from any thread. A caller that gets True must deliver."""
        return self._claim.take(self.task)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Send the answer to the loop of the service, from any thread. Returns False when that is closed."""
        try:
            self.task.runner.post(self._arrive, value, error)
        except Closed:
            return False
        return True

    def _arrive(self, value: Any, error: BaseException | None) -> None:
        task = self.task
        if task.wait is not self:
            # The loop was closed, and ended the service by force.
            return
        if error is None:
            task.wake(value)
        else:
            task.wake_error(error)

    def undo(self, task: Waiter) -> bool:
        is_late = not self._claim.take(self)
        self._queue.forget(self)
        return is_late


class ThreadWaiter:
    """A waiting thread without a loop.

    Args:
        item: the item of a blocked sender.
    """

    __slots__ = ("_claim", "_gate", "_is_answered", "error", "item", "value")

    def __init__(self, item: Any = None) -> None:
        self.item = item
        self.value: Any = None
        self.error: BaseException | None = None
        self._claim = Claim()
        self._is_answered = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def claim(self) -> bool:
        return self._claim.take(None)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Give the answer; always True."""
        self.value = value
        self.error = error
        self._is_answered = True
        self._gate.release()
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Block until there is an answer. Returns False when the time is over; then none will come."""
        if self._gate.acquire(timeout=lock_timeout(timeout_s)):
            return True
        return not self.give_up()

    def give_up(self) -> bool:
        """Refuse any answer from now on. Returns False when there is one already."""
        if self._claim.take(self):
            return True
        if not self._is_answered:
            # The thread that has the claim delivers next.
            self._gate.acquire()
        return False


class _ReceiveShared(ReceiveItem):
    """`ReceiveItem` of a shared channel."""

    __slots__ = ()

    _channel: SharedChannel[Any]

    def begin(self, task: Waiter) -> object:
        channel = self._channel
        item = channel._take()
        if item is _NOTHING:
            wait = CrossThreadWait(task, channel)
            # Once more, now entering the wait: another thread may have sent in between.
            item = channel._take(wait)
            if item is _NOTHING:
                task.wait = wait
                return PARKED
        return item


class _SendShared(Request):
    """Send to a shared channel; resume when the item has been taken or queued. One per send."""

    __slots__ = ("_channel", "_item")

    def __init__(self, channel: SharedChannel[Any], item: Any) -> None:
        self._channel = channel
        self._item = item

    def begin(self, task: Waiter) -> object:
        channel = self._channel
        if channel._offer(self._item):
            return None
        wait = CrossThreadWait(task, channel, self._item)
        if channel._offer(self._item, wait):
            return None
        task.wait = wait
        return PARKED


class SharedChannel(Channel[T]):
    """A `Channel` for any number of threads.

    Services use `send` and `receive`, threads without a loop `send_blocking` and `receive_blocking`; both
    kinds may be mixed. The items of one sender arrive in its order. `close` and the methods that do not wait
    may be called from any thread.
    """

    __slots__ = ("_lock",)

    def __init__(self, capacity: int, name: str = "shared channel") -> None:
        super().__init__(capacity, name)
        self._lock = threading.Lock()
        self.receiving = _ReceiveShared(self)

    @reminded
    def send(self, reminder: Reminder, item: T) -> Service[None]:
        settle(reminder)
        del reminder
        # A request even when there is room: so the loop lets other services run from time to time.
        yield _SendShared(self, item)

    @reminded
    def receive(self, reminder: Reminder) -> Service[T]:
        settle(reminder)
        del reminder
        return cast(T, (yield self.receiving))

    def send_blocking(self, item: T, timeout_s: float | None = None) -> None:
        """Send an item; block this thread until there is room.

        Args:
            timeout_s: None: no limit.
        Raises:
            ChannelClosed: closed before the item was taken; it was not sent.
            TimedOut: no room became free in time; it was not sent.
            BadRequest: `timeout_s` is not a number of seconds.
        """
        if self._offer(item):
            return
        waiter = ThreadWaiter(item)
        if self._offer(item, waiter):
            return
        try:
            is_answered = waiter.wait(timeout_s)
        except BaseException:
            waiter.give_up()
            self.forget(waiter)
            raise
        if not is_answered:
            self.forget(waiter)
            raise TimedOut(f"{self.name} had no room within {timeout_s} s")
        if waiter.error is not None:
            raise waiter.error

    def receive_blocking(self, timeout_s: float | None = None) -> T:
        """Take the next item; block this thread until there is one.

        Args:
            timeout_s: None: no limit.
        Raises:
            ChannelClosed: closed, and all items have been taken.
            TimedOut: no item arrived in time.
            BadRequest: `timeout_s` is not a number of seconds.
        """
        item = self._take()
        if item is not _NOTHING:
            return cast(T, item)
        waiter = ThreadWaiter()
        item = self._take(waiter)
        if item is not _NOTHING:
            return cast(T, item)
        try:
            is_answered = waiter.wait(timeout_s)
        except BaseException:
            # Interrupted from the keyboard, perhaps with an item in hand.
            if not waiter.give_up() and waiter.error is None:
                self._put_back(waiter.value)
            self.forget(waiter)
            raise
        if not is_answered:
            self.forget(waiter)
            raise TimedOut(f"{self.name} had no item within {timeout_s} s")
        if waiter.error is not None:
            raise waiter.error
        return cast(T, waiter.value)

    def close(self) -> None:
        """See `Channel`; from any thread."""
        with self._lock:
            self.is_closed = True
            receivers = [receiver for receiver in self._receivers if receiver.claim()]
            senders = [sender for sender in self._senders if sender.claim()]
            self._receivers.clear()
            self._senders.clear()
        for receiver in receivers:
            receiver.deliver(None, self._closed())
        for sender in senders:
            sender.deliver(None, self._closed_before_taken())

    def forget(self, waiter: CrossThreadWait | ThreadWaiter) -> None:
        """Remove a waiter, from any thread, if it is still there."""
        with self._lock:
            for queue in (self._receivers, self._senders):
                if waiter in queue:
                    queue.remove(waiter)

    def _offer(self, item: T, waiter: CrossThreadWait | ThreadWaiter | None = None) -> bool:
        """Send, or enter a waiter that carries the item. Returns whether it was sent."""
        is_sent, receiver = True, None
        with self._lock:
            if self.is_closed:
                raise self._closed()
            receiver = _claim_first(self._receivers)
            if receiver is None:
                if len(self._items) < self.capacity:
                    self._items.append(item)
                else:
                    is_sent = False
                    if waiter is not None:
                        self._senders.append(waiter)
        if receiver is not None and not receiver.deliver(item):
            self._put_back(item)
        return is_sent

    def _take(self, waiter: CrossThreadWait | ThreadWaiter | None = None) -> object:
        """Receive, or enter a waiter. Returns the item or _NOTHING."""
        sender = None
        with self._lock:
            if not self._items:
                if self.is_closed:
                    raise self._drained()
                if waiter is not None:
                    self._receivers.append(waiter)
                return _NOTHING
            item = self._items.popleft()
            sender = _claim_first(self._senders)
            if sender is not None:
                self._items.append(sender.item)
        if sender is not None:
            sender.deliver(None)
        return item

    def _put_back(self, item: T) -> None:
        """Give an item to a waiting receiver, or make it the next one again, maybe one over the capacity."""
        while True:
            with self._lock:
                receiver = _claim_first(self._receivers)
                if receiver is None:
                    self._items.appendleft(item)
            if receiver is None or receiver.deliver(item):
                return


def _claim_first(queue: deque[Any]) -> Any:
    """Remove waiters up to the first that can be claimed, and return that; None: none can be claimed."""
    while queue:
        waiter = queue.popleft()
        if waiter.claim():
            return waiter
    return None
