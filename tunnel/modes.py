"""Reply modes: how an answer gets back to Alice. One table for code, docs and tests.

Source: docs/protocol.md, "Reply modes". Known dest, other route, reply on reply, cached and established
follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["MODES", "ModeRow", "ReplyMode"]


class ReplyMode(StrEnum):
    """The mode's name is its value, as on the command line."""

    NONE = "none"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class ModeRow:
    """What a mode needs.

    Attributes:
        original: the name in the Rust crate.
        has_reply: Bob can answer.
        reply_blocks: how many reply blocks stand before the content.
        meaning: one line for people.
    """

    original: str
    has_reply: bool
    reply_blocks: int
    meaning: str


MODES = {
    ReplyMode.NONE: ModeRow("NoHandling", False, 0, "no reply possible"),
    ReplyMode.ROUTE: ModeRow("Route", True, 1, "reply block over the same hops in reverse"),
}
