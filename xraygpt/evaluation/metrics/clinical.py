"""Agreement on CheXpert's 14 classes, as the rule labeller reads them: rule-F1, alone and with sides.

A class counts as present in a report where the labeller says positive; the metrics ``..._uncertain`` count
uncertain as present too. The two conventions are the U-Zeros and U-Ones of Irvin et al. 2019
(https://arxiv.org/abs/1901.07031); scores called F1-CheXbert mostly take the second (mode "rrg" in the
package vilmedic). Denied and unmentioned classes are absent. The scores are those of
``sklearn.metrics.f1_score(..., zero_division=0)``: a class that no report has counts 0 in a macro average,
and a pair of reports without any class counts 0 in the average over reports (``example``, scikit-learn's
"samples"). Where there is nothing at all, in no class, micro and macro are not defined (NaN; scikit-learn
would give 0).

This is not CheXbert, whose labels come from a network, but it follows it: ``docs/metrics.md`` has both side
by side. Shapes: N reports, 14 classes, 3 counts (true positives, false positives, false negatives).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from xraygpt.evaluation.labeller import CACHED_TEXTS, CLASSES, Status, finding_sides, label_report
from xraygpt.evaluation.labeller_context import WITHOUT_SIDE
from xraygpt.evaluation.metrics.metric import (
    Array,
    Metric,
    blind_macro_f1,
    blind_micro_f1,
    count_class_matches,
    f1_of_sets,
    macro_f1,
    mean_of_values,
    micro_f1,
    with_counts,
)

FIVE_CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""CheXpert's competition tasks."""


def present_classes(texts: Sequence[str], *, uncertain: bool = False) -> NDArray[np.bool_]:
    """Return which classes each report has, (N, 14) in the order of `CLASSES`."""
    rows = [_present(text, uncertain) for text in texts]
    return np.array(rows, dtype=np.bool_).reshape(len(texts), len(CLASSES))


@lru_cache(maxsize=2 * CACHED_TEXTS)
def _present(text: str, uncertain: bool) -> tuple[bool, ...]:
    counted = (Status.POSITIVE, Status.UNCERTAIN) if uncertain else (Status.POSITIVE,)
    return tuple(label_report(text).get(name) in counted for name in CLASSES)


def class_counts(references: Sequence[str], hypotheses: Sequence[str], *, uncertain: bool = False) -> Array:
    """Return each report's counts in each class, (N, 14, 3); they add up over reports."""
    truth = present_classes(references, uncertain=uncertain)
    found = present_classes(hypotheses, uncertain=uncertain)
    return count_class_matches(truth, found)


def _rule_f1(classes: tuple[str, ...], average: str, uncertain: bool) -> Metric:
    columns = [CLASSES.index(name) for name in classes]

    def score(sums: Array) -> Array:
        counts = sums.reshape(*sums.shape[:-1], len(CLASSES), 3)[..., columns, :]
        return micro_f1(counts.sum(axis=-2)) if average == "micro" else macro_f1(counts)

    def blind_bound(references: Sequence[str]) -> float:
        cases = present_classes(references, uncertain=uncertain)[:, columns].sum(axis=0).tolist()
        return (blind_micro_f1 if average == "micro" else blind_macro_f1)(cases, len(references))

    of_each_report = average == "example"
    return Metric(
        name=f"rule_f1_{average}_{len(classes)}" + ("_uncertain" if uncertain else ""),
        title=f"rule-F1 {average}-{len(classes)}" + (", uncertain as positive" if uncertain else ""),
        equals="sklearn.metrics.f1_score(zero_division=0) on 14 or 5 CheXpert classes as this project's rule "
        "labeller reads them, averaged as named (example: over the reports, scikit-learn's 'samples'); "
        "uncertain mentions count as absent, or as positive where the name says so",
        statistics=(_EXAMPLE_STATISTICS if of_each_report else _CLASS_STATISTICS)[uncertain],
        score=mean_of_values if of_each_report else score,
        heading="Findings",
        english_only=True,
        blind_bound=None if of_each_report else blind_bound,
    )


def _class_statistics(references: Sequence[str], hypotheses: Sequence[str], *, uncertain: bool) -> Array:
    """Return the counts of each report in a row, (N, 42)."""
    return class_counts(references, hypotheses, uncertain=uncertain).reshape(len(references), -1)


def _example_statistics(references: Sequence[str], hypotheses: Sequence[str], *, uncertain: bool) -> Array:
    """Return the F1 of each report, of which none where neither text has a class counts 0, and 1, (N, 2)."""
    counts = class_counts(references, hypotheses, uncertain=uncertain).sum(axis=1)
    return with_counts(micro_f1(counts, of_nothing=0.0).tolist())


# By `uncertain`; one function for all metrics that count the same, so that it counts once.
_CLASS_STATISTICS = [partial(_class_statistics, uncertain=uncertain) for uncertain in (False, True)]
_EXAMPLE_STATISTICS = [partial(_example_statistics, uncertain=uncertain) for uncertain in (False, True)]
RULE_F1: tuple[Metric, ...] = tuple(
    _rule_f1(classes, average, uncertain)
    for uncertain in (False, True)
    for classes, averages in ((CLASSES, ("micro", "macro", "example")), (FIVE_CLASSES, ("micro", "macro")))
    for average in averages
)


SIDES = ("left", "right", "bilateral", "unspecified")
"""Rows (reference) and columns (generated) of `side_confusion`."""


def sided_findings(text: str) -> frozenset[tuple[str, str]]:
    """Return the (class, side) pairs that a report asserts."""
    return frozenset((label, side) for label, sides in finding_sides(text).items() for side in sides or ("",))


def side_confusion(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how often a finding of the reference's side was reported on each side.

    Only classes that both reports of a pair assert, and that can have a side, are counted, each once per
    pair: ``result["left"]["right"]`` findings are left in the reference and right in the generated report.
    """
    table = {row: dict.fromkeys(SIDES, 0) for row in SIDES}
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        truth, found = finding_sides(reference), finding_sides(hypothesis)
        for label in truth.keys() & found.keys() - set(WITHOUT_SIDE):
            row, column = (
                "bilateral" if len(sides) > 1 else next(iter(sides), "unspecified")
                for sides in (truth[label], found[label])
            )
            table[row][column] += 1
    return table


LATERALITY_F1 = f1_of_sets(
    "laterality_f1",
    "finding F1 with side",
    "micro-F1 of the (class, side) pairs asserted, 13 CheXpert classes as this project's rule labeller reads "
    "them; a class without a side is a pair of its own",
    sided_findings,
    english_only=True,
)
