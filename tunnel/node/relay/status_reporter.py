"""STATUS on a node's streams: the outcome of a frame, the last thing on its backward half.

Each stream carries exactly one STATUS of one length, which shows a proxy neither success nor failure. The
node where the frame ended or failed originates it, each earlier hop adds its own part, and Alice reads it.
After reporting a failure a node resets the stream, since it cannot use further content.

A node that could not open a header has no keys for a status. It sends RESET alone, and the hop before it
reports the failure. Source: docs/protocol.md, "Status" and "Error modes".
"""

from __future__ import annotations

import logging
import os

from reactor import ReadYield, Service, Sleep, WriteYield
from tunnel.errors import Disconnected, ErrorCode, MalformedMessage, NextRefused, PeerError, StreamReset
from tunnel.link.mux import MuxStream
from tunnel.node.context import NodeContext, Stream
from tunnel.node.upkeep import clock_difference
from tunnel.node.waits import drain, with_timeout
from tunnel.onion.header import Slot
from tunnel.onion.reports import originate, pass_on
from tunnel.onion.status import draw_status_wait_ms

__all__ = ["Reporter", "fault_here", "settle_beside", "wait_status"]

log = logging.getLogger("tunnel.node")


class Reporter:
    """Reports the outcome of a frame that arrived over `stream`, once.

    The first result wins. Its bytes are made once, since the keys of a slot are for one STATUS, and kept
    until they are sent: if a service is cancelled while it waits, the next report sends them. One service
    reports at a time.

    Args:
        slot: this node's slot of the header: its seed and flags determine keys and error mode.
    """

    def __init__(self, node: NodeContext, stream: Stream, slot: Slot) -> None:
        self.node = node
        self._stream = stream
        self.slot = slot
        self._began_s = node.now_s()
        self.status: bytes | None = None

    def succeed(self) -> Service[None]:
        """At the last node: report success and end the backward half. Idempotent."""
        if self.status is None:
            self.status = self._originate(None)
        yield from self.send(self.node.limits.idle_s)

    def fail(self, error: PeerError, *, next_id: bytes | None = None) -> Service[None]:
        """Report a failure of this node, or of the next one if `next_id` is given.

        No effect after an earlier report, or if the neighbour is gone or does not read.
        """
        if self._stream.error is not None or self._stream.is_answered:
            return
        try:
            if self.status is None:
                if not self.node.is_local:
                    # Otherwise the time alone would show how far away the failure was.
                    yield Sleep(draw_status_wait_ms(os.urandom(8)) / 1000)
                text = _text(error)
                if next_id is not None and error.code in (ErrorCode.BAD_HEADER, ErrorCode.EXPIRED):
                    # The next node has no keys for a status, and its clock may be the reason.
                    text = clock_difference(self.node, next_id, own=self.node.name)
                self.status = self._originate(error.code, about_next=next_id is not None, text=text)
            yield from self.send(self.node.limits.linger_s)
        except PeerError as failure:
            log.debug("a status was not sent: %s", failure)

    def pass_on(self, status: bytes) -> Service[None]:
        """At a proxy: add this hop's part to the next hop's status and send it to the previous hop.

        Raises:
            MalformedMessage: not a status; nothing is sent.
        """
        if self.status is None:
            geometry, node = self._stream.profile.geometry, self.node
            self.status = pass_on(status, self.slot, geometry, hold_ms=self._hold_ms, engine=node.engine)
        yield from self.send(self.node.limits.idle_s)

    def send(self, limit_s: float) -> Service[None]:
        """Raises PeerError (TIMEOUT): the link accepts nothing."""
        assert self.status is not None
        if not self._stream.is_answered:
            self._stream.finish()
            send = WriteYield(self._stream).call(MuxStream.send_status, self.status)
            yield from with_timeout(limit_s, send, "the link did not take the status")

    @property
    def _hold_ms(self) -> int:
        return int((self.node.now_s() - self._began_s) * 1000)

    def _originate(self, code: ErrorCode | None, *, about_next: bool = False, text: str = "") -> bytes:
        return originate(
            self.slot,
            self._stream.profile.geometry,
            code,
            hold_ms=self._hold_ms,
            engine=self.node.engine,
            about_next=about_next,
            text=text,
        )


def _text(error: PeerError) -> str:
    """The text of a status, which only Alice reads; "" for errors that their code explains."""
    return "" if isinstance(error, StreamReset | NextRefused | Disconnected) else str(error)


def fault_here() -> PeerError:
    """An internal error of this node as Alice sees it: the code without details."""
    return PeerError("", ErrorCode.INTERNAL)


def wait_status(stream: Stream) -> Service[bytes]:
    """Wait for the end of a backward half without content, and return its status.

    Raises:
        MalformedMessage: content arrived. Errors of the stream.
    """
    reader = ReadYield(stream)
    if (yield from reader.readinto(memoryview(bytearray(1)))):
        raise MalformedMessage("content on the backward half of a frame whose mode has none")
    return (yield from reader.call(MuxStream.read_status))


def settle_beside(node: NodeContext, stream: Stream) -> Service[None]:
    """Wait for the end of the backward half in a separate service; reset the stream if it takes too long.

    Resetting the stream as soon as its query is answered would make every proxy report a failure.
    """
    if not stream.is_ended:
        yield from node.scope.spawn(_settle(node, stream), name=f"{node.name} end")


def _settle(node: NodeContext, stream: Stream) -> Service[None]:
    limit_s = node.limits.linger_s
    try:
        yield from with_timeout(limit_s, _read_rest(stream), "the stream of an answered query did not end")
    except PeerError as error:
        log.debug("the stream of an answered query did not end in order: %s", error)
    finally:
        stream.reset(ErrorCode.CANCELLED)


def _read_rest(stream: Stream) -> Service[None]:
    """Read until the status. Content may precede it: the status of the reply path, forwarded by Bob."""
    yield from drain(stream)
    yield from ReadYield(stream).call(MuxStream.read_status)
