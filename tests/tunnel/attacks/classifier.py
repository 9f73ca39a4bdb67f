"""A trained classifier for attackers: naive Bayes over a proxy's view of a frame. No numpy.

It learns from labelled views and guesses the labels of others. `planted` marks views with a faint sign of
their label: a test that the classifier finds it shows that it would find a real one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.tunnel.helpers import NOW_S
from tunnel.onion.header import Opened

__all__ = ["NaiveBayes", "View", "accuracy", "features", "planted"]

Feature = tuple[str, int, int]


@dataclass(frozen=True)
class View:
    """One frame at one proxy: as received, its slot, as sent, and the label to guess."""

    label: Hashable
    frame_in: bytes
    opened: Opened
    frame_out: bytes
    header_bytes: int


def features(view: View) -> Iterator[Feature]:
    """Sizes, slot fields, and coarse histograms of the bytes of each part, as (name, index, value)."""
    slot = view.opened.slot
    yield "length in", 0, len(view.frame_in)
    yield "length out", 0, len(view.frame_out)
    yield "expiry", 0, (slot.expiry - int(NOW_S)) // 3_600
    yield "delay", 0, slot.delay_10ms
    yield "flags", 0, slot.flags
    yield "reserved", 0, int(any(slot.next_address))
    for name, frame in (("in", view.frame_in), ("out", view.frame_out)):
        header, body = frame[: view.header_bytes], frame[view.header_bytes :]
        slots = [header[at : at + 128] for at in range(0, len(header), 128)]
        for index, part in enumerate([*slots, body]):
            # In steps of half a standard deviation: ones among the bits, sixteenths of the byte range.
            bits = 8 * len(part)
            ones = int.from_bytes(part, "big").bit_count()
            yield f"{name} ones", index, round((ones - bits / 2) / math.sqrt(bits / 16))
            counts = Counter(byte >> 4 for byte in part)
            expected = len(part) / 16
            for nibble in range(16):
                step = math.sqrt(expected) / 2
                yield f"{name} {index} histogram", nibble, round((counts[nibble] - expected) / step)
            yield f"{name} first byte", index, part[0] >> 5
            yield f"{name} last byte", index, part[-1] >> 5


class NaiveBayes:
    """Counts of each feature's values by label, with add-one smoothing."""

    def __init__(self, views: Sequence[View]) -> None:
        self._labels = Counter(view.label for view in views)
        self._counts: dict[Hashable, Counter[Feature]] = defaultdict(Counter)
        values: dict[tuple[str, int], set[int]] = defaultdict(set)
        for view in views:
            for feature in features(view):
                self._counts[view.label][feature] += 1
                values[feature[:2]].add(feature[2])
        self._values = {key: len(found) + 1 for key, found in values.items()}

    def guess(self, view: View) -> Hashable:
        """The most probable label."""
        found = list(features(view))

        def likelihood(label: Hashable) -> float:
            counts, total = self._counts[label], self._labels[label]
            return math.log(total) + sum(
                math.log((counts[feature] + 1) / (total + self._values.get(feature[:2], 1)))
                for feature in found
            )

        return max(self._labels, key=likelihood)


def accuracy(views: Sequence[View]) -> tuple[float, float, float]:
    """Train on every other frame and guess the rest.

    Returns:
        The share of correct guesses, the share expected by chance, and its standard deviation.
    """
    train, rest = views[::2], views[1::2]
    model = NaiveBayes(train)
    right = sum(model.guess(view) == view.label for view in rest) / len(rest)
    chance = max(Counter(view.label for view in rest).values()) / len(rest)
    return right, chance, math.sqrt(chance * (1 - chance) / len(rest))


def planted(views: Sequence[View]) -> list[View]:
    """The same views, with a faint sign of the label: a few bits more in one slot of the header."""
    labels = sorted({view.label for view in views}, key=repr)
    marked = []
    for view in views:
        number = labels.index(view.label)
        frame = bytearray(view.frame_in)
        for at in range(640, 640 + 8 * number):
            frame[at] |= 0xF0
        marked.append(replace(view, frame_in=bytes(frame)))
    return marked
