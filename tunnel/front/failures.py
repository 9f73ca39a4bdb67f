"""Texts that explain a failed connection, for the program's reply and for the log.

A text names the end of the tunnel: an exit, or a node that publishes a service. Log lines contain neither
target nor hops; `Failed.text` has them, for the program and for DEBUG.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from reactor import TimedOut
from tunnel.codes import CODES
from tunnel.errors import ErrorCode, PeerError, QueryFailed, SubStreamReset
from tunnel.established import Target, TargetKind
from tunnel.front.handshake import Failed

__all__ = ["REACH_S", "Advise", "end_of", "failure_of", "no_advice", "summary"]

REACH_S: Final = 60.0
"""Time limit for a tunnel and the target's answer; the exit and the pool have shorter ones of their own."""

_PUBLISHER: Final = "the publishing node"
_LISTED: Final = "is the name right? If the service lists its clients, it wants the key of one (--key FILE)"

Advise: TypeAlias = Callable[[QueryFailed], str]
"""A remedy for a tunnel that could not be opened, such as the command that starts the network; or ""."""


def no_advice(error: QueryFailed) -> str:
    """Only the error's own hint."""
    return error.hint


def end_of(target: Target) -> str:
    """The node that connects to a target, in words."""
    return _PUBLISHER if target.kind is TargetKind.SERVICE else "the exit"


def failure_of(error: Exception, end: str) -> Failed:
    """The reply to a client whose connection could not be made, or ended early.

    Args:
        end: the node at the end of the tunnel, as from `end_of`.
    """
    match error:
        case QueryFailed():
            code = error.code or ErrorCode.DISCONNECTED
            return Failed(code, str(error), error.blamed, hint=error.hint)
        case SubStreamReset() if error.by_other_end:  # a tunnel that fails raises QueryFailed
            text = f"{end} {CODES[error.code].did.format(next='the next node')} ({error.code.name})"
            hint = _LISTED if end == _PUBLISHER and error.code is ErrorCode.TARGET_NOT_ALLOWED else ""
            return Failed(error.code, text, is_at_target=True, hint=hint)
        case PeerError():
            return Failed(error.code, str(error))
        case TimedOut():  # a tunnel is opened in less time
            text = f"{end} did not reach the target within {REACH_S:g} s (TIMEOUT)"
            return Failed(ErrorCode.TIMEOUT, text, is_at_target=True)
        case _:
            return Failed(ErrorCode.INTERNAL, str(error))


def summary(failed: Failed) -> str:
    """The reason for the log, without target and hops."""
    advice = f"; {failed.hint}" if failed.hint else ""
    if failed.is_at_target or failed.code is ErrorCode.INTERNAL:  # the latter is of this process
        return failed.text + advice
    return f"{CODES[failed.code].meaning} ({failed.code.name}){advice}"
