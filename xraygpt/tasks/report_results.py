"""What an evaluation of generated reports leaves behind: ``scores.json``, the protocol and the HTML page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xraygpt.common.config import Config
from xraygpt.common.errors import DataError
from xraygpt.common.logger import METRICS_FILE
from xraygpt.common.run_record import read_json, read_run_seconds
from xraygpt.evaluation.metrics.catalogue import choose_metrics
from xraygpt.evaluation.page.curves import RunSummary, read_curves, read_runs
from xraygpt.evaluation.page.report_page import PageConfig, write_report_page
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.protocol import GenerationFacts, ProtocolCard, make_protocol
from xraygpt.evaluation.results import PAGE_FILE, SCORES_FILE, score_lines, write_scores
from xraygpt.evaluation.scoring import Scores, score_predictions
from xraygpt.evaluation.statistics import plain
from xraygpt.tasks.base_task import Splits, datasets_of
from xraygpt.tasks.predictions import predictions_path

Row = Mapping[str, Any]
"""An object of ``predictions_<split>.jsonl``."""
NEEDED = ("image_id", "study_id", "reference", "generated")

logger = logging.getLogger(__name__)


class ReportResults:
    """Scores the reports of a split, and holds them against the runs before it.

    Args:
        page: says which runs led to the model.
        metrics: names of those to compute; empty for all.
        subgroups: columns of the rows whose values are scored apart.

    Raises:
        MissingFileError, DataError: a run that `page` names has not come to its end, or its files are
            damaged. Found out here, before anything is generated.
    """

    def __init__(self, page: PageConfig, metrics: Sequence[str] = (), subgroups: Sequence[str] = ()) -> None:
        self.page = page
        self.metrics = metrics
        self.subgroups = subgroups
        self.runs: list[RunSummary] = []
        self.untrained: dict[str, float] = {}
        """Scores of the same model before training, by metric."""
        for folder in map(Path, page.runs):
            curves = read_curves(folder / METRICS_FILE)
            self.runs.append(RunSummary(folder.name, read_run_seconds(folder), curves))
        self.compared_runs = read_runs([Path(path) for path in page.compare_runs])
        if page.untrained is not None:
            folder = Path(page.untrained)
            self.untrained = _read_scores(folder / SCORES_FILE)
            self.runs.append(RunSummary(folder.name, read_run_seconds(folder), curves=None))

    def write(
        self,
        rows: Mapping[str, Sequence[Row]],
        datasets: Mapping[str, Splits],
        generation: Mapping[str, GenerationFacts],
        *,
        output_dir: Path,
        elapsed: Callable[[], float],
        cfg: Config,
        command: str,
    ) -> dict[str, dict[str, float]]:
        """Write ``scores.json``, ``protocol.txt`` and, if wanted, ``report.html`` about the first split.

        The scores of the other splits, each with its protocol, go into ``scores.json`` under
        ``other_splits``.

        Args:
            rows: of each test split, those that have a reference.
            generation: how the reports of each split were made.
            elapsed: seconds since the start of the program; ``seconds`` in the scores adds to it the wall
                time of the runs before.

        Returns:
            For each split the score by name of the metric.
        """
        names = {split: {data.name: data for data in datasets_of(datasets, split)} for split in rows}
        synthetic = {
            split: all(names[split][row["source"]].synthetic for row in of_split)
            for split, of_split in rows.items()
        }
        scored: dict[str, tuple[list[Prediction], Scores]] = {}
        protocols: dict[str, ProtocolCard] = {}
        for split, of_split in rows.items():
            predictions = [_prediction(row) for row in of_split]
            metrics = choose_metrics(self.metrics, synthetic=synthetic[split])
            scores = score_predictions(predictions, metrics, seed=cfg.run_cfg.seed, subgroups=self.subgroups)
            scored[split] = predictions, scores
            protocols[split] = make_protocol(
                predictions,
                scores,
                file=predictions_path(output_dir, split),
                command=command,
                generation=generation[split],
            )
        split, *others = scored
        predictions, scores = scored[split]
        seconds = elapsed()
        more: dict[str, Any] = {"seconds": round(seconds + sum(run.seconds for run in self.runs), 2)}
        if self.untrained:
            more["untrained"] = self.untrained
        if others:
            more["other_splits"] = {
                name: plain(scored[name][1]) | {"protocol": protocols[name].to_dict()} for name in others
            }
        write_scores(scores, protocols[split], output_dir, more)
        logger.info("scores written to %s:\n%s", output_dir / SCORES_FILE, "\n".join(score_lines(scores)))
        if self.page.enabled:
            first = next(iter(scores.scores), "")
            sources = {row["image_id"]: row["source"] for row in rows[split]}
            run = RunSummary(f"{output_dir.name} (this evaluation)", seconds, curves=None)
            write_report_page(
                scores,
                predictions,
                protocols[split],
                output=output_dir / PAGE_FILE,
                pictures=lambda image_id: names[split][sources[image_id]].picture(image_id),
                curves=[*self.runs, run],
                compared_runs=self.compared_runs,
                synthetic=synthetic[split],
                examples=self.page.examples,
                comparisons={"untrained": self.untrained[first]} if first in self.untrained else {},
                settings=json.dumps(cfg.to_dict(), indent=2, ensure_ascii=False),
            )
            logger.info("page written to %s", output_dir / PAGE_FILE)
        return {
            name: {metric: interval.value for metric, interval in of_split.scores.items()}
            for name, (_, of_split) in scored.items()
        }


def _prediction(row: Row) -> Prediction:
    others = {name: str(value) for name, value in row.items() if name not in NEEDED}
    return Prediction(row["image_id"], row["study_id"], row["reference"], row["generated"], others)


def _read_scores(path: Path) -> dict[str, float]:
    content = read_json(path)
    try:
        values = {name: score["value"] for name, score in content["scores"].items()}
        return {name: float(value) for name, value in values.items() if value is not None}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: holds no scores of an evaluation of reports") from error
