"""Names of services, files and attachments: the rules, and their reasons.

Service names are ASCII letters, digits, "-", "_" and ".", without a leading dot, because people type them and
put them into configurations. Files and attachments keep their names ("日本語.txt", "my résumé (1).txt",
".bashrc"), in UTF-8 and NFC on the wire, so that é has one form. Three kinds of names are refused: names that
a folder cannot hold ("/", NUL, ".", ".."), names that change the display of a terminal (control characters,
line separators, direction marks), and names of unfinished files (".….part"). A name from a peer is therefore
never a path, and safe to print. Source: docs/services.md, "Services".
"""

from __future__ import annotations

import unicodedata
from typing import Final

from reactor.errors import check_type
from tunnel.errors import LocalTunnelError

__all__ = [
    "MAX_FILE_NAME_BYTES",
    "MAX_NAME_BYTES",
    "REVERSE",
    "checked_file_name",
    "checked_name",
    "file_name",
    "is_name",
    "safe_name",
]

MAX_NAME_BYTES: Final = 120
"""Longest name of a service."""

REVERSE: Final = b".reverse"
"""The service that listens for clients, `tunnel.services.reverse`. Names of users' services have no dot in
front."""

MAX_FILE_NAME_BYTES: Final = 255
"""Longest name of a file in UTF-8: the limit of file systems, and of the length byte on the wire."""

_ALLOWED: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
# Control characters, surrogates, line and paragraph separators.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# All of Unicode's Bidi_Control: "gpj.\u202eexe" would look like an image.
_DIRECTION_MARKS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def is_name(raw: bytes) -> bool:
    """Whether received bytes are a valid name of a service."""
    return 1 <= len(raw) <= MAX_NAME_BYTES and raw[0] != ord(".") and _ALLOWED.issuperset(raw)


def checked_name(name: str) -> bytes:
    """The name of a service as bytes. Raises LocalTunnelError: invalid. TypeError: not text."""
    if not isinstance(name, str):
        raise TypeError(f"service: expected a name as text, got {type(name).__name__}")
    raw = name.encode("utf-8", "surrogatepass")
    if not is_name(raw):
        raise LocalTunnelError(
            f"invalid name {name!r}: expected 1 to {MAX_NAME_BYTES} ASCII letters, digits, '-', '_' or '.', "
            "and no dot first"
        )
    return raw


def file_name(raw: bytes) -> str | None:
    """Received bytes as the name of a file or attachment; None: invalid."""
    if not 1 <= len(raw) <= MAX_FILE_NAME_BYTES:
        return None
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return name if not _fault(name) and unicodedata.is_normalized("NFC", name) else None


def checked_file_name(name: str) -> str:
    """The name of a file or attachment in the form of the wire, NFC.

    Raises:
        LocalTunnelError: invalid; the text gives the reason and suggests a valid name. TypeError: no text.
    """
    check_type(name, str, "file name", "text")
    if fault := _fault(name):
        raise LocalTunnelError(
            f"invalid file name {name!r}: {fault}; use another name, for instance {safe_name(name)!r}"
        )
    normalized = unicodedata.normalize("NFC", name)
    size = len(normalized.encode("utf-8"))
    if size > MAX_FILE_NAME_BYTES:
        raise LocalTunnelError(
            f"invalid file name {name!r}: {size} bytes in UTF-8, expected at most {MAX_FILE_NAME_BYTES}; use "
            f"another name, for instance {safe_name(name)!r}"
        )
    return normalized


def safe_name(name: str) -> str:
    """The nearest valid file name: refused characters become "_", a long name is cut before its suffix."""
    name = unicodedata.normalize("NFC", "".join("_" if _is_refused(char) else char for char in name))
    if len(name.encode("utf-8")) > MAX_FILE_NAME_BYTES:
        stem, dot, suffix = name.rpartition(".")
        if not stem or len(suffix.encode("utf-8")) > 16:  # a long text after a dot is not a suffix
            stem, dot, suffix = name, "", ""
        room = MAX_FILE_NAME_BYTES - len((dot + suffix).encode("utf-8"))
        name = stem.encode("utf-8")[:room].decode("utf-8", "ignore") + dot + suffix
    if name in ("", ".", "..") or _is_part(name):
        name = "_" + name[1:]
    return name


def _fault(name: str) -> str:
    """The reason to refuse this file name; empty: it is valid. Does not check length and normal form."""
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return "it means a folder"
    if "/" in name:
        return "it has a '/', which separates folders"
    if any("\ud800" <= char <= "\udfff" for char in name):
        return "it is not UTF-8"
    if found := next((char for char in name if _is_refused(char)), ""):
        return f"it has the control character U+{ord(found):04X}"
    if _is_part(name):
        return "names that begin with '.' and end with '.part' are those of unfinished files"
    return ""


def _is_refused(char: str) -> bool:
    return char == "/" or char in _DIRECTION_MARKS or unicodedata.category(char) in _REFUSED_CATEGORIES


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.casefold().endswith(".part")
