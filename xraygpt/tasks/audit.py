"""``evaluate.py audit``: does a model look at the image? Its reports under conditions that take it away."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraygpt.common.command_line import typed_command
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import is_main_process
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.run_record import write_json
from xraygpt.conversation.messages import TEMPLATE_SLOT
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.stream import EvalStream
from xraygpt.evaluation.comparison import Comparison, compare_predictions
from xraygpt.evaluation.labeller import Status, label_report, positive_findings
from xraygpt.evaluation.language import check_language
from xraygpt.evaluation.metrics.catalogue import OURS, choose_metrics
from xraygpt.evaluation.metrics.metric import Metric, mean_over_pairs
from xraygpt.evaluation.metrics.phantom import extract_findings
from xraygpt.evaluation.page.examples import choose_examples, make_cards
from xraygpt.evaluation.page.report_page import reader, write_page
from xraygpt.evaluation.predictions import Prediction, counted, patient_column
from xraygpt.evaluation.protocol import make_protocol
from xraygpt.evaluation.scoring import Scores, name_hash, score_predictions, shuffled
from xraygpt.evaluation.statistics import Interval, plain
from xraygpt.models.base_model import BaseModel
from xraygpt.tasks.base_task import EvalContext
from xraygpt.tasks.predictions import generation_facts, predictions_path, write_predictions
from xraygpt.tasks.report_generation import ReportGenerationConfig, ReportGenerationTask
from xraygpt.tasks.report_results import PageConfig, Row, prediction_of

IMAGES, BLANK, SHUFFLED, SAME_LABELS = "images", "blank", "shuffled", "same_labels"
CONTRADICTING = "contradicting_prompt"
CONDITIONS = {
    IMAGES: "with the images themselves",
    BLANK: "on blank images",
    SHUFFLED: "with the image of another patient",
    SAME_LABELS: "with the image of another patient with the same findings",
    CONTRADICTING: "with a prompt that claims a finding the reference does not have",
}
"""Name of a condition -> how a sentence says it."""
METRICS = ["phantom_f1", "rule_f1_micro_14", "laterality_f1", "bleu_4", "rouge_l"]
"""What is computed unless ``run.metrics`` or ``run.protocol`` names others, the first of phantoms only. The
verdict is about the first one of which more is better."""
MOST = 0.5
RULE = (
    "No sign that the model looks: the interval of the difference that shuffled images make (blank ones if "
    "none has a partner) reaches 0. Otherwise most of the score stays if half of it or more is left on blank "
    "or on shuffled images, and the reports depend on the images if less is."
)
"""How the verdict is found."""
CLAIMS = {
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "a right upper zone consolidation",
    "Edema": "pulmonary edema",
    "Pleural Effusion": "a large right pleural effusion",
    "Pneumothorax": "a large left pneumothorax",
}
"""Class of the labeller -> what a prompt may claim."""
REPEATED = Metric(
    "repeated",
    "reports with the claimed finding",
    "share of reports that assert the class of the claimed finding, as the labeller reads both",
    mean_over_pairs(lambda claim, report: positive_findings(claim) <= positive_findings(report)),
)
WHY_NOT = {
    SHUFFLED: "one patient has more than half of the images",
    SAME_LABELS: "no two patients are known to have the same findings",
    CONTRADICTING: "there is no prompt around the image, or no finding that is known to be absent",
}
"""Name of a condition -> why it may not be possible; findings are read in English."""
REPORT_KEYS = ("generated", "tokens", "stop_reason", "mean_log_probability")
"""What of a row belongs to the report."""
FEWEST = 20
"""Patients or studies, of fewer of which there is no verdict."""
EXAMPLES = 6
AUDIT_FOLDER, AUDIT_FILE, AUDIT_PAGE = "audit", "audit.json", "audit.html"

Runs = Mapping[str, Sequence[Prediction]]
"""Reports by condition."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """A score with the images themselves and under a condition (``here``)."""

    images: Interval
    here: Interval
    difference: Interval
    """here - images, interval of the paired bootstrap."""
    kept: float
    """Share of the score that is left; NaN where there was none, or less of it is better."""


@dataclass(frozen=True)
class Condition:
    """The reports of one condition against those of the same images as they are."""

    sentence: str
    reports: int
    left_out: int
    """Images that have no part in it."""
    same_texts: int
    """Reports that are the same word for word."""
    scores: Mapping[str, Loss]
    """By name of the metric."""
    repeated: Loss | None
    """Share of the reports that repeat the claim of the prompt, and of those that say so without it."""


@dataclass(frozen=True)
class Audit:
    """What the conditions do to the scores; ``audit.json`` has its fields (`plain`)."""

    finding: str
    """"depends", "most stays", "no sign" or "not known"."""
    verdict: str
    rule: str
    decided_by: str
    """Name of the metric."""
    scores: Scores
    """With the images themselves."""
    conditions: Mapping[str, Condition]
    not_tried: Mapping[str, str]
    """Name of a condition -> why."""


def audit_config(cfg: Config) -> None:
    """Make the configuration of an evaluation that of an audit, which has a folder of its own.

    Raises:
        ConfigError: it does not generate reports.
    """
    run = cfg.run_cfg
    if not isinstance(cfg.task_cfg, ReportGenerationConfig):
        raise ConfigError(f"run.task: an audit needs report_generation, and this is {run.task}")
    cfg.task_cfg.page = PageConfig()  # it is not written, so the runs that it names need not be there
    run.test_splits = run.test_splits[:1]
    run.output_dir = str(Path(run.output_dir) / AUDIT_FOLDER)


class AuditTask(ReportGenerationTask):
    """Generates the reports of a test split with its images, with blank ones, and with a prompt that
    contradicts the image, and says how much of the scores is left.

    A blank image is 0 everywhere, the mean colour of the encoder's normalisation. A report is a function of
    image and prompt, so what the model writes of another study's image is what it wrote for that study.
    """

    def __init__(self, cfg: Config, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        self.condition = IMAGES
        """The one that reports are being generated under."""
        self.generated: dict[str, list[dict[str, Any]]] = {}
        """Rows by condition."""
        self.datasets: dict[str, ReportDataset] = {}

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return the rows of a batch under the condition that is on, with its prompt and claim."""
        if "image" not in samples:
            raise DataError(f"an audit needs images, and the data set '{samples['source']}' gives none")
        changed: Any = samples.copy()
        more: list[dict[str, Any]] = [{} for _ in samples["image_id"]]
        if self.condition == BLANK:
            changed["image"] = torch.zeros_like(samples["image"])
        elif self.condition == CONTRADICTING:
            claims = map(claim_against, samples["image_id"], samples["caption"])
            template = getattr(model, "prompt_template", "")
            more = [{"prompt": with_claim(samples["prompt"], template, c), "claim": c} for c in claims]
            changed["prompt"] = [each["prompt"] for each in more]
        rows = super().valid_step(model, changed)
        return [row | each for row, each in zip(rows, more, strict=True)]

    def evaluate_split(
        self, model: BaseModel, stream: EvalStream, load: Callable[..., Any], *, context: EvalContext
    ) -> list[dict[str, Any]]:
        """Generate under each condition, with a journal of its own; return the rows of the last one.

        Raises:
            DataError: the data set gives no images, or no reference report.
        """
        self.datasets[stream.dataset.name] = stream.dataset
        for self.condition in (IMAGES, BLANK, CONTRADICTING):
            if self.condition == CONTRADICTING and not (stream.prompt and hasattr(model, "embed_prompt")):
                continue
            own = replace(context, split=f"{context.split}_{self.condition}")
            rows = super().evaluate_split(model, stream, load, context=own)
            self.generated.setdefault(self.condition, []).extend(rows)
            if rows and not any(row["reference"] for row in rows):
                name = stream.dataset.name
                raise DataError(f"an audit needs true reports, and {name} has none: leave it out of datasets")
        return rows

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Write the reports of each condition, ``audit.json`` and the page; return the scores in brief."""
        for name, rows in self.generated.items():
            super().after_evaluation(rows, f"{split_name}_{name}", epoch, context=context)
        if not is_main_process():
            return {}
        synthetic = all(dataset.synthetic for dataset in self.datasets.values())
        rows_of = all_conditions(self.generated, synthetic=synthetic, seed=context.seed)
        for name in (SHUFFLED, SAME_LABELS):
            if rows_of[name]:
                write_predictions(predictions_path(context.output_dir, f"{split_name}_{name}"), rows_of[name])
        runs = {name: [prediction_of(row) for row in rows] for name, rows in rows_of.items()}
        protocol, names = self.settings.protocol, self.settings.metrics
        if protocol == OURS and not names:
            names = METRICS[0 if synthetic else 1 :]
        metrics = choose_metrics(names, protocol=protocol)
        audit = audit_reports(runs, metrics, seed=context.seed)
        self._write(audit, runs, split_name, context.output_dir, synthetic)
        logger.info("%s", "\n".join([*(each.sentence for each in audit.conditions.values()), audit.verdict]))
        shown: dict[str, dict[str, float]] = {}
        for name, condition in audit.conditions.items():
            for metric, loss in condition.scores.items():
                shown.setdefault(metric, {IMAGES: audit.scores.scores[metric].value})[name] = loss.here.value
        return {"finding": audit.finding, "scores": shown}

    def _write(self, audit: Audit, runs: Runs, split: str, folder: Path, synthetic: bool) -> None:
        """Write ``audit.json`` and the page."""
        command, name = typed_command(), f"{split}_{IMAGES}"
        settings = [{**each.settings, "split": split} for each in self.journals[name].values()]
        protocol = make_protocol(
            runs[IMAGES],
            audit.scores,
            file=predictions_path(folder, name),
            command=command,
            protocol=self.settings.protocol,
            generation=generation_facts(settings, command),
        )
        write_json(folder / AUDIT_FILE, {**plain(audit), "protocol": protocol})
        sources = {row["image_id"]: self.datasets[row["source"]] for row in self.generated[IMAGES]}
        words = {condition: f"{text[0].upper()}{text[1:]}" for condition, text in CONDITIONS.items()}
        shown: dict[str, dict[str, Prediction]] = {}
        for condition, rows in runs.items():
            for row in rows:
                details = row.columns.get("claim") or row.columns.get("image_shown")
                heading = f"{words[condition]} ({details})" if details else words[condition]
                shown.setdefault(row.image_id, {})[heading] = row
        chosen = [(shown[row.image_id], why) for row, why in choose_examples(runs[IMAGES], (), EXAMPLES)]
        read = reader(audit.scores.language, phantoms=synthetic)
        cards = make_cards(
            chosen, (), lambda image: sources[image].picture(image), read, missed_by_first=True
        )
        write_page(
            folder / AUDIT_PAGE,
            "audit_page.html",
            audit=audit,
            words=words,
            examples=cards,
            marked=read is not None,
            protocol=protocol,
            synthetic=synthetic,
            not_computed=audit.scores.not_computed,
        )


def claim_against(image_id: str, reference: str) -> str:
    """Return a sentence with a finding of `CLAIMS` that the reference denies or does not mention.

    Which one is a function of the image's name; "" where the reference has or suspects all of them.
    """
    said = label_report(reference)
    absent = [words for label, words in CLAIMS.items() if said.get(label) in (None, Status.NEGATIVE)]
    number = int.from_bytes(name_hash(image_id)[:8], "big")
    return f"This radiograph shows {absent[number % len(absent)]}." if absent else ""


def with_claim(prompt: str, template: str, claim: str) -> str:
    """Put a claim at the end of a prompt, inside the template that the prompt is in already."""
    ending = template.rpartition(TEMPLATE_SLOT)[2]
    return f"{prompt.removesuffix(ending)} {claim}{ending}" if claim else prompt


def all_conditions(
    generated: Mapping[str, Sequence[Row]], *, synthetic: bool, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all `CONDITIONS`, of images with a reference; none where one is not possible.

    Args:
        generated: those of the conditions that reports are generated under.
        synthetic: all images are phantoms, whose findings are read with their sides.
    """
    rows = {
        name: [dict(row) for row in generated.get(name, ()) if row["reference"] and row.get("claim") != ""]
        for name in CONDITIONS
    }
    read: Callable[[str], Iterable[str]] = extract_findings if synthetic else positive_findings
    rows[SHUFFLED] = exchanged(rows[IMAGES], seed, lambda reference: "")
    rows[SAME_LABELS] = exchanged(rows[IMAGES], seed, lambda reference: frozenset(read(reference)))
    references = [row["reference"] for row in rows[IMAGES]]
    if not (synthetic or check_language(references, references).english):
        rows[SAME_LABELS] = rows[CONTRADICTING] = []
    return rows


def exchanged(
    rows: Sequence[dict[str, Any]], seed: int, alike: Callable[[str], Hashable]
) -> list[dict[str, Any]]:
    """Give each image the report of an image of another patient with an `alike` reference (`shuffled`).

    Where no column names the patients, each study is of its own patient. Images are left out where one of
    them has more than half of those that are alike, mostly as the only one.
    """
    groups: dict[Hashable, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["image_id"]):
        groups.setdefault(alike(row["reference"]), []).append(row)
    exchanged_rows = []
    for group in groups.values():
        owners = [str(row.get(patient_column(row) or "") or row["study_id"]) for row in group]
        others = shuffled(group, owners, seed) or ()
        for row, other in zip(group, others, strict=False):
            report = {key: other[key] for key in REPORT_KEYS}
            exchanged_rows.append({**row, **report, "image_shown": other["image_id"]})
    return exchanged_rows


def audit_reports(runs: Runs, metrics: Sequence[Metric], *, seed: int) -> Audit:
    """Audit a model by its reports.

    Args:
        runs: of each condition; with the images themselves all reports, else of some or of no images. Those
            of a prompt with a claim have a column ``claim``.
        metrics: those that cannot be computed here are noted with the reason.

    Raises:
        DataError: no metric tells good reports from bad ones.
    """
    scores = score_predictions(runs[IMAGES], metrics, seed=seed)
    own = {row.image_id: row for row in runs[IMAGES]}
    not_tried = {name: why for name, why in WHY_NOT.items() if not runs[name]}
    tried = [name for name in CONDITIONS if name != IMAGES and name not in not_tried]
    pairs = {n: {IMAGES: [own[row.image_id] for row in runs[n]], n: runs[n]} for n in tried}
    metrics = [*scores.metrics.values()]
    # As many rounds as for the scores alone, so that the same reports have the same interval.
    compare = partial(compare_predictions, seed=seed, rounds=scores.rounds)
    compared = {name: compare(pair, metrics) for name, pair in pairs.items()}
    losses = {name: _losses(comparison) for name, comparison in compared.items()}
    # What reads English only is left out where a condition makes a model write another language.
    everywhere = [m for m in metrics if all(m.name in of_condition for of_condition in losses.values())]
    usable = [m for m in everywhere if m.higher_is_better and not m.descriptive]
    if not usable:
        raise DataError("an audit needs a metric of which more is better: name another one in run.metrics")
    metric = usable[0]
    conditions = {}
    for name, comparison in compared.items():
        repeated = None
        if name == CONTRADICTING:
            claims = {row.image_id: row.columns["claim"] for row in runs[name]}
            claimed = {
                run: [replace(row, reference=claims[row.image_id]) for row in rows]
                for run, rows in pairs[name].items()
            }
            repeated = _losses(compare(claimed, [REPEATED]))[REPEATED.name]
        left_out, (same,) = len(own) - comparison.reports, comparison.same_texts
        condition = Condition("", comparison.reports, left_out, same, losses[name], repeated)
        conditions[name] = replace(condition, sentence=_sentence(name, metric, condition))
    finding, verdict = _verdict(metric, scores, conditions)
    owners = len({row.patient_id or row.study_id for row in runs[IMAGES]})
    if owners < FEWEST:
        finding, verdict = "not known", f"No verdict on {owners} patients or studies; {FEWEST} are the least."
    return Audit(finding, verdict, RULE, metric.name, scores, conditions, not_tried)


def _losses(comparison: Comparison) -> dict[str, Loss]:
    """Return what each metric loses from the first run to the second."""
    losses = {}
    for name, (images, here) in comparison.scores.items():
        has_share = comparison.metrics[name].higher_is_better and images.value > 0
        kept = here.value / images.value if has_share else math.nan
        losses[name] = Loss(images, here, comparison.differences[name][0].difference, kept)
    return losses


def _verdict(metric: Metric, scores: Scores, conditions: Mapping[str, Condition]) -> tuple[str, str]:
    """Return the finding and the verdict by `RULE`."""
    without = {name: conditions[name] for name in (SHUFFLED, BLANK) if name in conditions}
    lost = next(iter(without.values())).scores[metric.name].difference
    if not lost.known:
        return "not known", f"{metric.title} cannot tell: it is not defined for these reports."
    if lost.high >= 0:
        finding, verdict = "no sign", "No sign that the model looks at the image"
    elif max(each.scores[metric.name].kept for each in without.values()) >= MOST:
        finding, verdict = "most stays", "Most of the score stays without the image"
    else:
        finding, verdict = "depends", "The reports depend on the images"
    left = " and ".join(
        f"{_left(each.scores[metric.name])} {CONDITIONS[name]}" for name, each in without.items()
    )
    own, blind = scores.scores[metric.name].value, scores.controls["blind"][metric.name]
    verdict += f": {metric.title} is {own:.3f} {CONDITIONS[IMAGES]}, {left}; one and the same report for "
    verdict += f"every image reaches {blind:.3f}."
    repeated = conditions[CONTRADICTING].repeated if CONTRADICTING in conditions else None
    if repeated is not None and repeated.difference.low > 0:
        verdict += f" {100 * repeated.here.value:.0f} % of the reports repeat a false claim of the prompt."
    return finding, verdict


def _sentence(name: str, metric: Metric, condition: Condition) -> str:
    loss = condition.scores[metric.name]
    text = (
        f"{CONDITIONS[name][0].upper()}{CONDITIONS[name][1:]}, {metric.title} is {_left(loss)} instead of "
        f"{loss.images.value:.3f}; {condition.same_texts:,} of {counted(condition.reports, 'report')} are "
        "the same word for word."
    )
    if condition.repeated is not None:
        share = condition.repeated.here
        text += f" {100 * share.value:.1f} % of the reports repeat the claim"
        text += f" ({100 * share.low:.1f} to {100 * share.high:.1f} %)" if share.known else ""
        text += f", {100 * condition.repeated.images.value:.1f} % say so without it."
    return f"{text} {counted(condition.left_out, 'image')} left out." if condition.left_out else text


def _left(loss: Loss) -> str:
    return f"{loss.here.value:.3f}" + ("" if math.isnan(loss.kept) else f" ({100 * loss.kept:.0f} % kept)")
