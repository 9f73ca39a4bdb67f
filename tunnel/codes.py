"""Failures as nodes report them: the error codes, their texts, and the report of a route.

One table serves RESET, STATUS and CLOSE; docs/errors.md has the same rows, and a test compares them. The
command line and the log show these texts; they are never sent to a peer.

Rules for changing it: a new code gets the next number, and numbers are never reused. This file imports
nothing of the package, because `tunnel.errors` uses it, and every room imports `tunnel.errors`.

Source: docs/protocol.md, "Error codes"; the locations follow arti's `ErrorKind`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

__all__ = ["CODES", "CodeRow", "ErrorCode", "Location", "Report", "Suspects", "clock_text", "short"]


class ErrorCode(IntEnum):
    """The reason in a RESET, STATUS or CLOSE; imported from `tunnel.errors`. `CODES` has the meanings."""

    PROTOCOL = 1
    BAD_HEADER = 2
    EXPIRED = 3
    REPLAYED = 4
    UNKNOWN_NEXT = 5
    NEXT_REFUSED = 6
    DISCONNECTED = 7
    TIMEOUT = 8
    TRUNCATED = 9
    BAD_CONTENT = 10
    UNSUPPORTED = 11
    BUSY = 12
    SERVICE_FAILED = 13
    UNKNOWN_QUERY = 14
    CANCELLED = 15
    INTERNAL = 16
    TARGET_NOT_ALLOWED = 17
    TARGET_UNREACHABLE = 18
    TARGET_REFUSED = 19
    BAD_REQUEST = 20


class Location(StrEnum):
    """The place to look for the cause of an error, seen from the node that asked."""

    PROCESS = "this process"
    HOST = "this host"
    RELAY = "a relay"
    FAR_END = "the far end"


class Suspects(StrEnum):
    """The nodes of which at least one is at fault when a node reports a code about itself.

    The reporting node is always among them, so no node can accuse others without accusing itself.
    """

    REPORTER = "itself"
    BEFORE = "up to it"  # what has arrived there was changed or cut off on the way
    ROUTE = "all"  # a node before it may have kept what was to come, or a node behind it the answer


@dataclass(frozen=True, slots=True)
class CodeRow:
    """Texts for one code.

    Attributes:
        did: the action of the reporting node, as a clause after its name; `{next}` is the next node.
        meaning: one line for people.
        location: usual place of the cause; a code proves nothing.
        advice: what to do.
        may_pass: whether another attempt can help when the destination itself reports the code: a fault of
            the way or of the moment. If not, the destination has refused, and would again.
        suspects: the nodes that may have caused it.
    """

    did: str
    meaning: str
    location: Location
    advice: str
    may_pass: bool
    suspects: Suspects = Suspects.REPORTER


CODES = {
    ErrorCode.PROTOCOL: CodeRow(
        "received bytes that the protocol does not allow",
        "bytes that violate the record or cell layouts of a link, or a cell that the state of its "
        "stream forbids",
        Location.RELAY,
        "a bug or an attack on that link; the log of the node that sent the code shows the bytes. "
        "Choose another route",
        may_pass=True,
    ),
    ErrorCode.BAD_HEADER: CodeRow(
        "could not open the header",
        "the onion header does not open or has invalid fields; at Alice: a HOME slot that she did not make",
        Location.RELAY,
        "usually a replaced onion key (fetch the descriptor again) or a clock that is wrong by a day. "
        "Retry over another route",
        may_pass=True,
    ),
    ErrorCode.EXPIRED: CodeRow(
        "found the header expired or too far in the future",
        "a header or reply block that is too old, or further in the future than senders choose",
        Location.HOST,
        "compare Alice's clock with that of the node whose log shows the error. They may differ by 10 "
        "minutes. A reply block is valid for 1 to 4 hours",
        may_pass=False,
    ),
    ErrorCode.REPLAYED: CodeRow(
        "has accepted this header before",
        "the same header was accepted before",
        Location.RELAY,
        "no node sends a header twice, so it was recorded and replayed. Retry; the new query has new headers",
        may_pass=True,
    ),
    ErrorCode.UNKNOWN_NEXT: CodeRow(
        "does not know {next}",
        "the next node is not in the hop's directory, or is the hop itself or the one before",
        Location.RELAY,
        "the peer lists of the two nodes differ: give both the same peer file. Choose another route",
        may_pass=True,
    ),
    ErrorCode.NEXT_REFUSED: CodeRow(
        "could not connect to {next}",
        "the next node does not answer, or another node answers in its place",
        Location.RELAY,
        "the node is down, its address is old, or it refused the connection (its log has the reason). Choose "
        "another route",
        may_pass=True,
    ),
    ErrorCode.DISCONNECTED: CodeRow(
        "lost a connection",
        "a connection broke, or ended before the frame did",
        Location.RELAY,
        "a node or the network failed. Retry",
        may_pass=True,
    ),
    ErrorCode.TIMEOUT: CodeRow(
        "waited too long",
        "no header arrived in time, or nothing moved for the idle limit",
        Location.RELAY,
        "retry; for slow services raise `Limits.idle_s` (all nodes) and `idle_s` (the query)",
        may_pass=True,
        suspects=Suspects.ROUTE,
    ),
    ErrorCode.TRUNCATED: CodeRow(
        "received an incomplete message",
        "FIN in the header, inside a chunk, or before the chunk marked last",
        Location.RELAY,
        "an earlier node is faulty or hostile. Choose another route",
        may_pass=True,
        suspects=Suspects.BEFORE,
    ),
    ErrorCode.BAD_CONTENT: CodeRow(
        "received content that is malformed or was changed",
        "a chunk that does not open or is malformed",
        Location.RELAY,
        "a node or link of the route changed the content: choose another route",
        may_pass=True,
        suspects=Suspects.BEFORE,
    ),
    ErrorCode.UNSUPPORTED: CodeRow(
        "does not know the profile",
        "an unknown profile",
        Location.RELAY,
        "nodes of different versions: use a profile that all descriptors of the route offer",
        may_pass=False,
    ),
    ErrorCode.BUSY: CodeRow(
        "has no room for more",
        "a table, or a neighbour's share of it, is full; a link lost its place to another; a link has its "
        "maximum of streams; or the node holds too much unread content, and that of this stream is the "
        "oldest",
        Location.RELAY,
        "wait, or choose another route. The owner can raise `Limits.replay_tags`, `streams_per_link` or "
        "`buffer_bytes`. If an application stopped reading: let it read, or reset its stream",
        may_pass=True,
    ),
    ErrorCode.SERVICE_FAILED: CodeRow(
        "could not answer, because its service failed",
        "Bob's inner service raised an error",
        Location.FAR_END,
        "Bob's log has the error",
        may_pass=False,
    ),
    ErrorCode.UNKNOWN_QUERY: CodeRow(
        "has no pending query for this answer",
        "a reply without a pending query, or a second reply",
        Location.PROCESS,
        "the query was abandoned before; nothing to do",
        may_pass=False,
    ),
    ErrorCode.CANCELLED: CodeRow(
        "gave up",
        "a query was cancelled, or a node stops",
        Location.PROCESS,
        "nothing, or retry",
        may_pass=True,
    ),
    ErrorCode.INTERNAL: CodeRow(
        "has failed",
        "an internal error of the node",
        Location.RELAY,
        "its log has the error; please report it",
        may_pass=False,
    ),
    ErrorCode.TARGET_NOT_ALLOWED: CodeRow(
        "does not offer this service or target",
        "the far end has no service of that name, or its rules forbid the target of a sub-stream",
        Location.FAR_END,
        "correct the name; for an address and port, choose an exit whose rules allow them",
        may_pass=False,
    ),
    ErrorCode.TARGET_UNREACHABLE: CodeRow(
        "found no route to the target",
        "the exit finds no route to the target, or no address for its name",
        Location.FAR_END,
        "is the name right? Try again through another exit",
        may_pass=False,
    ),
    ErrorCode.TARGET_REFUSED: CodeRow(
        "was refused by the target",
        "the target answered the exit and refused the connection",
        Location.FAR_END,
        "nothing listens on that port: correct the address or the port",
        may_pass=False,
    ),
    ErrorCode.BAD_REQUEST: CodeRow(
        "cannot read this request",
        "Bob's service cannot read the request, which has arrived unchanged",
        Location.FAR_END,
        "does the request have the form that its service expects, or the name of a service (`service=`) if "
        "it offers several?",
        may_pass=False,
    ),
}


# Codes of a node that refuses a header. It has no keys for a status: the node before it reports the code.
_OF_NEXT = frozenset((ErrorCode.BAD_HEADER, ErrorCode.EXPIRED, ErrorCode.REPLAYED, ErrorCode.UNSUPPORTED))


def short(node_id: bytes) -> str:
    """A node id for people: its first four bytes in hex."""
    return node_id.hex()[:8]


def clock_text(now_s: float) -> str:
    """A time for people, in UTC and to the minute: clocks in link handshakes are not more exact."""
    try:
        return f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):  # a clock that is far out
        return f"{now_s:.0f} s after 1970"


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The outcome of a frame, from the STATUS of its route.

    Attributes:
        route: ids of the nodes on the frame's route, Bob last.
        succeeded: Bob reports success.
        hop: index in `route` of the reporting node; None: no authentic report.
        code: the reason of a failure; None for success, or if there is no reason.
        about_next: the report is about the node behind `hop`, which cannot report itself.
        text: of the reporting node.
        suspects: if the report was changed: indices of the nodes that may have done it.
        hold_ms: the time for which each node claims to have held the frame, from the first node on.
        is_about_reply: about the reply by block; `route` is then the reply path, Alice last.
        block_first_ids: the first node of each reply block of the query; Bob may report about one of them.
    Raises:
        ValueError: `hop` or a suspect is not a node of the route.
    """

    route: tuple[bytes, ...]
    succeeded: bool
    hop: int | None
    code: ErrorCode | None
    about_next: bool = False
    text: str = ""
    suspects: tuple[int, ...] = ()
    hold_ms: tuple[int, ...] = ()
    is_about_reply: bool = False
    block_first_ids: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.route)
        indices = self.suspects if self.hop is None else (self.hop, *self.suspects)
        if not all(0 <= index < count for index in indices):
            raise ValueError(f"a report of the nodes {indices}, on a route of {count}")

    @property
    def blamed(self) -> tuple[int, ...]:
        """Indices of nodes of which at least one failed. Avoid them in the next route."""
        if self.suspects or self.succeeded or self.hop is None:
            return self.suspects
        if self.about_next and self.hop + 1 < len(self.route):
            return self.hop, self.hop + 1
        # Without a reason (error mode `xor`) only its author is known.
        who = Suspects.REPORTER if self.code is None or self.about_next else CODES[self.code].suspects
        if who is Suspects.ROUTE:
            return tuple(range(len(self.route)))
        return tuple(range(self.hop + 1)) if who is Suspects.BEFORE else (self.hop,)

    @property
    def blamed_ids(self) -> tuple[bytes, ...]:
        """The ids of the blamed nodes, with the first nodes of reply paths that Bob could not use."""
        behind = self.block_first_ids if self._is_about_block else ()
        return (*(self.route[index] for index in self.blamed), *behind)

    @property
    def is_refusal(self) -> bool:
        """The destination itself refuses, or its service failed: all nodes of the route work."""
        if self.succeeded or self.suspects or self.about_next or self.is_about_reply or self.code is None:
            return False
        return self.hop == len(self.route) - 1 and not CODES[self.code].may_pass

    @property
    def has_arrived(self) -> bool:
        """Whether the destination had the header: the report is its own, or about its answer."""
        return self.is_about_reply or self.hop == len(self.route) - 1

    @property
    def _is_about_block(self) -> bool:
        return self.about_next and self.hop == len(self.route) - 1 and bool(self.block_first_ids)

    def __repr__(self) -> str:
        return f"<Report of {len(self.route)} nodes: {self}>"

    def __str__(self) -> str:
        if self.succeeded:
            return "delivered"
        if self.suspects:
            nodes = " and ".join(self._name(index) for index in self.suspects)
            return f"the report was changed by, or between, {nodes}"
        if self.hop is None:
            return "no node of the route reported what happened"
        names = [short(node_id) for node_id in self.route] + ["the next node"]
        actor, next_name = names[self.hop], names[self.hop + 1]
        has_next = self.about_next and self.hop + 1 < len(self.route)
        about = f" about {self._role(self.hop + 1)}" if has_next else ""
        if self._is_about_block:
            has_next, about = True, " about the first hop of the reply path"
            next_name = " or ".join(sorted({short(node_id) for node_id in self.block_first_ids}))
        did = "failed without a reason" if self.code is None else CODES[self.code].did.format(next=next_name)
        name = "no code" if self.code is None else self.code.name
        why = f": {self.text}" if self.text else ""
        if has_next and self.code in _OF_NEXT:
            did, actor = f"{did}, as {actor} reports", next_name
        elif has_next and next_name not in did:
            did += f", and therefore reports {next_name}"
        return f"{actor} {did}{why} ({name} at {self._role(self.hop)}{about})"

    def _name(self, index: int) -> str:
        return f"{self._role(index)} ({short(self.route[index])})"

    def _role(self, index: int) -> str:
        count = len(self.route)
        if index == count - 1:
            return "this node" if self.is_about_reply else "the destination"
        return f"hop {index + 1} of {count}{' of the reply path' if self.is_about_reply else ''}"
