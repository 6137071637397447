"""What scores are worth: the same reports against other images, and the best report without an image."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain

from xraygpt.evaluation.findings import extract_detailed_findings, extract_findings
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.metrics.clinical import FIVE_CLASSES, present_classes, sided_findings


def shuffled(hypotheses: Sequence[str], studies: Sequence[str], seed: int) -> list[str] | None:
    """Return the reports in an order that gives each image a report made for another study.

    The studies are put in a random order, and each image takes the report that stands as many places
    further on as the largest study has images, so that none keeps a report of its own study, whose
    reference is its own.

    Args:
        hypotheses: the generated report of each image.
        studies: the study of each image.
        seed: of the order.

    Returns:
        None where one study has more than half of all images: some would keep a report of their own study.
    """
    members: dict[str, list[int]] = {}
    for index, study in enumerate(studies):
        members.setdefault(study, []).append(index)
    groups = list(members.values())
    step = max(map(len, groups), default=0)
    if 2 * step > len(hypotheses):
        return None
    random.Random(seed).shuffle(groups)
    order = list(chain.from_iterable(groups))
    moved = dict(zip(order, order[step:] + order[:step], strict=True))
    return [hypotheses[moved[index]] for index in range(len(hypotheses))]


def blind_report(references: Sequence[str]) -> str:
    """Return the reference that, as the report of every image, has the highest rule-F1 (micro, 14 classes).

    Of several the most frequent, then the shortest. It is chosen on the very references that it is scored
    on, so no blind reader that repeats a known report does better in that score; in other scores some may.

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("there are no references to choose a report from")
    truths = _sets(references, CLASSES)
    frequency, total = Counter(chain.from_iterable(truths)), sum(map(len, truths))
    copies = Counter(references)

    def rank(candidate: tuple[str, AbstractSet[str]]) -> tuple[float, int, int, str]:
        text, named = candidate
        hits, size = sum(frequency[name] for name in named), len(named) * len(references) + total
        return (-2 * hits / size if size else 0.0, -copies[text], len(text), text)

    return min(dict(zip(references, truths, strict=True)).items(), key=rank)[0]


def blind_f1(truths: Sequence[AbstractSet[object]], *, nothing: float = math.nan) -> float:
    """Micro-F1 of the best constant report, which names the same most frequent findings for every image.

    It is chosen on the very reports that it is scored on, so no constant report passes it.

    Args:
        truths: the findings of each reference.
        nothing: the score where there is nothing to find.
    """
    frequencies = sorted(Counter(chain.from_iterable(truths)).values(), reverse=True)
    total, hits, best = sum(frequencies), 0, 0.0
    for named, frequency in enumerate(frequencies, start=1):
        hits += frequency
        best = max(best, 2 * hits / (named * len(truths) + total))
    return best if total else nothing


def blind_macro_f1(truths: Sequence[AbstractSet[str]], classes: Sequence[str]) -> float:
    """Mean F1 over `classes` of the best constant report, which names every class; no other passes it.

    Named always, a class that a share p of the reports has gets an F1 of 2 p / (p + 1), and not named 0. NaN
    where there is nothing to find in any class.
    """
    frequency = Counter(name for names in truths for name in names if name in classes)
    if not frequency:
        return math.nan
    return sum(2 * frequency[name] / (frequency[name] + len(truths)) for name in classes) / len(classes)


def blind_bounds(references: Sequence[str]) -> dict[str, float]:
    """Return the score that no constant report passes, by name of the metric that is an F1.

    Each score has its own best set of findings, which need not make sense as a report: that of a macro
    average names "No Finding" with all the findings.
    """
    bounds = {
        "laterality_f1": blind_f1([sided_findings(text) for text in references]),
        "phantom_f1": blind_f1([extract_findings(text) for text in references], nothing=1.0),
        "phantom_f1_detailed": blind_f1(
            [extract_detailed_findings(text) for text in references], nothing=1.0
        ),
    }
    for suffix, uncertain in (("", False), ("_uncertain", True)):
        for classes in (CLASSES, FIVE_CLASSES):
            truths = _sets(references, classes, uncertain=uncertain)
            bounds[f"rule_f1_micro_{len(classes)}{suffix}"] = blind_f1(truths)
            bounds[f"rule_f1_macro_{len(classes)}{suffix}"] = blind_macro_f1(truths, classes)
    return bounds


def _sets(
    references: Sequence[str], classes: Sequence[str], *, uncertain: bool = False
) -> list[frozenset[str]]:
    """Return which of the classes each report has."""
    rows = present_classes(references, uncertain=uncertain).tolist()
    return [
        frozenset(name for name, there in zip(CLASSES, row, strict=True) if there and name in classes)
        for row in rows
    ]
