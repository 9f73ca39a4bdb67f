"""`Counters`: what one node has done since it started, as plain integers.

They only grow, and they start at 0 with each run. A rate is the difference of two readings. Present numbers
are elsewhere: `Node.open_links`, `Node.open_streams`.

Rules for changing it:

* No counter costs anything for each chunk: bytes of links are added once for each system call, bytes of
  content from the counts that streams keep anyway (`tally`).
* No counter identifies anyone: no ids, addresses, services or targets.
* The thread of the reactor counts; any thread may read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from tunnel.errors import ErrorCode

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Totals of one node, public as `Node.counters`.

    Attributes:
        links_dialled, links_accepted: finished handshakes of links, by the side that connected.
        dials_failed: neighbours that could not be reached at any of their addresses.
        handshakes_failed: incoming connections without a valid handshake.
        connections_refused: incoming connections that a limit on links or handshakes refused.
        links_lost: links that ended with an error.
        link_bytes_in, link_bytes_out: bytes of all links, padding and control included, as sockets count.

        streams_opened, streams_accepted: streams of links, one for each frame and link.
        headers_unreadable, headers_expired, headers_replayed, headers_over_rate: frames refused because of
            their header: no key of this node opens it, or it asks for something forbidden; it is too old; it
            was accepted before; there is no room to remember it.
        headers_refused: frames refused for other reasons, such as a truncated or missing header, or a profile
            that this node does not offer.
        frames_relayed: frames that this node has forwarded, or tried to forward.
        frames_failed: frames of others that broke here after their header was accepted, wherever the fault
            was. Failures reported by a later node are not counted.
        relayed_bytes_forward, relayed_bytes_backward: headers and chunks received from the previous node and
            from the next one, counted every half `idle_s` and at the end.

        queries, queries_succeeded: queries of this node's users.
        query_failures: failed attempts of them. query_retries: further attempts after such a failure.
        query_bytes_out, query_bytes_in: content of these queries and of their replies.
        follow_ups, cover_frames: follow-ups and cover frames that this node's users have sent.
        queries_answered, answers_failed: queries of others by the outcome of their answer.
        answer_bytes_in, answer_bytes_out: chunks of those queries and of the answers.
        cover_received: cover frames that ended here.

        tunnels, tunnels_accepted: established tunnels by the end that opened them, this node or another.
        tunnels_failed: tunnels with an end here that could not be opened, broke or were aborted.
        tunnels_silent: those of them on which nothing arrived any more.
        tunnel_bytes_in, tunnel_bytes_out: chunks of tunnels that end here.
        sub_streams, sub_streams_accepted: sub-streams by the end that opened them.
        sub_streams_refused: accepted sub-streams that were aborted before this node confirmed them.
    """

    links_dialled: int = 0
    links_accepted: int = 0
    dials_failed: int = 0
    handshakes_failed: int = 0
    connections_refused: int = 0
    links_lost: int = 0
    link_bytes_in: int = 0
    link_bytes_out: int = 0

    streams_opened: int = 0
    streams_accepted: int = 0
    headers_unreadable: int = 0
    headers_expired: int = 0
    headers_replayed: int = 0
    headers_over_rate: int = 0
    headers_refused: int = 0
    frames_relayed: int = 0
    frames_failed: int = 0
    relayed_bytes_forward: int = 0
    relayed_bytes_backward: int = 0

    queries: int = 0
    queries_succeeded: int = 0
    query_failures: int = 0
    query_retries: int = 0
    query_bytes_out: int = 0
    query_bytes_in: int = 0
    follow_ups: int = 0
    cover_frames: int = 0
    queries_answered: int = 0
    answers_failed: int = 0
    answer_bytes_in: int = 0
    answer_bytes_out: int = 0
    cover_received: int = 0

    tunnels: int = 0
    tunnels_accepted: int = 0
    tunnels_failed: int = 0
    tunnels_silent: int = 0
    tunnel_bytes_in: int = 0
    tunnel_bytes_out: int = 0
    sub_streams: int = 0
    sub_streams_accepted: int = 0
    sub_streams_refused: int = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Name and value of each counter, in the order above."""
        return ((each.name, getattr(self, each.name)) for each in fields(self))

    def as_dict(self) -> dict[str, int]:
        """A copy by name, which does not change any more."""
        return dict(self)

    def __str__(self) -> str:
        """One line for each counter, for people."""
        return "".join(f"    {name} {value}\n" for name, value in self)

    def tally(self, **totals: Callable[[], int]) -> Callable[[], None]:
        """Follow counts that are kept elsewhere: the returned function adds what came since its last call.

        Args:
            totals: by the counter's name, the count that it follows, from 0.
        """
        counted = dict.fromkeys(totals, 0)

        def count() -> None:
            for name, total in totals.items():
                now = total()
                setattr(self, name, getattr(self, name) + now - counted[name])
                counted[name] = now

        return count

    def refused_header(self, code: ErrorCode) -> None:
        """Count a frame that was refused for its header, by the code of the refusal."""
        name = _REFUSALS.get(code, "headers_refused")
        setattr(self, name, getattr(self, name) + 1)


_REFUSALS: Final = {
    ErrorCode.BAD_HEADER: "headers_unreadable",
    ErrorCode.EXPIRED: "headers_expired",
    ErrorCode.REPLAYED: "headers_replayed",
    ErrorCode.BUSY: "headers_over_rate",
}
