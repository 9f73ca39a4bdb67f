"""The phases of a message in a layer, as one table that every layer shares.

Two rules. An event that the table does not list for a phase is an error of the caller (`PhaseError`), and the
phase stays as it was. Header and end may take several calls, since each may be refused by the stream half-way
(`BlockingIOError`): so each of them is a phase, entered by the first call and left when all is done.

    NEW ──HEADER──▶ HEADER ──HEADER_DONE──▶ CONTENT ──END──▶ END ──END_DONE──▶ NEW

NEW again, the layer is ready for the next message. FAIL leads from any phase of a message to FAILED, and only
RESET leads out of there. A reader fails by what it read, a writer when its stream breaks under content.
"""

from __future__ import annotations

from enum import Enum, auto

from .errors import PhaseError

__all__ = ["TRANSITIONS", "Event", "Phase", "next_phase"]


class Phase(Enum):
    """Where a layer is in its message."""

    NEW = auto()
    HEADER = auto()
    CONTENT = auto()
    END = auto()
    FAILED = auto()


class Event(Enum):
    """What happens to a layer: a call of its user, the completion of one, or a failure."""

    HEADER = auto()
    HEADER_DONE = auto()
    CONTENT = auto()
    END = auto()
    END_DONE = auto()
    FAIL = auto()
    RESET = auto()


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.NEW: {
        Event.HEADER: Phase.HEADER,
        Event.RESET: Phase.NEW,
    },
    Phase.HEADER: {
        Event.HEADER: Phase.HEADER,
        Event.HEADER_DONE: Phase.CONTENT,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.CONTENT: {
        Event.CONTENT: Phase.CONTENT,
        Event.END: Phase.END,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.END: {
        Event.END: Phase.END,
        Event.END_DONE: Phase.NEW,
        Event.FAIL: Phase.FAILED,
        Event.RESET: Phase.NEW,
    },
    Phase.FAILED: {
        Event.RESET: Phase.NEW,
    },
}

_MEANING = {
    Event.HEADER: "the header of a message",
    Event.CONTENT: "content",
    Event.END: "the end of a message",
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase that follows.

    Raises:
        PhaseError: the table lists no such event for this phase.
    """
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        allowed = ", ".join(possible.name for possible in TRANSITIONS[phase])
        raise PhaseError(
            f"{_MEANING.get(event, event.name)} is not possible in phase {phase.name}; possible: {allowed}"
        ) from None
