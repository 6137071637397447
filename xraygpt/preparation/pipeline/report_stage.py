"""First stage of a preparation: every study of the source is cleaned and given its split.

If asked to, a chat model then rewrites the captions, and the labeller checks its answers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from xraygpt.evaluation.labeller import label_report
from xraygpt.preparation.pipeline.config import SplitConfig, split_of
from xraygpt.preparation.pipeline.progress import Progress, StudyRow
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.reports.chat_rewriting import ChatRewriter, RefusedAnswerError
from xraygpt.preparation.reports.cleaning import (
    LABEL_PRESERVATION,
    CleaningConfig,
    clean_report,
    lost_findings,
)
from xraygpt.preparation.study import Source, Study, Unusable

CHUNK = 64
REWRITING = "rewriting"
"""The rule by which captions change here, and are rejected where there is no usable answer."""


def clean_studies(
    source: Source, progress: Progress, cleaning: CleaningConfig, splits: SplitConfig, processes: int
) -> None:
    """Go through the source from where an earlier start has stopped, and note what becomes of each study."""
    if progress.is_complete("reports"):
        return
    left = itertools.islice(source.studies(), progress.study_count(), None)
    judge = functools.partial(_judge, cleaning=cleaning, splits=splits)
    with tqdm(desc="reports", unit=" studies", initial=progress.study_count(), mininterval=1) as bar:
        for rows in map_chunks(judge, left, CHUNK, processes):
            progress.add_studies(rows)
            bar.update(len(rows))
    progress.mark_complete("reports")


def _judge(
    items: Sequence[Study | Unusable], cleaning: CleaningConfig, splits: SplitConfig
) -> list[StudyRow]:
    return [
        StudyRow({"unusable": item.place, "reason": item.reason})
        if isinstance(item, Unusable)
        else _study_row(item, cleaning, splits)
        for item in items
    ]


def _study_row(study: Study, cleaning: CleaningConfig, splits: SplitConfig) -> StudyRow:
    cleaned = clean_report(study.sections, cleaning)
    row = {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "split": split_of(study, splits),
        **{name: getattr(cleaned, name) for name in ("outcome", "rule", "detail", "caption")},
        "changes": [dataclasses.asdict(change) for change in cleaned.changes],
        "labels_before": cleaned.labels_before,
        "labels_after": cleaned.labels_after,
        "pictures": [
            *({"image_id": picture.image_id, "view": picture.view} for picture in study.pictures),
            *(
                {"image_id": image_id, "outcome": "left out", "reason": reason}
                for image_id, reason in study.skipped_pictures.items()
            ),
        ],
    }
    wanted = tuple((picture.image_id, picture.file) for picture in study.pictures)
    return StudyRow(row, wanted if cleaned.outcome == "kept" else ())


def plan_rewriting(progress: Progress, rewriter: ChatRewriter) -> str:
    """Say what `rewrite_captions` would send, without sending it."""
    return rewriter.plan([row["caption"] for _, row in _waiting(progress)])


def rewrite_captions(progress: Progress, rewriter: ChatRewriter) -> None:
    """Rewrite the captions of all kept studies; reject those that lose or gain a positive finding.

    Raises:
        RewritingError: the server cannot be used; what it has answered so far is kept.
    """
    for number, row in tqdm(_waiting(progress), desc="rewriting", unit=" reports", mininterval=1):
        progress.replace_study(number, _rewritten(row, rewriter))


def _waiting(progress: Progress) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in progress.studies():
        if row.get("outcome") == "kept" and all(change["rule"] != REWRITING for change in row["changes"]):
            yield number, row


def _rewritten(row: dict[str, Any], rewriter: ChatRewriter) -> dict[str, Any]:
    before = row["caption"]
    try:
        after = rewriter.rewrite(before)
    except RefusedAnswerError as error:
        return row | {"outcome": "rejected", "rule": REWRITING, "detail": str(error), "caption": ""}
    row["changes"].append({"rule": REWRITING, "before": before, "after": after})
    row["labels_after"] = {label: int(status) for label, status in label_report(after).items()}
    if difference := lost_findings(before, after):
        return row | {
            "outcome": "rejected",
            "rule": LABEL_PRESERVATION,
            "detail": difference,
            "caption": "",
        }
    return row | {"caption": after}
