"""What each error code means, where its cause usually is, and what the one who asked can do about it.

One table for RESET, STATUS and CLOSE; docs/errors.md shows the same rows and a test compares them. Texts are
for people: command line and log show them, no peer ever sees them. A new code gets the next number; numbers
are never used again.

Source: docs/protocol.md, "Error codes"; the locations follow arti's `ErrorKind`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tunnel.errors import ErrorCode

__all__ = ["CODES", "CodeRow", "Location"]


class Location(StrEnum):
    """Where the cause of an error is to be looked for, seen from the one who asked."""

    PROCESS = "this process"
    HOST = "this host"
    RELAY = "a relay"
    FAR_END = "the far end"


@dataclass(frozen=True, slots=True)
class CodeRow:
    """What is known of a code.

    Attributes:
        did: what the node that reports the code did, behind its name; `{next}` is the node behind it.
        meaning: one line for people.
        location: where the cause usually is; a code by itself proves nothing.
        advice: what to do about it.
    """

    did: str
    meaning: str
    location: Location
    advice: str


CODES = {
    ErrorCode.PROTOCOL: CodeRow(
        "received bytes that the protocol does not allow",
        "bytes on a link that records or frames do not allow, or a frame that a stream's state does not",
        Location.RELAY,
        "a bug or an attack on that link; the log of the node that sent the code says which bytes. "
        "Choose another route",
    ),
    ErrorCode.BAD_HEADER: CodeRow(
        "could not open the header",
        "the onion header does not open, or holds what no sender writes; at Alice: a HOME slot that she did "
        "not make",
        Location.RELAY,
        "most often an onion key that its node has replaced (fetch its descriptor again), or a clock that is "
        "wrong by a day. Once more over another route",
    ),
    ErrorCode.EXPIRED: CodeRow(
        "found the header to be of another time",
        "header or reply block too old, or further ahead than any sender draws",
        Location.HOST,
        "compare the clocks: Alice's, and that of the node whose log shows it. They may differ by 10 "
        "minutes. A reply block serves 1 to 4 hours",
    ),
    ErrorCode.REPLAYED: CodeRow(
        "has accepted this header before",
        "the same header was accepted before",
        Location.RELAY,
        "nobody sends a frame twice: somebody recorded it. Ask again; the new query has new headers",
    ),
    ErrorCode.UNKNOWN_NEXT: CodeRow(
        "does not know {next}",
        "the next node is not in the hop's directory, or is the hop itself or the one before",
        Location.RELAY,
        "the two peers' lists differ: give both the same peer file. Choose another route",
    ),
    ErrorCode.NEXT_REFUSED: CodeRow(
        "could not connect to {next}",
        "the next node does not answer, or is not the one that it should be",
        Location.RELAY,
        "the node is down, its address is old, or it refused the connection (its log says why). Choose "
        "another route",
    ),
    ErrorCode.DISCONNECTED: CodeRow(
        "lost a connection",
        "a connection broke, or ended before the frame did",
        Location.RELAY,
        "a node stopped, or the network did. Ask again",
    ),
    ErrorCode.TIMEOUT: CodeRow(
        "waited too long",
        "no header in time, or nothing moved for the idle limit",
        Location.RELAY,
        "ask again; raise `Limits.idle_s` (all nodes) and `idle_s` (the query) for services that think long "
        "or answer long",
    ),
    ErrorCode.TRUNCATED: CodeRow(
        "received an incomplete message",
        "FIN in the header, inside a chunk, or before the chunk marked last",
        Location.RELAY,
        "a node before it is faulty or hostile. Choose another route",
    ),
    ErrorCode.BAD_CONTENT: CodeRow(
        "received content that was changed",
        "a chunk that does not open, or that no sender writes",
        Location.RELAY,
        "somebody on the way changed it. Choose another route",
    ),
    ErrorCode.UNSUPPORTED: CodeRow(
        "does not know the profile",
        "an unknown profile",
        Location.RELAY,
        "nodes of different versions: use a profile that all descriptors of the route offer",
    ),
    ErrorCode.BUSY: CodeRow(
        "has no room for more",
        "a table is full, or a neighbour's share of it; headers come too fast; a link carries as many "
        "streams as it may; or the node holds too much unread content, and this stream's had waited longest",
        Location.RELAY,
        "wait, or choose another route; its owner can raise `Limits.replay_tags`, `streams_per_link` or "
        "`buffer_bytes`. If a reader stopped reading: let it read, or reset its stream",
    ),
    ErrorCode.SERVICE_FAILED: CodeRow(
        "could not answer, because its service failed",
        "Bob's inner service raised an error",
        Location.FAR_END,
        "Bob's log says why",
    ),
    ErrorCode.UNKNOWN_QUERY: CodeRow(
        "does not wait for this answer",
        "a reply for which nobody waits, or a second one",
        Location.PROCESS,
        "the query had been given up; nothing to do",
    ),
    ErrorCode.CANCELLED: CodeRow(
        "gave up",
        "the node was told to give up: a cancelled query, a node that stops",
        Location.PROCESS,
        "nothing, or ask again",
    ),
    ErrorCode.INTERNAL: CodeRow(
        "has failed",
        "a fault in the node itself",
        Location.RELAY,
        "its log has the error; report it",
    ),
    ErrorCode.TARGET_NOT_ALLOWED: CodeRow(
        "does not offer this service or target",
        "the far end has no service of that name, or its rules forbid the target of a sub-stream",
        Location.FAR_END,
        "correct the name; for an address and port, choose an exit whose rules allow them",
    ),
    ErrorCode.TARGET_UNREACHABLE: CodeRow(
        "found no way to the target",
        "the exit finds no way to the target, or no address for its name",
        Location.FAR_END,
        "is the name right? Try again through another exit",
    ),
    ErrorCode.TARGET_REFUSED: CodeRow(
        "was refused by the target",
        "the target answered the exit and refused the connection",
        Location.FAR_END,
        "nothing listens on that port: correct the address or the port",
    ),
}
