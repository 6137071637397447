"""What an evaluation leaves in its folder, and what it prints: the same tables for people, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.run_record import write_json, write_text
from xraygpt.evaluation.comparison import Comparison
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.predictions import Prediction, counted
from xraygpt.evaluation.protocol import ProtocolCard
from xraygpt.evaluation.scoring import Scores, by_reason
from xraygpt.evaluation.statistics import Interval, plain

SCORES_FILE = "scores.json"
PROTOCOL_FILE = "protocol.txt"
PAGE_FILE = "report.html"
COMPARISON_FILE = "comparison.json"
REPORTS_FILE = "predictions.csv"


class P(NamedTuple):
    """A p value; `at_most` if no smaller one could have come out of so many rounds."""

    value: float
    at_most: bool


Cell = Metric | Interval | P | float


@dataclass(frozen=True)
class Table:
    """Rows about metrics."""

    columns: Mapping[str, str]
    """Name in CSV -> heading for people; the first is the metric's. An `Interval` takes more than one."""
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    signed: bool = False
    """Intervals are of differences."""

    def csv_rows(self) -> list[dict[str, Any]]:
        """Return the values of each row by the names of its columns."""
        return [
            {
                key: plain(value)
                for name, cell in zip(self.columns, row, strict=True)
                for key, value in _values(name, cell).items()
            }
            for row in self.rows
        ]

    def texts(self) -> list[list[str]]:
        """Return the headings and what stands in each row, as people read it."""
        ranges = [isinstance(cell, Interval) for cell in (self.rows or [()])[0]]
        headings = zip(self.columns.values(), ranges or [False] * len(self.columns), strict=True)
        return [
            [
                text
                for heading, two in headings
                for text in ([heading, "95 % interval"] if two else [heading])
            ],
            *([text for cell in row for text in self._texts(cell)] for row in self.rows),
        ]

    def _texts(self, cell: Cell) -> list[str]:
        if isinstance(cell, Metric):
            return [cell.title + ("" if cell.higher_is_better else " (lower is better)")]
        if isinstance(cell, P):
            return [("\N{LESS-THAN OR EQUAL TO} " if cell.at_most else "") + _number(cell.value, digits=4)]
        if isinstance(cell, Interval):
            low, high = _number(cell.low, self.signed), _number(cell.high, self.signed)
            return [_number(cell.value, self.signed), f"{low} to {high}" if cell.known else "-"]
        return [_number(cell)]


def _values(name: str, cell: Cell) -> dict[str, Any]:
    if isinstance(cell, Interval):
        ends = {
            f"{name}_low".removeprefix("value_"): cell.low,
            f"{name}_high".removeprefix("value_"): cell.high,
        }
        return {name: cell.value, **ends}
    return {name: cell.name if isinstance(cell, Metric) else cell.value if isinstance(cell, P) else cell}


def score_table(scores: Scores) -> Table:
    """Return the scores, the controls beside them."""
    controls = {name: name.replace("_", " ") for name in scores.controls}
    return Table(
        {"metric": "metric", "value": "score", **controls},
        [
            [metric, scores.scores[name], *(scores.controls[each].get(name, math.nan) for each in controls)]
            for name, metric in scores.metrics.items()
        ],
    )


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return each further run beside the first; called A, B, ... in the headings for people."""
    compared = [metric for metric in comparison.metrics.values() if not metric.descriptive]
    least = 1 / (comparison.rounds + 1)
    tables = []
    for number, run in enumerate(comparison.runs[1:]):
        letter = _letter(number + 1)
        columns = {
            "metric": "metric",
            "first": "A",
            "value": letter,
            "difference": f"{letter} - A",
            "p": "p",
            "p_holm": "p (Holm)",
            "detectable": "detectable",
        }
        rows: list[list[Cell]] = []
        for metric in compared or comparison.metrics.values():
            scores, row = comparison.scores[metric.name], comparison.differences[metric.name][number]
            p_values = [P(p, row.p <= least) for p in (row.p, row.p_holm)]
            rows.append(
                [metric, scores[0].value, scores[number + 1].value, row.difference, *p_values, row.detectable]
            )
        tables.append(Table(columns, rows, title=run, signed=True))
    return tables


def write_scores(
    scores: Scores,
    protocol: ProtocolCard,
    folder: Path,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write ``scores.json``, the protocol card in it, ``protocol.txt``, the card for a paper, and the scores
    as a table, ``scores.csv`` and ``scores.tex``.

    Args:
        more: further entries of ``scores.json``.
    """
    write_json(folder / SCORES_FILE, {**plain(scores), **(more or {}), "protocol": protocol.to_dict()})
    write_text(folder / PROTOCOL_FILE, protocol.paragraph() + "\n")
    table = score_table(scores)
    write_csv(folder / "scores.csv", table.csv_rows())
    write_text(folder / "scores.tex", latex([table]))


def write_comparison(comparison: Comparison, protocol: Mapping[str, Any], folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and ``comparison.tex``."""
    write_json(folder / COMPARISON_FILE, {**plain(comparison), "protocol": protocol})
    tables = comparison_tables(comparison)
    rows = [{"run": table.title, **row} for table in tables for row in table.csv_rows()]
    write_csv(folder / "comparison.csv", rows)
    write_text(folder / "comparison.tex", latex(tables))


def write_reports(path: Path, predictions: Iterable[Prediction], scores: Scores) -> None:
    """Write the reports as CSV, sorted by image, with the value of each metric for each report by itself."""
    ordered = sorted(predictions, key=lambda row: row.image_id)
    values = {name: each.tolist() for name, each in scores.each.items()}
    write_csv(
        path,
        [
            {
                "image_id": row.image_id,
                "study_id": row.study_id,
                "patient_id": row.patient_id,
                "reference": row.reference,
                "generated": row.generated,
            }
            | {name: plain(each[place]) for name, each in values.items()}
            for place, row in enumerate(ordered)
        ],
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as RFC 4180 has it: UTF-8, texts exactly as they are, None empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=rows[0] if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())


def latex(tables: Sequence[Table]) -> str:
    """Return tables of the same columns as one tabular for the package booktabs, titles between them."""
    lines: list[str] = []
    for table in tables:
        head, *rows = [[_escaped(text) for text in row] for row in table.texts()]
        title = [rf"\multicolumn{{{len(head)}}}{{l}}{{{_escaped(table.title)}}} \\"] if table.title else []
        lines += [r"\midrule" if lines else r"\toprule", *title, *_latex_rows([head]), r"\midrule"]
        lines += _latex_rows(rows)
    columns = "l" + "r" * (len(tables[0].texts()[0]) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_rows(rows: Iterable[Sequence[str]]) -> list[str]:
    return [" & ".join(row) + r" \\" for row in rows]


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
}


def _escaped(text: str) -> str:
    text = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])[-+](?=\d)", r"$\g<0>$", text)  # a minus sign, not a hyphen


def score_lines(scores: Scores) -> list[str]:
    """Return the scores as a table, the controls beside them."""
    return [*_aligned(score_table(scores).texts()), *_seed_lines(scores), *_notes(scores)]


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return what was compared, the differences as tables, and which reports differ most."""
    studies = counted(comparison.studies, "study")
    lines = [f"{_letter(number)}: {name}" for number, name in enumerate(comparison.runs)]
    lines += [f"{counted(comparison.reports, 'report')} of {studies}"]
    for table, same in zip(comparison_tables(comparison), comparison.same_texts, strict=True):
        letter = table.columns["value"]
        lines += ["", *_aligned(table.texts()), f"{same:,} reports are the same in A and {letter}"]
    return [*lines, "", *_statistics_lines(comparison), *_notes(comparison), *_most_different(comparison)]


def _statistics_lines(comparison: Comparison) -> list[str]:
    tests, least = comparison.tests, 1 / (comparison.rounds + 1)
    lines = [
        f"p is of one test alone; p (Holm) is corrected for all {counted(tests, 'test')} of this comparison",
        "detectable: the true difference that a test would have found with 80 % power at 0.05, uncorrected",
    ]
    if tests * least > 0.05:
        lines.append(f"{counted(comparison.rounds, 'round')} are too few for a corrected p below 0.05")
    return lines


def _seed_lines(scores: Scores) -> list[str]:
    if scores.seeds is None:
        return []
    seeds = scores.seeds
    columns = {"metric": "metric", "mean": "mean", "sd": "sd", "lowest": "lowest", "highest": "highest"}
    rows: list[list[Cell]] = [
        [metric, spread.mean, spread.standard_deviation, spread.lowest, spread.highest]
        for name, metric in scores.metrics.items()
        for spread in [seeds.scores[name]]
    ]
    return [
        "",
        f"{seeds.runs} runs with different seeds; of two of them {100 * seeds.same_texts:.1f} % of the "
        f"reports are the same, and their findings agree with a rule-F1 of {_number(seeds.agreement)}",
        *_aligned(Table(columns, rows).texts()),
    ]


def _most_different(comparison: Comparison) -> list[str]:
    """Return the reports that differ most by the first metric that tells any apart."""
    for name, reports in comparison.most_different.items():
        if reports:
            letters = [_letter(number) for number in range(len(comparison.runs))]
            rows = [["image", *letters], *([row.image_id, *map(_number, row.values)] for row in reports)]
            return ["", f"reports that differ most by {comparison.metrics[name].title}:", *_aligned(rows)]
    return []


def _letter(number: int) -> str:
    return "ABCDEF"[number]


def _number(value: float, sign: bool = False, digits: int = 3) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{digits if abs(value) < 10 else 1}f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _notes(result: Scores | Comparison) -> list[str]:
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason(result.not_computed).items()]
    drawn = f"intervals draw {'patients' if result.unit == 'patient' else 'studies'} with replacement"
    notes = [result.unit_note or drawn, *([result.language.note] if result.language.note else [])]
    return [*reasons, *(f"note: {note}" for note in notes)]
