"""All that a proxy sees of a frame: its slot, and each event on its two streams, with time and size.

`Recorder` writes down the calls of streams and of the relay while it is active, so it works with nodes of
this process only. A view has no ids of neighbours and no bytes: the attacker is to learn from what a changed
network shows him as well, and bytes are tested in tests/tunnel/attacks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from types import TracebackType
from typing import Any, Final, Self
from unittest.mock import patch

from reactor import Service
from tunnel.geometry import Profile
from tunnel.link.mux import MuxStream
from tunnel.node.context import NodeContext, Stream
from tunnel.node.relay import read_service
from tunnel.node.relay.status_reporter import Reporter
from tunnel.onion.header import HOUR_S, Opened, Slot

__all__ = ["Event", "HopView", "Knowledge", "Recorder", "features_of"]

_RECEIVED: Final = {
    "take_data": "data",
    "take_credit": "credit",
    "take_fin": "fin",
    "take_status": "status",
    "take_reset": "reset",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One cell of a stream.

    Attributes:
        time_s: on a clock of its own. is_received: or sent. kind: "data", "credit", "fin", "status" or
            "reset". size: bytes of content, or of credit; else 0.
    """

    time_s: float
    is_received: bool
    kind: str
    size: int


@dataclass(slots=True)
class HopView:
    """One frame at one proxy.

    Attributes:
        node, previous: ids of the proxy and of the node before it: to label the view, not to learn from.
        before, behind: the events of the streams to the previous and to the next node, in order of time.
    """

    node: bytes
    previous: bytes
    slot: Slot
    profile: Profile
    before: list[Event]
    behind: list[Event] = field(default_factory=list)


class Recorder:
    """A context manager that records while it is active. All nodes run in one thread.

    Attributes:
        views: of the frames that proxies have begun to relay, in this order.
    """

    def __init__(self) -> None:
        self.views: list[HopView] = []
        # The streams are kept with their events, or another one could get the same number.
        self._events: dict[int, tuple[Stream, list[Event]]] = {}
        self._undo = ExitStack()

    def take(self) -> list[HopView]:
        """Return the views so far, and forget them."""
        views, self.views = self.views, []
        self._events.clear()
        return views

    def _of(self, stream: Stream) -> list[Event]:
        return self._events.setdefault(id(stream), (stream, []))[1]

    def _note(self, stream: Stream, kind: str, size: int = 0, *, is_received: bool = False) -> None:
        self._of(stream).append(Event(time.perf_counter(), is_received, kind, size))

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for name, kind in _RECEIVED.items():
                self._replace(undo, MuxStream, name, self._receiving(getattr(MuxStream, name), kind))
            self._replace(undo, MuxStream, "write", self._writing(MuxStream.write))
            self._replace(undo, MuxStream, "take_owed_credit", self._granting(MuxStream.take_owed_credit))
            self._replace(undo, MuxStream, "finish", self._finishing(MuxStream.finish))
            self._replace(undo, MuxStream, "send_status", self._reporting(MuxStream.send_status))
            self._replace(undo, MuxStream, "reset", self._resetting(MuxStream.reset))
            self._replace(undo, read_service, "relay_frame", self._beginning(read_service.relay_frame))
            self._replace(undo, read_service, "relay", self._joining(read_service.relay))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @staticmethod
    def _replace(undo: ExitStack, owner: Any, name: str, function: Callable[..., Any]) -> None:
        undo.enter_context(patch.object(owner, name, function))

    # -- what a stream does, with a note of it ------------------------------------------------------------

    def _receiving(self, call: Callable[..., None], kind: str) -> Callable[..., None]:
        def received(stream: Stream, *arguments: Any) -> None:
            size = arguments[0] if kind == "credit" else len(arguments[0]) if kind == "data" else 0
            self._note(stream, kind, size, is_received=True)
            call(stream, *arguments)

        return received

    def _writing(self, call: Callable[[Stream, Any], int]) -> Callable[[Stream, Any], int]:
        def write(stream: Stream, data: bytes | bytearray | memoryview) -> int:
            if count := call(stream, data):
                self._note(stream, "data", count)
            return count

        return write

    def _granting(self, call: Callable[[Stream], int]) -> Callable[[Stream], int]:
        def take_owed_credit(stream: Stream) -> int:
            if count := call(stream):
                self._note(stream, "credit", count)
            return count

        return take_owed_credit

    def _finishing(self, call: Callable[[Stream], None]) -> Callable[[Stream], None]:
        def finish(stream: Stream) -> None:
            if stream.can_write:
                self._note(stream, "fin")
            call(stream)

        return finish

    def _reporting(self, call: Callable[[Stream, bytes], None]) -> Callable[[Stream, bytes], None]:
        def send_status(stream: Stream, status: bytes) -> None:
            call(stream, status)
            self._note(stream, "status")

        return send_status

    def _resetting(self, call: Callable[..., None]) -> Callable[..., None]:
        def reset(stream: Stream, code: Any) -> None:
            if not stream.is_ended:
                self._note(stream, "reset")
            call(stream, code)

        return reset

    # -- what the relay does ------------------------------------------------------------------------------

    def _beginning(self, call: Callable[..., Service[None]]) -> Callable[..., Service[None]]:
        def relay_frame(
            node: NodeContext, incoming: Stream, opened: Opened, reporter: Reporter
        ) -> Service[None]:
            view = HopView(
                node.descriptor.node_id, incoming.peer_id, opened.slot, incoming.profile, self._of(incoming)
            )
            self.views.append(view)
            return call(node, incoming, opened, reporter)

        return relay_frame

    def _joining(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def relay(source: Stream, sink: Stream, *arguments: Any) -> Any:
            events = self._of(source)
            for view in self.views:
                if view.before is events:
                    view.behind = self._of(sink)
            return call(source, sink, *arguments)

        return relay


class Knowledge(IntEnum):
    """How much of a view an attacker uses; each includes those before."""

    FORWARD = 0
    COUNTS = 1
    TIMES = 2


def features_of(view: HopView, knowledge: Knowledge, wall_s: float) -> dict[Hashable, float]:
    """What a view shows: slot fields and sizes; the counts of both halves; the times, in milliseconds.

    Args:
        wall_s: when the frame came, in seconds since 1970: expiries count from there.
    """
    slot = view.slot
    found: dict[Hashable, float] = {
        "profile": view.profile.byte,
        "expiry": (slot.expiry - int(wall_s)) // HOUR_S,
        "delay": slot.delay_10ms,
        "flags": slot.flags,
        "address": any(slot.next_address),
    }
    # The frame itself comes from the node before and goes to the node behind; all else is an answer to it.
    for side, events, is_received in (("in", view.before, True), ("out", view.behind, False)):
        cells = [event for event in events if event.is_received is is_received]
        found.update(_counts(f"{side}, forward", [cell for cell in cells if cell.kind in ("data", "fin")]))
    if knowledge >= Knowledge.COUNTS:
        for name, cells in _directions(view):
            found.update(_counts(name, cells))
    if knowledge >= Knowledge.TIMES and view.before:
        began_s = view.before[0].time_s
        for name, cells in _directions(view):
            found.update(_times(name, cells, began_s))
    return found


def _directions(view: HopView) -> Iterator[tuple[str, list[Event]]]:
    for side, events in (("before", view.before), ("behind", view.behind)):
        for is_received in (True, False):
            cells = [event for event in events if event.is_received is is_received]
            yield f"{side}, {'received' if is_received else 'sent'}", cells


def _counts(name: str, cells: Sequence[Event]) -> Iterator[tuple[Hashable, float]]:
    numbers = Counter(cell.kind for cell in cells)
    yield from (((name, kind, "count"), number) for kind, number in numbers.items())
    for kind in ("data", "credit"):
        yield (name, kind, "bytes"), sum(cell.size for cell in cells if cell.kind == kind)


def _times(name: str, cells: Sequence[Event], began_s: float) -> Iterator[tuple[Hashable, float]]:
    """The first and the last cell of each kind since the beginning, and the longest pause between cells."""
    for cell in reversed(cells):
        yield (name, cell.kind, "first ms"), 1e3 * (cell.time_s - began_s)
    for cell in cells:
        yield (name, cell.kind, "last ms"), 1e3 * (cell.time_s - began_s)
    pauses = [1e3 * (later.time_s - cell.time_s) for cell, later in pairwise(cells)]
    yield (name, "pause ms"), max(pauses, default=0.0)
