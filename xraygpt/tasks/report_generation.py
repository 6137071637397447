"""Training on image-report pairs, scored by the reports that the model writes."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraygpt.common.command_line import typed_command
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import get_rank, is_main_process
from xraygpt.common.errors import ConfigError, DataError, did_you_mean
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import Batch, repeated, to_device
from xraygpt.datasets.stream import EvalStream
from xraygpt.evaluation.metrics.catalogue import choose_metrics, metric_named
from xraygpt.models.base_model import BaseModel
from xraygpt.tasks.base_task import EvalContext, Splits
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask
from xraygpt.tasks.predictions import (
    FinishedBatch,
    GenerationJournal,
    generation_facts,
    generation_settings,
    prediction_rows,
    predictions_path,
    write_predictions,
    write_timing,
)
from xraygpt.tasks.report_results import PageConfig, ReportResults
from xraygpt.tasks.steps import gather

JOURNAL_FOLDER = ".generating"
QUICK_METRICS = ("rule_f1_micro_14", "laterality_f1", "rouge_l", "bleu_4", "cider_d", "distinct")
"""What is logged of every evaluation; the rest is computed at the end of a run."""

CPU_BATCH = 16
"""Images of a batch that ``run.batch_size_eval: auto`` gives on the CPU, whose memory is not tried out."""

logger = logging.getLogger(__name__)


@dataclass
class ReportGenerationConfig:
    """The keys of the section ``run`` that only the task "report_generation" reads."""

    best_metric: str | None = None
    """Name of the metric of generated reports that says which checkpoint is best, such as "rouge_l" or
    "rule_f1_micro_14"; null: "phantom_f1" where all data are phantoms, else "rule_f1_micro_14"."""
    metrics: list[str] = field(default_factory=list)
    """Names of the metrics that are computed at the end; empty: all that need no weights."""
    protocol: str = "ours"
    """How the wording is scored at the end if no metrics are named: "ours", "r2gen" or "rexrank"
    (``docs/metrics.md``)."""
    subgroups: list[str] = field(default_factory=list)
    """Columns of the annotations, such as "view", whose values are scored apart."""
    page: PageConfig = field(default_factory=PageConfig)
    """An HTML page about the first test split, and what its scores are held against."""


@registry.register_task("report_generation")
class ReportGenerationTask(ImageTextPretrainTask):
    """Generates a report for each image of a split, with ``run.generate`` and one fixed prompt.

    The reports are written to ``predictions_<split>.jsonl`` in the output folder. Those of a test split are
    kept batch by batch in ``.generating/`` until the run has ended, so that a run that was killed goes on
    where it stopped; how long they took is in ``generation_<split>.json``.

    The score of a split that chooses the best checkpoint is ``run.best_metric``. At the end of a run the
    scores of the first test split go to ``scores.json``, beside those of the other test splits and of the
    runs that ``run.page`` names, and into an HTML page if wanted. Images without a reference are not scored.

    Raises:
        ConfigError: there is no metric of the name ``run.best_metric``, or of ``run.metrics``, or it needs a
            program that is not there; a page without a test split.
        MissingFileError, DataError: a run that ``run.page`` names has left nothing usable.
    """

    config_class = ReportGenerationConfig

    def __init__(self, cfg: Config, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        assert isinstance(cfg.task_cfg, ReportGenerationConfig)
        self.cfg, self.settings = cfg, cfg.task_cfg
        page, metrics, protocol = self.settings.page, self.settings.metrics, self.settings.protocol
        if page.enabled and not cfg.run_cfg.test_splits:
            raise ConfigError("run.page.enabled needs a split to report on in run.test_splits")
        with _setting("metrics"):
            choose_metrics(metrics)
        with _setting("protocol"):
            choose_metrics(metrics, protocol=protocol)
        self.results = ReportResults(page, metrics, self.settings.subgroups, protocol)
        with _setting("best_metric"):
            name = self.settings.best_metric or default_best_metric(cfg.datasets_cfg)
            self.best_metric = metric_named(name)
            self.best_metric(["The heart is normal."], ["The heart is normal."])  # can it be computed here?
        self.rows: dict[str, list[dict[str, Any]]] = {}
        """What `valid_step` gave, by split."""
        self.journals: dict[str, dict[str, GenerationJournal]] = {}
        """Of each test split, by the name of the data set."""

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return the fields of a prediction for each image (`prediction_rows`)."""
        generate: Any = model.generate_detailed
        return prediction_rows(samples, generate(samples, self.cfg.run_cfg.generate))

    @torch.no_grad()
    def largest_eval_batch(
        self, model: BaseModel, sample: Batch, samples: int, *, context: EvalContext
    ) -> int:
        """Return how many images of 1, 2, 4, … this GPU can write reports of full length for at once."""
        if context.device.type != "cuda":
            return CPU_BATCH
        settings = self.cfg.run_cfg.generate
        longest = replace(settings, min_length=settings.max_new_tokens)
        writer: Any = model.eval()
        end = getattr(writer, "end_sym", None)

        def write(size: int) -> None:
            with context.precision.autocast():
                writer.generate_detailed(to_device(repeated(sample, size), context.device), longest)

        try:
            if end is not None:
                writer.end_sym = ""  # `min_length` keeps end tokens away, but no stop string
            return min(gather([largest_that_fits(write, samples)]))
        finally:
            if end is not None:
                writer.end_sym = end

    def evaluate_split(
        self,
        model: BaseModel,
        stream: EvalStream,
        load: Callable[[EvalStream], Iterable[Batch]],
        *,
        context: EvalContext,
    ) -> list[dict[str, Any]]:
        """Return the rows of one split of one data set; those of a test split go through a journal."""
        if context.event != "test":
            return super().evaluate_split(model, stream, load, context=context)
        dataset = stream.dataset
        self.before_evaluation(model=model, dataset=dataset)
        columns = {row.image_id: row.columns for row in dataset.rows}
        _check_subgroups(self.settings.subgroups, dataset.name, columns.values())
        journal = GenerationJournal(
            context.output_dir / JOURNAL_FOLDER / context.split / dataset.name,
            generation_settings(self.cfg, model, stream, context),
            part=get_rank() if context.gather or is_main_process() else None,
        )
        self.journals.setdefault(context.split, {})[dataset.name] = journal
        if journal.done:
            logger.info(
                "going on with a generation that was stopped: %d of %d batches are in %s",
                len(journal.done),
                stream.total,
                journal.folder,
            )
        last = time.perf_counter()
        batches = load(stream.leaving_out(journal.done))
        for number, of_batch in self.evaluated_batches(model, batches, context):
            now = time.perf_counter()
            journal.append(FinishedBatch(number, round(now - last, 4), of_batch))
            last = now
        rows = (row for batch in journal.finish() for row in batch.rows)
        return [{**columns.get(row["image_id"], {}), **row} for row in rows]

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Keep and write the reports, and return their scores.

        Returns:
            The metric that chooses the best checkpoint and `QUICK_METRICS`, of the images that have a
            reference; of a test split without references only the number of images.

        Raises:
            DataError: a split that chooses the best checkpoint has no references, or the metric is not
                defined for it.
        """
        self.rows[split_name] = val_result
        if is_main_process():
            path = predictions_path(context.output_dir, split_name)
            write_predictions(path, val_result)
            logger.info("%d reports written to %s", len(val_result), path)
            if context.event == "test":
                journals = [*self.journals.get(split_name, {}).values()]
                write_timing(context.output_dir, split_name, journals, typed_command())
        pairs = [(row["reference"], row["generated"]) for row in val_result if row["reference"]]
        if len(pairs) < len(val_result):
            logger.warning(
                "split %s: %d of %d images have no reference report; these are not scored",
                split_name,
                len(val_result) - len(pairs),
                len(val_result),
            )
        if pairs:
            return self._scores(pairs, split_name, context)
        if context.event == "test":
            return {"images": len(val_result)}
        raise DataError(f"the split '{split_name}' of run.valid_splits has no reports to compare with")

    def _scores(self, pairs: list[tuple[str, str]], split: str, context: EvalContext) -> dict[str, Any]:
        references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
        metric = self.best_metric
        metrics = [metric, *(metric_named(name) for name in QUICK_METRICS if name != metric.name)]
        scores = {each.name: each(references, hypotheses) for each in metrics}
        value = scores[metric.name]
        if math.isnan(value) and context.event == "valid":
            raise DataError(
                f"run.best_metric {metric.name} is not defined for the split '{split}' ({metric.equals}); "
                "name another metric"
            )
        best = value if metric.higher_is_better else -value
        return {"agg_metrics": best, "n": len(pairs), **scores}

    def after_run(
        self,
        metrics: dict[str, dict[str, Any]],
        datasets: dict[str, Splits],
        *,
        output_dir: Path,
        elapsed: Callable[[], float],
    ) -> dict[str, dict[str, Any]]:
        """Write ``scores.json`` and the page about the test splits that have scores (`ReportResults`)."""
        scored = [split for split, values in metrics.items() if "agg_metrics" in values]
        if scored:
            settings = {split: [j.settings for j in self.journals[split].values()] for split in scored}
            command = typed_command()
            metrics = metrics | self.results.write(
                {split: [row for row in self.rows[split] if row["reference"]] for split in scored},
                datasets,
                {split: generation_facts(settings[split], command) for split in scored},
                output_dir=output_dir,
                elapsed=elapsed,
                cfg=self.cfg,
                command=command,
            )
        journals = output_dir / JOURNAL_FOLDER
        if is_main_process() and journals.is_dir():
            shutil.rmtree(journals)
        return metrics


def largest_that_fits(run: Callable[[int], object], enough: int) -> int:
    """Return the last of 1, 2, 4, … for which `run` finds memory; the first from `enough` on will do.

    Raises:
        torch.OutOfMemoryError: 1 is too much.
    """
    run(size := 1)
    while size < enough and _fits(run, 2 * size):
        size *= 2
    torch.cuda.empty_cache()
    return size


def _fits(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
    except torch.OutOfMemoryError:
        return False
    return True


def default_best_metric(datasets: Collection[str]) -> str:
    """Return the metric that chooses the best checkpoint where none is named: that of the phantoms' own
    language if there is nothing but phantoms, else the rule labeller's.
    """
    return "phantom_f1" if set(datasets) == {"phantom"} else "rule_f1_micro_14"


def _check_subgroups(names: Collection[str], dataset: str, columns: Iterable[Mapping[str, str]]) -> None:
    """Find a wrong name before the reports are generated."""
    there = {key for row in columns for key in row} | {"source"}
    for name in names:
        if name not in there:
            raise ConfigError(
                f"run.subgroups: no annotation of {dataset} has the column '{name}'"
                f"{did_you_mean(name, there)} There are: {', '.join(sorted(there))}"
            )


@contextmanager
def _setting(key: str) -> Iterator[None]:
    """Blame what is wrong with a metric on the key of ``run`` that names it."""
    try:
        yield
    except DataError as error:
        raise ConfigError(f"run.{key}: {error}") from error
