"""First stage of a preparation: every study of the source is cleaned and given its split."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from xraygpt.preparation.pipeline.progress import Progress, StudyRow
from xraygpt.preparation.pipeline.splits import SplitConfig, split_of
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.reports.cleaning import CleaningConfig, clean_report
from xraygpt.preparation.study import Source, Study, Unusable

CHUNK = 64


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
        StudyRow(_to_json({"unusable": item.place, "reason": item.reason}))
        if isinstance(item, Unusable)
        else _study_row(item, cleaning, splits)
        for item in items
    ]


def _study_row(study: Study, cleaning: CleaningConfig, splits: SplitConfig) -> StudyRow:
    cleaned = clean_report(study.sections, cleaning)
    kept = cleaned.outcome == "kept"
    row = {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "split": split_of(study, splits),
        "outcome": cleaned.outcome,
        "rule": cleaned.rule,
        "detail": cleaned.detail,
        "caption": cleaned.caption,
        "changes": [
            {"rule": change.rule, "before": change.before, "after": change.after}
            for change in cleaned.changes
        ],
        "labels_before": {label: int(status) for label, status in cleaned.labels_before.items()},
        "labels_after": {label: int(status) for label, status in cleaned.labels_after.items()},
        "pictures": [
            *({"image_id": picture.image_id, "view": picture.view} for picture in study.pictures),
            *(
                {"image_id": image_id, "outcome": "left out", "reason": reason}
                for image_id, reason in study.skipped_pictures.items()
            ),
        ],
    }
    wanted = tuple((picture.image_id, picture.file) for picture in study.pictures)
    return StudyRow(_to_json(row), wanted if kept else ())


def _to_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
