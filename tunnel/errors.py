"""The one error tree of the tunnel package.

Rules for changing it:

* Whose fault comes first: `LocalTunnelError` (this process broke the rules: a bug, or a wrong argument) or
  `RemoteTunnelError` (bytes from outside did). Every class below is one or the other.
* A class exists only where a caller acts differently; detail for people goes in the text.
* Text says what, expected, got, where. It goes to the log; a peer never sees it.
* Refusals of cryptography say *that* bytes were refused and never why: the reason (short input, bad point, wrong
  tag) would help only whoever is probing.

`readwrite_comp.errors.LayerError` and `reactor`'s errors are trees of their own: each package stands alone.
"""

from __future__ import annotations

__all__ = [
    "BadSignature",
    "CryptoError",
    "HandshakeError",
    "LocalTunnelError",
    "Refused",
    "RefusedKey",
    "RemoteTunnelError",
    "TunnelError",
]


class TunnelError(Exception):
    """Root of every error that this package raises on purpose."""


class LocalTunnelError(TunnelError):
    """This process broke the rules: wrong argument, or a call in the wrong order."""


class RemoteTunnelError(TunnelError):
    """Bytes from outside broke the rules; nothing here is wrong."""


class CryptoError(RemoteTunnelError):
    """Root of what the primitives refuse about bytes from outside."""


class Refused(CryptoError):
    """Sealed bytes do not open: one error for every reason."""


class RefusedKey(CryptoError):
    """An X25519 public key from outside is of low order: the shared secret would be all zero."""


class BadSignature(CryptoError):
    """An Ed25519 signature does not fit the message and the key."""


class HandshakeError(RemoteTunnelError):
    """A link handshake message was refused; the handshake stands where it stood before."""
