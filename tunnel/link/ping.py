"""Signs of life: PING and its answer, and how long a silent link is believed in.

One PING at a time. Its token is a number of this link, so an answer that nobody asked for is recognised; the
round trip is measured along the way. `Liveness` is the policy: it looks at times and says what to do. Only
the neighbour of a dead link notices; nobody else runs a timer against it. Source: docs/protocol.md, "Link
frames".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tunnel.errors import LinkError
from tunnel.link.frames import PING_TOKEN_BYTES, pack_ping

__all__ = ["Liveness", "Pinger"]


class Pinger:
    """The PING of this side that is under way, if one is.

    Attributes:
        sent_s: when it was queued; None without one.
        round_trip_s: of the last that was answered; None before.
    """

    __slots__ = ("_count", "_token", "round_trip_s", "sent_s")

    def __init__(self) -> None:
        self._count = 0
        self._token = b""
        self.sent_s: float | None = None
        self.round_trip_s: float | None = None

    def request(self, now_s: float) -> bytes | None:
        """The frame to send, or None while the last is not answered."""
        if self.sent_s is not None:
            return None
        self._count += 1
        self._token = self._count.to_bytes(PING_TOKEN_BYTES, "big")
        self.sent_s = now_s
        return pack_ping(self._token, is_answer=False)

    def answered(self, token: bytes, now_s: float) -> None:
        """An answer has come.

        Raises:
            LinkError: to nothing that was asked.
        """
        if self.sent_s is None or token != self._token:
            raise LinkError("answer to a PING that was not sent")
        self.round_trip_s = now_s - self.sent_s
        self.sent_s = None


Verdict = Literal["wait", "ping", "dead"]


@dataclass(frozen=True, slots=True)
class Liveness:
    """When to ask, and when to give up.

    Attributes:
        quiet_s: so long without a byte, then a PING. Below the half minute after which many address
            translators forget a connection.
        dead_s: so long after that PING without any byte, and the link is dead.
    """

    quiet_s: float = 25.0
    dead_s: float = 20.0

    def look(
        self, now_s: float, *, last_received_s: float, ping_sent_s: float | None
    ) -> tuple[Verdict, float]:
        """What to do now, and seconds until the next look.

        Any byte since the PING counts, not only its answer: the answer may stand behind a long transfer.
        """
        if ping_sent_s is None:
            left = last_received_s + self.quiet_s - now_s
            return ("wait", left) if left > _SOON_S else ("ping", self.dead_s)
        left = max(ping_sent_s, last_received_s) + self.dead_s - now_s
        return ("wait", left) if left > _SOON_S else ("dead", 0.0)


# A timer that fires a moment early must not lead to a thousand more.
_SOON_S: Final = 0.001
