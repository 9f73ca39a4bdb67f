"""Services that are objects: one command in, one answer out, and a state in between.

`service.call(command)` is a generator like any other. `serve` makes of it one that takes its commands from a
channel, so every spawner runs it; when it ends, its result is the service object, so the state can be taken
out of the handle and served again, by the same spawner or another.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from reactor.errors import ChannelClosed
from reactor.forgotten import needs_yield_from
from reactor.requests import Service

__all__ = ["CommandService", "Receiving", "Sending", "serve"]

C_contra = TypeVar("C_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
S = TypeVar("S", bound="CommandService[Any, Any]")


class CommandService(Protocol[C_contra, R_co]):
    """A service with a state."""

    def call(self, command: C_contra, /) -> Service[R_co]:
        """Handle one command; the generator's result is the answer."""


class Receiving(Protocol[T_co]):
    """Where commands come from: `Channel` or `SharedChannel`."""

    def receive(self) -> Service[T_co]:
        """Take the next item; `ChannelClosed` at the end."""


class Sending(Protocol[T_contra]):
    """Where answers go: a channel, or its `Sender`."""

    def send(self, item: T_contra, /) -> Service[None]:
        """Send an item, waiting for room."""


@needs_yield_from
def serve(
    service: S, commands: Receiving[Any], answers: Sending[Any] | None = None, *, limit: int | None = None
) -> Service[S]:
    """Have a service object answer the commands of a channel, one after the other.

    Args:
        service: it belongs to this until the end.
        commands: until they are closed and drained.
        answers: one for each command, in order; None: the answers are dropped.
        limit: end after so many commands; None: go on.
    Returns:
        The service object, with its state.
    Raises:
        ChannelClosed: the answers are no longer wanted. One answer is lost.
        any other: what `call` raises. The command that did it is used up; the object is its maker's to keep.
    """
    done = 0
    while limit is None or done < limit:
        try:
            command = yield from commands.receive()
        except ChannelClosed:
            break
        answer = yield from service.call(command)
        if answers is not None:
            yield from answers.send(answer)
        done += 1
    return service
