"""The states of a stream's two halves, in one table.

The *forward* half runs from the side that opened the stream to the other, the *backward* half back. Each half
is in one state; a frame that its sender sends moves it along a row of `TRANSITIONS`. RESET is not in the
table: it is legal at any time, from either side, and ends both halves at once. CREDIT is not either: it
speaks *about* the other side's half and changes none. A pair that is not listed is an error, and the state
stays as it was.

To change: only here, and in docs/protocol.md, "Streams". tests/tunnel/test_mux_states.py walks every pair.
"""

from __future__ import annotations

from enum import StrEnum

from tunnel.link.frames import FrameType

__all__ = ["ENDED", "MAY_SEND_DATA", "TRANSITIONS", "Half"]


class Half(StrEnum):
    """Where one half of a stream stands. Strings, whose hash costs no call of Python for each frame."""

    FORWARD_OPEN = "forward, open"
    FORWARD_ENDED = "forward, ended by FIN"
    BACKWARD_OPEN = "backward, open"
    BACKWARD_STATUS_DUE = "backward, FIN sent, status due"
    BACKWARD_ENDED = "backward, ended by STATUS"


TRANSITIONS: dict[Half, dict[int, Half]] = {
    Half.FORWARD_OPEN: {FrameType.DATA: Half.FORWARD_OPEN, FrameType.FIN: Half.FORWARD_ENDED},
    Half.FORWARD_ENDED: {},
    Half.BACKWARD_OPEN: {FrameType.DATA: Half.BACKWARD_OPEN, FrameType.FIN: Half.BACKWARD_STATUS_DUE},
    Half.BACKWARD_STATUS_DUE: {FrameType.STATUS: Half.BACKWARD_ENDED},
    Half.BACKWARD_ENDED: {},
}

MAY_SEND_DATA = frozenset(half for half, row in TRANSITIONS.items() if FrameType.DATA in row)
# Nothing more can come of such a half; a stream of two such halves leaves the link's table.
ENDED = frozenset(half for half, row in TRANSITIONS.items() if not row)
