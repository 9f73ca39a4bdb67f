"""A bounded queue between threads: services of different reactors, and threads without one.

It behaves like `Channel`: an item goes straight to a waiting receiver, order is kept, and a send or a receive
has either happened or not. A receiver that is cancelled after another thread gave it an item gets the item
first and the cancellation at its next yield; nothing is lost and nothing goes back.

A service that waits for another thread is parked on a `CrossThreadWait`; a waiting thread is a
`ThreadWaiter`. The answering thread first *claims* the waiter, under the lock of the channel or handle, and
then delivers. A cancellation or a timeout claims it too, so exactly one of them wins. A cancellation that
comes second is thrown at the next yield of the service.

Rules for changing this file:

1. The lock is held for a few lines that do not wait, call out or run a destructor of a user's object.
   Answers are delivered after it is released.
2. A destructor may run at any line, in any thread, also inside the lock. So a dropped `Sender` is only noted
   (`_lost`), and each holder of the lock looks for such notes after releasing it.
3. Live receivers are queued only while there are no items, live senders only while there is no room.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from reactor.core.forgotten import Reminder, reminded, settle
from reactor.core.requests import PARKED, Claim, Request, Service, Waiter
from reactor.core.timers import lock_timeout
from reactor.errors import ChannelClosed, ChannelEmpty, ChannelFull, Closed, TimedOut
from reactor.sync.channel import Sender, check_capacity

__all__ = ["CrossThreadWait", "ReceiveShared", "SendShared", "SharedChannel", "ThreadWaiter", "WaitQueue"]


class WaitQueue(Protocol):
    """What is waited for."""

    def forget(self, waiter: Any, /) -> None:
        """Take a waiter out, from any thread, if it is still in there."""


class CrossThreadWait:
    """What a service is parked on while another thread is to answer.

    Args:
        task: who waits.
        home: where it is entered, and can be taken out again.
        item: what a blocked sender wants to send.
    """

    __slots__ = ("_claim", "_home", "item", "task")

    # For the loop, which tells a service that nobody can wake any more.
    is_from_outside = True

    def __init__(self, task: Waiter, home: WaitQueue, item: Any = None) -> None:
        self.task = task
        self.item = item
        self._claim = task.make_claim()
        self._home = home

    def claim(self) -> bool:
        """Say that the answer is ours to give, from any thread. Once claimed it must be delivered."""
        return self._claim.take(self.task)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Send the answer over, from any thread. Returns False when the service's loop is closed."""
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
        self._home.forget(self)
        return is_late


class ThreadWaiter:
    """A thread that waits; for threads without a loop.

    Args:
        item: what a blocked sender wants to send.
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
        """Say that the answer is ours to give. Once claimed it must be delivered."""
        return self._claim.take(None)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Give the answer; always True."""
        self.value = value
        self.error = error
        self._is_answered = True
        self._gate.release()
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Block until there is an answer. Returns False when the time is over; none will come then."""
        if self._gate.acquire(timeout=lock_timeout(timeout_s)):
            return True
        return not self.give_up()

    def give_up(self) -> bool:
        """Want no answer any more. Returns False when one is there already."""
        if self._claim.take(self):
            return True
        if not self._is_answered:
            # On its way: whoever claimed delivers next.
            self._gate.acquire()
        return False


T = TypeVar("T")
_NOTHING: Final = object()


class ReceiveShared(Request):
    """Resume with the next item. One per channel, made once."""

    __slots__ = ("channel",)

    def __init__(self, channel: SharedChannel[Any]) -> None:
        self.channel = channel

    def begin(self, task: Waiter) -> object:
        """Answer with an item, or park the task. For the runner."""
        channel = self.channel
        item = channel._take(None)
        if item is not _NOTHING:
            return item
        crossing = CrossThreadWait(task, channel)
        item = channel._take(crossing)
        if item is not _NOTHING:
            return item
        task.wait = crossing
        return PARKED

    def give_back(self, item: Any) -> None:
        """Undo a receive whose item nobody wants, before anybody could have seen it missing."""
        self.channel._put_back(item)


class SendShared(Request):
    """Resume when the item has been taken or queued. One per send."""

    __slots__ = ("_channel", "_item")

    def __init__(self, channel: SharedChannel[Any], item: Any) -> None:
        self._channel = channel
        self._item = item

    def begin(self, task: Waiter) -> object:
        """Send, or park the task. For the runner."""
        channel = self._channel
        if channel._offer(self._item, None):
            return None
        crossing = CrossThreadWait(task, channel, self._item)
        if channel._offer(self._item, crossing):
            return None
        task.wait = crossing
        return PARKED


class SharedChannel(Generic[T]):
    """A queue of at most `capacity` items, for any number of threads.

    Services use `send` and `receive`, threads without a loop `send_blocking` and `receive_blocking`; both
    kinds may be mixed. What one sender sends arrives in its order.

    Args:
        capacity: items held before a sender waits, at least 1.
        name: for messages.
    Raises:
        ValueError: `capacity` is less than 1, or not a whole number.
    """

    __slots__ = (
        "_items",
        "_lock",
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
        self.name = name if name is not None else "shared channel"
        self.is_closed = False
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._receivers: deque[CrossThreadWait | ThreadWaiter] = deque()
        self._senders: deque[CrossThreadWait | ThreadWaiter] = deque()
        self._sender_count = 0
        self._lost: deque[None] = deque()
        self.receiving = ReceiveShared(self)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def waiting_receivers(self) -> int:
        """How many wait for an item, and have none on its way to them. True at a moment only, as `len`."""
        return len(self._receivers)

    @property
    def waiting_senders(self) -> int:
        """How many wait for room. True at a moment only, as `len`."""
        return len(self._senders)

    # For services.

    @reminded
    def send(self, reminder: Reminder, item: T) -> Service[None]:
        """Send an item, waiting for room: `yield from channel.send(item)`.

        Raises:
            ChannelClosed: closed before the item was taken; it was not sent.
        """
        settle(reminder)
        del reminder
        # Always a request, also when there is room: the loop sees to it that others get their turn.
        yield SendShared(self, item)

    @reminded
    def receive(self, reminder: Reminder) -> Service[T]:
        """Take the next item, waiting for one: `item = yield from channel.receive()`.

        Raises:
            ChannelClosed: closed, and all items have been taken.
        """
        settle(reminder)
        del reminder
        return cast(T, (yield self.receiving))

    # For threads that may block.

    def send_blocking(self, item: T, timeout_s: float | None = None) -> None:
        """Send an item; block this thread until there is room.

        Args:
            timeout_s: None: for ever. BadRequest: not a number of seconds.
        Raises:
            ChannelClosed: closed before the item was taken; it was not sent.
            TimedOut: there was no room in time; it was not sent.
        """
        if self._offer(item, None):
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
            timeout_s: None: for ever. BadRequest: not a number of seconds.
        Raises:
            ChannelClosed: closed, and all items have been taken.
            TimedOut: none came in time.
        """
        item = self._take(None)
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

    # For both.

    def send_nowait(self, item: T) -> None:
        """Send an item without waiting.

        Raises:
            ChannelFull: there is no room.
            ChannelClosed: the channel is closed.
        """
        if not self._offer(item, None):
            raise ChannelFull(f"{self.name} holds {self.capacity} items, its capacity")

    def receive_nowait(self) -> T:
        """Take the next item without waiting.

        Raises:
            ChannelEmpty: there is none.
            ChannelClosed: there is none, and the channel is closed.
        """
        item = self._take(None)
        if item is _NOTHING:
            raise ChannelEmpty(f"{self.name} is empty")
        return cast(T, item)

    def close(self) -> None:
        """Close for both sides, from any thread.

        What is in the queue can still be received; who waits gets `ChannelClosed`. Done twice it does
        nothing.
        """
        with self._lock:
            receivers, senders = self._close_locked()
        self._deliver_close(receivers, senders)

    def sender(self) -> Sender[T]:
        """Make a sender that keeps the channel open; it closes with the last of them. See `Sender`.

        Raises:
            ChannelClosed: it is closed.
        """
        with self._lock:
            is_closed = self.is_closed
            if not is_closed:
                self._sender_count += 1
        if is_closed:
            raise ChannelClosed(f"{self.name} is closed")
        return Sender(self)

    # The inside.

    def _offer(self, item: T, waiter: CrossThreadWait | ThreadWaiter | None) -> bool:
        """Send, or enter a waiter that carries the item. Returns whether it was sent."""
        is_sent, receiver = True, None
        with self._lock:
            is_closed = self.is_closed
            if not is_closed:
                receiver = _claim_first(self._receivers)
                if receiver is None:
                    if len(self._items) < self.capacity:
                        self._items.append(item)
                    else:
                        is_sent = False
                        if waiter is not None:
                            self._senders.append(waiter)
        if is_closed:
            raise ChannelClosed(f"{self.name} is closed")
        if receiver is not None and not receiver.deliver(item):
            self._put_back(item)
        if self._lost:
            self._reap()
        return is_sent

    def _take(self, waiter: CrossThreadWait | ThreadWaiter | None) -> object:
        """Receive, or enter a waiter. Returns the item or _NOTHING."""
        item: object = _NOTHING
        sender = None
        with self._lock:
            if self._items:
                item = self._items.popleft()
                sender = _claim_first(self._senders)
                if sender is not None:
                    self._items.append(sender.item)
            elif waiter is not None and not self.is_closed:
                self._receivers.append(waiter)
            is_closed = self.is_closed
        if sender is not None:
            sender.deliver(None)
        if self._lost:
            self._reap()
        if item is _NOTHING and is_closed:
            raise ChannelClosed(f"{self.name} is closed and drained")
        return item

    def _put_back(self, item: T) -> None:
        """Make an item the next again, or give it to who waits. It may be one over the capacity."""
        while True:
            with self._lock:
                receiver = _claim_first(self._receivers)
                if receiver is None:
                    self._items.appendleft(item)
            if receiver is None or receiver.deliver(item):
                break
        if self._lost:
            self._reap()

    def forget(self, waiter: CrossThreadWait | ThreadWaiter) -> None:
        """Take out a waiter that is claimed by itself. For the runner."""
        with self._lock:
            for queue in (self._receivers, self._senders):
                if waiter in queue:
                    queue.remove(waiter)
        if self._lost:
            self._reap()

    def drop_sender(self) -> None:
        """Take note that a sender is gone. For `Sender`."""
        self._lost.append(None)
        self._reap()

    # At any line of any thread.
    lose_sender = drop_sender

    def _reap(self) -> None:
        """Count the senders that are gone; after the last one, close.

        Whoever finds the lock taken may leave: its holder looks again after releasing it.
        """
        while self._lost and self._lock.acquire(blocking=False):
            receivers = senders = ()
            try:
                while self._lost:
                    self._lost.popleft()
                    self._sender_count -= 1
                    if self._sender_count == 0:
                        receivers, senders = self._close_locked()
            finally:
                self._lock.release()
            self._deliver_close(receivers, senders)

    def _close_locked(self) -> tuple[Any, Any]:
        self.is_closed = True
        waiting = []
        for queue in (self._receivers, self._senders):
            waiting.append([waiter for waiter in queue if waiter.claim()])
            queue.clear()
        return waiting[0], waiting[1]

    def _deliver_close(self, receivers: Any, senders: Any) -> None:
        for receiver in receivers:
            receiver.deliver(None, ChannelClosed(f"{self.name} was closed"))
        for sender in senders:
            sender.deliver(None, ChannelClosed(f"{self.name} was closed before the item was taken"))

    def __repr__(self) -> str:
        closed = " closed" if self.is_closed else ""
        return f"<SharedChannel {self.name!r} {len(self._items)} of {self.capacity}{closed}>"


def _claim_first(queue: deque[CrossThreadWait | ThreadWaiter]) -> CrossThreadWait | ThreadWaiter | None:
    """Take out the first waiter that is still there to be answered."""
    while queue:
        waiter = queue.popleft()
        if waiter.claim():
            return waiter
    return None
