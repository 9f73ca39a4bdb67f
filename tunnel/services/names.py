"""Which names files, attachments and services may have: those that mean the same on every machine.

Letters and digits of ASCII and "-", "_", "."; the first is no dot. So a name is never a path, never hidden,
never the name of a file that is still being written, and two names that look alike are alike.
"""

from __future__ import annotations

from typing import Final

from tunnel.errors import LocalTunnelError

__all__ = ["MAX_NAME_BYTES", "checked_name", "is_name", "safe_name"]

MAX_NAME_BYTES: Final = 120
"""Room for what is put around it while a file is not whole: file systems allow 255."""

_ALLOWED: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def is_name(raw: bytes) -> bool:
    """Whether bytes from outside are a name."""
    return 1 <= len(raw) <= MAX_NAME_BYTES and raw[0] != ord(".") and _ALLOWED.issuperset(raw)


def checked_name(name: str) -> bytes:
    """A name as bytes. Raises LocalTunnelError: it is none."""
    raw = name.encode("utf-8", "surrogatepass")
    if not is_name(raw):
        raise LocalTunnelError(
            f"{name!r} is no name: 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.', no dot first"
        )
    return raw


def safe_name(name: str) -> str:
    """The nearest name to any text: what is not allowed becomes "_"."""
    raw = name.encode("ascii", "replace")
    raw = bytes(byte if byte in _ALLOWED else ord("_") for byte in raw)[:MAX_NAME_BYTES]
    if not raw or raw.startswith(b"."):
        raw = b"_" + raw[1:]
    return raw.decode("ascii")
