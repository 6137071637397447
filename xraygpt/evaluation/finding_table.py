"""How well each finding is reported, with intervals.

Shapes: N reports, 14 classes, 3 counts (true positives, false positives, false negatives).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.metrics.clinical import class_counts
from xraygpt.evaluation.metrics.counts import micro_f1
from xraygpt.evaluation.metrics.metric import Array, mean_of_values
from xraygpt.evaluation.statistics import Interval, interval, resampled_sums, sums_by_study


@dataclass(frozen=True, slots=True)
class FindingScore:
    """How well one class of the labeller is reported."""

    f1: Interval
    """NaN where no report has the finding."""
    precision: Interval
    recall: Interval
    cases: int
    """References with the finding, and how many of these were `missed`."""
    missed: int
    reported: int
    """Generated reports with the finding, and how many of these were `invented`."""
    invented: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "f1": self.f1.to_dict(),
            "precision": self.precision.to_dict(),
            "recall": self.recall.to_dict(),
            "cases": self.cases,
            "missed": self.missed,
            "reported": self.reported,
            "invented": self.invented,
        }


def score_findings(
    references: Sequence[str], hypotheses: Sequence[str], studies: Sequence[str], *, seed: int, rounds: int
) -> dict[str, FindingScore]:
    """Return the score of each class that a reference or a generated report has, in CheXpert's order.

    Args:
        studies: of each report; they are what the bootstrap draws.
    """
    counts = class_counts(references, hypotheses)
    sums = sums_by_study(counts.reshape(len(counts), -1), studies)
    resampled = resampled_sums(sums, seed=seed, rounds=rounds)
    return {
        name: _finding_score(sums[:, 3 * i : 3 * i + 3], resampled[:, 3 * i : 3 * i + 3])
        for i, name in enumerate(CLASSES)
        if counts[:, i].any()
    }


def _finding_score(sums: Array, resampled: Array) -> FindingScore:
    hits, false_alarms, misses = (int(count) for count in sums.sum(axis=0))
    return FindingScore(
        f1=interval(micro_f1, sums, resampled),
        precision=interval(_precision, sums, resampled),
        recall=interval(_recall, sums, resampled),
        cases=hits + misses,
        missed=misses,
        reported=hits + false_alarms,
        invented=false_alarms,
    )


def _precision(counts: Array) -> Array:
    return mean_of_values(np.stack([counts[..., 0], counts[..., 0] + counts[..., 1]], axis=-1))


def _recall(counts: Array) -> Array:
    return mean_of_values(np.stack([counts[..., 0], counts[..., 0] + counts[..., 2]], axis=-1))
