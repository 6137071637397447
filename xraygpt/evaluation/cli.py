"""The commands of evaluate.py that score predictions. What they need is imported when they run, so that
--help is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygpt.common.command_line import whole_number
from xraygpt.common.errors import DataError
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.predictions import (
    PATIENT_COLUMNS,
    Prediction,
    PredictionColumns,
    counted,
    predictions_file,
    read_predictions,
    run_names,
)
from xraygpt.evaluation.statistics import COMPARISON_ROUNDS, ROUNDS

PREDICTIONS = "predictions: JSON Lines, JSON, CSV or TSV, maybe .gz; or the output folder of a run"
SYNTHETIC = "the images are this project's phantoms; adds their metrics, unless --metrics names those wanted"
SEVERAL: Any = {"nargs": "+", "default": []}
COLUMNS = {
    "image_id": ("--image-id-column", "names the image"),
    "generated": ("--generated-column", "holds the generated report"),
    "reference": ("--reference-column", "holds the reference"),
    "study_id": ("--study-column", "names the study, if there is one; each image is its own otherwise"),
    "patient_id": ("--patient-column", "names the patient, if there is one; intervals draw patients then"),
}
"""What of a prediction is needed -> the option that names its column, and what the column does."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``score`` and ``compare``."""
    score = commands.add_parser(
        "score",
        help="score a file of predictions of any system",
        description="Score generated reports; write scores.json, scores.csv, scores.tex, predictions.csv, "
        "protocol.txt and report.html.",
    )
    score.add_argument("file", type=Path, metavar="FILE", help=PREDICTIONS)
    score.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    score.add_argument(
        "--subgroup",
        action="append",
        default=[],
        metavar="COLUMN",
        help="score the values of a column apart (bands, if they are numbers); may be given several times",
    )
    words = "predictions of the same model for the same images, sampled with other seeds: how much varies"
    score.add_argument("--other-seeds", **SEVERAL, type=Path, metavar="FILE", help=words)
    _add_shared(score, ROUNDS, "of the bootstrap")
    score.set_defaults(run=run_score)

    compare = commands.add_parser(
        "compare",
        help="compare two to six runs on the same images",
        description="Compare runs with the first of them by paired bootstrap and approximate randomisation, "
        "corrected by Holm for all metrics and runs; write comparison.json, .csv, .tex and .html.",
    )
    compare.add_argument("first", type=Path, metavar="RUN", help=PREDICTIONS)
    compare.add_argument("others", type=Path, nargs="+", metavar="RUN", help="1 to 5 more, against the first")
    compare.add_argument("--out", type=Path, metavar="DIR", help="folder for what is written")
    _add_shared(compare, COMPARISON_ROUNDS, "of the bootstrap, and of the randomisation")
    compare.set_defaults(run=run_compare)


def _add_shared(parser: argparse.ArgumentParser, rounds: int, of_what: str) -> None:
    add = parser.add_argument
    add("--metrics", **SEVERAL, metavar="NAME", help="names as in scores.json; default: all")
    words = "how the wording is scored: ours (default), r2gen or rexrank, for numbers beside published ones"
    add("--protocol", default="ours", metavar="NAME", help=words)
    words = (
        "also score by the package RadEval: chexbert, radgraph, radcliq, ratescore, green, crimson, "
        "srr_bert, temporal, bertscore, bleu, rouge"
    )
    add("--radeval", **SEVERAL, metavar="NAME", help=words)
    add("--synthetic", action="store_true", help=SYNTHETIC)
    words = f"{of_what}; default {rounds}"
    add("--rounds", type=whole_number(1), default=rounds, metavar="N", help=words)
    add("--seed", type=whole_number(0), default=0, metavar="N", help="default 0")
    add("--skip-without-reference", action="store_true", help="leave out rows that have no reference")
    add("--images", type=Path, metavar="DIR", help="folder of JPEG or PNG files, to show them")
    words = "output folders of trainings, or their metrics.jsonl: the page shows their losses in one chart"
    add("--curves", **SEVERAL, type=Path, metavar="RUN", help=words)
    columns = parser.add_argument_group("columns of the tables")
    for name, (option, words) in COLUMNS.items():
        default = getattr(PredictionColumns(), name)
        words += f"; default {default or ' or '.join(PATIENT_COLUMNS)}"
        columns.add_argument(option, dest=f"{name}_column", default=default, metavar="NAME", help=words)


def run_score(args: argparse.Namespace) -> None:
    """Score a file.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    from xraygpt.evaluation import results
    from xraygpt.evaluation.page.report_page import write_report_page
    from xraygpt.evaluation.protocol import make_protocol, read_generation_facts
    from xraygpt.evaluation.scoring import score_predictions

    for name, (_, words) in COLUMNS.items():
        column = getattr(args, f"{name}_column")
        for taken in {*args.subgroup} & ({column} if column else {*PATIENT_COLUMNS}):
            raise DataError(
                f"--subgroup {taken}: that column is taken, it {words.split(',')[0]}; name another column"
            )
    file, reports_file = predictions_file(args.file), args.out / results.REPORTS_FILE
    if reports_file.resolve() == file.resolve():
        raise DataError(
            f"--out {args.out}: {reports_file.name} there is the file to score; name another folder"
        )
    generation = read_generation_facts(file)
    metrics, (predictions, *other_seeds), shown = _prepare(args, [args.file, *args.other_seeds])
    scores = score_predictions(
        predictions,
        metrics,
        seed=args.seed,
        rounds=args.rounds,
        subgroups=args.subgroup,
        other_seeds=other_seeds,
    )
    protocol = make_protocol(
        predictions,
        scores,
        file=file,
        command=args.command_line,
        protocol=args.protocol,
        generation=generation,
    )
    results.write_scores(scores, protocol, args.out)
    results.write_reports(reports_file, predictions, scores)
    write_report_page(scores, predictions, protocol, output=args.out / results.PAGE_FILE, **shown)
    size = results.size_text(scores)
    print(f"{size}, {scores.empty:,} without text\n", *results.score_lines(scores), sep="\n")
    files = f"scores.json, .csv and .tex, {reports_file.name}, protocol.txt, {results.PAGE_FILE}"
    print(f"\nwritten to {args.out}: {files}")


def run_compare(args: argparse.Namespace) -> None:
    """Compare runs with the first of them.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    from xraygpt.evaluation import results
    from xraygpt.evaluation.comparison import compare_predictions
    from xraygpt.evaluation.page.report_page import write_comparison_page
    from xraygpt.evaluation.protocol import comparison_protocol

    paths = [args.first, *args.others]
    if len(paths) > len(results.LETTERS):
        raise DataError(f"compare takes at most {len(results.LETTERS)} runs, not {len(paths)}")
    metrics, predictions, shown = _prepare(args, paths)
    names = run_names(paths)
    runs = dict(zip(names, predictions, strict=True))
    comparison = compare_predictions(runs, metrics, seed=args.seed, rounds=args.rounds)
    if args.out:
        files = dict(zip(names, map(predictions_file, paths), strict=True))
        protocol = comparison_protocol(
            predictions[0], files, command=args.command_line, protocol=args.protocol
        )
        results.write_comparison(comparison, protocol, args.out)
        page = args.out / results.COMPARISON_PAGE_FILE
        write_comparison_page(comparison, runs, protocol, output=page, **shown)
    print("\n".join(results.comparison_lines(comparison)))
    if args.out:
        print(f"\nwritten to {args.out}: comparison.json, .csv, .tex and .html")


def _prepare(
    args: argparse.Namespace, paths: Sequence[Path]
) -> tuple[Sequence[Metric], list[list[Prediction]], dict[str, Any]]:
    """Make the output folder; return the metrics, the predictions of each path, and what only pages show.

    How many rows were left out for want of a reference is printed, and which images are not there.
    """
    from xraygpt.evaluation.metrics.catalogue import choose_metrics
    from xraygpt.evaluation.page.curves import read_runs
    from xraygpt.pictures.reading import PictureFolder

    metrics = choose_metrics(
        args.metrics, protocol=args.protocol, synthetic=args.synthetic, radeval=args.radeval
    )
    pictures = PictureFolder(args.images) if args.images else None
    shown = {"pictures": pictures, "curves": read_runs(args.curves), "synthetic": args.synthetic}
    columns = PredictionColumns(**{name: getattr(args, f"{name}_column") for name in COLUMNS})
    runs = []
    for path in paths:
        rows = read_predictions(path, columns, need_references=not args.skip_without_reference)
        runs.append([row for row in rows if row.reference])
        if without := len(rows) - len(runs[-1]):
            print(f"{path}: {counted(without, 'row')} without a reference left out")
    files = [predictions_file(path).resolve() for path in paths]
    for path in dict.fromkeys(path for path, file in zip(paths, files, strict=True) if files.count(file) > 1):
        print(f"note: {path} is named more than once")
    images = [row.image_id for row in runs[0]]
    if pictures and (missing := [name for name in images if name not in pictures.files]):
        found = (
            f"--images {args.images}: {len(images) - len(missing):,} of {counted(len(images), 'image')} found"
        )
        found += f"; no file is called {missing[0]}, with or without an ending such as .png"
        if len(missing) == len(images):
            raise DataError(found)
        print(found)
    try:
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{args.out} cannot be made ({error}); name another folder with --out") from error
    return metrics, runs, shown
