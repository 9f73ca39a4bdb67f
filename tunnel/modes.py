"""Reply modes and error modes: one table each, for the code, the documents and the tests.

A reply mode defines how an answer reaches Alice; an error mode, how she learns of a failure. Other code does
not test for a mode by name: it reads the row. `docs/protocol.md`, "Reply modes" and "Error modes", shows the
same tables, and `tests/test_docs.py` compares them.

Rules for changing it: a new mode is a row here first. A proxy must not see the properties of a row (blocks,
backward content), except for what `at_proxies` names.
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
        original: the name in the Rust crate.
        has_reply: Bob can answer.
        reply_blocks: least number of reply blocks in the head of a query.
        backward_content: chunks travel on the backward half of the query's own streams.
        names_alice: the head of the message identifies Alice to Bob.
        replies_carry_blocks: the head of the reply has reply blocks of Bob's, for follow-ups.
        opened_by: whose keys open the chunks of the reply, and in which order.
        at_proxies: what a proxy holds until the reply, or can see of it.
        meaning: one line for people.
    """

    original: str
    has_reply: bool = True
    reply_blocks: int = 0
    backward_content: bool = False
    names_alice: bool = False
    replies_carry_blocks: bool = False
    opened_by: str
    at_proxies: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """The properties of an error mode.

    Attributes:
        original: the name in the Rust crate.
        proxy_flags, dest_flags: bits of the slots' flags (docs/protocol.md, "Onion header").
        needs_reply_blocks: always 0: an error travels on the backward half of the stream that it is about.
        opened_by: who can read it.
        at_proxies: what a proxy does.
        meaning: one line for people.
    """

    original: str
    proxy_flags: int = 0
    dest_flags: int = 0
    needs_reply_blocks: int = 0
    opened_by: str
    at_proxies: str
    meaning: str


_HOME = "Alice: the reply route's last proxy first, then the block's seed"
_STREAM = "the stream"
_TWO_STREAMS = "two streams; nothing shows the proxy that they belong together"

MODES = {
    ReplyMode.NONE: ModeRow(
        original="NoHandling",
        has_reply=False,
        opened_by="–",
        at_proxies=_STREAM,
        meaning="no reply possible",
    ),
    ReplyMode.KNOWN_DEST: ModeRow(
        original="KnownDest",
        names_alice=True,
        opened_by="Alice: she is DEST of Bob's own query",
        at_proxies=_STREAM,
        meaning="Alice names herself; Bob opens a tunnel of his own to her",
    ),
    ReplyMode.ROUTE: ModeRow(
        original="Route",
        reply_blocks=1,
        opened_by=_HOME,
        at_proxies=_TWO_STREAMS,
        meaning="reply block over the same proxies in reverse",
    ),
    ReplyMode.OTHER_ROUTE: ModeRow(
        original="OtherRoute",
        reply_blocks=1,
        opened_by=_HOME,
        at_proxies=_STREAM,
        meaning="reply block over other proxies",
    ),
    ReplyMode.REPLY_ON_REPLY: ModeRow(
        original="RouteReply",
        reply_blocks=1,
        replies_carry_blocks=True,
        opened_by=_HOME,
        at_proxies=_STREAM,
        meaning="as other-route, and the reply has blocks along which Alice can go on",
    ),
    ReplyMode.CACHED: ModeRow(
        original="CachedRoute",
        backward_content=True,
        opened_by="Alice: proxy 1 first, then the seed of the DEST slot",
        at_proxies="the stream, open until the reply has passed; data flows backward",
        meaning="reply runs back over the open streams",
    ),
    ReplyMode.ESTABLISHED: ModeRow(
        original="(none)",
        backward_content=True,
        opened_by="both: proxy 1 first, then keys of the HELLO exchange",
        at_proxies="the stream, open as long as both want; data flows both ways",
        meaning="both directions for as long as both want",
    ),
}

XORERR_FLAG = 0x02
NOERR_FLAG = 0x04

ERROR_MODES = {
    ErrorMode.STATUS: ErrorRow(
        original="(none)",
        opened_by="Alice: each hop's pad and MACs",
        at_proxies="shifts, stamps and pads one STATUS of fixed size",
        meaning="names the hop that failed, or the two between which something was changed",
    ),
    ErrorMode.XOR: ErrorRow(
        original="CachedRoute",
        proxy_flags=XORERR_FLAG,
        dest_flags=XORERR_FLAG,
        opened_by="Alice: XOR of the codes",
        at_proxies="XORs its code into the first 8 bytes",
        meaning="the original's codes: which hop, without authentication",
    ),
    ErrorMode.NONE: ErrorRow(
        original="NoHandling",
        dest_flags=NOERR_FLAG,
        opened_by="–",
        at_proxies="as for status; DEST fills it with random bytes",
        meaning="no errors are reported; looks like status to proxies",
    ),
}
