"""Buffers of all formats and shapes, for calls that count bytes, and objects that are not buffers."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable
from typing import Any

__all__ = ["NO_BUFFERS", "SHAPES"]


def _structure(data: bytes) -> Any:
    class Pair(ctypes.Structure):
        _fields_ = [("left", ctypes.c_uint8 * (len(data) // 2)), ("right", ctypes.c_uint8 * (len(data) // 2))]

    return Pair.from_buffer_copy(data)


def _mapped(data: bytes) -> mmap.mmap:
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return mapped


def _closed_map() -> mmap.mmap:
    mapped = mmap.mmap(-1, 8)
    mapped.close()
    return mapped


SHAPES: dict[str, Callable[[bytes], Any]] = {
    "bytearray": bytearray,
    "array of ints": lambda data: array.array("I", data),
    "array of doubles": lambda data: array.array("d", data),
    "view of ints": lambda data: memoryview(array.array("I", data)),
    "view of signed bytes": lambda data: memoryview(bytearray(data)).cast("b"),
    "view of characters": lambda data: memoryview(bytearray(data)).cast("c"),
    "rows of bytes": lambda data: memoryview(bytearray(data)).cast("B", (len(data) // 4, 4)),
    "a column": lambda data: memoryview(bytearray(data)).cast("B", (len(data), 1)),
    "ctypes array": lambda data: (ctypes.c_uint16 * (len(data) // 2)).from_buffer_copy(data),
    "ctypes rows": lambda data: ((ctypes.c_uint16 * 2) * (len(data) // 4)).from_buffer_copy(data),
    "ctypes structure": _structure,
    "mmap": _mapped,
}
"""Each makes a writable buffer of exactly these bytes; their number is a multiple of 8, and not 0."""

NO_BUFFERS: dict[str, tuple[Any, str]] = {
    "text": ("text", "str"),
    "list": ([1, 2, 3], "list"),
    "number": (5, "int"),
    "None": (None, "NoneType"),
    "closed map": (_closed_map(), "closed"),
    "object pointers": ((ctypes.py_object * 2)(), "objects"),
    "every other byte": (memoryview(bytearray(8))[::2], "gaps"),
    "backwards": (memoryview(bytearray(8))[::-1], "gaps"),
}
"""Objects that a call refuses, each with a word of its error."""
