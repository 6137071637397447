"""What an evaluation of generated reports leaves behind: ``scores.json``, the protocol and the HTML page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xraygpt.common.config import Config
from xraygpt.common.errors import DataError
from xraygpt.common.logger import METRICS_FILE
from xraygpt.common.run_record import read_json, read_run_seconds
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.evaluation.metrics.catalogue import OURS, choose_metrics
from xraygpt.evaluation.page.curves import RunSummary, read_curves, read_runs
from xraygpt.evaluation.page.report_page import EXAMPLES, write_report_page
from xraygpt.evaluation.predictions import Prediction, patient_column
from xraygpt.evaluation.protocol import GenerationFacts, make_protocol
from xraygpt.evaluation.results import PAGE_FILE, SCORES_FILE, score_lines, write_reports, write_scores
from xraygpt.evaluation.scoring import Scores, score_predictions
from xraygpt.evaluation.statistics import plain
from xraygpt.tasks.base_task import Splits, datasets_of
from xraygpt.tasks.predictions import predictions_path

Row = Mapping[str, Any]
"""An object of ``predictions_<split>.jsonl``."""
NEEDED = ("image_id", "study_id", "reference", "generated")

logger = logging.getLogger(__name__)


@dataclass
class PageConfig:
    """The section ``run.page`` of a configuration."""

    enabled: bool = False
    """Write ``report.html`` beside the scores once the first test split is scored."""
    runs: list[str] = field(default_factory=list)
    """Output folders of the trainings that led to the model: their loss curves are shown, and their wall
    time counts towards ``seconds`` in ``scores.json``."""
    compare_runs: list[str] = field(default_factory=list)
    """Output folders of trainings, or their ``metrics.jsonl``, whose loss curves are laid over each other in
    one chart; each is called by the name of its folder."""
    untrained: str | None = None
    """Output folder of an evaluation of the same model before training; gives ``f1_untrained`` and its wall
    time."""
    examples: int = EXAMPLES
    """Images shown with both reports, half of them with an error if there are as many."""

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ValueError(f"examples must not be negative, got {self.examples}")


@dataclass(frozen=True)
class ScoredSplit:
    """The reports of one split, with their scores."""

    predictions: Sequence[Prediction]
    scores: Scores
    protocol: Mapping[str, Any]
    sources: Mapping[str, ReportDataset]
    """The data set of each image id."""
    synthetic: bool
    """All images are drawn by this project."""


class ReportResults:
    """Scores the reports of a split, and holds them against the runs before it.

    Args:
        page: says which runs led to the model.
        metrics: names of those to compute; empty for all.
        subgroups: columns of the rows whose values are scored apart.
        protocol: that chooses the metrics if none is named.

    Raises:
        MissingFileError, DataError: a run that `page` names has not come to its end, or its files are
            damaged. Found out here, before anything is generated.
    """

    def __init__(
        self,
        page: PageConfig,
        metrics: Sequence[str] = (),
        subgroups: Sequence[str] = (),
        protocol: str = OURS,
    ) -> None:
        self.page = page
        self.metrics = metrics
        self.subgroups = subgroups
        self.protocol = protocol
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
        scored: dict[str, ScoredSplit] = {}
        for split, of_split in rows.items():
            known = {dataset.name: dataset for dataset in datasets_of(datasets, split)}
            sources = {row["image_id"]: known[row["source"]] for row in of_split}
            predictions = [prediction_of(row) for row in of_split]
            synthetic = all(dataset.synthetic for dataset in sources.values())
            metrics = choose_metrics(self.metrics, protocol=self.protocol, synthetic=synthetic)
            scores = score_predictions(predictions, metrics, seed=cfg.run_cfg.seed, subgroups=self.subgroups)
            file = predictions_path(output_dir, split)
            protocol = make_protocol(
                predictions,
                scores,
                file=file,
                command=command,
                protocol=self.protocol,
                generation=generation[split],
            )
            write_reports(file.with_suffix(".csv"), predictions, scores)
            scored[split] = ScoredSplit(predictions, scores, protocol, sources, synthetic)
        first, *others = scored.values()
        seconds = elapsed()
        more: dict[str, Any] = {"seconds": round(seconds + sum(run.seconds for run in self.runs), 2)}
        if self.untrained:
            more["untrained"] = self.untrained
        if others:
            more["other_splits"] = {
                split: plain(each.scores) | {"protocol": each.protocol}
                for split, each in scored.items()
                if each is not first
            }
        write_scores(first.scores, first.protocol, output_dir, more)
        lines = "\n".join(score_lines(first.scores))
        logger.info("scores written to %s:\n%s", output_dir / SCORES_FILE, lines)
        if self.page.enabled:
            run = RunSummary(f"{output_dir.name} (this evaluation)", seconds, curves=None)
            self._write_page(first, run, output_dir / PAGE_FILE, cfg)
        return {
            split: {name: interval.value for name, interval in each.scores.scores.items()}
            for split, each in scored.items()
        }

    def _write_page(self, split: ScoredSplit, run: RunSummary, path: Path, cfg: Config) -> None:
        first = next(iter(split.scores.scores), "")
        write_report_page(
            split.scores,
            split.predictions,
            split.protocol,
            output=path,
            pictures=lambda image_id: split.sources[image_id].picture(image_id),
            curves=self.compared_runs,
            synthetic=split.synthetic,
            runs=[*self.runs, run],
            examples=self.page.examples,
            comparisons={"untrained": self.untrained[first]} if first in self.untrained else {},
            settings=json.dumps(cfg.to_dict(), indent=2, ensure_ascii=False),
        )
        logger.info("page written to %s", path)


def prediction_of(row: Row) -> Prediction:
    """Return what is scored of a row."""
    patient = patient_column(row)
    others = {name: str(value) for name, value in row.items() if name not in (*NEEDED, patient)}
    image_id, study_id, reference, generated = (row[name] for name in NEEDED)
    return Prediction(
        image_id, study_id, reference, generated, others, patient_id=str(row[patient]) if patient else ""
    )


def _read_scores(path: Path) -> dict[str, float]:
    content = read_json(path)
    try:
        values = {name: score["value"] for name, score in content["scores"].items()}
        return {name: float(value) for name, value in values.items() if value is not None}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: holds no scores of an evaluation of reports") from error
