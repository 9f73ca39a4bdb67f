"""Checks of public calls: their arguments, and `with` blocks (`EnteredOnce`). `setting` declares a field.

Each check returns the argument in the form that the program uses. It runs once, where a user's value enters:
a setting given as text becomes an enum member there, so later code can compare with `is`. A wrong type raises
TypeError, an unknown or out-of-range value `BadArgument`; both texts have the expected values.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import Field, field, fields
from enum import Enum
from typing import Any, Self, TypeVar

from tunnel.errors import BadArgument, LocalTunnelError

__all__ = [
    "ID_BYTES",
    "LEAST_SECONDS",
    "MOST_BYTES",
    "MOST_PORT",
    "MOST_SECONDS",
    "EnteredOnce",
    "bounded",
    "check_fields",
    "check_options",
    "checked_bytes",
    "checked_count",
    "checked_id",
    "checked_seconds",
    "did_you_mean",
    "member",
    "plain_name",
    "range_of",
    "setting",
]

ID_BYTES = 32
"""Length of a node id."""

MOST_PORT = 65_535
"""The highest TCP or UDP port."""

MOST_BYTES = 1 << 40
LEAST_SECONDS = 0.001
MOST_SECONDS = 30 * 24 * 3600.0
"""Shortest and longest time in a setting."""
# The usual ranges of a setting. A shorter time would keep a processor busy, or end work that has just begun.
_SECONDS = (LEAST_SECONDS, MOST_SECONDS)
_COUNT = (1, 100_000_000)
_BYTES = (0, MOST_BYTES)

E = TypeVar("E", bound=Enum)
T = TypeVar("T")


class EnteredOnce:
    """Base of the context managers that serve one `with` block.

    A second block would use what the first has closed, and an inner one would close it under the outer.
    """

    _has_entered = False

    def enter_once(self, what: str, again: str, *, is_closed: bool = False) -> Self:
        """Begin the `with` block of this object, and return it.

        Args:
            what: the object, for the error. again: how to make another one. is_closed: it was closed before.
        Raises:
            LocalTunnelError: it has had its block, or was closed.
        """
        if self._has_entered or is_closed:
            past = "was entered before" if self._has_entered else "was closed"
            raise LocalTunnelError(f"this {what} {past}: make another one, `{again}`")
        self._has_entered = True
        return self


def setting(
    default: T, help: str, unit: str = "", *, least: float | None = None, most: float | None = None
) -> T:
    """A dataclass field that the configuration file can set.

    Args:
        default: immutable. help: meaning, one or two sentences; shown in docs/configuration.md.
        unit: "s" or "bytes", for numbers with a unit.
        least, most: range of a number; by default the usual range of its kind, see `range_of`.
    """
    return field(default=default, metadata={"help": help, "unit": unit, "least": least, "most": most})


def bounded(default: T, *, least: float | None = None, most: float | None = None) -> T:
    """A dataclass field with its own range, which the configuration file cannot set."""
    return field(default=default, metadata={"least": least, "most": most})


def range_of(each: Field[Any]) -> tuple[Any, Any]:
    """The range of a number: the field's own, or 0.001 s to 30 days, 1 to 100,000,000, 0 to 1 TiB."""
    is_size = each.metadata.get("unit") == "bytes"
    usual = _SECONDS if isinstance(each.default, float) else _BYTES if is_size else _COUNT
    own = each.metadata.get("least"), each.metadata.get("most")
    least, most = (usually if given is None else given for given, usually in zip(own, usual, strict=True))
    return least, most


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass of settings, each by the type of its default. Names become members.

    Raises:
        TypeError: a wrong type. BadArgument: out of range (`range_of`), or an unknown name.
    """
    for each in fields(settings):
        value, default = getattr(settings, each.name), each.default
        if isinstance(default, Enum):
            object.__setattr__(settings, each.name, member(type(default), value, each.name))
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise TypeError(f"{each.name}: expected True or False, got {value!r}")
        elif isinstance(default, float):
            least, most = range_of(each)
            checked_seconds(value, each.name, least=least, most=most)
        elif isinstance(default, int):
            least, most = range_of(each)
            checked_count(value, each.name, least=least, most=most)


def plain_name(text: str) -> str:
    """A name in the form for comparisons: "Other_Route" and " other-route" become "other-route"."""
    return text.strip().lower().replace("_", "-")


def did_you_mean(name: str, names: Iterable[str], form: str = "{}") -> str:
    """A hint, "did you mean …?", with the most similar of the known names in `form`; "": none is similar."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {form.format(found[0])}?" if found else ""


def member(kind: type[E], value: Any, what: str) -> E:
    """The member of an enum, given as the member, or as its name or text in any case.

    Args:
        what: name of the argument, for the error.
    Raises:
        BadArgument: unknown name; the text lists the known ones. TypeError: neither a member nor text.
    """
    if isinstance(value, kind):
        return value
    labels = {_label(each): each for each in kind}
    expected = ", ".join(labels)
    if type(value) is int and issubclass(kind, int) and value in kind._value2member_map_:
        return kind(value)
    if not isinstance(value, str) or isinstance(value, Enum):
        raise TypeError(f"{what}: expected a {kind.__name__} or one of {expected}, got {value!r}")
    found = labels.get(plain_name(value))
    if found is None:
        raise BadArgument(f"{what} {value!r}: expected one of {expected}")
    return found


def _label(each: Enum) -> str:
    return each.value if isinstance(each.value, str) else plain_name(each.name)


def checked_id(value: Any, what: str = "destination") -> bytes:
    """The bytes of a node id.

    Raises:
        TypeError: not bytes, such as a node, or an id in hex. BadArgument: not 32 bytes.
    """
    if type(value) is not bytes:
        hint = ""
        if isinstance(value, str):
            hint = ": for an id in hex use bytes.fromhex(...)"
            if len(value) != 2 * ID_BYTES:
                hint = ": for the name of a peer use tunnel.directory.ids_by_name(...)[name]"
        elif isinstance(getattr(value, "id", None), bytes):
            hint = f": use the {type(value).__name__}'s `id`"
        elif isinstance(getattr(value, "node_id", None), bytes):
            hint = f": use the {type(value).__name__}'s `node_id`"
        if hint or isinstance(value, int | type(None)):
            raise TypeError(
                f"{what}: expected the {ID_BYTES} bytes of a node id, got {type(value).__name__}{hint}"
            )
        value = _bytes_of(value, what)
    node_id: bytes = value
    if len(node_id) != ID_BYTES:
        raise BadArgument(f"{what}: expected a node id of {ID_BYTES} bytes, got {len(node_id)}")
    return node_id


def checked_bytes(value: Any, what: str, length: int) -> bytes:
    """Raises TypeError: not bytes. BadArgument: another length."""
    data = _bytes_of(value, what)
    if len(data) != length:
        raise BadArgument(f"{what}: expected {length} bytes, got {len(data)}")
    return data


def _bytes_of(value: Any, what: str) -> bytes:
    from readwrite_comp.helpers import byte_view  # only here: the command line loads this module

    return bytes(byte_view(value, what))


def checked_count(value: Any, what: str, *, least: int = 0, most: int | None = None) -> int:
    """Raises TypeError: not an integer. BadArgument: out of range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}: expected a whole number, got {value!r}")
    if value < least or (most is not None and value > most):
        expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise BadArgument(f"{what}: expected {expected}, got {value}")
    return value


def checked_seconds(value: Any, what: str, *, least: float = 0.0, most: float = math.inf) -> float:
    """A time in seconds; infinity, where it is allowed, means no limit.

    Raises:
        TypeError: not a number. BadArgument: out of range, or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what}: expected a number of seconds, got {value!r}")
    if not least <= value <= most:  # also NaN
        expected = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:,.0f}"
        raise BadArgument(f"{what}: expected seconds, {expected}, got {value}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond every float
        return math.inf


def check_options(given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError: an unknown option; the text names the nearest known one."""
    names = sorted(known)
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names, "{!r}") or f"expected one of {', '.join(names)}"
            raise TypeError(f"unknown option {name!r}: {hint}")
