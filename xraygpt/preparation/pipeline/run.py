"""A preparation from its source to a folder that trains, in stages that can be interrupted; its settings.

Reports are cleaned, maybe rewritten; images are converted; annotations, record and page are written.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from xraygpt.common.errors import ConfigError, DataError, XrayGPTError
from xraygpt.common.files import file_sha256
from xraygpt.common.merge import load_yaml, merge_layers, parse_options
from xraygpt.common.run_record import write_text
from xraygpt.common.typed import build_typed
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE
from xraygpt.datasets.datasets.images import IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.evaluation.labeller import label_report
from xraygpt.pictures.convert import PictureConfig, RefusedPictureError, convert_picture
from xraygpt.preparation.pipeline.output_folder import OutputFolder, Progress, StudyRow, new_file
from xraygpt.preparation.pipeline.record import (
    CHECKSUM_FILE,
    RECORD_FILE,
    REPORT_FILE,
    Row,
    annotations_of,
    row_json,
    written_pictures,
)
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.preparation.pipeline.summary import Summary, write_page
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.reports.chat_rewriting import ChatRewriter, RefusedAnswerError, RewritingConfig
from xraygpt.preparation.reports.cleaning import (
    LABEL_PRESERVATION,
    CleaningConfig,
    clean_report,
    lost_findings,
)
from xraygpt.preparation.study import PictureStream, Source, Study, Unusable

ANSWERS_FILE = "rewriting.jsonl"
"""What the chat model has answered; kept, so that nothing is sent twice."""
STUDIES_AT_ONCE = 64
FILES_AT_ONCE = 8
REWRITING = "rewriting"
"""The rule by which captions change here, and are rejected where there is no usable answer."""
NO_PICTURE = "no_usable_picture"
"""The rule by which a study without any image is dropped."""


@dataclass
class SplitConfig:
    """How splits are drawn where none are published."""

    seed: int = 0
    """Another seed gives other splits."""
    val: float = 0.1
    """Share of the patients (studies, where patients are unknown) in the split ``val``."""
    test: float = 0.2
    """Share in the split ``test``. 0.7, 0.1 and 0.2 are the shares that most work on OpenI uses."""

    def __post_init__(self) -> None:
        for key, value in (("val", self.val), ("test", self.test)):
            if not 0 <= value < 1:
                raise ValueError(f"{key} must be a share from 0 to below 1, not {value}")
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on: {self.val} + {self.test}")


@dataclass
class PreparationConfig:
    """What is done with raw data of any source."""

    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Which reports are kept, and what is taken out of them."""
    pictures: PictureConfig = field(default_factory=PictureConfig)
    """How images are written."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    """How splits are drawn where none are published."""
    rewriting: RewritingConfig | None = None
    """The chat model that rewrites captions; absent for none."""


def read_config(path: Path | None, options: Sequence[str]) -> PreparationConfig:
    """Read the settings: defaults < the YAML file < `options` (``cleaning.min_findings_words=5``).

    Raises:
        MissingFileError: no such file.
        ConfigError: with every problem found.
    """
    layers = [*([load_yaml(path)] if path is not None else []), parse_options(options)]
    try:
        return build_typed(PreparationConfig, merge_layers(layers), "preparation")
    except ConfigError as error:
        raise ConfigError(problem.removeprefix("preparation.") for problem in error.problems) from None


@dataclass(frozen=True)
class Job:
    """What is to be prepared, and how."""

    source: Source
    inputs: dict[str, Any]
    """The source's own settings as plain values: files, columns, views."""
    config: PreparationConfig
    output: Path
    with_images: bool
    """False prepares the reports alone."""
    stream: PictureStream | None = None
    """Hands out the images that lie in no file of their own."""
    shard_bytes: int | None = None
    """Largest size of a tar file; None leaves the images as files."""
    synthetic: bool = False
    """Nothing in the source comes from a patient; the page says so."""
    processes: int = 1
    command: str = ""
    """The command line, for the page."""

    def settings(self) -> dict[str, Any]:
        """Return everything that the result depends on, as plain values."""
        config = dataclasses.asdict(self.config)
        if not self.with_images:
            del config["pictures"]
        settings = {"source": self.source.name, **self.inputs, **config, "shard_bytes": self.shard_bytes}
        return dict(json.loads(json.dumps(settings)))


def prepare(job: Job) -> Summary | None:
    """Write the prepared folder, resuming where an earlier start of the same job has stopped.

    Returns:
        What was done; None if the folder was finished already.

    Raises:
        DataError: the source cannot be read, nothing is left of it, or the folder holds other work.
    """
    folder = OutputFolder(job.output, job.settings())
    if folder.finished:
        return None
    with folder.open() as progress:
        clean_studies(job, folder, progress)
        if job.config.rewriting is not None:
            rewrite_captions(progress, ChatRewriter(job.config.rewriting, job.output / ANSWERS_FILE))
        if job.with_images and not progress.is_complete("shards"):
            convert_pictures(job, folder, progress)
        count = write_files(progress, folder, job.with_images)
        if count and job.shard_bytes is not None:
            if not progress.is_complete("shards"):
                write_shards(folder.path, job.shard_bytes)
                progress.mark_complete("shards")
            if folder.images.is_dir():
                shutil.rmtree(folder.images)
    return _conclude(job, folder, count)


def plan(job: Job) -> str:
    """Clean the reports, and say what rewriting them would send; nothing is sent.

    Raises:
        DataError: see `prepare`; or there is nothing to rewrite.
    """
    folder = OutputFolder(job.output, job.settings())
    if folder.finished or job.config.rewriting is None:
        raise DataError(f"{job.output}: nothing is left to be rewritten")
    with folder.open() as progress:
        clean_studies(job, folder, progress)
        rewriter = ChatRewriter(job.config.rewriting, job.output / ANSWERS_FILE)
        return rewriter.plan([row["caption"] for _, row in _waiting(progress)])


def _conclude(job: Job, folder: OutputFolder, count: int) -> Summary:
    """Write checksums, page and, as the last file, ``preparation.json``."""
    record = folder.path / RECORD_FILE
    summary = Summary(record, source=job.source.name, synthetic=job.synthetic, text_only=not job.with_images)
    if not count:
        raise DataError(
            f"nothing is left to train on ({record} has the reasons); delete {folder.path} before another "
            f"try\n{summary.text()}"
        )
    if not job.with_images:
        folder.images.rmdir()
    write_checksums(folder)
    write_page(summary, folder.path, yaml.safe_dump(folder.settings, sort_keys=False), job.command)
    content = {"settings": folder.settings, **json.loads(summary.to_json())}
    write_text(folder.path / REPORT_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    folder.close()
    return summary


def split_of(study: Study, config: SplitConfig) -> str:
    """Return the published split of a study, or draw one: ``train``, ``val`` or ``test``.

    The draw depends on the seed and the patient (the study, where the patient is unknown) alone, so that a
    study stays in its split when rules or other studies change; the shares are met on average only.
    """
    if study.split is not None:
        return study.split
    name = f"{config.seed}:{study.patient_id or study.study_id}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if number < config.test:
        return "test"
    return "val" if number < config.test + config.val else "train"


def clean_studies(job: Job, folder: OutputFolder, progress: Progress) -> None:
    """Go through the source from where an earlier start has stopped, and note what becomes of each study."""
    if progress.is_complete("reports"):
        return
    judge = functools.partial(_judge, cleaning=job.config.cleaning, splits=job.config.splits)
    try:
        left = itertools.islice(job.source.studies(), progress.study_count(), None)
        with tqdm(desc="reports", unit=" studies", initial=progress.study_count(), mininterval=1) as bar:
            for rows in map_chunks(judge, left, STUDIES_AT_ONCE, job.processes):
                progress.add_studies(rows)
                bar.update(len(rows))
    except (XrayGPTError, OSError):
        if not progress.study_count():  # a wrong path, say: nothing is worth keeping
            folder.discard()
        raise
    progress.mark_complete("reports")


def _judge(
    items: Sequence[Study | Unusable], cleaning: CleaningConfig, splits: SplitConfig
) -> list[StudyRow]:
    rows: list[StudyRow] = []
    for item in items:
        if isinstance(item, Unusable):
            rows.append((_unusable(item), ()))
            continue
        cleaned = clean_report(item.sections, cleaning)
        named = [{"image_id": picture.image_id, "view": picture.view} for picture in item.pictures]
        skipped = [
            {"image_id": image_id, "outcome": "left out", "reason": reason}
            for image_id, reason in item.skipped_pictures.items()
        ]
        ids = {"study_id": item.study_id, "patient_id": item.patient_id, "split": split_of(item, splits)}
        row = {**ids, **dataclasses.asdict(cleaned), "pictures": [*named, *skipped]}
        kept = item.pictures if cleaned.outcome == "kept" else ()
        rows.append((row, [(picture.image_id, picture.file) for picture in kept]))
    return rows


def _unusable(item: Unusable) -> Row:
    return {"unusable": item.place, "reason": item.reason}


def rewrite_captions(progress: Progress, rewriter: ChatRewriter) -> None:
    """Rewrite the captions of all kept studies; reject those that lose or gain a positive finding.

    Raises:
        RewritingError: the server cannot be used; what it has answered so far is kept.
    """
    for number, row in tqdm(_waiting(progress), desc="rewriting", unit=" reports", mininterval=1):
        progress.replace_study(number, _rewritten(row, rewriter))


def _waiting(progress: Progress) -> Iterator[tuple[int, Row]]:
    for number, row in progress.studies():
        if row.get("outcome") == "kept" and all(change["rule"] != REWRITING for change in row["changes"]):
            yield number, row


def _rewritten(row: Row, rewriter: ChatRewriter) -> Row:
    before = row["caption"]
    rejected = {"outcome": "rejected", "caption": ""}
    try:
        after = rewriter.rewrite(before)
    except RefusedAnswerError as error:
        return row | rejected | {"rule": REWRITING, "detail": str(error)}
    row["changes"].append({"rule": REWRITING, "before": before, "after": after})
    row["labels_after"] = label_report(after)
    if difference := lost_findings(before, after):
        return row | rejected | {"rule": LABEL_PRESERVATION, "detail": difference}
    return row | {"caption": after}


def convert_pictures(job: Job, folder: OutputFolder, progress: Progress) -> None:
    """Convert every image still wanted, those without a file from the stream; note what became of it."""
    progress.forget_pictures(folder.images)
    convert = functools.partial(_convert_all, folder=folder, config=job.config.pictures)
    with tqdm(desc="images", unit=" images", total=progress.pending_count(), mininterval=1) as bar:

        def convert_each(items: Iterable[tuple[str, Path | bytes]], chunk: int) -> None:
            for rows in map_chunks(convert, items, chunk, job.processes):
                progress.add_pictures(rows)
                bar.update(len(rows))

        convert_each(progress.pending_files(), FILES_AT_ONCE)
        if job.stream is not None and (wanted := progress.pending_ids()):
            convert_each(job.stream.picture_files(wanted), 1)
            progress.add_studies((_unusable(member), ()) for member in job.stream.skipped_members)
    absent = sorted(progress.pending_ids())
    progress.add_pictures(_refused(image_id, "not among the images", "") for image_id in absent)


def _convert_all(
    items: Sequence[tuple[str, Path | bytes]], folder: OutputFolder, config: PictureConfig
) -> list[Row]:
    rows: list[Row] = []
    for image_id, content in items:
        try:
            picture = convert_picture(content, image_id, config)
        except RefusedPictureError as error:
            rows.append(_refused(image_id, error.reason, str(error)))
            continue
        name = image_id + picture.suffix
        with new_file(folder.images / name, folder.work) as file:
            file.write(picture.data)
        sizes = ("width", "height", "original_width", "original_height")
        rows.append(
            {
                "image_id": image_id,
                "outcome": "written",
                "file": name,
                **{key: getattr(picture, key) for key in sizes},
                "bytes": len(picture.data),
                "sha256": hashlib.sha256(picture.data).hexdigest(),
                "pixels": picture.pixels,
                "view": picture.view,
                "notes": list(picture.notes),
            }
        )
    return rows


def _refused(image_id: str, reason: str, detail: str) -> Row:
    return {"image_id": image_id, "outcome": "refused", "reason": reason, "detail": detail}


def write_files(progress: Progress, folder: OutputFolder, with_images: bool) -> int:
    """Write ``filter_cap.json`` and ``studies.jsonl``, in the source's order; return how many annotations."""
    count = 0
    with (
        new_file(folder.path / RECORD_FILE, folder.work) as record,
        new_file(folder.path / ANNOTATION_FILE, folder.work) as annotations,
    ):
        annotations.write(b'{"annotations": [')
        for number, row in progress.studies():
            if with_images and row.get("outcome") == "kept":
                row["pictures"] = [_outcome(picture, progress, number) for picture in row["pictures"]]
                if not written_pictures(row):
                    seen = len(row["pictures"])
                    detail = f"images that can be used: 0 of {seen}" if seen else "it has no image"
                    row |= {"outcome": "dropped", "rule": NO_PICTURE, "detail": detail}
            record.write(f"{row_json(row)}\n".encode())
            for annotation in annotations_of(row, with_images):
                annotations.write(f"{',' if count else ''}\n{row_json(annotation)}".encode())
                count += 1
        annotations.write(b"\n]}\n")
    return count


def _outcome(picture: Row, progress: Progress, study: int) -> Row:
    """Complete what the record says of one image."""
    if "outcome" in picture:
        return picture
    done = progress.picture(picture["image_id"], study)
    if done is None:
        return picture | {"outcome": "refused", "reason": "an image of another study has the same id"}
    return done | {"view": picture["view"] or done.get("view", "")}


def write_checksums(folder: OutputFolder) -> None:
    """Write ``SHA256SUMS``, as ``sha256sum --check`` reads it: a line for each file of the data set.

    An image's hash is that of what was to be written, from the record, not of what the disk gives back now.
    """
    path, loose = folder.path, folder.images.is_dir()
    shards = [] if loose else sorted((path / SHARD_FOLDER).glob("*"))
    with (
        new_file(path / CHECKSUM_FILE, folder.work) as file,
        (path / RECORD_FILE).open(encoding="utf-8") as record,
    ):
        for part in (path / ANNOTATION_FILE, path / RECORD_FILE, *shards):
            file.write(f"{file_sha256(part)}  {part.relative_to(path).as_posix()}\n".encode())
        for line in record if loose else ():
            for picture in written_pictures(json.loads(line)):
                file.write(f"{picture['sha256']}  {IMAGE_FOLDER}/{picture['file']}\n".encode())
