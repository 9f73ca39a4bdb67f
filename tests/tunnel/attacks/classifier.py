"""The bytes of a proxy's view of a frame as features for the classifiers of `bench.classifier`.

`planted` marks views with a faint sign of their label: a test that a classifier finds it shows that it would
find a real one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.classifier import NaiveBayes, Sample, Score, score_of
from tests.tunnel.helpers import NOW_S
from tunnel.onion.header import Opened

__all__ = ["View", "accuracy", "features", "planted"]


@dataclass(frozen=True)
class View:
    """One frame at one proxy: as received, its slot, as sent, and the label to guess."""

    label: Hashable
    frame_in: bytes
    opened: Opened
    frame_out: bytes
    header_bytes: int


def features(view: View) -> Iterator[tuple[str, int, int]]:
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


def accuracy(views: Sequence[View]) -> Score:
    """Train on every other frame and guess the rest."""
    samples = [
        Sample(view.label, {(name, index): value for name, index, value in features(view)}) for view in views
    ]
    return score_of(NaiveBayes(samples[::2]), samples[1::2])


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
