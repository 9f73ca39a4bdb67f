"""The errors of the package, first by the side at fault, then by the cause.

`LocalLayerError`: this side broke a rule (wrong phase, parameter out of range, object in use); the refused
call changed nothing. `RemoteLayerError`: the bytes that arrived violate the format; the layer raises the
error again at every call (it is *sticky*) until `reset()`.

`BlockingIOError` is not an error of this package and is never wrapped: the stream cannot proceed now. A
sticky error is raised as a copy each time: `renewed`.

Rule for changing this file: only these classes leave a layer's methods, so each is part of the public API.
"""

from __future__ import annotations

from types import WrapperDescriptorType
from typing import Any, TypeVar

__all__ = [
    "AuthenticationError",
    "BadParameter",
    "EngineUnavailable",
    "InUse",
    "LayerError",
    "LimitExceeded",
    "LocalLayerError",
    "Malformed",
    "PhaseError",
    "RemoteLayerError",
    "Truncated",
    "is_same_error",
    "renewed",
]


E = TypeVar("E", bound=BaseException)
_ORIGINAL = "_renewed_from"


class LayerError(Exception):
    """The base of all errors of this package."""


class LocalLayerError(LayerError):
    """This side broke a rule of the interface. Correct the calling code; retrying does not help."""


class PhaseError(LocalLayerError):
    """A call that is not allowed in this phase of the message, such as content after its end."""


class InUse(LocalLayerError):
    """A layer is in use: by an unfinished message, twice in one stack, or by another holder."""


class BadParameter(LocalLayerError, ValueError):
    """A parameter outside its documented range."""


class EngineUnavailable(LocalLayerError):
    """The engine's crypto library cannot be imported; the text names the package to install."""


class RemoteLayerError(LayerError):
    """The received bytes violate the format of this layer."""

    is_expected = True  # see `RemoteTunnelError`: bad bytes from outside are not a bug of this process


class Truncated(RemoteLayerError):
    """The stream ended inside a structure or before the end mark."""


class Malformed(RemoteLayerError):
    """A field has a value that the format forbids."""


class LimitExceeded(RemoteLayerError):
    """More content than the caller's limit allows. Not sticky: the layer has not failed."""


class AuthenticationError(RemoteLayerError):
    """An authentication tag does not match; the refused chunk was not released."""


def renewed(error: E) -> E:
    """Return a copy of a kept error, to be raised again: `raise renewed(self._error)`.

    Each raise of one object adds frames to its traceback and keeps their objects alive, and two threads would
    write into the same traceback. The copy has the class, attributes, cause and first traceback of the
    original; `is_same_error` recognises it. An error that cannot be copied is returned itself, without its
    traceback.
    """
    kind = type(error)
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        return error.with_traceback(None)  # the copy would lack the values in slots
    try:
        parts: Any = error.__reduce_ex__(2)
        _, args, *state = parts
        copy = kind.__new__(kind, *args)
        # Not an `__init__` in Python: its arguments need not be those of the builtin class.
        for base in kind.__mro__:
            if isinstance(init := vars(base).get("__init__"), WrapperDescriptorType):
                init(copy, *args)
                break
        copy.__dict__.update(*state)
        copy.__dict__.setdefault(_ORIGINAL, error)
    except Exception:  # noqa: BLE001 - a user's class may do anything here
        return error.with_traceback(None)
    if notes := getattr(error, "__notes__", None):
        copy.__notes__ = list(notes)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def is_same_error(error: BaseException, kept: BaseException | None) -> bool:
    """Whether `error` is the kept one or a copy of it made by `renewed`."""
    return getattr(error, _ORIGINAL, error) is getattr(kept, _ORIGINAL, kept)
