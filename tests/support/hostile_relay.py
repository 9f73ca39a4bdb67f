"""Proxies that spoil the frames they relay, each in one way: real nodes whose relay is replaced.

Example: after `HostileRelays(monkeypatch).spoil(node, swallow_all)` the node takes every frame that it is to
relay, and forwards nothing. It serves frames that end at it as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from reactor import ReadYield, Service, Signal, WriteYield
from tunnel import Node
from tunnel.errors import ErrorCode, PeerError
from tunnel.node.context import NodeContext, Stream
from tunnel.node.relay import read_service
from tunnel.node.relay.read_service import relay
from tunnel.node.relay.status_reporter import Reporter, wait_status
from tunnel.node.waits import drain, run_with_guards
from tunnel.onion.header import Opened

__all__ = ["Frame", "HostileRelays", "Spoiler", "spoilers"]


class Frame:
    """One frame at a hostile proxy, with the honest handling of each of its parts."""

    def __init__(self, node: NodeContext, incoming: Stream, opened: Opened, reporter: Reporter) -> None:
        self.node, self.incoming, self.reporter = node, incoming, reporter
        self.slot, self.header = opened.slot, opened.next_header
        self.chunk_bytes = incoming.profile.geometry.chunk_bytes
        self.forward_layer, self.backward_layer = node.codec.relay_layers(opened.slot, incoming.profile)
        self.outgoing: Any = None

    def begin(self) -> Service[None]:
        """Open the stream to the next node, and send it the header."""
        self.outgoing = yield from self.node.links.open_stream(self.slot.next_id, self.incoming.profile)
        yield from WriteYield(self.outgoing).write_all(self.header)

    def forward(self) -> Service[None]:
        yield from relay(self.incoming, self.outgoing, self.forward_layer.decrypt, self.chunk_bytes)
        self.outgoing.finish()

    def backward(self) -> Service[None]:
        yield from relay(self.outgoing, self.incoming, self.backward_layer.decrypt, self.chunk_bytes)

    def status(self) -> Service[None]:
        yield from self.reporter.pass_on((yield from wait_status(self.outgoing)))

    def first_chunk(self, *, is_backward: bool = False) -> Service[None]:
        """Relay the first chunk of one half, and nothing else."""
        source, sink = (self.outgoing, self.incoming) if is_backward else (self.incoming, self.outgoing)
        layer = self.backward_layer if is_backward else self.forward_layer
        chunk = bytearray(self.chunk_bytes)
        yield from ReadYield(source).read_exactly(memoryview(chunk))
        layer.decrypt(memoryview(chunk), 0)
        yield from WriteYield(sink).write_all(chunk)

    def idle(self) -> Service[None]:
        """Do nothing more, until the neighbour gives up."""
        self.incoming.failed = failed = Signal()
        while self.incoming.error is None and not self.incoming.is_ended:
            yield failed

    def end(self) -> None:
        if self.outgoing is not None:
            self.outgoing.reset(ErrorCode.CANCELLED)


Spoiler: TypeAlias = Callable[[Frame], Service[None]]


class HostileRelays:
    """Replaces the relays of some nodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._spoilers: dict[int, Spoiler] = {}  # by id() of the context
        self.spoilt = 0  # frames
        honest = read_service.relay_frame

        def relay_frame(
            node: NodeContext, incoming: Stream, opened: Opened, reporter: Reporter
        ) -> Service[None]:
            spoiler = self._spoilers.get(id(node))
            if spoiler is None:
                yield from honest(node, incoming, opened, reporter)
                return
            self.spoilt += 1
            frame = Frame(node, incoming, opened, reporter)
            try:
                yield from spoiler(frame)
            finally:
                frame.end()

        monkeypatch.setattr(read_service, "relay_frame", relay_frame)

    def spoil(self, node: Node, spoiler: Spoiler) -> None:
        self._spoilers[id(node.context)] = spoiler

    def spare(self, node: Node) -> None:
        self._spoilers.pop(id(node.context), None)


# --- the ways


def _both(forward: Service[None], *backward: Service[None]) -> Service[None]:
    """Run the two halves of a frame beside each other, each part of the backward half after the other."""

    def one_by_one() -> Service[None]:
        for part in backward:
            yield from part

    def main() -> Service[None]:
        done = Signal()

        def run() -> Service[None]:
            yield from forward
            done.set()

        def back() -> Service[None]:
            yield from one_by_one()
            yield done

        yield from run_with_guards(back(), run())

    yield from main()


class _Flipped:
    """A layer that changes one bit of each chunk."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def decrypt(self, chunk: memoryview, number: int) -> None:
        self._layer.decrypt(chunk, number)
        chunk[100] ^= 1


def flip_forward(frame: Frame) -> Service[None]:
    frame.forward_layer = _Flipped(frame.forward_layer)  # type: ignore[assignment]
    yield from relay_all(frame)


def flip_backward(frame: Frame) -> Service[None]:
    frame.backward_layer = _Flipped(frame.backward_layer)  # type: ignore[assignment]
    yield from relay_all(frame)


def relay_all(frame: Frame) -> Service[None]:
    yield from frame.begin()
    yield from _both(frame.forward(), frame.backward(), frame.status())


def hold_all(frame: Frame) -> Service[None]:
    """Take the header, and read nothing more."""
    yield from frame.idle()


def swallow_all(frame: Frame) -> Service[None]:
    """Take everything, and forward nothing."""
    yield from drain(frame.incoming)
    yield from frame.idle()


def stop_after_header(frame: Frame) -> Service[None]:
    yield from frame.begin()
    yield from frame.idle()


def swallow_forward(frame: Frame) -> Service[None]:
    """Forward no content, but what comes back: the others' reports accuse nobody before them."""
    yield from frame.begin()
    yield from _both(drain(frame.incoming), frame.backward(), frame.status(), frame.idle())


def swallow_backward(frame: Frame) -> Service[None]:
    """Forward the query, and nothing of what comes back."""
    yield from frame.begin()
    yield from _both(frame.forward(), drain(frame.outgoing), frame.idle())


def end_forward_early(frame: Frame) -> Service[None]:
    yield from frame.begin()
    yield from frame.first_chunk()
    frame.outgoing.finish()
    yield from _both(drain(frame.incoming), frame.backward(), frame.status())


def end_backward_early(frame: Frame) -> Service[None]:
    """Cut off what comes back, and pass on that it went well."""
    yield from frame.begin()

    def backward() -> Service[None]:
        yield from drain(frame.outgoing)
        frame.incoming.finish()

    yield from _both(frame.forward(), backward(), frame.status())


def garble_status(frame: Frame) -> Service[None]:
    yield from frame.begin()

    def status() -> Service[None]:
        yield from wait_status(frame.outgoing)
        yield from frame.reporter.pass_on(bytes(frame.incoming.profile.geometry.status_bytes))

    yield from _both(frame.forward(), frame.backward(), status())


def drop_status(frame: Frame) -> Service[None]:
    """End the backward half in order, and then say nothing."""
    yield from frame.begin()

    def backward() -> Service[None]:
        yield from frame.backward()
        frame.incoming.finish()

    yield from _both(frame.forward(), backward(), frame.idle())


def reset_with(code: ErrorCode) -> Spoiler:
    """End the frame with any code, on both sides, without a report."""

    def reset(frame: Frame) -> Service[None]:
        yield from frame.begin()
        yield from frame.first_chunk()
        frame.outgoing.reset(code)
        frame.incoming.reset(code)

    return reset


def report(code: ErrorCode, *, about_next: bool) -> Spoiler:
    """Report a failure that did not happen, of itself or of the next node."""

    def lie(frame: Frame) -> Service[None]:
        error = PeerError("", code)
        yield from frame.reporter.fail(error, next_id=frame.slot.next_id if about_next else None)
        raise error

    return lie


spoilers: dict[str, Spoiler] = {
    "flip a bit": flip_forward,
    "flip a bit of what comes back": flip_backward,
    "hold everything": hold_all,
    "swallow everything": swallow_all,
    "stop after the header": stop_after_header,
    "swallow the query": swallow_forward,
    "swallow the answer": swallow_backward,
    "end the query early": end_forward_early,
    "end the answer early": end_backward_early,
    "garble the status": garble_status,
    "drop the status": drop_status,
    **{f"reset with {code.name}": reset_with(code) for code in ErrorCode},
    **{f"report {code.name}": report(code, about_next=False) for code in ErrorCode},
    **{f"report {code.name} of the next": report(code, about_next=True) for code in ErrorCode},
}
"""By what they do."""
