"""Which chunk may come when: the two state tables of an established tunnel.

Both describe one direction as its receiver sees it. The first is that of the tunnel: has the other end said
HELLO, has it switched keys, has it ended. The second is that of one stream: a sub-stream, or stream 0, the
messages, which is OPEN from the beginning. A pair that is not listed is an error and ends the tunnel;
docs/protocol.md shows the same rows, and a test puts every type into every state.

Source: docs/protocol.md, "Established tunnels"; the shape follows h11's `_state.py`.
"""

from __future__ import annotations

from enum import Enum, auto

from tunnel.errors import MalformedMessage
from tunnel.onion.message import ChunkType

__all__ = ["STREAM_TABLE", "TUNNEL_TABLE", "StreamEvent", "StreamState", "TunnelState", "next_stream_state"]


class TunnelState(Enum):
    """A direction of the tunnel, as its receiver sees it."""

    AWAIT_HELLO = auto()
    EARLY = auto()  # at Bob: Alice has said HELLO and not switched keys yet
    RUNNING = auto()
    ENDED = auto()  # LAST has come


_CONTENT = (
    ChunkType.MSG,
    ChunkType.END,
    ChunkType.PAD,
    ChunkType.OPEN,
    ChunkType.OPENED,
    ChunkType.CLOSE,
    ChunkType.CREDIT,
)

# HELLO leads to EARLY at Bob and to RUNNING at Alice, whose other end switches keys with its HELLO; PAD with
# LAST leads to ENDED. STATUS is never legal here.
TUNNEL_TABLE: dict[TunnelState, frozenset[ChunkType]] = {
    TunnelState.AWAIT_HELLO: frozenset({ChunkType.HELLO}),
    TunnelState.EARLY: frozenset({*_CONTENT, ChunkType.REKEY}),
    TunnelState.RUNNING: frozenset({*_CONTENT, ChunkType.REKEY}),
    TunnelState.ENDED: frozenset(),
}


class StreamState(Enum):
    """What the other end may still do on one stream."""

    IDLE = auto()  # not opened yet: the next id of the other end
    AWAIT_OPENED = auto()  # opened by this end, not yet answered
    OPEN = auto()
    ENDED = auto()  # the other end has closed its half, or given up
    DISCARDING = auto()  # this end gave up; the other end does not know yet
    GONE = auto()  # closed by both ends


class StreamEvent(Enum):
    """A chunk for one stream; CLOSE is two of them, by its code."""

    OPEN = auto()
    OPENED = auto()
    MSG = auto()
    END = auto()  # on stream 0 only
    CREDIT = auto()
    CLOSE = auto()  # code 0: the other end's half has ended
    GIVE_UP = auto()  # any other code


STREAM_TABLE: dict[StreamState, dict[StreamEvent, StreamState]] = {
    StreamState.IDLE: {StreamEvent.OPEN: StreamState.OPEN},
    StreamState.AWAIT_OPENED: {
        StreamEvent.OPENED: StreamState.OPEN,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.OPEN: {
        StreamEvent.MSG: StreamState.OPEN,
        StreamEvent.END: StreamState.OPEN,
        StreamEvent.CREDIT: StreamState.OPEN,
        StreamEvent.CLOSE: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.ENDED: {
        StreamEvent.CREDIT: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.DISCARDING: {
        StreamEvent.OPENED: StreamState.DISCARDING,
        StreamEvent.MSG: StreamState.DISCARDING,
        StreamEvent.CREDIT: StreamState.DISCARDING,
        StreamEvent.CLOSE: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    # Both were on their way when this end closed.
    StreamState.GONE: {
        StreamEvent.CREDIT: StreamState.GONE,
        StreamEvent.GIVE_UP: StreamState.GONE,
    },
}


def next_stream_state(state: StreamState, event: StreamEvent, sub_stream: int) -> StreamState:
    """The state after `event`. Raises MalformedMessage: the table has no such pair."""
    after = STREAM_TABLE[state].get(event)
    if after is None:
        raise MalformedMessage(f"{event.name} on stream {sub_stream}, which is {state.name}")
    return after
