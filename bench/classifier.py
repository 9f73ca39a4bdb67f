"""Trained classifiers for attackers: naive Bayes and a decision tree. No numpy.

Both learn from labelled samples and guess the labels of others. Train on one run and score on another: a
classifier that remembers its training samples then gains nothing.

    score = score_of(NaiveBayes(train), test)
    print(score.accuracy, score.majority, score.margin)
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["Classifier", "NaiveBayes", "Sample", "Score", "Tree", "score_of"]

_MOST_LEVELS: Final = 8
_LEAST_SAMPLES: Final = 10  # on each side of a split: smaller groups are remembered, not learned
_DEVIATIONS: Final = 1.96  # 95 of 100


@dataclass(frozen=True, slots=True)
class Sample:
    """What an attacker sees once, by name, and the label that he wants to know."""

    label: Hashable
    features: Mapping[Any, float]


class Classifier(Protocol):
    """Guesses labels, after training."""

    def guess(self, features: Mapping[Any, float]) -> Hashable:
        """The most probable label."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """How often a classifier was right.

    Attributes:
        accuracy: share of right guesses. majority: share of the most frequent label, which is guessed
            without looking. margin: half of the interval around `accuracy` that holds the true share in 95
            of 100 cases (Wilson 1927). count: of independent observations.
    """

    accuracy: float
    majority: float
    margin: float
    count: int


def score_of(classifier: Classifier, samples: Sequence[Sample], count: int | None = None) -> Score:
    """Let a classifier guess the labels of samples that it has not seen.

    Args:
        count: of independent observations, if fewer than the samples.
    Raises:
        ValueError: no samples.
    """
    total = len(samples)
    if not total:
        raise ValueError("no samples to guess")
    right = sum(classifier.guess(sample.features) == sample.label for sample in samples) / total
    majority = max(Counter(sample.label for sample in samples).values()) / total
    n, z2 = count or total, _DEVIATIONS**2
    margin = _DEVIATIONS * math.sqrt(right * (1 - right) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Score(right, majority, margin, n)


class NaiveBayes:
    """Counts of each feature's values by label, with add-one smoothing. Features take few values."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._labels = Counter(sample.label for sample in samples)
        self._counts: dict[Hashable, Counter[tuple[Hashable, float]]] = defaultdict(Counter)
        values: dict[Hashable, set[float]] = defaultdict(set)
        for sample in samples:
            self._counts[sample.label].update(sample.features.items())
            for name, value in sample.features.items():
                values[name].add(value)
        self._values = {name: len(found) + 1 for name, found in values.items()}

    def guess(self, features: Mapping[Any, float]) -> Hashable:
        """The most probable label."""

        def likelihood(label: Hashable) -> float:
            counts, total = self._counts[label], self._labels[label]
            return math.log(total) + sum(
                math.log((counts[feature] + 1) / (total + self._values.get(feature[0], 1)))
                for feature in features.items()
            )

        return max(self._labels, key=likelihood)


@dataclass(frozen=True, slots=True)
class _Split:
    """A question about one feature, and the subtrees for its answers; a leaf is a bare label."""

    name: Hashable
    limit: float
    low: _Split | Hashable
    high: _Split | Hashable


class Tree:
    """A decision tree: each node splits by the feature and limit that leave the purest groups (Gini).

    It finds what only several features together show, which naive Bayes does not. A feature that a sample
    lacks counts as −1.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._names = sorted({name for sample in samples for name in sample.features}, key=repr)
        self._root = self._grow(samples, _MOST_LEVELS)

    def guess(self, features: Mapping[Any, float]) -> Hashable:
        """The label of the leaf that the features lead to."""
        node = self._root
        while isinstance(node, _Split):
            node = node.low if features.get(node.name, -1.0) <= node.limit else node.high
        return node

    def _grow(self, samples: Sequence[Sample], levels: int) -> _Split | Hashable:
        labels = Counter(sample.label for sample in samples)
        best: tuple[float, Hashable | None, float] = (_purity(labels) + 1e-9, None, 0.0)
        if levels and len(labels) > 1:
            for name in self._names:
                best = max(best, self._best_limit(samples, labels, name), key=lambda found: found[0])
        _, name, limit = best
        if name is None:
            return labels.most_common(1)[0][0]
        sides: tuple[list[Sample], list[Sample]] = [], []
        for sample in samples:
            sides[sample.features.get(name, -1.0) > limit].append(sample)
        return _Split(name, limit, *(self._grow(side, levels - 1) for side in sides))

    def _best_limit(
        self, samples: Sequence[Sample], labels: Counter[Hashable], name: Hashable
    ) -> tuple[float, Hashable | None, float]:
        """The limit of one feature with the purest sides: (purity, name, limit)."""
        rows = sorted(
            ((sample.features.get(name, -1.0), sample.label) for sample in samples), key=lambda row: row[0]
        )
        low: Counter[Hashable] = Counter()
        high = Counter(labels)
        best: tuple[float, Hashable | None, float] = (0.0, None, 0.0)
        for place, (value, label) in enumerate(rows[:-1], start=1):
            low[label] += 1
            high[label] -= 1
            is_step = value < rows[place][0]
            if is_step and _LEAST_SAMPLES <= place <= len(rows) - _LEAST_SAMPLES:
                best = max(best, (_purity(low) + _purity(high), name, value), key=lambda found: found[0])
        return best


def _purity(labels: Counter[Hashable]) -> float:
    """Expected number of right guesses if each sample's label were drawn by its share in the group."""
    total = labels.total()
    return sum(count * count for count in labels.values()) / total if total else 0.0
