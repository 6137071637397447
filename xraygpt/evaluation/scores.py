"""Score generated reports against references by the findings that both assert."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from xraygpt.evaluation.controls import blind_f1, shuffled
from xraygpt.evaluation.findings import extract_detailed_findings, extract_findings

BOOTSTRAP_ROUNDS = 1000

Counts = tuple[int, int, int]
"""True positives, false positives, false negatives."""


def count_matches(truth: set[str], found: set[str]) -> Counts:
    """Compare the findings of one report with the truth."""
    return len(truth & found), len(found - truth), len(truth - found)


def f1_of(counts: Sequence[Counts]) -> float:
    """Micro-averaged F1 of many reports; 1 where nothing was there and nothing was found."""
    hits, false_alarms, misses = (sum(column) for column in zip(*counts, strict=True))
    total = 2 * hits + false_alarms + misses
    return 2 * hits / total if total else 1.0


def micro_f1(truths: Sequence[set[str]], found: Sequence[set[str]]) -> float:
    """Micro-averaged F1 of sets of findings."""
    return f1_of([count_matches(t, f) for t, f in zip(truths, found, strict=True)])


def bootstrap_interval(counts: Sequence[Counts], seed: int) -> tuple[float, float]:
    """95 % interval of the micro-F1 when the reports are drawn anew (percentile bootstrap)."""
    rng = random.Random(seed)
    values = sorted(f1_of(rng.choices(counts, k=len(counts))) for _ in range(BOOTSTRAP_ROUNDS))
    return values[int(0.025 * BOOTSTRAP_ROUNDS)], values[int(0.975 * BOOTSTRAP_ROUNDS)]


def per_finding(truths: Sequence[set[str]], found: Sequence[set[str]]) -> dict[str, dict[str, float]]:
    """Return for every finding in a truth or a report: F1, number of cases, how many of these were missed,
    and how often it was reported where it is not.
    """
    table: dict[str, dict[str, float]] = {}
    for label in sorted(set().union(*truths, *found)):
        counts = [count_matches(t & {label}, f & {label}) for t, f in zip(truths, found, strict=True)]
        hits, false_alarms, misses = (sum(column) for column in zip(*counts, strict=True))
        table[label] = {
            "f1": f1_of(counts),
            "cases": hits + misses,
            "missed": misses,
            "false_alarms": false_alarms,
        }
    return table


def score_reports(references: Sequence[str], hypotheses: Sequence[str], seed: int) -> dict[str, Any]:
    """Score generated reports.

    Args:
        references: the true report of each image.
        hypotheses: the generated report of each image, in the same order.
        seed: of the bootstrap and the shuffling.

    Returns:
        ``n``; ``f1`` of findings with laterality and its 95 % interval ``f1_low``, ``f1_high``;
        ``f1_detailed`` with size and zone too; ``exact``, the share of reports without any error;
        ``f1_shuffled``, the same reports against other images; ``f1_blind``, the best constant report;
        ``without_findings``, how many references the rules find nothing in; ``words_reference`` and
        ``words_generated``, mean lengths; ``distinct_generated``, how many different reports were
        generated; ``findings``, see `per_finding`.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not references or len(references) != len(hypotheses):
        raise ValueError(
            f"{len(references)} references and {len(hypotheses)} generated reports cannot be compared"
        )
    truths, found = [extract_findings(r) for r in references], [extract_findings(h) for h in hypotheses]
    counts = [count_matches(t, f) for t, f in zip(truths, found, strict=True)]
    low, high = bootstrap_interval(counts, seed)
    others = shuffled(hypotheses, [str(i) for i in range(len(hypotheses))], seed)
    details = ([extract_detailed_findings(text) for text in texts] for texts in (references, hypotheses))
    return {
        "n": len(references),
        "f1": f1_of(counts),
        "f1_low": low,
        "f1_high": high,
        "f1_detailed": micro_f1(*details),
        "exact": sum(t == f for t, f in zip(truths, found, strict=True)) / len(truths),
        "f1_shuffled": micro_f1(truths, [extract_findings(text) for text in others]),
        "f1_blind": blind_f1(truths),
        "without_findings": sum(not t for t in truths),
        "words_reference": _mean_words(references),
        "words_generated": _mean_words(hypotheses),
        "distinct_generated": len(set(hypotheses)),
        "findings": per_finding(truths, found),
    }


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)
