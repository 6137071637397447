"""What an evaluation leaves in its folder, and what it prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.run_record import write_json, write_text
from xraygpt.evaluation.comparison import Comparison
from xraygpt.evaluation.language import LanguageCheck
from xraygpt.evaluation.predictions import counted
from xraygpt.evaluation.protocol import ProtocolCard
from xraygpt.evaluation.scoring import Scores, by_reason
from xraygpt.evaluation.statistics import Interval, plain

SCORES_FILE = "scores.json"
PROTOCOL_FILE = "protocol.txt"
PAGE_FILE = "report.html"
COMPARISON_FILE = "comparison.json"


def write_scores(
    scores: Scores, protocol: ProtocolCard, folder: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Write ``scores.json``, the protocol card in it, and ``protocol.txt``, the card for a paper.

    Args:
        more: further entries of ``scores.json``.
    """
    write_json(folder / SCORES_FILE, {**plain(scores), **(more or {}), "protocol": protocol.to_dict()})
    write_text(folder / PROTOCOL_FILE, protocol.paragraph() + "\n")


def score_lines(scores: Scores) -> list[str]:
    """Return the scores as a table, the controls beside them."""
    controls = list(scores.controls)
    rows = [["metric", "score", "95 % interval", *(name.replace("_", " ") for name in controls)]]
    for name, metric in scores.metrics.items():
        values = [_number(scores.controls[control].get(name, math.nan)) for control in controls]
        rows.append([metric.title, *_cells(scores.scores[name]), *values])
    return [*_aligned(rows), *_notes(scores.not_computed, scores.language)]


def comparison_lines(comparison: Comparison, *, a: str, b: str) -> list[str]:
    """Return what was compared, the differences as a table, and which reports differ most.

    Args:
        a, b: what the runs are called.
    """
    rows = [["metric", "A", "B", "B - A", "95 % interval", "p"]]
    compared = {name: metric for name, metric in comparison.metrics.items() if not metric.descriptive}
    for name, metric in (compared or comparison.metrics).items():
        row = comparison.differences[name]
        values = [_number(row.a.value), _number(row.b.value), *_cells(row.difference, sign=True)]
        lower = "" if metric.higher_is_better else " (lower is better)"
        rows.append([metric.title + lower, *values, _p_value(row.p, comparison.rounds)])
    return [
        f"A: {a}",
        f"B: {b}",
        f"{counted(comparison.reports, 'report')} of {counted(comparison.studies, 'study')}, "
        f"{comparison.same_texts:,} of them the same in A and B",
        "",
        *_aligned(rows),
        "each p is of one metric alone; of many metrics some fall below 0.05 by chance",
        *_notes(comparison.not_computed, comparison.language),
        *_most_different(comparison),
    ]


def _p_value(p: float, rounds: int) -> str:
    """Return p; the smallest that so many rounds can show is an upper bound."""
    least = 1 / (rounds + 1)
    return f"\N{LESS-THAN OR EQUAL TO} {_number(least)}" if p <= least else _number(p)


def _most_different(comparison: Comparison) -> list[str]:
    """Return the reports that differ most by the first metric that tells any apart."""
    for name, reports in comparison.most_different.items():
        if reports:
            rows = [["image", "A", "B"], *([r.image_id, _number(r.a), _number(r.b)] for r in reports)]
            return ["", f"reports that differ most by {comparison.metrics[name].title}:", *_aligned(rows)]
    return []


def _cells(score: Interval, sign: bool = False) -> list[str]:
    between = f"{_number(score.low, sign)} to {_number(score.high, sign)}" if score.known else "-"
    return [_number(score.value, sign), between]


def _number(value: float, sign: bool = False) -> str:
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _notes(not_computed: Mapping[str, str], language: LanguageCheck) -> list[str]:
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason(not_computed).items()]
    return [*reasons, *([f"note: {language.note}"] if language.note else [])]
