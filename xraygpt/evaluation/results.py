"""What an evaluation leaves in its folder, and what it prints: the same tables for people, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.run_record import write_json, write_text
from xraygpt.evaluation.comparison import Comparison
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.predictions import Prediction, counted
from xraygpt.evaluation.protocol import paragraph
from xraygpt.evaluation.scoring import Scores, names_by_value
from xraygpt.evaluation.statistics import plain

SCORES_FILE = "scores.json"
PAGE_FILE = "report.html"
COMPARISON_PAGE_FILE = "comparison.html"
REPORTS_FILE = "predictions.csv"
TEXTS = ("image_id", "study_id", "patient_id", "reference", "generated")
"""What `REPORTS_FILE` has beside the metrics."""
LETTERS = "ABCDEF"
"""Short names of the runs of a comparison."""


@dataclass(frozen=True)
class Table:
    """Rows about metrics, for people, CSV and LaTeX."""

    headings: Mapping[str, str]
    """Column -> its heading for people. One that ends in ``low`` stands for the interval up to ``high``."""
    rows: Sequence[Mapping[str, Any]]
    """The metric and numbers by column, which are those of CSV."""
    title: str = ""
    """LaTeX has it above the headings."""

    def texts(self) -> list[list[str]]:
        """Return the headings and the rows as people read them."""
        rows = ([self._text(row, column) for column in self.headings] for row in self.rows)
        return [[*self.headings.values()], *rows]

    @staticmethod
    def _text(row: Mapping[str, Any], column: str) -> str:
        value, signed = row[column], column.startswith("difference")
        if isinstance(value, Metric):
            return value.title + ("" if value.higher_is_better else " (lower is better)")
        if column.endswith("low"):
            high = row[column.removesuffix("low") + "high"]
            return f"{_number(value, signed)} to {_number(high, signed)}" if value <= high else "-"
        return p_text(value) if column in ("p", "p_holm") else _number(value, signed)


def score_table(scores: Scores) -> Table:
    """Return the scores, the controls beside them."""
    controls = {name: name.replace("_", " ") for name in scores.controls}
    rows = [
        {"metric": metric, "value": score.value, "low": score.low, "high": score.high}
        | {control: values.get(name, math.nan) for control, values in scores.controls.items()}
        for name, metric in scores.metrics.items()
        for score in [scores.scores[name]]
    ]
    return Table({"metric": "metric", "value": "score", "low": "95 % interval", **controls}, rows)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return each further run beside the first; they are A, B, ... in the headings."""
    compared = [metric for metric in comparison.metrics.values() if not metric.descriptive]
    tests = {"p": "p", "p_holm": "p (Holm)", "detectable": "detectable"}
    tables = []
    for number, run in enumerate(comparison.runs[1:]):
        headings = {"metric": "metric", "first": "A", "value": LETTERS[number + 1]}
        headings |= {"difference": f"{LETTERS[number + 1]} - A", "difference_low": "95 % interval", **tests}
        rows = [
            {
                "run": run,
                "metric": metric,
                "first": comparison.scores[metric.name][0].value,
                "value": comparison.scores[metric.name][number + 1].value,
                "difference": row.difference.value,
                "difference_low": row.difference.low,
                "difference_high": row.difference.high,
                **{name: getattr(row, name) for name in tests},
            }
            for metric in compared or comparison.metrics.values()
            for row in [comparison.differences[metric.name][number]]
        ]
        title = f"{headings['value']}: {run}, against A: {comparison.runs[0]}"
        tables.append(Table(headings, rows, title))
    return tables


def write_scores(
    scores: Scores, protocol: Mapping[str, Any], folder: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Write ``scores.json``, the protocol card in it, ``protocol.txt``, the card for a paper, and the scores
    as a table, ``scores.csv`` and ``scores.tex``.

    Args:
        more: further entries of ``scores.json``.
    """
    write_json(folder / SCORES_FILE, {**plain(scores), **(more or {}), "protocol": protocol})
    write_text(folder / "protocol.txt", paragraph(protocol) + "\n")
    table = score_table(scores)
    write_csv(folder / "scores.csv", table.rows)
    write_text(folder / "scores.tex", latex([table]))


def write_comparison(comparison: Comparison, protocol: Mapping[str, Any], folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and ``comparison.tex``."""
    write_json(folder / "comparison.json", {**plain(comparison), "protocol": protocol})
    tables = comparison_tables(comparison)
    write_csv(folder / "comparison.csv", [row for table in tables for row in table.rows])
    write_text(folder / "comparison.tex", latex(tables))


def write_reports(path: Path, predictions: Iterable[Prediction], scores: Scores) -> None:
    """Write the reports as CSV, sorted by image, with the value of each metric for each report by itself."""
    ordered = sorted(predictions, key=lambda row: row.image_id)
    values = {name: each.tolist() for name, each in scores.each.items()}
    write_csv(
        path,
        [
            {name: getattr(row, name) for name in TEXTS} | {name: each[i] for name, each in values.items()}
            for i, row in enumerate(ordered)
        ],
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as RFC 4180 has it: UTF-8, texts exactly as they are, NaN empty."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(rows[0] if rows else ())
    for row in rows:
        writer.writerow(cell.name if isinstance(cell, Metric) else plain(cell) for cell in row.values())
    write_text(path, file.getvalue())


def latex(tables: Sequence[Table]) -> str:
    """Return tables of the same columns as one tabular for the package booktabs, titles between them."""
    lines: list[str] = []
    for table in tables:
        head, *rows = (" & ".join(map(_escaped, row)) + r" \\" for row in table.texts())
        title = rf"\multicolumn{{{len(table.headings)}}}{{l}}{{{_escaped(table.title)}}} \\"
        lines += [r"\midrule" if lines else r"\toprule", *([title] if table.title else [])]
        lines += [head, r"\midrule", *rows]
    columns = "l" + "r" * (len(tables[0].headings) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\bottomrule", r"\end{tabular}", ""])


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _escaped(text: str) -> str:
    return re.sub(r"(?<![\w.])[-+](?=\d)", r"$\g<0>$", text.translate(_LATEX))  # a sign, not a hyphen


def score_lines(scores: Scores) -> list[str]:
    """Return the scores as a table, the controls beside them."""
    return [*_aligned(score_table(scores).texts()), *_seed_lines(scores), *_notes(scores)]


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return what was compared, the differences as tables, and which reports differ most."""
    lines = [f"{letter}: {name}" for letter, name in zip(LETTERS, comparison.runs, strict=False)]
    lines += [size_text(comparison)]
    for table, same in zip(comparison_tables(comparison), comparison.same_texts, strict=True):
        lines += ["", *_aligned(table.texts())]
        lines += [f"the same in A and {table.headings['value']}: {counted(same, 'report')}"]
    return [*lines, "", *_statistics_lines(comparison), *_notes(comparison), *_most_different(comparison)]


def _statistics_lines(comparison: Comparison) -> list[str]:
    if not comparison.tests:
        return []
    least = 1 / (comparison.rounds + 1)
    too_few = ", too many for so few rounds: none can fall below 0.05"
    return [
        f"p: of one test alone; with {counted(comparison.rounds, 'round')} at least {least:.2g}",
        f"p (Holm): corrected for the {counted(comparison.tests, 'test')} of this comparison"
        + (too_few if comparison.tests * least > 0.05 else ""),
        "detectable: the true difference that a test would have found with 80 % power at 0.05, uncorrected",
    ]


def _seed_lines(scores: Scores) -> list[str]:
    if (seeds := scores.seeds) is None:
        return []
    columns = ("metric", "mean", "standard_deviation", "lowest", "highest")
    rows = [{"metric": metric, **asdict(seeds.scores[name])} for name, metric in scores.metrics.items()]
    return [
        "",
        f"{seeds.runs} runs with different seeds; of two of them {100 * seeds.same_texts:.1f} % of the "
        f"reports are the same, and their findings agree with a rule-F1 of {_number(seeds.agreement)}",
        *_aligned(Table({name: name.replace("_", " ") for name in columns}, rows).texts()),
    ]


def _most_different(comparison: Comparison) -> list[str]:
    """Return the reports that differ most by the first metric that tells any apart."""
    for name, reports in comparison.most_different.items():
        if reports:
            rows = [["image", *LETTERS[: len(comparison.runs)]]]
            rows += [[row.image_id, *map(_number, row.values)] for row in reports]
            return ["", f"reports that differ most by {comparison.metrics[name].title}:", *_aligned(rows)]
    return []


def _number(value: float, sign: bool = False) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{3 if abs(value) < 10 else 1}f}"


def p_text(value: float) -> str:
    """Write a p value so that it is not 0."""
    return "-" if math.isnan(value) else f"{value:.4f}" if value >= 5e-5 else f"{value:.0e}"


def size_text(result: Scores | Comparison) -> str:
    """Write ``150 reports of 150 studies of 50 patients``; patients where all are known."""
    patients = [counted(result.units, "patient")] if result.unit == "patient" else []
    return " of ".join([counted(result.reports, "report"), counted(result.studies, "study"), *patients])


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _notes(result: Scores | Comparison) -> list[str]:
    reasons = [
        f"{', '.join(names)}: {reason}" for reason, names in names_by_value(result.not_computed).items()
    ]
    drawn = f"intervals draw {'patients' if result.unit == 'patient' else 'studies'} with replacement"
    notes = [f"{drawn} ({result.unit_note})" if result.unit_note else drawn, result.language.note]
    if isinstance(result, Scores) and result.empty == result.reports:
        notes.append("no generated report has any text")
    return [*reasons, *(f"note: {note}" for note in notes if note)]
