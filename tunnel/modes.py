"""Reply modes and error modes: one table each, for the code, the documents and the tests.

A reply mode defines how an answer reaches Alice; an error mode, how she learns of a failure. Other code does
not test for a mode by name: it reads the row. `docs/protocol.md`, "Reply modes" and "Error modes", has the
same tables with columns for readers; `tests/test_docs.py` compares them.

Rules for changing it: a new mode is a row here first. A proxy must not see the properties of a row (blocks,
backward content), except for what the document's column "state at proxies" names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ERROR_MODES",
    "MODES",
    "NOERR_FLAG",
    "XORERR_FLAG",
    "ErrorMode",
    "ErrorRow",
    "ModeRow",
    "ReplyMode",
]


class ReplyMode(StrEnum):
    """How a reply reaches Alice. The value is the name on the command line."""

    NONE = "none"
    KNOWN_DEST = "known-dest"
    ROUTE = "route"
    OTHER_ROUTE = "other-route"
    REPLY_ON_REPLY = "reply-on-reply"
    CACHED = "cached"
    ESTABLISHED = "established"


class ErrorMode(StrEnum):
    """How an error reaches Alice. The value is the name on the command line."""

    STATUS = "status"
    XOR = "xor"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRow:
    """The properties of a reply mode.

    Attributes:
        has_reply: Bob can answer.
        reply_blocks: least number of reply blocks in the head of a query.
        backward_content: chunks travel on the backward half of the query's own streams.
        names_alice: the head of the message identifies Alice to Bob.
        replies_carry_blocks: the head of the reply has reply blocks of Bob's, for follow-ups.
    """

    has_reply: bool = True
    reply_blocks: int = 0
    backward_content: bool = False
    names_alice: bool = False
    replies_carry_blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """The properties of an error mode.

    Attributes:
        proxy_flags, dest_flags: bits of the slots' flags (docs/protocol.md, "Onion header").
    """

    proxy_flags: int = 0
    dest_flags: int = 0


MODES = {
    ReplyMode.NONE: ModeRow(has_reply=False),
    # Bob opens a tunnel of his own to her.
    ReplyMode.KNOWN_DEST: ModeRow(names_alice=True),
    # The same proxies in reverse.
    ReplyMode.ROUTE: ModeRow(reply_blocks=1),
    ReplyMode.OTHER_ROUTE: ModeRow(reply_blocks=1),
    ReplyMode.REPLY_ON_REPLY: ModeRow(reply_blocks=1, replies_carry_blocks=True),
    # The streams of the query stay open until the reply has passed.
    ReplyMode.CACHED: ModeRow(backward_content=True),
    # Both directions for as long as both ends want.
    ReplyMode.ESTABLISHED: ModeRow(backward_content=True),
}

XORERR_FLAG = 0x02
NOERR_FLAG = 0x04

ERROR_MODES = {
    # One STATUS of fixed length names the hop that failed, or the two between which something was changed.
    ErrorMode.STATUS: ErrorRow(),
    # The original's codes: they name the hop, without authentication.
    ErrorMode.XOR: ErrorRow(proxy_flags=XORERR_FLAG, dest_flags=XORERR_FLAG),
    # Looks like `status` to proxies; DEST fills it with random bytes.
    ErrorMode.NONE: ErrorRow(dest_flags=NOERR_FLAG),
}
