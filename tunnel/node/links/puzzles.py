"""Puzzles that other nodes ask this one to solve: one at a time, in a thread, for its own frames only.

Any machine that answers a dial can issue a puzzle, because RETRY is not authenticated, and strangers decide
whom a relay dials. Three limits bound the work: the difficulty (MAX_BITS), the number of tries, and one
puzzle for each dial, even if the peer has several addresses. A dial for another sender's frame fails when the
peer issues a puzzle. Source: docs/security.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from reactor import RunInThread, Service, Signal
from tunnel.errors import HandshakeError, NextRefused
from tunnel.link.handshake import Puzzle

__all__ = ["DialPuzzles", "PuzzleRefused", "PuzzleSolver"]

# About 2 ms, so that the thread gives way to the reactor and a cancelled search ends soon.
_TRIES_PER_CALL: Final = 2_000
# An honest puzzle needs 2^bits tries on average; more than eight times as many in one of 3,000.
_PATIENCE: Final = 8


class PuzzleRefused(NextRefused):
    """The peer asks for a puzzle, and the frame is not this node's own."""


class PuzzleSolver:
    """Solves the puzzles of one node, one at a time, in order of arrival."""

    def __init__(self) -> None:
        self._line: deque[Signal] = deque()  # the first one is at work; at most one for each dial

    def solve(self, puzzle: Puzzle) -> Service[bytes]:
        """Return the answer. May be cancelled at any time.

        Raises:
            HandshakeError: no answer after eight times the expected number of tries.
        """
        turn = Signal()
        self._line.append(turn)
        try:
            if self._line[0] is not turn:
                yield turn
            for _ in range(0, _PATIENCE << puzzle.bits, _TRIES_PER_CALL):
                yield RunInThread(puzzle.search, _TRIES_PER_CALL)
                if puzzle.answer is not None:
                    return puzzle.answer
        finally:
            was_first = self._line[0] is turn
            self._line.remove(turn)
            if was_first and self._line:
                self._line[0].set()
        raise HandshakeError(f"a puzzle of {puzzle.bits} bits has no answer among {_PATIENCE << puzzle.bits}")


class DialPuzzles:
    """The puzzles of one dial: at most one is solved.

    Args:
        is_own: whether a frame of this node itself waits for the dial. Called when the puzzle arrives, since
            frames may join a dial that has begun.
    """

    def __init__(self, solver: PuzzleSolver, is_own: Callable[[], bool]) -> None:
        self._solver = solver
        self._is_own = is_own
        self._has_solved = False

    def solve(self, puzzle: Puzzle) -> Service[bytes]:
        """Return the answer.

        Raises:
            PuzzleRefused: for another sender's frame. HandshakeError: the second puzzle of this dial, or as
                `PuzzleSolver.solve`.
        """
        if not self._is_own():
            raise PuzzleRefused("it asks for a puzzle, which this node solves for its own frames only")
        if self._has_solved:
            raise HandshakeError("each address of this node asks for a puzzle, and one was solved")
        self._has_solved = True
        return (yield from self._solver.solve(puzzle))
