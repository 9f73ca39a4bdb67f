"""`LogLimit`: limits log lines that strangers can cause, so that they cannot fill a disk or hide other lines.

In each period it writes a few lines for each event and level. It counts the rest, and writes the count when
the period is over. Source: docs/security.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reactor.errors import log_failure

__all__ = ["LINES", "PERIOD_S", "LogLimit"]

LINES: Final = 20
"""Lines of one event and level in a period."""
PERIOD_S: Final = 10.0


@dataclass(slots=True)
class _Period:
    since_s: float
    written: int = 0
    left_out: int = 0


class LogLimit:
    """The lines of one node.

    Args:
        name: of the node, for each line.
        now_s: a monotonic clock.
    """

    def __init__(self, log: logging.Logger, name: str, now_s: Callable[[], float]) -> None:
        self._log = log
        self._name = name
        self._now_s = now_s
        self._periods: dict[tuple[int, str], _Period] = {}  # bounded: the code names the events

    def warning(self, event: str, reason: str) -> None:
        """Write `node NAME EVENT: REASON` at WARNING, or count it."""
        self.log(logging.WARNING, event, reason)

    def log(self, level: int, event: str, reason: str) -> None:
        """Write `node NAME EVENT: REASON`, or count it.

        Args:
            event: the node's action, from a small set of fixed texts such as "refused a connection".
            reason: of this occurrence.
        """
        if self._admits(level, event):
            self._log.log(level, "node %s %s: %s", self._name, event, reason)

    def failure(self, event: str, error: BaseException, text: str) -> None:
        """Log an error as `log_failure` does, with its traceback, or count it.

        Args:
            text: the failure, shown after the name of the node.
        """
        if self._admits(logging.ERROR, event):
            log_failure(self._log, error, "node %s: %s", self._name, text)

    def _admits(self, level: int, event: str) -> bool:
        self.tell()
        period = self._periods.setdefault((level, event), _Period(self._now_s()))
        if period.written >= LINES:
            period.left_out += 1
            return False
        period.written += 1
        return True

    def tell(self) -> None:
        """Write the counts of periods that are over. The keeper calls this regularly."""
        now_s = self._now_s()
        over = [key for key, period in self._periods.items() if now_s - period.since_s >= PERIOD_S]
        for level, event in over:
            period = self._periods.pop((level, event))
            if period.left_out:
                self._log.log(
                    level,
                    "node %s %s %d more times in %.0f s, for reasons that are not shown",
                    self._name, event, period.left_out, now_s - period.since_s,
                )  # fmt: skip
