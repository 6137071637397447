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

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from xraygpt.evaluation.labeller import CLASSES, Status, finding_sides, label_report
from xraygpt.evaluation.labeller_context import WITHOUT_SIDE
from xraygpt.evaluation.metrics.metric import (
    Array,
    Metric,
    blind_macro_f1,
    blind_micro_f1,
    count_class_matches,
    f1_of_sets,
    mean_of_values,
    micro_f1,
    with_counts,
)

FIVE_CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""CheXpert's competition tasks."""


def present_classes(texts: Sequence[str], *, uncertain: bool = False) -> NDArray[np.bool_]:
    """Return which classes each report has, (N, 14) in the order of `CLASSES`."""
    counted = (Status.POSITIVE, Status.UNCERTAIN) if uncertain else (Status.POSITIVE,)
    rows = [[label_report(text).get(name) in counted for name in CLASSES] for text in texts]
    return np.array(rows, dtype=np.bool_).reshape(len(texts), len(CLASSES))


def class_counts(references: Sequence[str], hypotheses: Sequence[str], *, uncertain: bool = False) -> Array:
    """Return each report's counts in each class, (N, 14, 3); they add up over reports."""
    truth = present_classes(references, uncertain=uncertain)
    found = present_classes(hypotheses, uncertain=uncertain)
    return count_class_matches(truth, found)


def class_f1(average: str, classes: Sequence[str], sums: Array) -> Array:
    """Return scikit-learn's micro, macro or weighted average of F1 (...), from counts in a row (..., 3 C).

    Args:
        classes: the ones of `CLASSES` to average; none is all C, whatever they are.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    counts = counts[..., [CLASSES.index(name) for name in classes], :] if classes else counts
    if average == "micro":
        return micro_f1(counts.sum(axis=-2))
    f1, cases = micro_f1(counts, of_nothing=0.0), counts[..., 0] + counts[..., 2]
    if average == "macro":
        return np.where(counts.any(axis=(-2, -1)), f1.mean(axis=-1), np.nan)
    return mean_of_values(np.stack([(cases * f1).sum(axis=-1), cases.sum(axis=-1)], axis=-1))


def _rule_f1(uncertain: bool) -> Iterator[Metric]:
    """Yield the metrics of one convention; those that count by class share the function, and its work."""
    suffix, words = ("_uncertain", ", uncertain as positive") if uncertain else ("", "")
    metric = partial(
        Metric,
        equals="sklearn.metrics.f1_score(zero_division=0) on 14 or 5 CheXpert classes as this project's rule "
        "labeller reads them, averaged as named (example: over the reports, scikit-learn's 'samples'); "
        "uncertain mentions count as absent, or as positive where the name says so",
        heading="Findings",
        english_only=True,
    )

    def by_class(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        return class_counts(references, hypotheses, uncertain=uncertain).reshape(len(references), -1)

    def by_report(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        counts = class_counts(references, hypotheses, uncertain=uncertain).sum(axis=1)
        return with_counts(micro_f1(counts, of_nothing=0.0).tolist())

    def blind_bound(average: str, classes: Sequence[str], references: Sequence[str]) -> float:
        columns = [CLASSES.index(name) for name in classes]
        cases = present_classes(references, uncertain=uncertain)[:, columns].sum(axis=0).tolist()
        return (blind_micro_f1 if average == "micro" else blind_macro_f1)(cases, len(references))

    for classes, average in product((CLASSES, FIVE_CLASSES), ("micro", "macro")):
        yield metric(
            name=f"rule_f1_{average}_{len(classes)}{suffix}",
            title=f"rule-F1 {average}-{len(classes)}{words}",
            statistics=by_class,
            score=partial(class_f1, average, classes),
            blind_bound=partial(blind_bound, average, classes),
        )
    yield metric(name=f"rule_f1_example_14{suffix}", title=f"rule-F1 example-14{words}", statistics=by_report)


RULE_F1: tuple[Metric, ...] = (*_rule_f1(uncertain=False), *_rule_f1(uncertain=True))


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
