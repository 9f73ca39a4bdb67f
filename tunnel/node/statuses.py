"""STATUS on the streams of a node: how a frame went, as the last thing on its backward half.

Once per stream, always sent, and of one length: to a proxy success looks like failure. The node where a frame
ended or failed originates it, each hop before adds its own, and Alice reads it. A node that has told a
failure resets the stream after it: what is still coming has nowhere to go.

A node that could not open a header has no keys to tell anything with, and sends RESET alone; the neighbour
before it tells on its behalf. Source: docs/protocol.md, "Status" and "Error modes".
"""

from __future__ import annotations

import logging
import os

from reactor import ReadYield, Service, Sleep, TimedOut, WriteYield, timeout_after
from tunnel.errors import Disconnected, ErrorCode, MalformedMessage, NextRefused, PeerError, StreamReset
from tunnel.link.mux import MuxStream
from tunnel.modes import NOERR_FLAG, XORERR_FLAG
from tunnel.node.context import NodeContext, Stream
from tunnel.onion.header import Command, Slot
from tunnel.onion.status import StatusKeys, draw_status_wait_ms, originate_status, wrap_status
from tunnel.onion.xor_codes import add_xor_code, raise_xor_code, random_status

__all__ = ["Reporter", "settle_beside", "wait_status"]

log = logging.getLogger("tunnel.node")


class Reporter:
    """Tells, once, how a frame went that came in over `stream`.

    Args:
        slot: what this node opened of the frame's header: its seed and flags say how to tell.
    """

    def __init__(self, node: NodeContext, stream: Stream, slot: Slot) -> None:
        self._node = node
        self._stream = stream
        self._slot = slot
        self._began_s = node.now_s()
        self._is_done = False

    def succeed(self) -> Service[None]:
        """At the last node: the frame is here, all is well. Ends the backward half. Again: nothing."""
        if not self._is_done:
            yield from self._send(self._originate(None, about_next=False, text=""))

    def fail(self, error: PeerError, *, about_next: bool = False) -> Service[None]:
        """Tell a failure, of this node's own or of the node behind it. Without effect once something is told.

        A neighbour that is gone, or does not listen, is not told: that is no further error.
        """
        if self._is_done or self._stream.error is not None:
            return
        try:
            if not self._node.is_local:
                # Else the time alone would say how far away the failure was.
                yield Sleep(draw_status_wait_ms(os.urandom(8)) / 1000)
            status = self._originate(error.code, about_next=about_next, text=_text(error))
            yield from timeout_after(self._node.limits.linger_s, self._send(status))
        except (PeerError, TimedOut) as failure:
            log.debug("a status was not sent: %s", failure)

    def pass_on(self, status: bytes) -> Service[None]:
        """At a proxy: add this hop's own to the status of the next, and hand it to the one before."""
        if not self._is_done:
            yield from self._send(self._wrap(status))

    def _send(self, status: bytes) -> Service[None]:
        self._is_done = True
        self._stream.finish()
        yield from WriteYield(self._stream).call(MuxStream.send_status, status)

    @property
    def _hold_ms(self) -> int:
        return int((self._node.now_s() - self._began_s) * 1000)

    def _originate(self, code: ErrorCode | None, *, about_next: bool, text: str) -> bytes:
        slot, geometry = self._slot, self._stream.profile.geometry
        if slot.command is Command.DROP or slot.flags & NOERR_FLAG:
            return random_status(geometry, os.urandom)
        if slot.flags & XORERR_FLAG:
            return raise_xor_code(slot.seed, geometry, os.urandom, success=code is None)
        return originate_status(
            StatusKeys.derive(slot.seed),
            code,
            geometry=geometry,
            hold_ms=self._hold_ms,
            engine=self._node.engine,
            about_next=about_next,
            text=text,
        )

    def _wrap(self, status: bytes) -> bytes:
        slot, geometry = self._slot, self._stream.profile.geometry
        if slot.flags & XORERR_FLAG:
            return add_xor_code(status, slot.seed, geometry, os.urandom)
        return wrap_status(
            status,
            StatusKeys.derive(slot.seed),
            geometry=geometry,
            hold_ms=self._hold_ms,
            engine=self._node.engine,
        )


def _text(error: PeerError) -> str:
    """For Alice alone, so it may say what the log may; but a reset is told whole by its code."""
    return "" if isinstance(error, StreamReset | NextRefused | Disconnected) else str(error)


def wait_status(stream: Stream) -> Service[bytes]:
    """Wait for the end of a backward half that carries no content, and give its status.

    Raises:
        MalformedMessage: content comes. Whatever the stream raises.
    """
    reader = ReadYield(stream)
    if (yield from reader.readinto(memoryview(bytearray(1)))):
        raise MalformedMessage("content on the backward half of a frame that asked for none")
    return (yield from reader.call(MuxStream.read_status))


def settle_beside(node: NodeContext, stream: Stream) -> Service[None]:
    """Wait for the end of the backward half while the caller goes on; it is reset if it takes too long.

    A stream that is reset the moment its query is answered would make every proxy report a failure.
    """
    if not stream.is_ended:
        yield from node.scope.spawn(_settle(node, stream), name=f"{node.name} end")


def _settle(node: NodeContext, stream: Stream) -> Service[None]:
    try:
        yield from timeout_after(node.limits.linger_s, wait_status(stream))
    except (PeerError, TimedOut) as error:
        log.debug("stream of an answered query did not end in order: %s", error)
    finally:
        stream.reset(ErrorCode.CANCELLED)
