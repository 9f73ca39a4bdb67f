"""The error tree of the package: first whose fault it is, then what happened.

Two branches, after h11's pair. `LocalLayerError`: the caller on this side broke a rule (wrong phase, a
parameter out of range, an object in use); the bytes are innocent, and nothing was changed by the refused
call. `RemoteLayerError`: the bytes that came in are not what the format allows; the layer that met them stays
in that error (it is *sticky*) until its `reset()`.

`BlockingIOError` is not an error of this package and is never wrapped: it is the stream saying "not now".
Rule for changing this file: a class here is a promise of the public surface, since only these leave a layer's
methods.
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
    """Anything this package refuses. Catch it to treat both sides' faults alike."""


class LocalLayerError(LayerError):
    """This side broke a rule of the interface. Correct the calling code; retrying does not help."""


class PhaseError(LocalLayerError):
    """A call that the phase of the message does not allow, such as content after its end."""


class InUse(LocalLayerError):
    """A layer that is in the middle of a message, or has its place already, was given to a stack or a
    file-like object; or a shared layer was used while another holder has it.
    """


class BadParameter(LocalLayerError, ValueError):
    """A parameter outside its documented range: the text says what was expected and what was given."""


class EngineUnavailable(LocalLayerError):
    """The crypto library behind the named engine cannot be imported. The text names the package to
    install.
    """


class RemoteLayerError(LayerError):
    """The bytes that arrived are not what the other side of this layer writes."""

    is_expected = True  # see `RemoteTunnelError`: bad bytes from outside are no bug here


class Truncated(RemoteLayerError):
    """The stream below ended inside a structure: a header, a window, a chunk, or before the end mark."""


class Malformed(RemoteLayerError):
    """A field holds a value that the format forbids."""


class LimitExceeded(RemoteLayerError):
    """There is more content than the caller's limit allows. The layer itself has not failed: not sticky."""


class AuthenticationError(RemoteLayerError):
    """An authentication tag does not match. Nothing of the refused chunk was released."""
