"""Attack: a hop tries to learn from statuses its place, the success of the frame, and other hops.

A hop has the bytes from downstream, the bytes that it sends upstream, its keys, and so the clear form of
its own layer. The tests give it all of this for thousands of statuses, half of them for training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from tests.tunnel.helpers import OPENSSL, seeded_bytes
from tests.tunnel.status_routes import carry, seeds_of
from tunnel.errors import ErrorCode
from tunnel.geometry import INTERACTIVE
from tunnel.onion.key_schedule import StatusKeys
from tunnel.onion.reports import add_xor_code, raise_xor_code, random_status
from tunnel.onion.status import read_status, wrap_status

SAMPLES = 1_200
RNG = random.Random(20)


def fresh_route(hops: int) -> list[StatusKeys]:
    return [StatusKeys.derive(RNG.randbytes(16)) for _ in range(hops)]


def seen_by(hop: int, hops: int, origin: int, code: ErrorCode | None) -> bytes:
    """The bytes that reach `hop` from downstream."""
    text = "" if code is None else "the service raised an error"
    return carry(fresh_route(hops), origin, INTERACTIVE, code=code, text=text)[origin - hop - 1]


def features(status: bytes) -> list[float]:
    """Features for a simple classifier: sums of bits in 54 windows of 8 bytes, mean byte, repeats."""
    windows = [int.from_bytes(status[i : i + 8], "big").bit_count() for i in range(0, len(status), 8)]
    repeats = sum(a == b for a, b in zip(status, status[4:], strict=False))
    return [*map(float, windows), sum(status) / len(status), status.count(0), float(repeats)]


def accuracy(left: Sequence[bytes], right: Sequence[bytes]) -> float:
    """A nearest-centroid classifier with unit variances, trained on one half and tested on the other."""
    half = len(left) // 2
    train = [[features(s) for s in side[:half]] for side in (left, right)]
    count = len(train[0][0])
    means = [[sum(row[i] for row in side) / half for i in range(count)] for side in train]
    spread = [
        math.sqrt(sum((row[i] - means[k][i]) ** 2 for k in (0, 1) for row in train[k]) / (2 * half)) or 1.0
        for i in range(count)
    ]

    def distance(row: list[float], mean: list[float]) -> float:
        return sum(((a - b) / s) ** 2 for a, b, s in zip(row, mean, spread, strict=True))

    right_answers = 0
    for label, side in enumerate((left, right)):
        for status in side[half:]:
            row = features(status)
            right_answers += (distance(row, means[1]) < distance(row, means[0])) == bool(label)
    return right_answers / (2 * (len(left) - half))


def assert_chance(left: Sequence[bytes], right: Sequence[bytes]) -> None:
    asked = 2 * (len(left) - len(left) // 2)
    # Four standard deviations of a coin: by chance once in 16,000 runs, and the seed is fixed.
    assert abs(accuracy(left, right) - 0.5) < 4 * 0.5 / math.sqrt(asked)


def many(make: Callable[[], bytes]) -> list[bytes]:
    return [make() for _ in range(SAMPLES)]


def test_success_and_failure_look_alike() -> None:
    assert_chance(
        many(lambda: seen_by(0, 4, 3, None)),
        many(lambda: seen_by(0, 4, 3, ErrorCode.SERVICE_FAILED)),
    )


@pytest.mark.full
def test_next_to_the_origin_or_far_from_it() -> None:
    assert_chance(
        many(lambda: seen_by(2, 4, 3, ErrorCode.TIMEOUT)), many(lambda: seen_by(0, 7, 6, ErrorCode.TIMEOUT))
    )


@pytest.mark.full
def test_first_hop_or_later_one() -> None:
    assert_chance(
        many(lambda: seen_by(0, 6, 5, ErrorCode.TIMEOUT)), many(lambda: seen_by(3, 6, 5, ErrorCode.TIMEOUT))
    )


@pytest.mark.full
def test_a_status_or_noise_or_xor_codes() -> None:
    draw = seeded_bytes(5)
    statuses = many(lambda: seen_by(1, 4, 3, None))
    assert_chance(statuses, many(lambda: random_status(INTERACTIVE, draw)))

    def xor_codes() -> bytes:
        seeds = [RNG.randbytes(16) for _ in range(2)]
        return add_xor_code(raise_xor_code(seeds[1], INTERACTIVE, draw), seeds[0], INTERACTIVE, draw)

    assert_chance(statuses, many(xor_codes))


def test_the_classifier_does_find_what_is_there() -> None:
    """The clear forms of success and failure differ, so the test above can fail."""
    route = fresh_route(1)
    clear = []
    for code, text in [(None, ""), (ErrorCode.SERVICE_FAILED, "the service raised an error")]:
        status = bytearray(carry(route, 0, INTERACTIVE, code=code, text=text)[-1])
        OPENSSL.layers.xor_keystream(route[0].pad, memoryview(status))
        clear.append([bytes(status)] * 50)
    assert accuracy(*clear) == 1.0


@pytest.mark.parametrize("bit", [0, 300, 2_047, 2_048, 3_000, 3_455])
def test_a_mark_on_a_status_cannot_be_read_further_up(bit: int) -> None:
    """Tagging: one bit flipped at hop 3. The bytes that reach an accomplice at hop 1 are under hop 2's pad:
    without the unmarked bytes, which no node has, it sees noise (next test). Alice sees the
    mark and the two suspects, unless the mark was in a part that is cut off."""
    route = [StatusKeys.derive(seed) for seed in seeds_of(5)]

    def mark(status: bytes) -> bytes:
        changed = bytearray(status)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    marked = carry(route, 4, INTERACTIVE, on_output={3: mark})
    report = read_status(marked[-1], route, geometry=INTERACTIVE, engine=OPENSSL)
    assert report.suspects in ((2, 3), ())
    assert report.suspects == (2, 3) or bit >= 2_048


@pytest.mark.full
def test_marked_and_unmarked_statuses_look_alike_to_an_accomplice() -> None:
    def at_hop_1(marked: bool) -> bytes:
        route = fresh_route(5)
        tamper = {3: lambda status: bytes(256) + status[256:]} if marked else {}
        status = carry(route, 4, INTERACTIVE, on_output=tamper)[2]
        # The accomplice also removes its own pad, and sees its own clear form.
        clear = bytearray(wrap_status(status, route[1], geometry=INTERACTIVE, hold_ms=0, engine=OPENSSL))
        OPENSSL.layers.xor_keystream(route[1].pad, memoryview(clear))
        return bytes(clear[:256]) + status[256:]

    assert_chance(many(lambda: at_hop_1(False)), many(lambda: at_hop_1(True)))


def test_two_hops_with_one_between_share_no_bytes() -> None:
    """Colluding hops compare all their bytes: no four bytes of one occur in the other."""
    for _ in range(50):
        seen = carry(fresh_route(5), 4, INTERACTIVE)
        first, third = seen[0], seen[2]
        pieces = {first[i : i + 4] for i in range(429)}
        assert not any(third[i : i + 4] in pieces for i in range(429))
