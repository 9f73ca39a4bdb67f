"""A time limit on one step of a frame, as an error of the frame."""

from __future__ import annotations

from typing import TypeVar

from reactor import Service, TimedOut, timeout_after
from tunnel.errors import IdleTimeout

__all__ = ["within"]

T = TypeVar("T")


def within(limit_s: float, service: Service[T], what: str) -> Service[T]:
    """Run a service, for so long.

    Args:
        what: names what was waited for, in the error's text.
    Raises:
        IdleTimeout: the time is over. Whatever the service raises.
    """
    try:
        return (yield from timeout_after(limit_s, service))
    except TimedOut as error:
        raise IdleTimeout(f"{what} within {limit_s:g} s") from error
