"""The commands of evaluate.py that score predictions. What they need is imported when they run, so that
--help is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from xraygpt.common.errors import DataError
from xraygpt.evaluation.statistics import ROUNDS

if TYPE_CHECKING:
    from xraygpt.evaluation.predictions import Prediction

PREDICTIONS = "predictions: JSON Lines, JSON, CSV or TSV, maybe .gz; or the output folder of a run"
COLUMNS = {
    "image_id": ("--image-id-column", "names the image"),
    "generated": ("--generated-column", "holds the generated report"),
    "reference": ("--reference-column", "holds the reference"),
    "study_id": (
        "--study-column",
        "names the study, if there is such a column; each image is its own otherwise",
    ),
}
"""What of a prediction is needed -> the option that names its column, and what the column does."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``score`` and ``compare``."""
    score = commands.add_parser(
        "score",
        help="score a file of predictions of any system",
        description="Score generated reports; write scores.json, protocol.txt and report.html.",
    )
    score.add_argument("file", type=Path, metavar="FILE", help=PREDICTIONS)
    score.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    score.add_argument("--images", type=Path, metavar="DIR", help="folder of JPEG or PNG files, to show them")
    score.add_argument(
        "--curves",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="output folders of trainings, or their metrics.jsonl: the page shows their losses in one chart",
    )
    score.add_argument(
        "--subgroup",
        action="append",
        default=[],
        metavar="COLUMN",
        help="score the values of a column apart (bands, if they are numbers); may be given several times",
    )
    _add_shared(score)
    score.set_defaults(run=run_score)

    compare = commands.add_parser(
        "compare",
        help="compare two files of predictions for the same images",
        description="Compare two runs on the same images by paired bootstrap and approximate randomisation.",
    )
    for name in ("a", "b"):
        compare.add_argument(name, type=Path, metavar=name.upper(), help=PREDICTIONS)
    compare.add_argument("--out", type=Path, metavar="DIR", help="folder for comparison.json")
    _add_shared(compare)
    compare.set_defaults(run=run_compare)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="names as in scores.json; default: all"
    )
    parser.add_argument(
        "--protocol",
        default="ours",
        metavar="NAME",
        help="how the wording is scored: ours (default), r2gen or rexrank, for numbers beside published ones",
    )
    parser.add_argument(
        "--radeval",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also score by the package RadEval: chexbert, radgraph, radcliq, ratescore, green, crimson, "
        "srr_bert, temporal, bertscore, bleu, rouge",
    )
    parser.add_argument(
        "--synthetic", action="store_true", help="the images are this project's phantoms; adds their metrics"
    )
    words = f"of the bootstrap; default {ROUNDS}"
    parser.add_argument("--rounds", type=_whole_number(1), default=ROUNDS, metavar="N", help=words)
    parser.add_argument("--seed", type=_whole_number(0), default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--skip-without-reference", action="store_true", help="leave out rows that have no reference"
    )
    columns = parser.add_argument_group("columns of the tables")
    for name, (option, words) in COLUMNS.items():
        columns.add_argument(
            option, dest=f"{name}_column", default=name, metavar="NAME", help=f"{words}; default {name}"
        )


def _whole_number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of {least} or more")
        return int(text)

    return parse


def run_score(args: argparse.Namespace) -> None:
    """Score a file.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    from xraygpt.evaluation.metrics.catalogue import choose_metrics
    from xraygpt.evaluation.page.curves import read_runs
    from xraygpt.evaluation.page.examples import PictureFolder
    from xraygpt.evaluation.page.report_page import write_report_page
    from xraygpt.evaluation.predictions import counted, predictions_file
    from xraygpt.evaluation.protocol import make_protocol, read_generation_facts
    from xraygpt.evaluation.results import PAGE_FILE, score_lines, write_scores
    from xraygpt.evaluation.scoring import score_predictions

    for name, (_, words) in COLUMNS.items():
        if (column := getattr(args, f"{name}_column")) in args.subgroup:
            raise DataError(
                f"--subgroup {column}: that column is taken, it {words.split(',')[0]}; name another column"
            )
    metrics = choose_metrics(
        args.metrics, protocol=args.protocol, synthetic=args.synthetic, radeval=args.radeval
    )
    pictures = PictureFolder(args.images) if args.images else None
    compared_runs = read_runs(args.curves)
    predictions = _read(args.file, args)
    file = predictions_file(args.file)
    generation = read_generation_facts(file)
    _make_folder(args.out)
    scores = score_predictions(
        predictions, metrics, seed=args.seed, rounds=args.rounds, subgroups=args.subgroup
    )
    protocol = make_protocol(
        predictions,
        scores,
        file=file,
        command=args.command_line,
        protocol=args.protocol,
        generation=generation,
    )
    write_scores(scores, protocol, args.out)
    write_report_page(
        scores,
        predictions,
        protocol,
        pictures=pictures,
        compared_runs=compared_runs,
        synthetic=args.synthetic,
        output=args.out / PAGE_FILE,
    )
    reports, studies = counted(scores.reports, "report"), counted(scores.studies, "study")
    print(f"{reports} of {studies}, {scores.empty:,} without text\n")
    print("\n".join(score_lines(scores)))
    print(f"\nwritten to {args.out}: scores.json, protocol.txt, {PAGE_FILE}")


def run_compare(args: argparse.Namespace) -> None:
    """Compare two files.

    Raises:
        XrayGPTError: anything that the user can fix.
    """
    from xraygpt.common.run_record import write_json
    from xraygpt.evaluation.comparison import check_same_task, compare_predictions
    from xraygpt.evaluation.metrics.catalogue import choose_metrics
    from xraygpt.evaluation.predictions import predictions_file
    from xraygpt.evaluation.protocol import comparison_protocol
    from xraygpt.evaluation.results import COMPARISON_FILE, comparison_lines
    from xraygpt.evaluation.statistics import plain

    metrics = choose_metrics(
        args.metrics, protocol=args.protocol, synthetic=args.synthetic, radeval=args.radeval
    )
    a, b = (_read(path, args) for path in (args.a, args.b))
    check_same_task(a, b)
    if args.out:
        _make_folder(args.out)
    comparison = compare_predictions(a, b, metrics, seed=args.seed, rounds=args.rounds)
    print("\n".join(comparison_lines(comparison, a=str(args.a), b=str(args.b))))
    if args.out:
        files = [predictions_file(path) for path in (args.a, args.b)]
        protocol = comparison_protocol(a, *files, command=args.command_line, protocol=args.protocol)
        write_json(args.out / COMPARISON_FILE, plain(comparison) | {"protocol": protocol})
        print(f"\nwritten to {args.out / COMPARISON_FILE}")


def _read(path: Path, args: argparse.Namespace) -> list[Prediction]:
    """Read predictions; say how many were left out where that is wanted."""
    from xraygpt.evaluation.predictions import PredictionColumns, counted, read_predictions

    columns = PredictionColumns(**{name: getattr(args, f"{name}_column") for name in COLUMNS})
    rows = read_predictions(path, columns, need_references=not args.skip_without_reference)
    kept = [row for row in rows if row.reference]
    if len(kept) < len(rows):
        print(f"{path}: {counted(len(rows) - len(kept), 'row')} without a reference left out")
    return kept


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error}); name another folder with --out") from error
