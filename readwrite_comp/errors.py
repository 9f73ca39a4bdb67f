"""The errors of the package: first whose fault it is, then what happened.

`LocalLayerError`: this side broke a rule (wrong phase, parameter out of range, object in use); the refused
call changed nothing. `RemoteLayerError`: the bytes that arrived violate the format; the layer raises the
error again at every call (it is *sticky*) until `reset()`.

`BlockingIOError` is not an error of this package and is never wrapped: the stream cannot proceed now.
Rule for changing this file: only these classes leave a layer's methods, so each is part of the public API.
"""

from __future__ import annotations

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
]


class LayerError(Exception):
    """The base of all errors of this package."""


class LocalLayerError(LayerError):
    """This side broke a rule of the interface. Correct the calling code; retrying does not help."""


class PhaseError(LocalLayerError):
    """A call that is not allowed in this phase of the message, such as content after its end."""


class InUse(LocalLayerError):
    """A layer in the middle of a message, or given twice, was put into a stack or a file-like object; or
    another holder has the shared layer.
    """


class BadParameter(LocalLayerError, ValueError):
    """A parameter outside its documented range."""


class EngineUnavailable(LocalLayerError):
    """The engine's crypto library cannot be imported; the text names the package to install."""


class RemoteLayerError(LayerError):
    """The bytes that arrived are not what this layer's writer produces."""

    is_expected = True  # see `RemoteTunnelError`: bad bytes from outside are no bug here


class Truncated(RemoteLayerError):
    """The stream ended inside a structure or before the end mark."""


class Malformed(RemoteLayerError):
    """A field has a value that the format forbids."""


class LimitExceeded(RemoteLayerError):
    """More content than the caller's limit allows. Not sticky: the layer has not failed."""


class AuthenticationError(RemoteLayerError):
    """An authentication tag does not match; the refused chunk was not released."""
