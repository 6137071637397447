"""What an evaluation of generated reports leaves behind: ``scores.json`` and the HTML page."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from xraygpt.common.logger import METRICS_FILE
from xraygpt.common.run_record import read_number, read_run_seconds, write_json
from xraygpt.datasets.datasets.annotations import normalise_split
from xraygpt.datasets.stream import SizedDataset
from xraygpt.evaluation.curves import RunSummary, read_curves
from xraygpt.evaluation.page import Example, PageContent, choose_examples, render_page
from xraygpt.evaluation.page_config import PageConfig
from xraygpt.tasks.context import Splits

SCORES_FILE = "scores.json"
PAGE_FILE = "report.html"

Row = Mapping[str, str]
"""``image_id``, ``source``, ``reference``, ``generated``."""

logger = logging.getLogger(__name__)


class ReportResults:
    """Puts together the scores of one split with those of the runs before it.

    Args:
        page: says which runs led to the model.

    Raises:
        MissingFileError, DataError: a run that `page` names has not come to its end, or its files are
            damaged. Found out here, before anything is generated.
    """

    def __init__(self, page: PageConfig) -> None:
        self.page = page
        self.runs: list[RunSummary] = []
        self.f1_untrained: float | None = None
        for folder in map(Path, page.runs):
            curves = read_curves(folder / METRICS_FILE)
            self.runs.append(RunSummary(folder.name, read_run_seconds(folder), curves))
        if page.untrained is not None:
            folder = Path(page.untrained)
            self.f1_untrained = read_number(folder / SCORES_FILE, "f1")
            self.runs.append(RunSummary(folder.name, read_run_seconds(folder), curves=None))

    def write(
        self,
        scores: Mapping[str, Any],
        rows: Sequence[Row],
        datasets: Mapping[str, Splits],
        *,
        split: str,
        output_dir: Path,
        elapsed: Callable[[], float],
        config: Mapping[str, Any],
        others: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Write ``scores.json`` and, if wanted, ``report.html``; return the scores.

        Args:
            scores: of `split`, as `xraygpt.evaluation.score_reports` gives them.
            elapsed: seconds since the start of the program; ``seconds`` in the scores adds to it the wall
                time of the runs before.
            others: the scores of further splits, which go into ``scores.json`` under ``other_splits``.
        """
        own = _by_source(datasets, normalise_split(split))
        examples = _examples(rows, own, self.page.examples) if self.page.enabled else []
        complete = dict(scores)
        if self.f1_untrained is not None:
            complete["f1_untrained"] = self.f1_untrained
        seconds = elapsed()
        complete["seconds"] = round(seconds + sum(run.seconds for run in self.runs), 2)
        write_json(output_dir / SCORES_FILE, complete | ({"other_splits": others} if others else {}))
        logger.info("scores written to %s", output_dir / SCORES_FILE)
        if self.page.enabled:
            content = PageContent(
                subject=_subject(rows, own),
                synthetic=all(is_synthetic(own[row["source"]]) for row in rows),
                scores=complete,
                runs=[*self.runs, RunSummary(f"{output_dir.name} (this evaluation)", seconds, curves=None)],
                examples=examples,
                config=json.dumps(config, indent=2, ensure_ascii=False),
            )
            (output_dir / PAGE_FILE).write_text(render_page(content), encoding="utf-8")
            logger.info("page written to %s", output_dir / PAGE_FILE)
        return complete


def _by_source(datasets: Mapping[str, Splits], split: str) -> dict[str, SizedDataset]:
    """Return the data sets of one split by the name that they put into their samples."""
    having = {name: splits[split] for name, splits in datasets.items() if split in splits}
    return {getattr(dataset, "name", name): dataset for name, dataset in having.items()}


def _examples(rows: Sequence[Row], datasets: Mapping[str, SizedDataset], count: int) -> list[Example]:
    references, hypotheses = [row["reference"] for row in rows], [row["generated"] for row in rows]
    chosen = [rows[i] for i in choose_examples(references, hypotheses, count)]
    return [
        Example(row["image_id"], row["reference"], row["generated"], _picture(datasets[row["source"]], row))
        for row in chosen
    ]


def _picture(dataset: SizedDataset, row: Row) -> Image.Image | None:
    """Return the image of a row; None from a data set that has no `picture` to look at."""
    picture: Callable[[str], Image.Image] | None = getattr(dataset, "picture", None)
    return picture(row["image_id"]) if picture is not None else None


def is_synthetic(dataset: SizedDataset) -> bool:
    """Tell whether the images of a data set are drawn by this project."""
    return bool(getattr(dataset, "synthetic", False))


def _subject(rows: Sequence[Row], datasets: Mapping[str, SizedDataset]) -> str:
    """Return e.g. "400 synthetic radiographs (phantom)"."""
    counts = Counter(row["source"] for row in rows)
    return " and ".join(
        f"{n} {'synthetic ' if is_synthetic(datasets[name]) else ''}radiograph{'s' * (n > 1)} ({name})"
        for name, n in counts.items()
    )
