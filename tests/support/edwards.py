"""Arithmetic on edwards25519 in plain integers: slow, not constant in time, and free of any library.

Tests use it to forge signatures that no library makes: points of low or mixed order, other encodings.
Source: RFC 8032, section 5.1; affine coordinates and the complete addition law of section 5.1.4.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BASE",
    "IDENTITY",
    "ORDER",
    "PRIME",
    "Point",
    "add",
    "decode",
    "encode",
    "multiply",
    "torsion_point",
]

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, PRIME) % PRIME
_ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)


class Point(NamedTuple):
    x: int
    y: int


IDENTITY = Point(0, 1)


def add(left: Point, right: Point) -> Point:
    """The sum of two points, equal ones and the identity included."""
    product = _D * left.x * right.x * left.y * right.y % PRIME
    x = (left.x * right.y + right.x * left.y) * pow(1 + product, -1, PRIME)
    y = (left.y * right.y + left.x * right.x) * pow(1 - product, -1, PRIME)
    return Point(x % PRIME, y % PRIME)


def multiply(scalar: int, point: Point) -> Point:
    """`scalar` times `point`, for any non-negative scalar."""
    total = IDENTITY
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def encode(point: Point) -> bytes:
    """The 32 bytes of RFC 8032, section 5.1.2."""
    return (point.y | (point.x & 1) << 255).to_bytes(32, "little")


def decode(data: bytes) -> Point | None:
    """Decode by section 5.1.3; None: not a point. y is reduced, so non-canonical encodings are accepted."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, (number & (2**255 - 1)) % PRIME
    square = (y * y - 1) * pow(_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * _ROOT_OF_MINUS_ONE % PRIME
    if x * x % PRIME != square:
        return None
    return Point(PRIME - x if x and x & 1 != sign else x, y)


def torsion_point() -> Point:
    """A point of order 8: a point times the large prime order, tried until that has full small order."""
    y = 2
    while True:
        point = decode(y.to_bytes(32, "little"))
        if point is not None:
            small = multiply(ORDER, point)
            if multiply(4, small) != IDENTITY:
                return small
        y += 1


def _base() -> Point:
    point = decode((4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little"))
    assert point is not None
    return point


BASE = _base()
