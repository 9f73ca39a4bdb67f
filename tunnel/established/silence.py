"""`Silence`: notices that the other end of a tunnel no longer answers, while traffic waits for it.

A node that hangs and a hop that swallows chunks look alike: nothing arrives. Therefore an end that has sent
content and receives nothing sends one probe, which the other end must answer immediately. Example with
`silent_s` = 10: this end sends content at 0 s. At 3 s nothing has arrived, and it sends a probe. At 8 s the
probe is unanswered, and the tunnel is dead. If the answer arrives, nothing more happens until the next
traffic.

* An idle tunnel sends no probe. A tunnel is not idle when this end has sent content since its last answered
  probe, a sub-stream is open, or part of a message has arrived. So the sender and the reader both notice.
* Each chunk of content that arrives restarts the time: on a slow path the answer is behind a long queue.
  Chunks that only keep the tunnel alive do not count, since an end sends them without having received
  anything.
* The time limit of a probe begins when it has left this node. A chunk that the first link does not accept has
  a limit too, because no probe can overtake it.
* If this node was stopped, or too busy to check, the time restarts.

A chunk costs a counter, and an idle tunnel has no timer: `stirred` tells the node when to begin calling
`look`.

Source: docs/protocol.md, "Established tunnels"; as TCP's keepalive, but only where something waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic

from tunnel.errors import MalformedMessage
from tunnel.established.layouts import Pad
from tunnel.established.streams import N

__all__ = ["Silence"]

# Parts of `silent_s`. The beginning and the end of a silence are each noticed up to a tick late.
_TICK: Final = 0.1
_PROBE: Final = 0.3  # silence before the probe
_ANSWER: Final = 0.5  # for the answer, from when the probe has left
_DEAD: Final = 0.8  # of silence in all; also the limit for a first link that takes nothing
_OPENING: Final = 1.5  # before the first chunk has arrived: hops may have to dial


class Silence(Generic[N]):
    """One end's knowledge of the other.

    Args:
        silent_s: the tunnel is dead at most this long after the last sign of life.
        stirred: notifier, set when `is_settled` becomes False: then `look` is to be called every `tick_s`.
        on_due: called when a probe or an answer is due.
    Attributes:
        is_settled: nothing waits, or the other end has answered.
        is_unsure: content was sent after the last probe. Then this is not settled.
        is_due: a probe or an answer is to be sent.
        is_leaving: a probe was made, and leaves this node.
    """

    def __init__(self, silent_s: float, *, stirred: N, on_due: Callable[[], None]) -> None:
        self._silent_s = silent_s
        self.tick_s = _TICK * silent_s
        self.stirred = stirred
        self._on_due = on_due
        self.is_settled = True
        self.is_unsure = False
        self.is_due = self.is_leaving = False
        self._heard = self._heard_before = 0  # chunks that show life; until the last look
        self._since_s: float | None = None  # of the silence; None: begins with the next look
        self._looked_s: float | None = None
        self._is_probing = False  # a probe is due, leaves or has left
        self._left_s: float | None = None  # when it has left
        self._unanswered = 0  # probes
        self._is_answer_due = False

    # --- sending --------------------------------------------------------------------------------------------

    def sent(self, now_s: float) -> None:
        """A chunk was made for which the other end must be there: content, or HELLO."""
        self.is_unsure = True
        if self.is_settled:
            self._stir(now_s)

    def probe(self) -> None:
        """Find out now whether the other end answers, even if nothing waits."""
        if not self._is_probing:
            self._is_probing = True
            self.is_due = True
            self._on_due()
        if self.is_settled:
            self._stir(None)

    def take(self) -> Pad:
        """The probe or answer that is due. Any number of probes needs only one answer."""
        if self._is_answer_due:
            self._is_answer_due = False
            self.is_due = self._is_probing and not self.is_leaving and self._left_s is None
            return Pad.ANSWER
        self.is_due = self.is_unsure = False
        self.is_leaving = True
        self._unanswered += 1
        return Pad.PROBE

    def left(self, now_s: float) -> None:
        """The probe has left this node."""
        self.is_leaving = False
        self._left_s = now_s

    # --- receiving ------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """A chunk of content has arrived: a sign of life."""
        self._heard += 1
        if self.is_settled:
            self._stir(None)

    def received(self, pad: Pad) -> None:
        """A probe or an answer. Raises MalformedMessage: an answer to nothing."""
        if pad is Pad.PROBE:
            self._is_answer_due = self.is_due = True
            self._on_due()
            return
        if not self._unanswered:
            raise MalformedMessage("PAD answers a probe that was not sent")
        self._unanswered -= 1
        self._heard += 1
        self._is_probing = self.is_leaving = False
        self._left_s = None
        if not self.is_unsure:
            self.is_settled = True

    def settle(self) -> None:
        """All that was sent has arrived, or no longer matters."""
        self.is_settled, self.is_unsure = True, False

    # --- time -----------------------------------------------------------------------------------------------

    def _stir(self, now_s: float | None) -> None:
        self.is_settled = False
        self._since_s = self._looked_s = now_s
        self._heard_before = self._heard
        self.stirred.set()

    def look(
        self, now_s: float, *, made_s: float | None, waits: bool, can_probe: bool, expects: bool
    ) -> str | None:
        """Compare with the last look. A probe may become due.

        Args:
            now_s: on the clock of all other calls.
            made_s: when the chunk was made that has not left this node yet; None: all have left.
            waits: the user of this end waits for something that the other end is to send.
            can_probe: this end may send a probe now. expects: the other end has not ended its direction.
        Returns:
            Why the tunnel is dead; None: it is not, as far as is known.
        """
        was_late = self._looked_s is not None and now_s - self._looked_s > 3 * self.tick_s
        self._looked_s = now_s
        if self._since_s is None or was_late or self._heard != self._heard_before:
            self._since_s = now_s
            self._heard_before = self._heard
            return None
        silent_s = now_s - self._since_s
        if made_s is not None and min(silent_s, now_s - made_s) >= _DEAD * self._silent_s:
            return f"the first link has taken nothing for {_DEAD * self._silent_s:g} s"
        if not self._heard:
            limit_s = _OPENING * self._silent_s
            return f"no answer to HELLO within {limit_s:g} s" if silent_s >= limit_s else None
        if not expects:
            return None
        if not can_probe:
            return _dead(silent_s) if silent_s >= self._silent_s else None
        return self._look_at_probe(now_s, silent_s, is_needed=waits or self.is_unsure)

    def _look_at_probe(self, now_s: float, silent_s: float, *, is_needed: bool) -> str | None:
        if self._left_s is not None:
            had_time = now_s - self._left_s >= _ANSWER * self._silent_s
            return _dead(silent_s) if had_time and silent_s >= _DEAD * self._silent_s else None
        if not self._is_probing and silent_s >= _PROBE * self._silent_s:
            if is_needed:
                self.probe()
            else:
                self.is_settled = True
        return None


def _dead(silent_s: float) -> str:
    return f"nothing has arrived for {silent_s:.0f} s, though the other end must answer at once"
